"""Comparisons of made runs, for the tests of `rlkl compare`."""

import math
from functools import partial
from pathlib import Path
from typing import Any

from commands import exit_code

from rlkl.tools.compare import groups, runs
from rlkl.tools.compare.groups import Member
from rlkl.tools.compare.report import Comparison, compare
from rlkl.tools.compare.runs import Run
from rlkl.tools.compare.settings import CompareConfig

NAN = math.nan
FAST = CompareConfig(resamples=200)

FINALS = {
    "CartPole-v1": {"ppo_clip": [470.0, 475, 480, 500], "trpo": [22, 100, 200, 300]},
    "Acrobot-v1": {"ppo_clip": [-90.0, -100, -95, -85], "trpo": [-100, -300, -500, -110]},
}
"""Final returns of each seed, for `make_grid`."""


def read(folder: Path) -> Run:
    """Return the run in a folder, which must be readable."""
    found = runs.read(folder)
    assert isinstance(found, Run), found
    return found


def grouped(folder: Path) -> list[Member]:
    """Return the runs below a folder with their groups."""
    return groups.group_runs([read(path) for path in runs.find([str(folder)])])


def compared(folder: Path, **settings: Any) -> Comparison:
    """Compare the runs below a folder with few resamples."""
    return compare([str(folder)], CompareConfig(**{"resamples": 100} | settings))


def kinds(comparison: Comparison) -> list[str]:
    """Return the kinds of all cautions."""
    return [caution.kind for caution in comparison.cautions]


def text_of(comparison: Comparison, kind: str) -> str:
    """Return the text of the only caution of a kind."""
    (text,) = (caution.text for caution in comparison.cautions if caution.kind == kind)
    return text


command = partial(exit_code, "compare")
