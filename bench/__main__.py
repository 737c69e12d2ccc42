"""``python -m bench``: the command line, from a copy of the source that is not installed."""

import sys

from bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
