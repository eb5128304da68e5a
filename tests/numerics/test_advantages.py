"""Advantages against mixtures of n-step returns, and literal numbers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter

from rlkl.numerics.advantages import (
    explained_variance,
    generalized_advantages,
    linear_recurrence,
    standardize,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def mixed_n_step_advantages(
    rewards: Floats,
    values: Floats,
    next_values: Floats,
    terminated: Bools,
    truncated: Bools,
    gamma: float,
    lam: float,
) -> Floats:
    """Return A = (1 - λ) Σ_n λⁿ⁻¹ A⁽ⁿ⁾ by loops, where the longest n gets the remaining weight."""
    steps, num_envs = rewards.shape
    advantages = np.zeros((steps, num_envs))
    for env in range(num_envs):
        for start in range(steps):
            last = start
            while last < steps - 1 and not (terminated[last, env] or truncated[last, env]):
                last += 1
            for stop in range(start, last + 1):
                n = stop - start + 1
                n_step = sum(gamma**k * rewards[start + k, env] for k in range(n))
                if not terminated[stop, env]:
                    n_step += gamma**n * next_values[stop, env]
                weight = lam ** (n - 1) * (1 - lam if stop < last else 1)
                advantages[start, env] += weight * (n_step - values[start, env])
    return advantages


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_advantages_mix_n_step_advantages(gamma: float, lam: float) -> None:
    generator = np.random.default_rng(0)
    shape = (25, 6)
    rewards, values = generator.normal(size=(2, *shape))
    terminated, truncated = generator.random((2, *shape)) < 0.12
    terminated[-1, 0], truncated[-1, 1] = True, True
    terminated[3, 2] = truncated[3, 2] = True
    next_values = np.concatenate((values[1:], generator.normal(size=(1, 6))))
    ended = terminated | truncated
    next_values[ended] = generator.normal(size=ended.sum())  # of final observations
    arguments = (rewards, values, next_values, terminated, truncated, gamma, lam)
    np.testing.assert_allclose(
        generalized_advantages(*arguments), mixed_n_step_advantages(*arguments), atol=1e-12
    )


def column(*numbers: float) -> Floats:
    return np.array(numbers, np.float64)[:, None]


def advantages_of_two_steps(
    terminated: tuple[bool, bool], truncated: tuple[bool, bool], gae_lambda: float
) -> list[float]:
    """Return advantages for rewards 1 and 2, V 10 and 20, next V 100 and 200, γ = 0.5."""
    return generalized_advantages(
        column(1, 2),
        column(10, 20),
        column(100, 200),
        column(*terminated).astype(bool),
        column(*truncated).astype(bool),
        0.5,
        gae_lambda,
    )[:, 0].tolist()


NEVER = (False, False)


def test_lambda_zero_is_temporal_difference() -> None:
    assert advantages_of_two_steps(NEVER, NEVER, 0.0) == [1 + 50 - 10, 2 + 100 - 20]


def test_lambda_one_sums_all_deltas() -> None:
    assert advantages_of_two_steps(NEVER, NEVER, 1.0) == [41 + 0.5 * 82, 82]


def test_truncation_bootstraps_and_cuts_the_trace() -> None:
    assert advantages_of_two_steps(NEVER, (True, False), 1.0) == [41, 82]


def test_termination_cuts_the_trace_without_bootstrap() -> None:
    assert advantages_of_two_steps((True, False), NEVER, 1.0) == [1 - 10, 82]


def test_termination_overrides_truncation() -> None:
    assert advantages_of_two_steps((True, False), (True, False), 1.0) == [1 - 10, 82]


def test_rollout_end_bootstraps_unless_terminated() -> None:
    assert advantages_of_two_steps((False, True), NEVER, 1.0) == [41 + 0.5 * -18, -18]
    assert advantages_of_two_steps(NEVER, (False, True), 1.0) == [41 + 0.5 * 82, 82]


def test_recurrence_has_known_values() -> None:
    found = linear_recurrence(column(0.5, 0.0, -2.0), column(1, 2, 3), np.array([4.0]))
    assert found[:, 0].tolist() == [3, 2, -1]


@pytest.mark.parametrize("num_envs", [1, 3, 4, 40])
def test_recurrence_agrees_with_scipy(num_envs: int) -> None:
    generator = np.random.default_rng(0)
    terms, start = generator.normal(size=(50, 40)), generator.normal(size=40)
    rates = generator.uniform(-1, 1, size=40)
    decay = np.broadcast_to(rates, terms.shape)
    found = linear_recurrence(decay[:, :num_envs], terms[:, :num_envs], start[:num_envs])
    assert found.shape == (50, num_envs)
    for env in range(num_envs):
        expected, _ = lfilter([1], [1, -rates[env]], terms[:, env], zi=[rates[env] * start[env]])
        np.testing.assert_allclose(found[:, env], expected, rtol=1e-10, atol=1e-12)
    together = linear_recurrence(decay, terms, start)[:, :num_envs]
    np.testing.assert_array_equal(found, together)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_envs", [1, 2, 3, 4, 5])
def test_recurrence_is_bit_identical_for_any_num_envs(
    num_envs: int, dtype: type[np.floating[Any]]
) -> None:
    generator = np.random.default_rng(0)
    decay, terms = generator.random((2, 30, 20)).astype(dtype)
    start = generator.random(20)
    # Reversed arrays, as for advantages.
    together = linear_recurrence(decay[::-1], terms[::-1], start)
    for first in range(0, 20, num_envs):
        few = slice(first, first + num_envs)
        found = linear_recurrence(decay[::-1, few], terms[::-1, few], start[few])
        np.testing.assert_array_equal(found, together[:, few])
        assert found.dtype == together.dtype == np.float64
    assert together[0, 3] == decay[-1, 3] * start[3] + terms[-1, 3]


def test_recurrence_of_no_steps_is_empty() -> None:
    for num_envs in (2, 20):
        empty = np.empty((0, num_envs))
        assert linear_recurrence(empty, empty, np.zeros(num_envs)).shape == (0, num_envs)


def test_standardized_advantages_have_mean_0_and_deviation_1() -> None:
    numbers = np.random.default_rng(0).normal(3, 5, 50)
    found = standardize(torch.tensor(numbers)).numpy()
    np.testing.assert_allclose(found, (numbers - numbers.mean()) / numbers.std(ddof=1), rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 1000, 4099])
@pytest.mark.parametrize("constant", [0.1, -7.0, 1 / 3, 1e-30, 1e30, 0.0])
def test_equal_advantages_become_exactly_zero(
    constant: float, count: int, dtype: torch.dtype
) -> None:
    found = standardize(torch.full((count,), constant, dtype=dtype))
    assert found.dtype == dtype
    assert (found == 0).all()


@pytest.mark.parametrize("constant", [0.1, -1234.5])
def test_advantages_equal_to_rounding_become_zero(constant: float) -> None:
    noisy = torch.full((1000,), constant)
    noisy[::3] = torch.nextafter(noisy[0], torch.tensor(torch.inf))
    assert len(noisy.unique()) == 2
    assert (standardize(noisy) == 0).all()


@pytest.mark.parametrize(
    ("offset", "deviation"), [(1e4, 1.0), (0.1, 1e-5), (0.0, 1e-3), (5.0, 1e4)]
)
def test_standardizing_keeps_digits_under_an_offset(offset: float, deviation: float) -> None:
    numbers = np.random.default_rng(0).normal(offset, deviation, 5000).astype(np.float32)
    exact = numbers.astype(np.float64)
    expected = (exact - exact.mean()) / (exact.std(ddof=1) + 1e-8)
    found = standardize(torch.from_numpy(numbers))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert abs(float(found.double().mean())) < 1e-7


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_standardizing_nonfinite_numbers_gives_nan(number: float) -> None:
    assert standardize(torch.tensor([1.0, number, 2.0])).isnan().all()


@pytest.mark.parametrize(
    ("values", "returns", "expected"),
    [
        ([1.0, 2.0, 6.0], [1.0, 2.0, 6.0], 1.0),
        ([3.0, 3.0, 3.0], [1.0, 2.0, 6.0], 0.0),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 6.0], 4 / 7),
        ([11.0, 12.0, 13.0], [1.0, 2.0, 6.0], 4 / 7),
        ([6.0, 2.0, 1.0], [1.0, 2.0, 6.0], 1 - 25 / 7),
        ([1e6, 1e6 + 1], [1e6, 1e6 + 2], 0.75),
    ],
)
def test_explained_variance_has_known_values(
    values: list[float], returns: list[float], expected: float
) -> None:
    (found,) = explained_variance(torch.tensor([values]), torch.tensor(returns))
    assert found == pytest.approx(expected, abs=1e-12)


def test_explained_variance_of_several_critics() -> None:
    values = torch.tensor([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0], [1.0, 2.0, 3.0]])
    found = explained_variance(values, torch.tensor([1.0, 2.0, 6.0]))
    assert found == pytest.approx([1, 0, 4 / 7])


def test_explained_variance_of_equal_returns_is_nan() -> None:
    (found,) = explained_variance(torch.tensor([[1.0, 2.0]]), torch.tensor([5.0, 5.0]))
    assert math.isnan(found)
