"""`python -m rlkl`, the same as the command `rlkl`."""

from rlkl.cli import main

main()
