"""`python scripts/benchmark.py`, the same as `rlkl bench`."""

import sys

from rlkl.cli import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
