"""Surrogates and value losses: literal numbers, derivatives against autograd, and optima."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from rlkl.numerics.distributions import DiagonalGaussian
from rlkl.numerics.divergence_formulas import categorical_kl, kl_estimates
from rlkl.numerics.losses import clipped_surrogate, policy_gradient, surrogate, value_loss

BOTH = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def arrays(xp: Any, *tensors: Tensor) -> list[Any]:
    """Return copies of tensors, as arrays for NumPy."""
    return [t.detach().numpy().copy() if xp is np else t.detach().clone() for t in tensors]


@BOTH
def test_policy_gradient_weighs_log_probabilities_by_advantages(xp: Any) -> None:
    value, derivative = policy_gradient(*arrays(xp, vector(-1, -3), vector(2, -4)))
    assert value == 5
    assert derivative.tolist() == [1, -2]


@BOTH
def test_surrogate_weighs_ratios_by_advantages(xp: Any) -> None:
    value, derivative = surrogate(*arrays(xp, vector(0.5, 2), vector(3, -1)))
    assert value == -0.25
    assert derivative.tolist() == [0.75, -1]  # with respect to log r: r · A / B


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.0, 2.0, 2.0, 2.0),
        (1.0, -2.0, -2.0, -2.0),
        (1.39, 2.0, 2.78, 2.78),
        (1.41, 2.0, 2.8, 0.0),
        (5.0, 2.0, 2.8, 0.0),
        (0.81, 2.0, 1.62, 1.62),
        (0.5, 2.0, 1.0, 1.0),
        (0.81, -2.0, -1.62, -1.62),
        (0.79, -2.0, -1.6, 0.0),
        (0.1, -2.0, -1.6, 0.0),
        (1.39, -2.0, -2.78, -2.78),
        (5.0, -2.0, -10.0, -10.0),
        (5.0, 0.0, 0.0, 0.0),
    ],
)
@BOTH
def test_clip_removes_the_gradient_where_passing_pays(
    xp: Any, ratio: float, advantage: float, value: float, gradient: float
) -> None:
    found = clipped_surrogate(xp, *arrays(xp, vector(ratio), vector(advantage)), 0.8, 1.4)
    assert found[0] == pytest.approx(value)
    assert found[1].tolist() == pytest.approx([gradient])


@BOTH
def test_clipped_surrogate_is_a_mean_over_samples(xp: Any) -> None:
    given = arrays(xp, vector(5, 0.1, 1.1), vector(2, -2, 3))
    mean, derivative = clipped_surrogate(xp, *given, 0.8, 1.2)
    assert float(mean) == pytest.approx((2.4 - 1.6 + 3.3) / 3)
    assert derivative.tolist() == pytest.approx([0, 0, 1.1])


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (2.9, -2.0, -5.8, -5.8),
        (3.1, -2.0, -6.0, 0.0),
        (1e30, -2.0, -6.0, 0.0),
        (math.inf, -2.0, -6.0, 0.0),
        (0.5, -2.0, -1.6, 0.0),
        (5.0, 2.0, 2.8, 0.0),
        (0.5, 2.0, 1.0, 1.0),
        (5.0, 0.0, 0.0, 0.0),
    ],
)
@BOTH
def test_dual_clip_bounds_the_loss_of_bad_actions(
    xp: Any, ratio: float, advantage: float, value: float, gradient: float
) -> None:
    given = arrays(xp, vector(ratio), vector(advantage))
    found = clipped_surrogate(xp, *given, 0.8, 1.4, dual_clip=3.0)
    assert found[0] == pytest.approx(value)
    assert found[1].tolist() == pytest.approx([gradient])


@pytest.mark.parametrize(("reverse", "optimum"), [(False, 0.7071), (True, 0.7311)])
def test_optimum_depends_on_direction_of_penalty(reverse: bool, optimum: float) -> None:
    old = vector(0.5, 0.5)

    def loss(p: float) -> float:
        new = vector(p, 1 - p)
        kl = categorical_kl(*((new.log(), old.log()) if reverse else (old.log(), new.log())))
        return -float((new / old * vector(0.5, -0.5)).mean() - kl)

    found = minimize_scalar(loss, bounds=(0.01, 0.99), method="bounded", options={"xatol": 1e-8})
    assert found.x == pytest.approx(optimum, abs=5e-5)


def test_ppo_clip_equals_ppo_kl_with_sample_coefficients() -> None:
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

    by_clip = gradient(clipped_surrogate(torch, ratio, advantages, 0.8, 1.2)[0])
    by_kl = gradient((ratio * advantages - coefficients * k1).mean())
    assert 50 < int(clipped.sum()) < 450
    torch.testing.assert_close(by_kl, by_clip, rtol=1e-10, atol=1e-14)
    assert not torch.allclose(gradient(surrogate(ratio, advantages)[0]), by_clip, rtol=0.1)


@BOTH
def test_value_loss_is_half_the_mean_squared_error(xp: Any) -> None:
    loss, derivative = value_loss(xp, *arrays(xp, vector(1, 3), vector(9, 9), vector(0, 1)))
    assert loss == 1.25
    assert derivative.tolist() == [0.5, 1.0]


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
@BOTH
def test_clipped_value_loss_takes_the_larger_error(
    xp: Any, value: float, old_value: float, target: float, loss: float, gradient: float
) -> None:
    given = arrays(xp, vector(value), vector(old_value), vector(target))
    found = value_loss(xp, *given, value_clip=0.5)
    assert found[0] == pytest.approx(loss)
    assert found[1].tolist() == pytest.approx([gradient])


@BOTH
def test_wide_value_clip_is_the_squared_error(xp: Any) -> None:
    values, old_values, returns = arrays(xp, vector(1, 3), vector(0, 0), vector(0, 1))
    assert value_loss(xp, values, old_values, returns, math.inf)[0] == 1.25
    assert value_loss(xp, values, values, returns, 0.1)[0] == 1.25


def grid(*axes: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Return every combination, one row each."""
    return torch.cartesian_prod(*(vector(*axis) for axis in axes)).clone().unbind(-1)


