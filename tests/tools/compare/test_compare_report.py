"""Findings of a comparison."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from comparisons import compared, text_of
from made_runs import make_grid

from rlkl.cli.compare import _print
from rlkl.tools.compare import tables
from rlkl.tools.compare.figures import figures
from rlkl.tools.compare.page import markdown, page


def test_group_of_one_seed_is_not_ranked(tmp_path: Path) -> None:
    finals = {"ppo_clip": [9.0, 8, 9, 8, 9], "ppo_kl": [4.0, 3, 4, 3, 4], "trpo": [99.0]}
    grid = {"CartPole-v1": finals}
    found = compared(make_grid(tmp_path, grid))
    assert found.findings[0].endswith(
        " It is told apart from ppo_kl (1 pair tested); not compared, with fewer than 5 seeds: "
        "trpo (1)."
    )
    assert "ppo_clip has the highest" in found.findings[0]
    apart = {row["second"]: row["told_apart"] for row in found.tables["improvement"][:2]}
    assert apart == {"ppo_kl": True, "trpo": False}
    assert "ppo_clip and trpo" in text_of(found, "not told apart")


RANKING = r"highest|lies above|better than|is told apart|ahead"


@pytest.mark.parametrize("seeds", [1, 2, 4, 5])
def test_below_five_seeds_no_difference_is_claimed(
    seeds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"ppo_clip": range(400, 400 + seeds), "trpo": range(20, 20 + seeds)}
    found = compared(make_grid(tmp_path, {"CartPole-v1": one, "Acrobot-v1": one}))
    _print(found)
    printed = capsys.readouterr().out
    captions = r"(?s)<(style|script)>.*?</\1>|<p class=.caption.*?</p>"
    page_text = re.sub(captions, "", page(found, figures(found), ""))
    uncaptioned = [replace(figure, caption="") for figure in figures(found)]
    in_words = [printed, " ".join(found.findings), page_text, markdown(found, uncaptioned, "")]
    assert [bool(re.search(RANKING, text)) for text in in_words] == [seeds >= 5] * 4
    (pair,) = found.tables["improvement"]
    assert (pair["seeds"], pair["told_apart"]) == (seeds, seeds >= 5)
    (cells,) = next(t for t in tables.tables(found) if t.section == "improvement").cells
    assert cells[5] == ("yes" if seeds >= 5 else "too few seeds")


def test_finding_names_groups_that_beat_the_best(tmp_path: Path) -> None:
    worse = {"ppo_clip": [10.0, 11, 12, 13, 14], "trpo": [20.0, 21, 22, 23, 24]}
    better = {"ppo_clip": [490.0, 491, 492, 493, 494], "trpo": [30.0, 31, 32, 33, 34]}
    finals = {"CartPole-v1": better} | {f"Other-v{number}": worse for number in range(4)}
    scale = {env: [0.0, 500.0] for env in finals}
    found = compared(make_grid(tmp_path, finals), statistic="mean", references=scale)
    (pair,) = found.tables["improvement"]
    assert (pair["probability"], pair["told_apart"]) == (pytest.approx(1 / 5), True)
    assert "ppo_clip has the highest mean" in found.findings[0]
    assert "But a run of trpo is more often than not better" in found.findings[0]
    assert "told apart" not in found.findings[0]
