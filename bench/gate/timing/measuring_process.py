"""Measuring process of the timing gate, seen from the gate: requests, replies and its end."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

from bench.errors import BenchError

_SCRIPT = Path(__file__).with_name("process.py")
# glibc should keep freed memory: whether it returns it differs between processes with the same
# code, and taking it again costs a page fault for each page.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


class MeasuringProcess:
    """Process that runs ``process.py`` on a source tree; a context manager that ends it.

    Attributes:
        side: baseline or candidate, for messages.
        pid: Number of the process.
        phases: Phases of the case that is built; set by the caller that built it.
        build_s: CPU time of the build; set likewise. Unit: s.
    """

    def __init__(self, side: str, tree: Path) -> None:
        self.side = side
        self.phases: list[str] = []
        self.build_s = 0.0
        self._tree = tree
        self._doing = "starting"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = [str(tree), *map(os.path.abspath, filter(None, inherited))]
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_ALLOCATOR | os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            cwd=tree,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin
        assert self._process.stdout
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(OSError):
                file.close()

    def greeted(self, timeout_s: float) -> None:
        """Wait until the process has imported its tree, and check that it is the right one."""
        tree = Path(self.answer(timeout_s)["tree"])
        if tree.resolve() != self._tree.resolve():
            raise BenchError(f"the {self.side} process imports {tree} in place of {self._tree}")

    def ask(self, request: Mapping[str, Any], doing: str) -> None:
        """Send a request; `answer` waits for the reply."""
        self._doing = doing
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._dead() from None

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Return the reply to the last request.

        Raises:
            BenchError: The process died, or does not reply in time.
        """
        assert self._process.stdout
        descriptor = self._process.stdout.fileno()
        end = monotonic() + timeout_s
        while b"\n" not in self._received:
            if not select.select([descriptor], [], [], max(0.0, end - monotonic()))[0]:
                raise BenchError(
                    f"the {self.side} process says nothing for {timeout_s:g} s: {self._doing}"
                )
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise self._dead()
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _dead(self) -> BenchError:
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        last = f"; it last said: {said[-1].strip()[:200]}" if said else ""
        return BenchError(
            f"the {self.side} process ended with status {status}: {self._doing}{last}"
        )
