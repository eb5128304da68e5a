"""`rlkl evaluate` on the command line: the table of statistics."""

from rlkl.cli.evaluate import _table
from rlkl.cli.text import wide_console


def test_unknown_statistics_are_dashes() -> None:
    statistics = {
        "sampled": {
            "mean": 7.0, "mean_low": None, "mean_high": 8.5, "interquartile_mean": 7.0,
            "standard_deviation": None, "min": -1.25, "max": 1234567.0, "mean_length": 9.0,
        }
    }  # fmt: skip
    console = wide_console(100)
    with console.capture() as captured:
        console.print(_table(statistics))
    assert captured.get().splitlines()[1].split() == [
        "sampled", "7", "-", "to", "8.5", "7", "-", "-1.25", "1.23457e+06", "9",
    ]  # fmt: skip
