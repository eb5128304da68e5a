"""The page on cloning: its example runs, and its tables have every key and column."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from rlkl.cli.clone import KEYS
from rlkl.tools.cloning.config import CloneConfig
from rlkl.tools.cloning.fit import COLUMNS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "cloning.md").read_text()


def first_cells(heading: str) -> list[str]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([\w/]+)` \|", section, re.M)


def test_tables_have_every_key_and_column() -> None:
    keys = [field.name for field in fields(CloneConfig)]
    assert first_cells("The fit") == keys
    assert [key.partition("=")[0] for key in KEYS] == [*keys, "KEY"]
    assert first_cells("What is reported") == list(COLUMNS)
    for field in fields(CloneConfig):
        (default,) = re.findall(rf"^\| `{field.name}` \| (\S+) \|", PAGE, re.M)
        expected = {None: "null", True: "true"}.get(field.default, field.default)
        assert default == expected or float(default) == expected


@pytest.mark.slow
def test_example_of_the_page_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    kl, eval_return = map(float, done.stdout.split())
    assert 0 < kl < 0.05
    assert eval_return > 50
