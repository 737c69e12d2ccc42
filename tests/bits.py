"""Run all tests that compare bits as each processor's libraries round, one line each.

``make bits`` runs it; the suite runs those of the fused operators on a few processors.
"""

import sys
import time
from pathlib import Path

# Folders of the tests have the names of packages, which come first.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

from support.processors import PROCESSORS, run_bit_tests


def main() -> int:
    failures = 0
    for processor in PROCESSORS:
        if reason := processor.unsupported_reason():
            print(f"skipped  {processor.name}: {reason}", flush=True)
            continue
        start = time.monotonic()
        done = run_bit_tests(processor, *sys.argv[1:])
        verdict = "passed" if done.returncode == 0 else "FAILED"
        print(f"{verdict}   {processor.name} ({time.monotonic() - start:.0f} s)", flush=True)
        if done.returncode:
            failures += 1
            print(done.stdout)
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
