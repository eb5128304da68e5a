"""`rlkl show` on the command line: the table it prints."""

import pytest

from rlkl.cli.show import _print


def test_numbers_have_three_digits(capsys: pytest.CaptureFixture[str]) -> None:
    _print([{"name": "trpo", "kl": 0.012345, "steps": 20}, {"name": "npg", "kl": 4.0, "steps": 5}])
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["name", "kl", "steps"]
    assert [line.split() for line in lines] == [["trpo", "0.0123", "20"], ["npg", "4", "5"]]
