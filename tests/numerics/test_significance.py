"""Permutation tests and Holm's correction against SciPy, enumeration and worked examples."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rlkl.numerics.significance import holm, improvement_p_value

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("sizes", [(5, 5), (5, 7), (3, 25), (1, 4)])
def test_p_value_agrees_with_exact_mann_whitney(sizes: tuple[int, int]) -> None:
    x, y = RANDOM.normal(0.8, size=sizes[0]), RANDOM.normal(size=sizes[1])
    expected = stats.mannwhitneyu(x, y, method="exact").pvalue
    assert improvement_p_value([x], [y]) == pytest.approx(expected, rel=1e-12)


def test_separated_groups_have_known_p_values() -> None:
    five = np.arange(5.0)
    assert improvement_p_value([five], [five + 9]) == pytest.approx(2 / 252)
    assert improvement_p_value([five] * 2, [five + 9] * 2) == pytest.approx(2 / 252**2)
    ten = np.arange(10.0)
    assert improvement_p_value([ten + 99], [ten]) == pytest.approx(2 / 184_756)
    assert improvement_p_value([five], [five]) == pytest.approx(1)
    assert improvement_p_value([np.ones(30)], [np.ones(30)]) == 1  # no variance


def every_probability(x: Any, y: Any) -> np.ndarray:
    """Return P(X > Y) + ½ P(X = Y) of every split of all runs, counted pair by pair."""
    runs = [*x, *y]
    found = []
    for chosen in itertools.combinations(range(len(runs)), len(x)):
        first = [runs[i] for i in chosen]
        second = [runs[i] for i in range(len(runs)) if i not in chosen]
        wins = [(a > b) + 0.5 * (a == b) for a in first for b in second]
        found.append(sum(wins) / len(wins))
    return np.array(found)


def test_tied_runs_of_two_tasks_agree_with_enumeration() -> None:
    first, second = [[1, 2, 2, 5], [0, 0, 7]], [[2, 3, 5, 5], [0, 4, 4, 9]]
    null = [every_probability(x, y) for x, y in zip(first, second, strict=True)]
    means = np.add.outer(*null).ravel() / 2
    observed = (
        sum(((a > b) + 0.5 * (a == b)) for a in first[0] for b in second[0]) / 16
        + sum(((a > b) + 0.5 * (a == b)) for a in first[1] for b in second[1]) / 12
    ) / 2
    expected = np.mean(np.abs(means - 0.5) >= abs(observed - 0.5) - 1e-9)
    strata = [[np.array(task, float) for task in group] for group in (first, second)]
    assert improvement_p_value(*strata) == pytest.approx(expected, rel=1e-12)


def test_many_runs_agree_with_normal_approximation() -> None:
    x, y = RANDOM.integers(0, 6, 30), RANDOM.integers(1, 6, 40)  # with ties
    expected = stats.mannwhitneyu(x, y, method="asymptotic", use_continuity=False).pvalue
    assert improvement_p_value([x], [y]) == pytest.approx(expected, rel=1e-10)


def test_uneven_tasks_stay_near_the_finest_grid() -> None:
    sizes = [(7, 11), (13, 9), (5, 8)]
    tasks = [(RANDOM.normal(0.4, size=n), RANDOM.normal(size=m)) for n, m in sizes]
    found = improvement_p_value([x for x, _ in tasks], [y for _, y in tasks])
    drawn = np.zeros(20_000)
    observed = 0.0
    for x, y in tasks:
        ranks = stats.rankdata([*x, *y])
        scale, least = len(x) * len(y), len(x) * (len(x) + 1) / 2
        mixed = RANDOM.permuted(np.tile(ranks, (len(drawn), 1)), axis=1)
        drawn += (mixed[:, : len(x)].sum(1) - least) / scale - 0.5
        observed += (ranks[: len(x)].sum() - least) / scale - 0.5
    assert found == pytest.approx(np.mean(np.abs(drawn) >= abs(observed) - 1e-9), abs=0.01)


def test_holm_has_the_values_of_a_worked_example() -> None:
    # Ascending: .005 × 4, .01 × 3, .03 × 2, .04 × 1; the last is raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9, 0.5]) == [1, 1, 1]
    assert holm([]) == []


def test_holm_agrees_with_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="comes with rliable")
    for count in (1, 2, 15):
        values = RANDOM.beta(0.3, 3, size=count)
        expected = multitest.multipletests(values, method="holm")[1]
        np.testing.assert_allclose(holm(values.tolist()), expected, rtol=1e-12)
