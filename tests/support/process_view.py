"""View that a process has of itself: ``python -m support.process_view WORDS``, as JSON.

With the first word ``both`` it is the views of two processes that this one starts with the other
words: one forked (see `support.forked_modules`), one fresh.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from support.forked_modules import FRESH

MARK = "FOLDPERF_CASE"


def view():
    """Return what a process can read about itself, but its number."""
    environment = {name: value for name, value in os.environ.items() if name != FRESH}
    shown = Path("/proc/self/environ").read_bytes().split(b"\0")
    return {
        "module": __name__,
        "arguments": sys.argv[1:],
        "shown arguments": Path("/proc/self/cmdline").read_text(encoding="utf-8").rstrip("\0"),
        "environment": environment,
        "shown mark": f"{MARK}={environment[MARK]}".encode() in shown,
        "folder": os.getcwd(),
        "search": sys.path,
        "descriptors": [number for number in range(64) if Path(f"/proc/self/fd/{number}").exists()],
        "input": sys.stdin.read(),
        "leads a session": os.getsid(0) == os.getpid(),
        "signals": {int(each): str(signal.getsignal(each)) for each in signal.valid_signals()},
    }


def both(words):
    """Return the views of a forked and of a fresh process."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    views = []
    with Path("held").open("wb"):
        for fresh in ({}, {FRESH: "1"}):
            done = subprocess.run(
                [sys.executable, "-m", "support.process_view", *words],
                env=os.environ | {MARK: "0" * 32} | fresh,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                start_new_session=True,
                check=True,
            )
            views.append(json.loads(done.stdout))
    return views


if __name__ == "__main__":
    if sys.argv[1] == "both":
        print(json.dumps(both(sys.argv[2:])))
    else:
        print(json.dumps(view()))
        print("the standard error", file=sys.stderr)
