"""Run the command line in processes that are forked from one with the libraries imported.

Importing torch and the commands takes two seconds of a CPU, most of what a small command costs. A
server imports them once, as a fresh interpreter does, and forks for each command: no command sees
what another, or a test, has done. `CommandServer` is the side of the tests; this file is also the
program that serves.
"""

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from select import select

from refsys import processes
from refsys.data.formats.components import component_type
from refsys.data.prepare.conformers import conformers
from refsys.data.vocabulary import AMINO_ACIDS
from refsys.processes import die_with_parent
from support import HANG_S, free_port
from support.forked_modules import (
    FRESH,
    ROOM_ARGUMENT,
    ROOM_VARIABLE,
    forget_caller,
    fork_modules,
    run_module,
)

ROOT = Path(__file__).resolve().parents[2]
# Commands whose pools of processes are forked too.
POOLS = {"frontier", "gate", "plan", "prepare", "simulate"}
# Imported by the commands of most tests; the others are imported by the command that needs them.
LIBRARIES = "torch._dynamo torch.distributed.fsdp jsonschema scipy.stats matplotlib.pyplot"
LIBRARIES += " biotite.structure gemmi rdkit.Chem"
STREAMS = ("stdout", "stderr")


class Command:
    """A command that a server has started; one runs at a time.

    Attributes:
        pids: Its processes, which tests may kill, one for each rank.
    """

    def __init__(self, server, words, outputs, pids):
        self._server, self._words, self._outputs, self.pids = server, words, outputs, pids

    @property
    def pid(self):
        """Process of the first rank."""
        return self.pids[0]

    def is_running(self):
        """Return whether it has not ended yet."""
        return not self._server.has_answer()

    def kill(self):
        """Kill all ranks, wait for their end, and check that it was this that ended them."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        assert {done.returncode for done in self.wait_for_ranks()} == {-signal.SIGKILL}

    def wait(self):
        """Return the completed process with its output; a signal's status is negative."""
        (done,) = self.wait_for_ranks()
        return done

    def wait_for_ranks(self):
        """Return the completed process of every rank."""
        statuses = self._server.statuses(" ".join(self._words))
        done = [
            subprocess.CompletedProcess(self._words, status, *self._texts(rank))
            for rank, status in enumerate(statuses)
        ]
        self._outputs.cleanup()
        return done

    def _texts(self, rank):
        files = [Path(self._outputs.name, f"{rank}-{name}") for name in STREAMS]
        return [file.read_text(encoding="utf-8", errors="replace") for file in files]


