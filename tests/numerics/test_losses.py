"""Objectives and value losses against numbers worked by hand, finite differences and optima."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from rlkl.numerics.distributions import DiagonalGaussian
from rlkl.numerics.divergences import categorical_kl, kl_estimates
from rlkl.numerics.losses import (
    clipped_surrogate,
    clipped_surrogate_slopes,
    clipped_value_loss,
    kl_penalized_surrogate,
    policy_gradient,
    squared_value_loss,
    surrogate,
    value_loss_slopes,
)


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def value_and_gradient(
    function: Callable[[Tensor], Tensor], at: Tensor
) -> tuple[float, list[float]]:
    at = at.clone().requires_grad_()
    value = function(at)
    (gradient,) = torch.autograd.grad(value, at)
    return value.item(), gradient.tolist()


def test_policy_gradient_weighs_log_probabilities_by_advantages() -> None:
    value, gradient = value_and_gradient(
        lambda log_prob: policy_gradient(log_prob, vector(2, -4)), vector(-1, -3)
    )
    assert value == 5
    assert gradient == [1, -2]


def test_surrogate_weighs_ratios_by_advantages() -> None:
    value, gradient = value_and_gradient(
        lambda ratio: surrogate(ratio, vector(3, -1)), vector(0.5, 2)
    )
    assert value == -0.25
    assert gradient == [1.5, -0.5]


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.0, 2.0, 2.0, 2.0),
        (1.0, -2.0, -2.0, -2.0),
        (1.39, 2.0, 2.78, 2.0),
        (1.41, 2.0, 2.8, 0.0),
        (5.0, 2.0, 2.8, 0.0),
        (0.81, 2.0, 1.62, 2.0),
        (0.5, 2.0, 1.0, 2.0),
        (0.81, -2.0, -1.62, -2.0),
        (0.79, -2.0, -1.6, 0.0),
        (0.1, -2.0, -1.6, 0.0),
        (1.39, -2.0, -2.78, -2.0),
        (5.0, -2.0, -10.0, -2.0),
        (5.0, 0.0, 0.0, 0.0),
    ],
)
def test_the_clip_takes_the_gradient_away_only_where_passing_the_bound_would_pay(
    ratio: float, advantage: float, value: float, gradient: float
) -> None:
    found = value_and_gradient(
        lambda r: clipped_surrogate(r, vector(advantage), 0.8, 1.4),
        vector(ratio),
    )
    assert found[0] == pytest.approx(value)
    assert found[1] == pytest.approx([gradient])


def test_clipped_surrogate_is_a_mean_over_samples() -> None:
    ratio, advantages = vector(5, 0.1, 1.1), vector(2, -2, 3)
    mean = float(clipped_surrogate(ratio, advantages, 0.8, 1.2))
    assert mean == pytest.approx((2.4 - 1.6 + 3.3) / 3)


def test_penalized_surrogate_charges_each_state_for_its_kl() -> None:
    ratio, advantages, kl = vector(2, 0.5), vector(1, -1), vector(0.3, 0.1)
    assert float(kl_penalized_surrogate(ratio, advantages, kl, 2.0)) == pytest.approx(0.35)
    assert float(kl_penalized_surrogate(ratio, advantages, kl, 0.0)) == pytest.approx(0.75)
    infinite = torch.full_like(kl, math.inf)
    assert float(kl_penalized_surrogate(ratio, advantages, infinite, 0.0)) == pytest.approx(0.75)


@pytest.mark.parametrize(("reverse", "optimum"), [(False, 0.7071), (True, 0.7311)])
def test_direction_of_the_penalty_decides_where_the_optimum_lies(
    reverse: bool, optimum: float
) -> None:
    old = vector(0.5, 0.5)

    def loss(p: float) -> float:
        new = vector(p, 1 - p)
        kl = categorical_kl(*((new.log(), old.log()) if reverse else (old.log(), new.log())))
        return -float(kl_penalized_surrogate(new / old, vector(0.5, -0.5), kl, 1.0))

    found = minimize_scalar(loss, bounds=(0.01, 0.99), method="bounded", options={"xatol": 1e-8})
    assert found.x == pytest.approx(optimum, abs=5e-5)


def test_ppo_clip_is_ppo_kl_with_a_coefficient_for_each_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)
    ).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    observations = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    advantages = torch.randn(500, generator=generator, dtype=torch.float64)
    drift = 0.2 * torch.randn(500, 4, generator=generator, dtype=torch.float64)
    old = DiagonalGaussian(network(observations).detach() + drift)
    actions = old.sample(generator)
    log_ratio = DiagonalGaussian(network(observations)).log_prob(actions) - old.log_prob(actions)
    ratio = log_ratio.exp()
    k1, _, _ = kl_estimates(log_ratio)
    clipped = ((advantages > 0) & (ratio > 1.2)) | ((advantages < 0) & (ratio < 0.8))
    coefficients = torch.where(clipped, -ratio * advantages, 0.0).detach()

    def gradient(objective: Tensor) -> Tensor:
        gradients = torch.autograd.grad(objective, list(network.parameters()), retain_graph=True)
        return torch.cat([g.flatten() for g in gradients])

    by_clip = gradient(clipped_surrogate(ratio, advantages, 0.8, 1.2))
    by_kl = gradient(kl_penalized_surrogate(ratio, advantages, coefficients * k1, 1.0))
    assert 50 < int(clipped.sum()) < 450
    torch.testing.assert_close(by_kl, by_clip, rtol=1e-10, atol=1e-14)
    assert not torch.allclose(gradient(surrogate(ratio, advantages)), by_clip, rtol=0.1)


def test_value_loss_is_half_the_mean_squared_error() -> None:
    value, gradient = value_and_gradient(
        lambda values: squared_value_loss(values, vector(0, 1)), vector(1, 3)
    )
    assert value == 1.25
    assert gradient == [0.5, 1.0]


@pytest.mark.parametrize(
    ("value", "old_value", "target", "loss", "gradient"),
    [
        (0.3, 0.0, 1.0, 0.245, -0.7),
        (2.0, 0.0, 3.0, 3.125, 0.0),
        (2.0, 0.0, -1.0, 4.5, 3.0),
        (-2.0, 0.0, -3.0, 3.125, 0.0),
        (-2.0, 0.0, 1.0, 4.5, -3.0),
        (7.0, 5.0, 6.0, 0.5, 1.0),
        (7.0, 5.0, 6.5, 0.5, 0.0),
    ],
)
def test_clipped_value_loss_takes_the_worse_of_the_two_errors(
    value: float, old_value: float, target: float, loss: float, gradient: float
) -> None:
    found = value_and_gradient(
        lambda v: clipped_value_loss(v, vector(old_value), vector(target), value_clip=0.5),
        vector(value),
    )
    assert found[0] == pytest.approx(loss)
    assert found[1] == pytest.approx([gradient])


def test_clipped_value_loss_is_a_mean_over_samples_and_the_plain_one_when_wide() -> None:
    values, old_values, returns = vector(1, 3), vector(0, 0), vector(0, 1)
    assert clipped_value_loss(values, old_values, returns, math.inf) == 1.25
    assert clipped_value_loss(values, values, returns, 0.1) == 1.25


# By hand.


def grid(*axes: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Return every combination, one row each."""
    return torch.cartesian_prod(*(vector(*axis) for axis in axes)).clone().unbind(-1)


