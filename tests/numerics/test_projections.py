"""Projections into trust regions: compared with a numerical optimum and finite differences."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import NonlinearConstraint, minimize
from torch import Generator, Tensor

from rlkl.numerics.distributions import Bernoulli, Categorical, DiagonalGaussian, MultiCategorical
from rlkl.numerics.projections import POWERS, Projection, discrete_projection, gaussian_projection

Array = NDArray[Any]
BOUND = 0.05
DISCRETE: dict[str, tuple[Callable[[Tensor], Any], int]] = {
    "categorical": (Categorical, 4),
    "multi_categorical": (partial(MultiCategorical, sizes=(2, 3)), 5),
    "bernoulli": (Bernoulli, 3),
}
EVERY_METRIC = pytest.mark.parametrize("metric", POWERS)
EVERY_FAMILY = pytest.mark.parametrize("family", DISCRETE)


def pair(size: int, rows: int = 6, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return new and old rows; the first row of both is the same."""
    generator = Generator().manual_seed(seed)
    old = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    change = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    change[0] = 0
    return old + scale * change, old


def projection_of(kind: str) -> tuple[Projection, int]:
    """Return a projection, and the number of parameters."""
    if kind in POWERS:
        return gaussian_projection(kind, 0.3, BOUND), 4
    family, size = DISCRETE[kind]
    return discrete_projection(family, BOUND), size


# Distances, by their definitions on probabilities, means and covariance matrices.


def probabilities(kind: str, logits: Array) -> Array:
    """Return the probabilities of all joint actions."""
    if kind == "categorical":
        weights = np.exp(logits - logits.max())
        return np.asarray(weights / weights.sum())
    if kind == "bernoulli":
        choices = [probabilities("categorical", np.array([0, logit])) for logit in logits]
    else:
        choices = [probabilities("categorical", part) for part in (logits[:2], logits[2:])]
    joint = choices[0]
    for choice in choices[1:]:
        joint = np.outer(joint, choice).ravel()
    return joint


def discrete_kl(kind: str, new: Array, old: Array) -> float:
    p, q = probabilities(kind, new), probabilities(kind, old)
    return float((p * np.log(p / q)).sum())


def mean_distance(metric: str, new: Array, old: Array) -> float:
    """Return the distance of means, in rows (μ, σ²), with the old precision matrix."""
    difference, precision = new[:2] - old[:2], np.diag(1 / old[2:])
    return float(difference @ precision @ difference) / (2 if metric == "kl" else 1)


def covariance_distance(metric: str, new: Array, other: Array, unit: Array) -> float:
    """Return the distance of covariance matrices; `wasserstein` is in units of a third one."""
    covariance, of_other, of_unit = (np.diag(row[2:]) for row in (new, other, unit))
    if metric == "kl":
        relative = np.linalg.solve(of_other, covariance)
        return float(np.trace(relative) - 2 - np.linalg.slogdet(relative)[1]) / 2
    if metric == "wasserstein":
        difference = covariance + of_other - 2 * np.sqrt(covariance) @ np.sqrt(of_other)
        return float(np.trace(np.linalg.solve(of_unit, difference)))
    return float(np.linalg.norm(covariance - of_other) ** 2)


def optimum(objective: Any, constraints: list[Any], start: Array, bounds: Any = None) -> Array:
    """Return where scipy finds the smallest objective with each constraint at most its bound."""
    found = minimize(
        objective,
        start,
        method="SLSQP",
        bounds=bounds,
        constraints=[NonlinearConstraint(f, -math.inf, bound) for f, bound in constraints],
        options={"ftol": 1e-11, "maxiter": 500},
    )
    assert found.success or found.status == 8  # rounding stopped the line search
    assert all(f(found.x) < bound + 1e-6 for f, bound in constraints)
    return np.asarray(found.x)


@EVERY_FAMILY
def test_discrete_projection_is_numerical_optimum(family: str) -> None:
    projection, size = projection_of(family)
    new, old = pair(size, rows=3)
    projected = projection(new, old)
    for row, target, start in zip(projected.numpy(), new.numpy(), old.numpy(), strict=True):
        best = optimum(
            lambda x, target=target: discrete_kl(family, x, target),
            [(lambda x, start=start: discrete_kl(family, x, start), BOUND)],
            start,
        )
        expected = probabilities(family, best)
        np.testing.assert_allclose(probabilities(family, row), expected, atol=2e-5)