class CommandServer:
    """Server that starts commands; a context manager.

    A command has a standard input that is empty, and a working folder, search path and environment
    of its own. It is not for tests of kernels or of the descriptors themselves.
    """

    def __enter__(self):
        self._server = subprocess.Popen(
            [sys.executable, "-m", "support.command_server", str(os.getpid()), ROOM_ARGUMENT],
            env=os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"} | ROOM_VARIABLE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._answers = b""
        self._unanswered = None
        return self

    def __exit__(self, *_):
        # A command that a test has left running dies with it.
        self._server.kill()
        self._server.wait()
        self._server.stdin.close()
        self._server.stdout.close()

    def run(self, arguments, *, folder, paths=(), **environment):
        """Run ``python -m bench ARGUMENTS`` and return the completed process with its output.

        Args:
            arguments: Words after the program's name.
            folder: Working folder.
            paths: Folders to search for modules, before the repository.
            environment: Variables beside those of this process.
        """
        return self.start(arguments, folder=folder, paths=paths, **environment).wait()

    def run_ranks(self, count, arguments, **options):
        """Run a command on several ranks and return every completed process."""
        return self.start_ranks(count, arguments, **options).wait_for_ranks()

    def start_ranks(self, count, arguments, **options):
        """Start a command on several ranks, as `torchrun` does.

        Args:
            count: Number of ranks.
            arguments: Words after the program's name.
            options: See `run`.
        """
        group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        group |= {"MASTER_PORT": str(free_port())}
        return self.start(arguments, ranks=count, **group, **options)

    def run_script(self, module, *arguments, folder):
        """Run ``python -m MODULE ARGUMENTS`` of the tests' modules, which succeeds."""
        done = self.start(arguments, folder=folder, paths=[ROOT / "tests"], module=module).wait()
        assert done.returncode == 0, done.stdout + done.stderr

    def start(
        self,
        arguments,
        *,
        folder,
        paths=(),
        ranks=1,
        module="bench",
        largest_file=None,
        **environment,
    ):
        """Start ``python -m bench ARGUMENTS``, or another module; see `run` and `run_ranks`.

        With `largest_file`, a write beyond so many bytes fails, as on a full disk.
        """
        self._end_unanswered()
        words = [str(word) for word in arguments]
        outputs = tempfile.TemporaryDirectory(prefix="foldperf-command-")
        request = {
            "arguments": words,
            "folder": str(folder),
            "ranks": ranks,
            "module": module,
            "largest_file": largest_file,
            "environment": os.environ
            | {"PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT)))}
            | environment,
            "outputs": outputs.name,
        }
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._unanswered = json.loads(self.answer("start"))
        return Command(self, words, outputs, self._unanswered)

    def _end_unanswered(self):
        """Kill a command that a failed test has left, so that the next one gets its own answer."""
        if self._unanswered is not None:
            for pid in self._unanswered:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.statuses("left by a failed test")

    def statuses(self, command):
        """Return the exit status of each rank of the command that runs, once all have ended."""
        statuses = json.loads(self.answer(command))
        self._unanswered = None
        return statuses

    def has_answer(self):
        """Return whether the server has said something that nobody has read."""
        return b"\n" in self._answers or bool(select([self._server.stdout], [], [], 0)[0])

    def answer(self, command):
        """Return the server's next line."""
        while b"\n" not in self._answers:
            if not select([self._server.stdout], [], [], HANG_S)[0]:
                self._server.kill()
                raise TimeoutError(f"foldperf {command}: still running after {HANG_S} s")
            received = self._server.stdout.read(64)
            assert received, f"foldperf {command}: the server has ended"
            self._answers += received
        line, _, self._answers = self._answers.partition(b"\n")
        return line


def serve(requests, answers, *, prepares=False):
    """Answer requests until there are no more.

    Args:
        requests: File of requests, one a line.
        answers: File for the processes of each command, then their exit statuses.
        prepares: Whether this process is that of preparations, which has much in memory.
    """
    preparing = None
    for line in requests:
        request = json.loads(line)
        if not prepares and "prepare" in request["arguments"][:1]:
            preparing = preparing or _fork_for_preparations()
            to_it, from_it = preparing
            to_it.write(line)
            to_it.flush()
            for _ in range(2):
                print(from_it.readline(), end="", file=answers, flush=True)
            continue
        children = []
        for rank in range(request["ranks"]):
            child = os.fork()
            if not child:
                for file in (requests, answers, *(preparing or ())):
                    if file.fileno() > 2:
                        os.close(file.fileno())
                _become(request, rank)
            children.append(child)
        print(json.dumps(children), file=answers, flush=True)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(statuses), file=answers, flush=True)


def _fork_for_preparations():
    """Fork a server that has the dictionary of components and the conformers of amino acids.

    They are most of what a small preparation costs, and half a gigabyte that other commands, some
    with a limit of memory, do not have.

    Returns:
        Files for its requests and of its answers.
    """
    parent = os.getpid()
    (requests, to_it), (from_it, answers) = os.pipe(), os.pipe()
    if os.fork():
        os.close(requests)
        os.close(answers)
        return open(to_it, "w", encoding="utf-8"), open(from_it, encoding="utf-8")
    die_with_parent(parent)
    os.close(to_it)
    os.close(from_it)
    component_type("ALA")
    for name in AMINO_ACIDS:
        conformers(name)
    gc.freeze()
    serve(
        open(requests, encoding="utf-8"),  # noqa: SIM115
        open(answers, "w", encoding="utf-8"),  # noqa: SIM115
        prepares=True,
    )
    os._exit(0)


def _become(request, rank):
    """Make this process one that was started for a rank of the request, and run its command."""
    forget_caller()
    die_with_parent(os.getppid())
    environment = dict(request["environment"])
    if request["ranks"] > 1:
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.chdir(request["folder"])
    if size := request["largest_file"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    outputs = [os.path.join(request["outputs"], f"{rank}-{name}") for name in STREAMS]
    for number, path in enumerate(["/dev/null", *outputs]):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - the process's own
    # As `python -m` has it: the working folder, the variable's, the interpreter's own.
    search = [os.getcwd(), *environment["PYTHONPATH"].split(os.pathsep)]
    if FRESH not in environment and POOLS.intersection(request["arguments"][:1]):
        processes.get_context = lambda method: get_context("fork")
    run_module(request["module"], request["arguments"], environment, search)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    from bench.cli import _parser

    _parser()
    for name in (*LIBRARIES.split(), "bench.run.runner", "bench.run.measure", "bench.gate"):
        import_module(name)
    for path in (ROOT / "workloads").glob("*.py"):
        if path.stem != "calibration_kernels":
            import_module(f"workloads.{path.stem}")
    gc.freeze()
    fork_modules()
    serve(sys.stdin, sys.stdout)
