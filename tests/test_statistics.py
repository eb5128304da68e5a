"""The interquartile mean and bootstrap intervals, against SciPy and against every resample."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rlkl import statistics
from rlkl.statistics import bootstrap_interval, interquartile_mean, mean

SCORES = np.random.default_rng(0).gamma(2.0, size=(3, 40))


@pytest.mark.parametrize("count", range(1, 14))
def test_the_interquartile_mean_is_the_mean_trimmed_by_a_quarter(count: int) -> None:
    scores = SCORES[:, :count]
    expected = stats.trim_mean(scores, 0.25, axis=-1)
    np.testing.assert_allclose(interquartile_mean(scores), expected, rtol=1e-15)


def test_the_interquartile_mean_of_a_few_numbers() -> None:
    assert interquartile_mean(np.array([1000.0, 1, 2, 4, -1000])) == 7 / 3
    assert interquartile_mean(np.array([8.0, 1, 3, 2])) == 2.5
    assert interquartile_mean(np.array([3.0])) == 3


def every_resample(scores: Any) -> np.ndarray:
    return np.array(list(itertools.product(scores, repeat=len(scores))))


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_an_interval_is_that_of_all_resamples_there_are(confidence: float) -> None:
    strata = [np.array([1.0, 2, 7, 30]), np.array([100.0, 104, 90])]
    means = [every_resample(scores).sum(-1) for scores in strata]
    values = np.add.outer(*means).ravel() / 7
    tail = (1 - confidence) / 2
    found = bootstrap_interval(
        strata, mean, np.random.default_rng(1), confidence, resamples=200_000
    )
    # The share of all resamples below each end, whose statistic takes few hundred values.
    below = [(np.mean(values < end - 1e-9), np.mean(values <= end + 1e-9)) for end in found]
    for (least, most), share in zip(below, (tail, 1 - tail), strict=True):
        assert least - 0.004 <= share <= most + 0.004


@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
def test_an_interval_agrees_with_scipys(statistic: Any) -> None:
    scores = SCORES[0]
    expected = stats.bootstrap(
        (scores,), statistic, method="percentile", n_resamples=40_000, rng=np.random.default_rng(2)
    ).confidence_interval
    found = bootstrap_interval([scores], statistic, np.random.default_rng(3), resamples=40_000)
    np.testing.assert_allclose(found, expected, atol=0.02 * (expected.high - expected.low))


def test_strata_are_not_mixed() -> None:
    strata = [np.array([1.0, 1]), np.array([100.0, 100, 100])]
    found = bootstrap_interval(strata, mean, np.random.default_rng(0), resamples=50)
    assert found == (60.4, 60.4)


def test_blocks_change_nothing_but_the_order_of_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def noted(scores: Any) -> Any:
        seen.append(scores.shape)
        return mean(scores)

    monkeypatch.setattr(statistics, "BLOCK", 100)
    low, high = bootstrap_interval([SCORES[0]], noted, np.random.default_rng(0), resamples=7)
    assert seen == [(2, 40), (2, 40), (2, 40), (1, 40)]
    assert SCORES[0].min() < low < high < SCORES[0].max()


def test_the_same_generator_gives_the_same_interval() -> None:
    first, second = (
        bootstrap_interval([SCORES[0]], interquartile_mean, np.random.default_rng(5))
        for _ in range(2)
    )
    assert first == second