@EVERY_METRIC
def test_gaussian_projection_is_numerical_optimum(metric: str) -> None:
    projection, size = projection_of(metric)
    new, old = pair(size, rows=3)
    moments = (
        torch.cat((p[:, :2], (2 * p[:, 2:]).exp()), -1) for p in (projection(new, old), new, old)
    )
    for row, target, start in zip(*(rows.numpy() for rows in moments), strict=True):

        def to_target(x: Array, target: Array = target, start: Array = start) -> float:
            # Means are weighted by the covariance of π_old, as in the paper.
            means = mean_distance(metric, np.r_[x[:2], start[2:]], np.r_[target[:2], start[2:]])
            return means + covariance_distance(metric, x, target, start)

        best = optimum(
            to_target,
            [
                (lambda x, start=start: mean_distance(metric, x, start), 0.3),
                (lambda x, start=start: covariance_distance(metric, x, start, start), BOUND),
            ],
            start,
            [(None, None)] * 2 + [(1e-4, None)] * 2,
        )
        np.testing.assert_allclose(row, best, atol=2e-4)


@pytest.mark.parametrize("kind", [*DISCRETE, *POWERS])
def test_projection_ends_on_bound(kind: str) -> None:
    projection, size = projection_of(kind)
    for scale in (0.3, 1, 5) if kind in POWERS else (0.3, 1, 5, 200):
        new, old = pair(size, 40, scale, seed=1)
        excess = projection.excess(new, old)
        projected = projection(new, old)
        assert excess.max() > 1
        assert projection.excess(projected, old).max() < 1 + 1e-8
        beyond = excess > 1
        torch.testing.assert_close(
            projection.excess(projected, old)[beyond], torch.ones(int(beyond.sum())).double()
        )
        assert torch.equal(projected[~beyond], new[~beyond])


def test_gaussian_projection_has_known_values() -> None:
    # σ_old = 1 and μ_old = 0, μ = 3: at the bound μ² / 2 = 0.5. And σ = 2 with (σ - 1)² = 0.25.
    new, old = torch.tensor([[3.0, math.log(2)]]).double(), torch.zeros(1, 2).double()
    of_kl = gaussian_projection("kl", 0.5, 10.0)(new, old)
    torch.testing.assert_close(of_kl, torch.tensor([[1.0, math.log(2)]]).double())
    of_wasserstein = gaussian_projection("wasserstein", 4.0, 0.25)(new, old)
    expected = torch.tensor([[2.0, math.log(1.5)]]).double()
    torch.testing.assert_close(of_wasserstein, expected)
    of_frobenius = gaussian_projection("frobenius", 4.0, 2.25)(new, old)  # σ² = 1 + 1.5
    expected = torch.tensor([[2.0, 0.5 * math.log(2.5)]]).double()
    torch.testing.assert_close(of_frobenius, expected)


def test_kl_parts_sum_to_divergence() -> None:
    new, old = pair(4)
    expected = DiagonalGaussian(new).kl(DiagonalGaussian(old))
    found = gaussian_projection("kl", 1.0, 1.0).distance(new, old)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", [*DISCRETE, *POWERS])
def test_gradients_match_finite_differences(kind: str) -> None:
    projection, size = projection_of(kind)
    new, old = pair(size, rows=3)
    assert (projection.excess(new, old) > 1).tolist() == [False, True, True]
    new.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: projection(x, old), new, atol=1e-6, rtol=1e-5)


def test_masked_actions_stay_impossible() -> None:
    projection, size = projection_of("categorical")
    new, old = (part.masked_fill(torch.arange(size) == 1, -math.inf) for part in pair(size))
    projected = projection(new.requires_grad_(), old)
    assert torch.equal(projected[:, 1], torch.full((6,), -math.inf).double())
    p = Categorical(projected)
    assert float(p.kl(Categorical(old)).detach().max()) == pytest.approx(BOUND, rel=1e-8)
    (gradient,) = torch.autograd.grad(p.log_prob(torch.zeros(6, dtype=torch.int64)).sum(), new)
    assert torch.isfinite(gradient).all()
    unmasked = [0, 2, 3]
    expected = projection(new[:, unmasked], old[:, unmasked])
    torch.testing.assert_close(projected[:, unmasked], expected)


def test_masked_bits_stay_fixed() -> None:
    projection, size = projection_of("bernoulli")
    new, old = (part.clone() for part in pair(size))
    for part in (new, old):
        part[:, 0], part[:, 1] = -math.inf, math.inf
    projected = projection(new.requires_grad_(), old)
    assert torch.equal(projected[:, :2], old[:, :2])
    (gradient,) = torch.autograd.grad(Bernoulli(projected).entropy().sum(), new)
    assert torch.isfinite(gradient).all()


def test_unknown_rows_stay_unknown() -> None:
    projection, size = projection_of("kl")
    new, old = pair(size)
    new[2] = math.nan
    projected = projection(new, old)
    assert projected[2].isnan().all()
    assert torch.isfinite(projected[[0, 1, 3, 4, 5]]).all()
