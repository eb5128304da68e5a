"""Warnings and notes of a comparison."""

import math
from pathlib import Path

from comparisons import compared, kinds, text_of
from made_runs import make_grid, make_run

from rlkl.tools.compare.figures import figures


def test_few_seeds_cause_a_warning_with_a_probability(tmp_path: Path) -> None:
    finals = {"CartPole-v1": {"ppo_clip": [1.0, 2, 3], "trpo": [4.0, 5, 6]}}
    found = compared(make_grid(tmp_path, finals))
    text = text_of(found, "too few seeds")
    assert "All groups have 3 seeds" in text
    assert "in 10% of all draws" in text  # 2 of the 20 ways to split six runs into two groups


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, {"CartPole-v1": {"ppo_clip": [9.0], "trpo": [1.0]}}))
    assert "luck alone" in text_of(found, "too few seeds")
    assert math.isnan(found.tables["results"][0]["low"])
    assert not found.tables["improvement"][0]["told_apart"]
    assert "1 of 1 pair cannot be told apart" in text_of(found, "not told apart")
    assert found.findings == [
        "CartPole-v1, at 1,200 environment steps: too few seeds to tell which group is better "
        "(ppo_clip 1 and trpo 1); that needs 5 or more of two groups."
    ]


def test_seeds_are_counted_in_each_environment(tmp_path: Path) -> None:
    grid = {
        "Acrobot-v1": {"ppo_clip": [-90.0], "trpo": [-400.0]},
        "CartPole-v1": {"ppo_clip": [400.0, 410], "trpo": [20.0, 21]},
    }
    found = compared(make_grid(tmp_path, grid))
    text = text_of(found, "too few seeds")
    assert "4 of 4 have fewer than 5 seeds: ppo_clip in Acrobot-v1 has 1 seed" in text
    assert "ppo_clip in CartPole-v1 has 2 seeds" in text
    assert "luck alone" in text
    assert "in 33% of all draws" in text  # 2 of the 6 ways to split four runs into two pairs


def test_single_run_is_shown_with_a_warning(tmp_path: Path) -> None:
    found = compared(make_run(tmp_path / "a", [1.0, 2.0]))
    assert "nothing to compare it with" in text_of(found, "one group")
    assert found.findings == []
    assert {figure.name for figure in figures(found)} >= {"learning_by_steps", "updates"}


def test_five_seeds_cause_a_note_ten_none(tmp_path: Path) -> None:
    five = {"CartPole-v1": {"ppo_clip": range(100, 105), "trpo": range(5)}}
    found = compared(make_grid(tmp_path / "five", five))
    assert not next(c for c in found.cautions if c.kind == "seeds").is_warning
    assert "not told apart" not in kinds(found)
    assert "It is told apart from trpo (1 pair tested)" in found.findings[0]
    ten = {"CartPole-v1": {"ppo_clip": range(100, 110), "trpo": range(10)}}
    assert kinds(compared(make_grid(tmp_path / "ten", ten))) == []


def test_overlapping_groups_cause_a_warning(tmp_path: Path) -> None:
    finals = {"CartPole-v1": {"ppo_clip": [1.0, 2, 3, 4, 5], "trpo": [1.5, 2.5, 3.5, 2, 4.5]}}
    found = compared(make_grid(tmp_path, finals))
    assert "ppo_clip and trpo" in text_of(found, "not told apart")
    assert "It cannot be told apart from trpo (1 pair tested)" in found.findings[0]


def test_different_versions_hardware_and_seeds_are_noted(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0, 2])
    others = {"versions": {"rlkl": "0.2.0"}, "git_revision": "def", "hardware": {"cpu": "B"}}
    make_run(tmp_path / "b", [1.0, 2], seed=4, algo="trpo", summary=others,
             settings={"device": "cuda"})  # fmt: skip
    found = compared(tmp_path)
    assert "rlkl 0.1.0, torch 2.13.0 (1 run) and rlkl 0.2.0 (1 run)" in text_of(
        found, "different versions"
    )
    assert "abc (1 run) and def (1 run)" in text_of(found, "different revisions")
    assert "A chip, 2 (1 run) and B (1 run)" in text_of(found, "different hardware")
    assert "cuda 1 thread(s)" in text_of(found, "different devices")
    assert "ppo_clip 0 and trpo 4" in text_of(found, "unequal seeds")
    assert [row["seeds"] for row in found.tables["provenance"]] == ["0", "4"]


def test_unrecorded_provenance_is_no_difference(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0, 2])
    make_run(tmp_path / "b", [1.0, 2], seed=1, summary={"git_revision": None, "hardware": None})
    assert not {"different revisions", "different hardware"} & set(kinds(compared(tmp_path)))


def test_equal_returns_have_no_scale(tmp_path: Path) -> None:
    finals = {"Unknown-v0": {"ppo_clip": [5.0, 5], "trpo": [5.0, 5]}}
    found = compared(make_grid(tmp_path, finals))
    assert "no scale for normalized scores" in text_of(found, "no scale")
    assert found.tables["aggregates"] == []
    (pair,) = found.tables["improvement"]
    assert (pair["probability"], pair["low"], pair["told_apart"]) == (0.5, 0.5, False)
