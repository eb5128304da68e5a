"""Steps to the threshold, drops, and KL bounds."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import NAN, compared
from made_runs import make_run

from rlkl.tools.compare import curves


def test_worst_drop_is_from_the_best_so_far() -> None:
    assert curves.worst_drop(np.array([1.0, 5, NAN, 2, 4, 7, 6.5])) == 3
    assert curves.worst_drop(np.array([1.0, 2, 3])) == 0
    assert math.isnan(curves.worst_drop(np.array([NAN])))


def test_runs_below_the_threshold_have_infinite_steps(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0, 5, 2, 9], seed=0)
    make_run(tmp_path / "b", [1.0, 2, 3, 5], seed=1)
    make_run(tmp_path / "c", [1.0, 2, 3, 4], seed=2)
    (row,) = compared(tmp_path, threshold=5).tables["thresholds"]
    assert (row["reached"], row["median_steps"], row["first_steps"]) == (2, 400, 200)
    assert row["last_steps"] == math.inf
    (row,) = compared(tmp_path, threshold={"CartPole-v1": 5}, steps=300).tables["thresholds"]
    assert (row["reached"], row["median_steps"]) == (1, math.inf)
    (row,) = compared(tmp_path).tables["thresholds"]
    assert (row["threshold"], row["source"]) == (475, "Gymnasium's reward threshold")


@pytest.mark.parametrize(
    ("algo", "settings", "target", "share"),
    [
        ("trpo", {}, 0.01, 0.5),  # above 0.01 by more than rounding errors
        ("ppo_kl", {}, 0.01, 0.25),  # above 0.015
        ("ppo_clip", {"algo.target_kl_multiplier": 3.0}, 0.01, 0.0),
        ("ppo_clip", {}, NAN, NAN),
    ],
)
def test_kl_bound_depends_on_the_algorithm(
    algo: str, settings: dict[str, Any], target: float, share: float, tmp_path: Path
) -> None:
    kl = [0.005, 0.010001, 0.012, 0.02]
    columns = {"kl/old_new": kl, "kl/target": [target] * 4}
    make_run(tmp_path / "a", [1.0, 3, 2, 2], algo=algo, settings=settings, columns=columns)
    (row,) = compared(tmp_path).tables["stability"]
    assert row["worst_drop_normalized"] == pytest.approx(1 / (475 - 22))
    assert row["over_bound"] == pytest.approx(share, nan_ok=True)
    assert (row["worst_drop"], row["largest_kl"], row["updates"]) == (1, 0.02, 4)


def test_rolled_back_updates_do_not_count_for_bounds(tmp_path: Path) -> None:
    columns = {"kl/old_new": [0.005, NAN, math.inf, NAN], "kl/target": [0.01] * 4}
    make_run(tmp_path / "a", [1.0, 3, 2, 2], algo="trpo", columns=columns)
    (row,) = compared(tmp_path).tables["stability"]
    assert (row["over_bound"], row["updates"], row["not_finite"]) == (0.5, 4, 3)


def test_drop_is_not_normalized_by_similar_returns(tmp_path: Path) -> None:
    for seed, last in enumerate((5.0, 5.001)):
        make_run(tmp_path / str(seed), [5.0, 1.0, last], env="Unknown-v0", seed=seed)
    (row,) = compared(tmp_path).tables["stability"]
    assert row["worst_drop"] == 4
    assert math.isnan(row["worst_drop_normalized"])
