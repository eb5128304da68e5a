"""Rows of pages: kept from earlier runs of a script, and one grid; scripts that draw."""

import math
import runpy
import sys
from pathlib import Path

import pages
import pytest

from rlkl.tools.rows import Rows, csv_text
from rlkl.utils.errors import ConfigError

ROW = {"environment": "A", "revision": "123e4", "seed": 1, "return": math.nan, "budget": 300}
RUN = ("environment", "seed")
SCRIPTS = Path(pages.__file__).parent


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    assert pages.earlier(file, ROW) == []
    file.write_text(csv_text([ROW, ROW | {"return": 0.1 + 0.2, "revision": ""}]))
    first, second = pages.earlier(file, ROW)
    assert math.isnan(first.pop("return"))
    assert first == {key: value for key, value in ROW.items() if key != "return"}
    assert (second["return"], second["revision"]) == (0.1 + 0.2, "")


def test_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("environment,seed\nA,1\n")
    with pytest.raises(ConfigError, match=r"runs.csv has not the columns that are written now"):
        pages.earlier(tmp_path / "runs.csv", ROW)


def test_first_rows_replace_the_second() -> None:
    old = [ROW | {"return": 1.0}, ROW | {"seed": 2}]
    new = [ROW | {"return": 4.0}, ROW | {"return": 5.0}]
    assert pages.merged(new, old, *RUN) == [new[1], old[1]]


def test_rows_are_sorted_by_names_and_numbers() -> None:
    rows: Rows = [
        ROW | {"environment": env, "seed": seed} for seed in (10, 9) for env in ("B", "A", "C")
    ]
    found = pages.ordered(rows, RUN, ("C", "B", "A"))
    shown = [(row["environment"], row["seed"]) for row in found]
    assert shown == [(env, seed) for env in "CBA" for seed in (9, 10)]


def test_two_budgets_are_refused() -> None:
    rows: Rows = [ROW, ROW | {"seed": 2, "budget": 2000}, ROW | {"environment": "B", "budget": 7}]
    with pytest.raises(ConfigError, match=r"A: runs of 300 and 2,000 environment steps; expected"):
        pages.check_budgets(rows)


@pytest.mark.parametrize("script", ["leaderboard", "trust_region_family", "learning_curves"])
def test_script_names_the_extra_that_draws(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    runs = [] if script == "learning_curves" else [str(tmp_path), f"--output={tmp_path / 'new'}"]
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *runs])
    with pytest.raises(SystemExit, match=r"needs the package matplotlib, .* 'plots' .*") as ended:
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    assert "\n" not in str(ended.value)
    assert not (tmp_path / "new").exists()
