"""Aggregates, comparisons and intervals against SciPy, rliable and all possible resamples."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rlkl.numerics import statistics
from rlkl.numerics.statistics import (
    bootstrap_interval,
    interquartile_mean,
    mean,
    mean_of_means,
    median_of_means,
    optimality_gap,
    performance_profile,
    pooled,
    probability_of_improvement,
)

SCORES = np.random.default_rng(0).gamma(2.0, size=(3, 40))


@pytest.mark.parametrize("count", range(1, 14))
def test_interquartile_mean_agrees_with_scipy(count: int) -> None:
    scores = SCORES[:, :count]
    expected = stats.trim_mean(scores, 0.25, axis=-1)
    np.testing.assert_allclose(interquartile_mean(scores), expected, rtol=1e-15)


def test_interquartile_mean_has_known_values() -> None:
    assert interquartile_mean(np.array([1000.0, 1, 2, 4, -1000])) == 7 / 3
    assert interquartile_mean(np.array([8.0, 1, 3, 2])) == 2.5
    assert interquartile_mean(np.array([3.0])) == 3


def every_resample(scores: Any) -> np.ndarray:
    return np.array(list(itertools.product(scores, repeat=len(scores))))


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_interval_agrees_with_all_possible_resamples(confidence: float) -> None:
    strata = [np.array([1.0, 2, 7, 30]), np.array([100.0, 104, 90])]
    means = [every_resample(scores).sum(-1) for scores in strata]
    values = np.add.outer(*means).ravel() / 7
    tail = (1 - confidence) / 2
    found = bootstrap_interval(
        strata, pooled(mean), np.random.default_rng(1), confidence, resamples=200_000
    )
    # The statistic is discrete, so the share of resamples below each end is an interval.
    below = [(np.mean(values < end - 1e-9), np.mean(values <= end + 1e-9)) for end in found]
    for (least, most), share in zip(below, (tail, 1 - tail), strict=True):
        assert least - 0.004 <= share <= most + 0.004


@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
def test_interval_agrees_with_scipy(statistic: Any) -> None:
    scores = SCORES[0]
    expected = stats.bootstrap(
        (scores,), statistic, method="percentile", n_resamples=40_000, rng=np.random.default_rng(2)
    ).confidence_interval
    found = bootstrap_interval(
        [scores], pooled(statistic), np.random.default_rng(3), resamples=40_000
    )
    np.testing.assert_allclose(found, expected, atol=0.02 * (expected.high - expected.low))


def test_strata_are_not_mixed() -> None:
    strata = [np.array([1.0, 1]), np.array([100.0, 100, 100])]
    found = bootstrap_interval(strata, pooled(mean), np.random.default_rng(0), resamples=50)
    assert found == (60.4, 60.4)


def test_resamples_are_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def recorded_mean(scores: Any) -> Any:
        shapes.append(scores.shape)
        return mean(scores)

    monkeypatch.setattr(statistics, "BLOCK", 100)
    low, high = bootstrap_interval(
        [SCORES[0]], pooled(recorded_mean), np.random.default_rng(0), resamples=7
    )
    assert shapes == [(2, 40), (2, 40), (2, 40), (1, 40)]
    assert SCORES[0].min() < low < high < SCORES[0].max()


def test_interval_is_reproducible() -> None:
    first, second = (
        bootstrap_interval([SCORES[0]], pooled(interquartile_mean), np.random.default_rng(5))
        for _ in range(2)
    )
    assert first == second


# Tasks with two and three runs.
STRATA = [np.array([0.0, 0.5]), np.array([1.0, 1.5, 2.0])]


def test_aggregates_have_known_values() -> None:
    assert mean_of_means(STRATA) == 0.875  # of 0.25 and 1.5
    assert median_of_means([*STRATA, np.array([9.0])]) == 1.5
    assert pooled(interquartile_mean)(STRATA) == 1.0
    assert optimality_gap(STRATA) == 1 - (0.25 + 1) / 2
    assert optimality_gap(STRATA, optimum=2) == 2 - 0.875


def test_profile_is_share_above_each_threshold() -> None:
    found = performance_profile(STRATA, np.array([-1, 0, 0.5, 1.2, 2]))
    # Scores equal to a threshold, as at 0 and 0.5, are not above it.
    np.testing.assert_allclose(found, [1, 0.75, 0.5, 1 / 3, 0], rtol=1e-15)


def test_probability_of_improvement_counts_ties_half() -> None:
    x, y = np.array([1.0, 2, 3]), np.array([2.0, 0])
    assert probability_of_improvement([x], [y]) == pytest.approx((0.5 + 0.75 + 1) / 3)
    assert probability_of_improvement([y], [x]) == pytest.approx(1 - 2.25 / 3)
    assert probability_of_improvement([x, x], [y, x]) == pytest.approx((0.75 + 0.5) / 2)


def test_probability_of_improvement_agrees_with_mann_whitney() -> None:
    x, y = np.round(SCORES[0], 1), np.round(SCORES[1, :25], 1)
    expected = stats.mannwhitneyu(x, y).statistic / (len(x) * len(y))
    assert probability_of_improvement([x], [y]) == pytest.approx(expected, rel=1e-12)


def test_statistics_accept_many_resamples() -> None:
    many = [np.stack([scores, scores + 1, -scores]) for scores in STRATA]
    thresholds = np.array([0.2, 1.1])
    profiles = performance_profile(many, thresholds)
    probabilities = probability_of_improvement(many, many[::-1])
    for i in range(3):
        one = [scores[i] for scores in many]
        for statistic in (mean_of_means, median_of_means, optimality_gap, pooled(mean)):
            assert statistic(many)[i] == pytest.approx(statistic(one), rel=1e-15)
        np.testing.assert_allclose(profiles[:, i], performance_profile(one, thresholds))
        assert probabilities[i] == pytest.approx(probability_of_improvement(one, one[::-1]))


def test_curves_are_resampled_by_run() -> None:
    # Two points that sum to 1 in every run sum to 1 in every resample.
    curves = np.stack([SCORES[0], 1 - SCORES[0]])
    low, high = bootstrap_interval([curves], pooled(mean), np.random.default_rng(0), resamples=500)
    assert low.shape == high.shape == (2,)
    np.testing.assert_allclose(low + high[::-1], 1, rtol=1e-12)
    alone = bootstrap_interval([SCORES[0]], pooled(mean), np.random.default_rng(0), resamples=500)
    np.testing.assert_allclose((low[0], high[0]), alone, rtol=1e-12)


RLIABLE_RESAMPLES = 5000
"""rliable is slow, so its intervals are imprecise."""


@pytest.fixture(scope="module")
def rliable() -> Any:
    library = pytest.importorskip("rliable.library")
    metrics = pytest.importorskip("rliable.metrics")
    # rliable uses NumPy's global generator.
    np.random.seed(0)
    return library, metrics


RUNS_BY_TASKS = SCORES[:, :36].reshape(12, 9)[:, :4] / 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "statistic"),
    [
        ("aggregate_mean", mean_of_means),
        ("aggregate_median", median_of_means),
        ("aggregate_iqm", pooled(interquartile_mean)),
        ("aggregate_optimality_gap", optimality_gap),
    ],
)
def test_aggregates_agree_with_rliable(name: str, statistic: Any, rliable: Any) -> None:
    library, metrics = rliable
    theirs = getattr(metrics, name)
    points, intervals = library.get_interval_estimates(
        {"x": RUNS_BY_TASKS}, lambda scores: np.array([theirs(scores)]), reps=RLIABLE_RESAMPLES
    )
    strata = list(RUNS_BY_TASKS.T)
    assert statistic(strata) == pytest.approx(points["x"].item(), rel=1e-12)
    found = bootstrap_interval(strata, statistic, np.random.default_rng(0), resamples=20_000)
    width = float(np.ptp(intervals["x"]))
    np.testing.assert_allclose(found, intervals["x"][:, 0], atol=0.05 * width)


@pytest.mark.slow
def test_profiles_agree_with_rliable(rliable: Any) -> None:
    library, _ = rliable
    thresholds = np.linspace(0.05, 1.55, 7)
    points, intervals = library.create_performance_profile(
        {"x": RUNS_BY_TASKS}, thresholds, reps=RLIABLE_RESAMPLES
    )
    strata = list(RUNS_BY_TASKS.T)
    np.testing.assert_allclose(performance_profile(strata, thresholds), points["x"], rtol=1e-12)
    found = bootstrap_interval(
        strata,
        lambda drawn: performance_profile(drawn, thresholds),
        np.random.default_rng(0),
        resamples=20_000,
    )
    # Shares of 48 runs are multiples of 1/48.
    np.testing.assert_allclose(found, intervals["x"], atol=1.01 / 48)


@pytest.mark.slow
def test_probability_of_improvement_agrees_with_rliable(rliable: Any) -> None:
    library, metrics = rliable
    x, y = RUNS_BY_TASKS[:7], RUNS_BY_TASKS[7:] * 1.3
    points, intervals = library.get_interval_estimates(
        {"x,y": [x, y]},
        lambda *pair: np.array([metrics.probability_of_improvement(*pair)]),
        reps=1000,
    )
    strata = [*x.T, *y.T]
    found = bootstrap_interval(
        strata,
        lambda drawn: probability_of_improvement(drawn[:4], drawn[4:]),
        np.random.default_rng(0),
        resamples=20_000,
    )
    assert probability_of_improvement(x.T, y.T) == pytest.approx(points["x,y"].item(), rel=1e-12)
    width = float(np.ptp(intervals["x,y"]))
    np.testing.assert_allclose(found, intervals["x,y"][:, 0], atol=0.08 * width)
