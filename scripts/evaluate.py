"""`python scripts/evaluate.py`, the same as `rlkl evaluate`."""

import sys

from rlkl.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