LOWEST, HIGHEST = 0.75, 1.5  # no rounding: ratios lie exactly on the bounds


@BOTH
def test_derivative_of_clipped_surrogate_matches_autograd(xp: Any) -> None:
    ratio, advantages = grid(
        (1e-30, 0.5, 0.75, 0.7500001, 1.0, 1.4999999, 1.5, 1.6, 1e30), (-3.0, -0.5, 0.0, 0.5, 3.0)
    )
    log_ratio = ratio.log().requires_grad_()
    # The ratio itself and not the exponential of its rounded logarithm.
    exact = log_ratio.exp() + (ratio - log_ratio.exp()).detach()
    beyond = (ratio < LOWEST) | (ratio > HIGHEST)
    clipped = torch.where(beyond, ratio.clamp(LOWEST, HIGHEST), exact)
    objective = torch.minimum(exact * advantages, clipped * advantages).mean()
    (expected,) = torch.autograd.grad(objective, log_ratio)
    given = arrays(xp, ratio, advantages)
    value, derivative = clipped_surrogate(xp, *given, LOWEST, HIGHEST)
    assert float(value) == pytest.approx(objective.item(), rel=1e-12)
    np.testing.assert_allclose(derivative, expected, rtol=1e-9, atol=0)
    np.testing.assert_array_equal(given[0], ratio)
    np.testing.assert_array_equal(given[1], advantages)
    assert 10 < int((derivative == 0).sum()) < 30


@BOTH
@pytest.mark.parametrize("advantage", [-2.0, 0.0, 2.0])
def test_nan_in_ratio_or_advantage_stays(xp: Any, advantage: float) -> None:
    for first, second in (((1, math.nan), (1, advantage)), ((1, advantage), (1, math.nan))):
        given = arrays(xp, vector(*first), vector(*second))
        for dual_clip in (None, 3.0):
            value, derivative = clipped_surrogate(xp, *given, LOWEST, HIGHEST, dual_clip)
            assert math.isnan(value)
            assert np.isnan(np.asarray(derivative)).tolist() == [False, True]


