"""`python scripts/train.py`, the same as `rlkl train`."""

import sys

from rlkl.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
