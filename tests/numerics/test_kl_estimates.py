"""KL estimators from samples, and what each direction of KL fits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor
from torch.distributions import Normal

from rlkl.numerics.distributions import DiagonalGaussian
from rlkl.numerics.divergence_formulas import (
    kl_estimates,
)


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


GRID = torch.linspace(-40, 40, 8001, dtype=torch.float64)

LOG_TARGET = torch.logaddexp(
    Normal(-3.0, 1.0).log_prob(GRID), Normal(3.0, 1.0).log_prob(GRID)
) - math.log(2)


def gaussian(mean: float, log_std: float) -> DiagonalGaussian:
    return DiagonalGaussian(vector(mean, log_std).expand(len(GRID), 2))


def forward_kl(x: tuple[float, float]) -> float:
    log_q = gaussian(*x).log_prob(GRID.unsqueeze(-1))
    return float(torch.trapezoid(LOG_TARGET.exp() * (LOG_TARGET - log_q), GRID))


def reverse_kl(x: tuple[float, float]) -> float:
    log_q = gaussian(*x).log_prob(GRID.unsqueeze(-1))
    return float(torch.trapezoid(log_q.exp() * (log_q - LOG_TARGET), GRID))


@pytest.mark.parametrize("start", [(-3.0, 0.0), (0.0, 1.0), (2.0, 0.5)])
def test_forward_kl_covers_both_modes(start: tuple[float, float]) -> None:
    found = minimize(forward_kl, start)
    assert found.x == pytest.approx([0, math.log(3.162)], abs=1e-3)
    assert found.fun == pytest.approx(0.462, abs=5e-4)


@pytest.mark.parametrize("mode", [-1, 1])
def test_reverse_kl_seeks_one_mode(mode: int) -> None:
    found = minimize(reverse_kl, (2.0 * mode, 0.5))
    assert found.x == pytest.approx([2.98 * mode, math.log(1.02)], abs=6e-3)
    assert found.fun == pytest.approx(0.689, abs=5e-4)


def test_reverse_kl_has_minimum_between_modes() -> None:
    found = minimize(reverse_kl, (0.0, 1.0))
    assert found.x == pytest.approx([0, math.log(2.74)], abs=2e-3)
    assert found.fun == pytest.approx(0.841, abs=5e-4)


def test_estimators_have_known_bias_and_spread() -> None:
    old, new = gaussian(0.0, 0.0), gaussian(1.0, 0.0)
    actions = GRID.unsqueeze(-1)
    density = old.log_prob(actions).exp()
    log_ratio = new.log_prob(actions) - old.log_prob(actions)
    for estimate, bias, spread in zip(
        kl_estimates(log_ratio), (0, 0.25, 0), (2, 1.73, 1.70), strict=True
    ):
        mean = float(torch.trapezoid(density * estimate, GRID))
        variance = float(torch.trapezoid(density * (estimate - mean).square(), GRID))
        assert mean / 0.5 - 1 == pytest.approx(bias, abs=1e-9)
        assert math.sqrt(variance) / 0.5 == pytest.approx(spread, abs=5e-3)


def test_estimators_have_known_values() -> None:
    k1, k2, k3 = kl_estimates(vector(math.log(2)))
    assert float(k1) == pytest.approx(-0.693147, abs=1e-6)
    assert float(k2) == pytest.approx(0.240227, abs=1e-6)
    assert float(k3) == pytest.approx(0.306853, abs=1e-6)


@given(st.floats(-20, 20))
def test_k2_and_k3_are_never_negative(log_ratio: float) -> None:
    for dtype in (torch.float32, torch.float64):
        _, k2, k3 = kl_estimates(torch.tensor([log_ratio], dtype=dtype))
        assert k2 >= 0
        assert k3 >= 0


def test_small_k3_is_accurate() -> None:
    _, _, k3 = kl_estimates(vector(1e-6))
    assert float(k3) == pytest.approx(5e-13, rel=1e-3, abs=0)
