"""The table of reported numbers: what is made from it, and that nothing is lost."""

import math
from pathlib import Path

import pytest

from rlkl.training.report import CHARTS, DOWN, NEITHER, TAGS, UP, scalars_of

DASHBOARD = Path(__file__).parents[2] / "docs" / "dashboard.md"


def test_dashboard_page_has_the_table() -> None:
    lines = ["| tag | what it is | unit | better |", "|---|---|---|---|"]
    for name, tag in TAGS.items():
        text = tag.help.replace("|", r"\|")
        lines.append(f"| `{name}` | {text} | {tag.unit} | {tag.better} |")
    assert "\n".join(lines) in DASHBOARD.read_text()


@pytest.mark.parametrize("name", TAGS)
def test_tag_is_explained(name: str) -> None:
    tag = TAGS[name]
    assert tag.help
    assert tag.better in (UP, DOWN, NEITHER)


def test_charts_show_known_tags() -> None:
    assert {tag for titles in CHARTS.values() for tags in titles.values() for tag in tags} < {*TAGS}


def test_scalars_are_complete_and_in_order() -> None:
    scalars = scalars_of({"kl/max": 2.0}, {"return/train": 1.0})
    assert list(scalars) == list(TAGS)
    assert (scalars["kl/max"], scalars["return/train"]) == (2.0, 1.0)
    assert sum(math.isnan(value) for value in scalars.values()) == len(TAGS) - 2


def test_unknown_tag_is_an_error() -> None:
    with pytest.raises(KeyError, match="kl/typo"):
        scalars_of({"kl/typo": 1.0})