LOWEST, HIGHEST = 0.75, 1.5  # no rounding: ratios lie exactly on the bounds


def test_slopes_of_the_clipped_surrogate_are_those_of_autograd_on_the_bounds_too() -> None:
    ratio, advantages = grid(
        (1e-30, 0.5, 0.75, 0.7500001, 1.0, 1.4999999, 1.5, 1.6, 1e30), (-3.0, -0.5, 0.0, 0.5, 3.0)
    )
    log_ratio = ratio.log().requires_grad_()
    # The ratio itself and not the exponential of its rounded logarithm.
    exact = log_ratio.exp() + (ratio - log_ratio.exp()).detach()
    objective = clipped_surrogate(exact, advantages, LOWEST, HIGHEST)
    (expected,) = torch.autograd.grad(objective, log_ratio)
    given = ratio.numpy().copy(), advantages.numpy().copy()
    found, slopes = clipped_surrogate_slopes(*given, LOWEST, HIGHEST)
    assert found == pytest.approx(objective.item(), rel=1e-12)
    np.testing.assert_allclose(slopes, expected, rtol=1e-9, atol=0)
    np.testing.assert_array_equal(given[0], ratio)
    np.testing.assert_array_equal(given[1], advantages)
    assert 10 < (slopes == 0).sum() < 30


