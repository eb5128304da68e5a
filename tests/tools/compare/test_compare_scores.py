"""Scores of runs and of groups, normalized and over environments."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import FINALS, NAN, compared, kinds, text_of
from made_runs import make_grid, make_run

from rlkl.tools.rows import select


def test_score_is_read_at_the_smallest_budget(tmp_path: Path) -> None:
    make_run(tmp_path / "short", [1.0, 2.0, 3.0], per_row=100)
    make_run(tmp_path / "long", [5.0, 6.0, 7.0, 8.0], per_row=130, seed=1)
    found = compared(tmp_path)
    (env,) = found.environments
    assert env.horizon == 300
    rows = {Path(row["folder"]).name: row for row in found.tables["runs"]}
    assert rows["short"]["return"] == 3
    assert rows["long"]["return"] == 7  # at 390 steps, where a run with a budget of 300 would end
    assert rows["long"]["wall_seconds"] == pytest.approx(6)
    text = text_of(found, "unequal steps")
    assert "compared at 300 environment steps" in text
    assert "the end of 1 run (budgets: 300 and 520)" in text
    assert compared(tmp_path, steps=100).tables["runs"][0]["return"] == 1


def test_runs_without_a_score_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0, 2.0, NAN], seed=0)  # the last return counts
    make_run(tmp_path / "b", [NAN, NAN, NAN], seed=1)
    make_run(tmp_path / "c", [9.0], seed=2, summary={"status": "failed", "reason": "it broke"},
             settings={"total_env_steps": 300})  # fmt: skip
    make_run(tmp_path / "d", [4.0, 4.0, 4.0], seed=3, summary={"status": None},
             columns={"kl/old_new": [0.1, NAN, math.inf]})  # fmt: skip
    found = compared(tmp_path)
    returns = {row["seed"]: row["return"] for row in found.tables["runs"]}
    assert (returns[0], returns[3]) == (2, 4)
    assert math.isnan(returns[1])
    assert math.isnan(returns[2])
    assert "2 runs without a score" in text_of(found, "left out")
    assert "no episode had ended" in text_of(found, "left out")
    assert "it made 100 of 300 environment steps" in text_of(found, "left out")
    assert "1 run failed" in text_of(found, "failed runs")
    assert "it broke" in text_of(found, "failed runs")
    assert "1 run unfinished: still being written, or its process was killed" in text_of(
        found, "unfinished runs"
    )
    assert "2 updates without a finite KL" in text_of(found, "NaN rows")
    (row,) = found.tables["results"]
    assert (row["seeds"], row["iqm"], row["min"], row["max"]) == (2, 3, 2, 4)


def test_duplicate_seed_counts_once(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0, 1.0])
    make_run(tmp_path / "b", [2.0, 2.0, 2.0], settings={"total_env_steps": 200})
    make_run(tmp_path / "c", [3.0, 3.0], seed=1)
    found = compared(tmp_path)
    assert found.environments[0].scores("ppo_clip").tolist() == [2, 3]
    assert "another run of seed 0 counts instead" in text_of(found, "left out")


def test_duplicate_with_the_common_budget_is_preferred(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path / f"short{seed}", [1.0, 2.0], seed=seed)
        make_run(tmp_path / f"long{seed}", [5.0, 6.0, 7.0, 8.0], seed=seed)
    found = compared(tmp_path)
    assert (found.environments[0].horizon, found.environments[0].scores("ppo_clip").tolist()) == (
        400,
        [8, 8],
    )
    assert "unequal steps" not in kinds(found)  # runs that are left out are not cut
    make_run(tmp_path / "other", [3.0, 4.0], algo="trpo")
    found = compared(tmp_path)
    # At 200 steps, the schedules of the long runs were only half complete.
    assert (found.environments[0].horizon, found.environments[0].scores("ppo_clip").tolist()) == (
        200,
        [2, 2],
    )
    assert "unequal steps" not in kinds(found)


def test_finished_run_with_lost_rows_is_left_out(tmp_path: Path) -> None:
    for seed in range(3):
        folder = make_run(tmp_path / str(seed), [1.0, 2.0, 3.0, 4.0], seed=seed)
    path = folder / "metrics.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    found = compared(tmp_path)
    assert (found.environments[0].horizon, found.environments[0].scores("ppo_clip").tolist()) == (
        400,
        [4, 4],
    )
    assert "its metrics.csv ends at 200 of 400 environment steps" in text_of(found, "left out")


def test_unknown_budgets_cause_no_warning(tmp_path: Path) -> None:
    for seed, steps in enumerate((3, 3, 4)):
        folder = make_run(tmp_path / str(seed), [1.0] * steps, seed=seed, per_row=100)
        (folder / "config.yaml").unlink()
    (tmp_path / "2" / "metrics.csv").unlink()
    assert "unequal steps" not in kinds(compared(tmp_path))


def test_budgets_of_the_same_rollout_cause_no_warning(tmp_path: Path) -> None:
    for seed, budget in enumerate((250, 300)):
        make_run(tmp_path / str(seed), [1.0] * 3, seed=seed, settings={"total_env_steps": budget})
    found = compared(tmp_path)
    assert (found.environments[0].horizon, len(found.environments[0].scored("ppo_clip"))) == (
        250,
        2,
    )
    assert "unequal steps" not in kinds(found)


def test_unequal_unfinished_runs_cause_a_warning(tmp_path: Path) -> None:
    for seed, rows in enumerate(([1.0], [1.0, 2.0])):
        make_run(tmp_path / str(seed), rows, seed=seed, summary={"status": None},
                 settings={"total_env_steps": 900})  # fmt: skip
    found = compared(tmp_path)
    assert next(c for c in found.cautions if c.kind == "unequal steps").is_warning


def test_evaluations_can_be_the_score(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0] * 4, columns={"return/eval": [NAN, 50.0, NAN, 80.0]})
    make_run(tmp_path / "b", [1.0] * 4, seed=1)
    found = compared(tmp_path, score="eval")
    assert found.environments[0].scores("ppo_clip").tolist() == [80]
    assert "it was not evaluated" in text_of(found, "left out")
    make_run(tmp_path / "c", [1.0] * 4, seed=2, summary={"eval_return": 7.0})
    (row,) = compared(tmp_path).tables["results"]
    assert (row["seeds"], row["evaluation"]) == (3, 7)
    assert compared(tmp_path, score="eval", steps=300).environments[0].scores("ppo_clip") == [50]


def test_scores_are_normalized_by_random_and_good_returns(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, FINALS))
    by_env = {env.name: env for env in found.environments}
    expected = (np.array(FINALS["CartPole-v1"]["trpo"]) - 22) / (475 - 22)
    np.testing.assert_allclose(by_env["CartPole-v1"].normalized("trpo"), expected)
    expected = (np.array(FINALS["Acrobot-v1"]["trpo"]) + 500) / 400
    np.testing.assert_allclose(by_env["Acrobot-v1"].normalized("trpo"), expected)
    ends = [(env.reference.low, env.reference.high) for env in found.environments if env.reference]
    assert ends == [(-500, -100), (22, 475)]
    relative = compared(tmp_path, normalize="runs")
    assert relative.environments[1].normalized("ppo_clip").max() == 1
    assert relative.environments[1].normalized("trpo").min() == 0
    assert "0 is the worst and 1 the best of the compared runs" in text_of(
        relative, "scale of these runs"
    )
    chosen = compared(tmp_path, references={"Acrobot-v1": [-500, 0]})
    assert chosen.environments[0].normalized("trpo").tolist() == pytest.approx([0.8, 0.4, 0, 0.78])


def test_aggregates_match_their_definitions(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, FINALS))
    rows = {row["aggregate"]: row for row in select(found.tables["aggregates"], group="trpo")}
    cart = (np.array(FINALS["CartPole-v1"]["trpo"]) - 22) / 453
    acro = (np.array(FINALS["Acrobot-v1"]["trpo"]) + 500) / 400
    both = np.sort([*cart, *acro])
    assert rows["mean"]["value"] == pytest.approx((cart.mean() + acro.mean()) / 2)
    assert rows["median"]["value"] == pytest.approx((cart.mean() + acro.mean()) / 2)
    assert rows["iqm"]["value"] == pytest.approx(both[2:6].mean())
    assert rows["optimality_gap"]["value"] == pytest.approx(1 - both.mean())
    assert (rows["iqm"]["environments"], rows["iqm"]["runs"]) == (2, 8)
    for row in rows.values():
        assert row["low"] < row["value"] < row["high"]
    profile = select(found.tables["profiles"], group="trpo")
    assert (profile[0]["score"], profile[0]["share"]) == (0, 6 / 8)  # two runs are at 0, not above
    assert profile[-1]["share"] == 0
    (pair,) = found.tables["improvement"]
    # In Acrobot, one of 16 pairs of runs is a tie.
    assert pair["probability"] == pytest.approx((1 + 15.5 / 16) / 2)
    assert pair["low"] > 0.5
    assert not pair["told_apart"]  # with four seeds


def test_intervals_do_not_depend_on_other_groups(tmp_path: Path) -> None:
    make_grid(tmp_path / "two", {"CartPole-v1": FINALS["CartPole-v1"]})

    def interval(folder: str, **settings: Any) -> tuple[float, float]:
        found = compared(tmp_path / folder, **settings)
        (row,) = select(found.tables["results"], group="trpo")
        return row["low"], row["high"]

    alone = interval("two/CartPole-v1/trpo", statistic="mean")
    assert interval("two", statistic="mean") == alone
    assert interval("two", statistic="mean", seed=1) != alone


def test_environments_without_all_groups_are_not_aggregated(tmp_path: Path) -> None:
    finals = FINALS | {"Pendulum-v1": {"ppo_clip": [-200.0, -150]}}
    found = compared(make_grid(tmp_path, finals))
    assert {row["environments"] for row in found.tables["aggregates"]} == {2}
    text = text_of(found, "mixed environments")
    assert "Pendulum-v1 lacks trpo" in text
    assert "over Acrobot-v1 and CartPole-v1 only" in text


def test_disjoint_environments_have_no_aggregates(tmp_path: Path) -> None:
    finals = {"CartPole-v1": {"ppo_clip": [1.0, 2]}, "Acrobot-v1": {"trpo": [-99.0, -98]}}
    found = compared(make_grid(tmp_path, finals))
    assert found.tables["aggregates"] == found.tables["profiles"] == []
    assert found.tables["improvement"] == []
    assert "no aggregate scores" in text_of(found, "mixed environments")
