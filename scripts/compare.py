"""`python scripts/compare.py`, the same as `rlkl compare`."""

import sys

from rlkl.cli import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
