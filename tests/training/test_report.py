"""The table of reported numbers: what is made from it, and that nothing is lost."""

import math
from pathlib import Path

import pytest

from rlkl.training.report import CHARTS, DIAGNOSIS_TAGS, DOWN, NEITHER, TAGS, UP, Tag, scalars_of

DASHBOARD = Path(__file__).parents[2] / "docs" / "dashboard.md"


@pytest.mark.parametrize("tags", [TAGS, DIAGNOSIS_TAGS], ids=["always", "diagnosis"])
def test_dashboard_page_has_the_table(tags: dict[str, Tag]) -> None:
    lines = ["| tag | what it is | unit | better |", "|---|---|---|---|"]
    for name, tag in tags.items():
        text = tag.help.replace("|", r"\|")
        lines.append(f"| `{name}` | {text} | {tag.unit} | {tag.better} |")
    assert "\n".join(lines) in DASHBOARD.read_text()


@pytest.mark.parametrize("name", TAGS | DIAGNOSIS_TAGS)
def test_tag_is_explained(name: str) -> None:
    tag = (TAGS | DIAGNOSIS_TAGS)[name]
    assert tag.help
    assert tag.better in (UP, DOWN, NEITHER)


def test_charts_show_known_tags() -> None:
    shown = {tag for titles in CHARTS.values() for tags in titles.values() for tag in tags}
    assert shown < {*TAGS, *DIAGNOSIS_TAGS}
    assert shown > {*DIAGNOSIS_TAGS}


def test_scalars_are_complete_and_in_order() -> None:
    scalars = scalars_of({"kl/max": 2.0}, {"return/train": 1.0})
    assert list(scalars) == list(TAGS)
    assert (scalars["kl/max"], scalars["return/train"]) == (2.0, 1.0)
    assert sum(math.isnan(value) for value in scalars.values()) == len(TAGS) - 2


def test_diagnosis_comes_last_if_it_is_due() -> None:
    scalars = scalars_of({"plasticity/value_rank": 3.0, "plasticity/policy_rank": 2.0})
    assert list(scalars)[len(TAGS) :] == ["plasticity/policy_rank", "plasticity/value_rank"]


def test_unknown_tag_is_an_error() -> None:
    with pytest.raises(KeyError, match="kl/typo"):
        scalars_of({"kl/typo": 1.0})
