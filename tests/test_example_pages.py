"""The programs on the pages about callbacks and trackers run as they are printed."""

import csv
import math
import os
import re
import sys
from pathlib import Path

import forked_python
import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


def programs_of(page: str) -> list[str]:
    """Return the programs of a page that are marked to run."""
    text = (DOCS / page).read_text()
    return re.findall(r"<!-- run -->\n```python\n(.*?)```", text, re.DOTALL)


def run_program(program: str, folder: Path) -> list[str]:
    """Run a program in a folder; return what it prints."""
    done = forked_python.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{DOCS.parent}:{os.environ.get('PYTHONPATH', '')}"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_program_of_the_page_of_callbacks_runs(number: int, tmp_path: Path) -> None:
    programs = programs_of("callbacks.md")
    assert len(programs) == 4
    lines = run_program(programs[number], tmp_path)
    printed = ("finished solved", "", "the run is finished", "")[number]
    assert not printed or printed in lines
    (run,) = (path for path in tmp_path.iterdir() if path.is_dir())
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    steps = [int(row["env_steps"]) for row in rows]
    if number == 1:  # CartPole gives 1 in each step
        assert [float(row["custom/rewarded_steps"]) for row in rows] == steps
    if number == 3:
        resumed = next(i for i, step in enumerate(steps, 1) if step >= 8192)
        # Before an update, the share of the budget is that of the steps before it.
        for i in (1, resumed - 1, resumed, len(rows) - 1):
            share = steps[i - 1] / (8192 if i < resumed else 16384)
            expected = 1e-3 * math.cos(math.pi / 2 * share) ** 2  # the half-angle formula
            assert float(rows[i]["optim/lr"]) == pytest.approx(expected, rel=1e-12)
