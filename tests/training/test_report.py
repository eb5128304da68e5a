"""The table of reported numbers: what is made from it, and that nothing is lost."""

import math
import re
from pathlib import Path

import pytest

from rlkl.training.report import DOWN, NEITHER, TAGS, UP, charts, markdown_table, scalars_of

DASHBOARD = Path(__file__).parents[2] / "docs" / "dashboard.md"


def test_dashboard_page_has_the_table() -> None:
    assert markdown_table() in DASHBOARD.read_text()


def test_table_has_a_line_for_each_tag() -> None:
    lines = markdown_table().splitlines()[2:]
    assert [re.match(r"\| `(\S+)` \|", line)[1] for line in lines] == list(TAGS)  # type: ignore[index]


@pytest.mark.parametrize("name", TAGS)
def test_tag_is_explained(name: str) -> None:
    tag = TAGS[name]
    assert tag.help
    assert tag.better in (UP, DOWN, NEITHER)
    assert all(": " in chart for chart in tag.charts)


def test_charts_have_the_tags_that_name_them() -> None:
    found = charts()
    assert found["KL"]["both directions, mean over states"] == ["kl/old_new", "kl/new_old"]
    assert found["Ratio"]["smallest and largest ratio"] == ["ratio/min", "ratio/max"]
    shown = {tag for titles in found.values() for tags in titles.values() for tag in tags}
    assert shown == {name for name, tag in TAGS.items() if tag.charts}


def test_scalars_are_complete_and_in_order() -> None:
    scalars = scalars_of({"kl/max": 2.0}, {"return/train": 1.0})
    assert list(scalars) == list(TAGS)
    assert (scalars["kl/max"], scalars["return/train"]) == (2.0, 1.0)
    assert sum(math.isnan(value) for value in scalars.values()) == len(TAGS) - 2


def test_unknown_tag_is_an_error() -> None:
    with pytest.raises(KeyError, match="kl/typo"):
        scalars_of({"kl/typo": 1.0})