@BOTH
@pytest.mark.parametrize("value_clip", [None, 0.5])
def test_derivative_of_value_loss_matches_autograd(xp: Any, value_clip: float | None) -> None:
    values, old_values, returns = grid(
        (-3.0, -0.5, -0.25, 0.0, 0.5, 0.75, 2.0), (0.0, 0.25), (-1.1, -0.05, 0.3, 0.5, 1.7)
    )
    leaf = values.clone().requires_grad_()
    squared = (leaf - returns).square()
    if value_clip is not None:
        change = leaf - old_values
        moved = old_values + value_clip * change.detach().sign()
        near = torch.where(change.abs() > value_clip, moved, leaf)
        squared = torch.maximum(squared, (near - returns).square())
    expected_loss = 0.5 * squared.mean()
    (expected,) = torch.autograd.grad(expected_loss, leaf)
    given = arrays(xp, values, old_values, returns)
    loss, derivative = value_loss(xp, *given, value_clip)
    assert float(loss) == pytest.approx(expected_loss.item(), rel=1e-12)
    np.testing.assert_allclose(derivative, expected, rtol=1e-12, atol=1e-15)
    for array, tensor in zip(given, (values, old_values, returns), strict=True):
        np.testing.assert_array_equal(array, tensor)
    assert (value_clip is None) == (int((derivative == 0).sum()) < 5)


@BOTH
@pytest.mark.parametrize("offset", [0.0, 30.0, -1000.0])
def test_values_within_clip_keep_their_float32_gradient(xp: Any, offset: float) -> None:
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
    given = arrays(xp, *map(torch.from_numpy, (values, old_values, returns)))
    loss, derivative = value_loss(xp, *given, 0.2)
    found = np.asarray(derivative)
    np.testing.assert_allclose(found[~near], expected.numpy()[~near], rtol=1e-4, atol=1e-9)
    inside = ~near & (np.abs(values - old_values) < 0.2) & (values != returns)
    assert (found[inside] != 0).all()
    assert 1000 < inside.sum() < 3000
    assert float(loss) == pytest.approx(0.5 * squares.mean().item(), rel=1e-5)


@BOTH
@pytest.mark.parametrize("value_clip", [None, 0.5])
@pytest.mark.parametrize("place", [0, 2])
def test_nan_in_value_or_return_stays(xp: Any, place: int, value_clip: float | None) -> None:
    given = [vector(1, 2) for _ in range(3)]
    given[place][1] = math.nan
    loss, derivative = value_loss(xp, *arrays(xp, *given), value_clip)
    assert math.isnan(loss)
    assert np.isnan(np.asarray(derivative)).tolist() == [False, True]


@BOTH
def test_huber_loss_is_linear_beyond_delta(xp: Any) -> None:
    # Errors 0.5, -1, 3 and -4 with δ = 1 cost 0.125, 0.5, 2.5 and 3.5.
    values, returns = vector(1.5, 1, 5, -2), vector(1, 2, 2, 2)
    given = arrays(xp, values, vector(0, 0, 0, 0), returns)
    loss, derivative = value_loss(xp, *given, huber_delta=1.0)
    assert float(loss) == pytest.approx(6.625 / 4)
    np.testing.assert_allclose(derivative, [0.125, -0.25, 0.25, -0.25])


@BOTH
@pytest.mark.parametrize("value_clip", [None, 0.45])
def test_huber_loss_is_that_of_torch(xp: Any, value_clip: float | None) -> None:
    values, old_values, returns = grid(
        (-3.0, -0.5, -0.25, 0.0, 0.55, 0.75, 2.0), (0.0, 0.25), (-1.1, -0.05, 0.3, 0.5, 1.7)
    )
    leaf = values.clone().requires_grad_()
    huber = torch.nn.HuberLoss(reduction="none", delta=0.8)
    costs = huber(leaf, returns)
    if value_clip is not None:
        near = old_values + (leaf - old_values).clamp(-value_clip, value_clip)
        costs = torch.maximum(costs, huber(near, returns))
    (expected,) = torch.autograd.grad(costs.mean(), leaf)
    given = arrays(xp, values, old_values, returns)
    loss, derivative = value_loss(xp, *given, value_clip, 0.8)
    assert float(loss) == pytest.approx(costs.mean().item(), rel=1e-12)
    np.testing.assert_allclose(derivative, expected, rtol=1e-12, atol=1e-15)
