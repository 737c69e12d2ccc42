"""Processes for ``python -m MODULE`` that are forked from one with the libraries imported.

A case, its launcher and its ranks import torch for two seconds of a CPU each. After `fork_modules`,
`subprocess` starts them in this process, and in all that are forked from it, by a fork without the
exec. They have the arguments, environment, search path, descriptors, session and signals that they
would have, and show them under /proc. What a library reads when it is imported is this process's,
and more libraries are loaded: a test of either sets the variable `FRESH`. A worker that interprets
kernels is not among `MODULES`, since Triton decides that when it is imported.
"""

import atexit
import ctypes
import gc
import inspect
import multiprocessing.util
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
import weakref
from contextlib import suppress
from pathlib import Path

# Variable under which processes are started as always.
FRESH = "FOLDPERF_FRESH_PROCESSES"
MODULES = {
    *("bench", "bench.run.case", "bench.run.launch"),
    *("support.scripted_check", "support.process_view"),
}
# Words of `subprocess` and of /proc/PID/stat.
_EXECUTE = subprocess.Popen._execute_child
_ENDS = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
_ARGUMENTS_START, _ENVIRONMENT_START = 45, 47
# An argument and an environment of a process have this much room to show others.
_ROOM = 4096
ROOM_ARGUMENT, ROOM_VARIABLE = "-" * _ROOM, {"FOLDPERF_ROOM": "-" * 16 * _ROOM}


class ForkingPopen(subprocess.Popen):
    """`subprocess.Popen` that forks for some modules."""

    def _execute_child(self, *arguments):
        call = inspect.signature(_EXECUTE).bind(self, *arguments).arguments
        if not _is_served(call["args"], call["env"]):
            super()._execute_child(*arguments)
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(ValueError, OSError):
                stream.flush()
        self.pid = os.fork()
        if not self.pid:
            _become([str(word) for word in call["args"][2:]], call)
        self._child_created = True
        # As after an exec.
        self._close_pipe_fds(*(call[name] for name in _ENDS))


def fork_modules():
    """Let `subprocess` fork for `MODULES`, here and in the processes forked from this one.

    This process was started with `ROOM_ARGUMENT` last and with `ROOM_VARIABLE` in its environment.
    """
    subprocess.Popen = ForkingPopen


def run_module(module, words, environment, search):
    """Run ``python -m module words`` in this process, just forked, and end it.

    Args:
        module: Name of the module.
        words: Words after it.
        environment: Its environment.
        search: Folders to search for modules, before the interpreter's own.
    """
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # of another environment
    _show([sys.executable, "-m", module, *words], [f"{n}={v}" for n, v in environment.items()])
    sys.path[:] = [*search, *_OWN_PATHS]
    sys.argv[1:] = words
    status = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = ended.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError, OSError, AttributeError):
            stream.flush()
    # Taking the interpreter down would write to all of its memory, which is shared.
    os._exit(status)


def forget_caller():
    """Forget what the process that forked this one will close, remove or end itself.

    Its finalizers, those of torch's libraries above all, would also write to 40 MiB of shared
    memory.
    """
    gc.freeze()
    weakref.finalize._registry.clear()
    multiprocessing.util._finalizer_registry.clear()
    multiprocessing.process._children.clear()
    atexit._clear()
    atexit.register(multiprocessing.util._exit_function)


def _is_served(words, environment):
    environment = os.environ if environment is None else environment
    if isinstance(words, str) or list(words[:2]) != [sys.executable, "-m"]:
        return False
    return words[2] in MODULES and FRESH not in environment


def _become(words, call):
    """Make this process the one that `call` describes."""
    try:
        forget_caller()
        _connect(call)
        _reset_signals()
        if call["start_new_session"]:
            os.setsid()
        if call["cwd"] is not None:
            os.chdir(call["cwd"])
        environment = dict(os.environ if call["env"] is None else call["env"])
        search = list(filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)))
        if not environment.get("PYTHONSAFEPATH"):
            search.insert(0, os.getcwd())
        # Not for a command that forks others: OpenMP's threads do not survive a fork.
        if "torch" in sys.modules and "OMP_NUM_THREADS" in environment:
            sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
        module, *arguments = words
        run_module(module, arguments, environment, search)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _connect(call):
    """Make the descriptors of a call the standard ones, and close the others."""
    assert call["close_fds"]
    assert not call["pass_fds"]
    # Copied first: one may have the number of another's target.
    ends = [call[name] for name in ("p2cread", "c2pwrite", "errwrite")]
    copies = [os.dup(number if end == -1 else end) for number, end in enumerate(ends)]
    for number, copy in enumerate(copies):
        os.dup2(copy, number)
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - the process's own
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


def _reset_signals():
    """Give every signal that has a handler its usual effect."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _show(words, environment):
    """Show arguments and environment under /proc, in the room that the interpreter started with."""
    for start, texts in zip(_places(), (words, environment), strict=True):
        address, end = start
        content = b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for text in texts)
        content = content[: end - address - 1]
        ctypes.memset(address, 0, end - address)
        ctypes.memmove(address, content, len(content))


def _places():
    """Return the first and last address of the arguments and of the environment."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return [
        (int(fields[field]), int(fields[field + 1]))
        for field in (_ARGUMENTS_START, _ENVIRONMENT_START)
    ]


# After the folders of `python -m` and of PYTHONPATH.
_OWN_PATHS = sys.path[1 + len(os.environ.get("PYTHONPATH", "").split(os.pathsep)) :]
