"""Commands of rlkl, run in the process of a test."""

from typing import Any

import pytest

from rlkl.cli import main


def exit_code(*arguments: Any) -> int:
    """Run `rlkl` with these arguments, and return its exit code."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert isinstance(end.value.code, int)
    return end.value.code
