"""Curves along training and diagnostics of updates."""

from pathlib import Path

import numpy as np
import pytest
from comparisons import FAST, FINALS, NAN, compared, grouped
from made_runs import make_grid, make_run

from rlkl.tools.compare import scores
from rlkl.tools.compare.curves import BINS, curve_rows, update_rows
from rlkl.tools.compare.figures import figures
from rlkl.tools.rows import select


def test_every_point_of_a_curve_includes_all_seeds(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [0.0, 10, 20, 30], seed=0)
    make_run(tmp_path / "b", [NAN, 30, 40, 50], seed=1, seconds=4)
    found = scores.environments(grouped(tmp_path), FAST)
    rows = curve_rows(found, FAST)
    steps = select(rows, axis="steps")
    assert (steps[0]["x"], steps[-1]["x"]) == (200, 400)
    assert (steps[0]["value"], steps[-1]["value"]) == (20, 40)
    assert (steps[0]["low"], steps[0]["high"]) == (10, 30)
    assert steps[50]["value"] == pytest.approx(30)  # interpolated between rows
    # In wall time, the first run ends when the second has its first return.
    assert select(rows, axis="seconds") == []


def test_time_curves_end_with_the_first_seed(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [0.0, 10, 20, 30], seed=0, seconds=2)
    make_run(tmp_path / "b", [10.0, 20, 30, 40], seed=1, seconds=3)
    rows = select(curve_rows(scores.environments(grouped(tmp_path), FAST), FAST), axis="seconds")
    assert (rows[0]["x"], rows[-1]["x"]) == (3, 8)
    assert rows[-1]["value"] == pytest.approx((30 + (10 + 10 * 5 / 3)) / 2)


def test_overall_curve_has_normalized_scores(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, FINALS))
    rows = select(found.tables["together"], group="trpo")
    assert [rows[i]["x"] for i in (0, 50, -1)] == pytest.approx([100, 650, 1200])
    end = next(
        r for r in select(found.tables["aggregates"], group="trpo") if r["aggregate"] == "iqm"
    )
    assert rows[-1]["value"] == pytest.approx(end["value"])
    # Half of the final return, because returns grow linearly from 0.
    cart = (np.array(FINALS["CartPole-v1"]["trpo"]) / 2 - 22) / 453
    acro = (np.array(FINALS["Acrobot-v1"]["trpo"]) / 2 + 500) / 400
    assert rows[50]["value"] == pytest.approx(np.sort([*cart, *acro])[2:6].mean())
    assert rows[50]["low"] < rows[50]["value"] < rows[50]["high"]


def test_overall_curve_of_unequal_horizons_uses_shares(tmp_path: Path) -> None:
    make_grid(tmp_path / "a", {"CartPole-v1": FINALS["CartPole-v1"]})
    make_grid(tmp_path / "b", {"Acrobot-v1": FINALS["Acrobot-v1"]}, rows=24)
    found = compared(tmp_path)
    rows = select(found.tables["together"], group="trpo")
    # A run with 12 rows has its first return after a twelfth of its steps.
    assert [rows[i]["x"] for i in (0, -1)] == pytest.approx([1 / 12, 1])
    chart = next(f for f in figures(found) if f.name == "learning_together").charts[0]
    assert chart.x_label == "share of the environment steps"
    one = compared(tmp_path / "a")
    assert one.tables["together"] == []


def test_updates_are_averaged_in_bins(tmp_path: Path) -> None:
    kl = np.arange(4 * BINS, dtype=float)
    kl[5] = NAN
    make_run(tmp_path / "a", [1.0] * len(kl), columns={"kl/old_new": kl.tolist()})
    rows = update_rows(scores.environments(grouped(tmp_path), FAST), FAST)
    found = [row["value"] for row in select(rows, tag="kl/old_new")]
    assert found[:3] == [1.5, pytest.approx((4 + 6 + 7) / 3), 9.5]
    assert len(found) == BINS


def test_estimated_entropy_replaces_missing_exact_entropy(tmp_path: Path) -> None:
    nothing = {"policy/entropy": [NAN] * 3, "policy/entropy_estimate": [7.0] * 3}
    make_run(tmp_path / "a", [1.0] * 3, columns=nothing)
    rows = update_rows(scores.environments(grouped(tmp_path), FAST), FAST)
    assert {row["value"] for row in select(rows, tag="policy/entropy")} == {7}