@pytest.mark.parametrize("advantage", [-2.0, 0.0, 2.0])
def test_a_ratio_or_an_advantage_that_is_nan_stays_nan_by_hand(advantage: float) -> None:
    ratio, advantages = np.array([1.0, np.nan]), np.array([1.0, advantage])
    objective, slopes = clipped_surrogate_slopes(ratio, advantages, LOWEST, HIGHEST)
    assert math.isnan(objective)
    assert np.isnan(slopes).tolist() == [False, True]
    objective, slopes = clipped_surrogate_slopes(advantages, ratio, LOWEST, HIGHEST)
    assert math.isnan(objective)
    assert np.isnan(slopes).tolist() == [False, True]


@pytest.mark.parametrize("value_clip", [None, 0.5])
def test_slopes_of_the_value_loss_are_those_of_autograd_on_the_bounds_too(
    value_clip: float | None,
) -> None:
    values, old_values, returns = grid(
        (-3.0, -0.5, -0.25, 0.0, 0.5, 0.75, 2.0), (0.0, 0.25), (-1.1, -0.05, 0.3, 0.5, 1.7)
    )
    values = values.clone().requires_grad_()
    if value_clip is None:
        loss = squared_value_loss(values, returns)
    else:
        loss = clipped_value_loss(values, old_values, returns, value_clip)
    (expected,) = torch.autograd.grad(loss, values)
    given = [tensor.detach().numpy().copy() for tensor in (values, old_values, returns)]
    found, slopes = value_loss_slopes(*given, value_clip)
    assert found == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(slopes, expected, rtol=1e-12, atol=1e-15)
    for array, tensor in zip(given, (values, old_values, returns), strict=True):
        np.testing.assert_array_equal(array, tensor.detach())
    assert (value_clip is None) == ((slopes == 0).sum() < 5)


@pytest.mark.parametrize("offset", [0.0, 30.0, -1000.0])
def test_values_within_the_clip_keep_their_gradient_in_float32(offset: float) -> None:
    generator = np.random.default_rng(0)
    old_values = (offset + generator.standard_normal(4000)).astype(np.float32)
    values = (old_values + generator.uniform(-0.4, 0.4, 4000)).astype(np.float32)
    returns = (values + generator.standard_normal(4000)).astype(np.float32)
    near = np.abs(np.abs(values - old_values) - 0.2) < 1e-3  # float32 decides these otherwise
    exact = [torch.tensor(array.astype(np.float64)) for array in (values, old_values, returns)]
    exact[0].requires_grad_()
    definition = exact[1] + (exact[0] - exact[1]).clamp(-0.2, 0.2)
    squares = torch.maximum((exact[0] - exact[2]).square(), (definition - exact[2]).square())
    (expected,) = torch.autograd.grad(0.5 * squares.mean(), exact[0])
    loss, slopes = value_loss_slopes(values, old_values, returns, 0.2)
    leaf = torch.from_numpy(values).requires_grad_()
    by_torch = clipped_value_loss(
        leaf, torch.from_numpy(old_values), torch.from_numpy(returns), 0.2
    )
    (gradient,) = torch.autograd.grad(by_torch, leaf)
    for found in (slopes, gradient.numpy()):
        np.testing.assert_allclose(found[~near], expected.numpy()[~near], rtol=1e-4, atol=1e-9)
    inside = ~near & (np.abs(values - old_values) < 0.2) & (values != returns)
    assert (slopes[inside] != 0).all()
    assert 1000 < inside.sum() < 3000
    assert loss == pytest.approx(0.5 * squares.mean().item(), rel=1e-5)
    assert by_torch.item() == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("value_clip", [None, 0.5])
@pytest.mark.parametrize("place", ["values", "returns"])
def test_values_and_returns_that_are_nan_stay_nan_by_hand(
    place: str, value_clip: float | None
) -> None:
    given = {name: np.array([1.0, 2.0]) for name in ("values", "old_values", "returns")}
    given[place][1] = np.nan
    loss, slopes = value_loss_slopes(**given, value_clip=value_clip)
    assert math.isnan(loss)
    assert np.isnan(slopes).tolist() == [False, True]
