"""Experiment `directions`: forward fits have the target's moments, reverse fits take one peak."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from rlkl.tools.experiments import directions
from rlkl.tools.rows import Rows, column, select


@pytest.fixture
def fits(descents: Rows) -> Rows:
    return directions.ends(descents)


def test_forward_fit_has_moments_of_target(fits: Rows) -> None:
    forward = select(fits, direction=directions.FORWARD)
    assert len(forward) == len(directions.STARTS)
    for row in forward:
        assert row["mean"] == pytest.approx(0.0, abs=1e-6)
        assert row["std"] == pytest.approx(math.sqrt(10), abs=1e-6)
        assert row["kl"] == pytest.approx(0.462, abs=5e-4)


def test_reverse_fit_depends_on_the_start(fits: Rows) -> None:
    found = {
        (round(abs(float(row["mean"])), 2), round(float(row["std"]), 2), round(float(row["kl"]), 3))
        for row in select(fits, direction=directions.REVERSE)
    }
    assert found == {(2.98, 1.02, 0.689), (0.0, 2.74, 0.841)}
    means = column(select(fits, direction=directions.REVERSE), "mean")
    assert min(means) < -2.9
    assert max(means) > 2.9


def test_reverse_kl_has_minimum_between_peaks() -> None:
    def kl(point: torch.Tensor) -> torch.Tensor:
        return directions.kl(directions.REVERSE, point.unsqueeze(0)).squeeze()

    point = torch.tensor([0.0, math.log(2.743769)], dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(kl, point)
    curvature = torch.autograd.functional.hessian(kl, point)
    assert float(gradient.abs().max()) < 1e-5
    assert float(torch.linalg.eigvalsh(curvature).min()) > 0.01


@pytest.mark.parametrize("direction", [directions.FORWARD, directions.REVERSE])
def test_kl_of_fit_matches_quadrature(direction: str) -> None:
    def target(x: float) -> float:
        return float(np.logaddexp(*scipy.stats.norm.logpdf(x, [-3, 3]))) - math.log(2)

    def fit(x: float) -> float:
        return float(scipy.stats.norm.logpdf(x, 0.5, 2.0))

    p, q = (target, fit) if direction == directions.FORWARD else (fit, target)
    expected, _ = scipy.integrate.quad(
        lambda x: math.exp(p(x)) * (p(x) - q(x)), -18, 18, points=[-3, 3]
    )
    parameters = torch.tensor([[0.5, math.log(2.0)]], dtype=torch.float64)
    assert directions.kl(direction, parameters).item() == pytest.approx(expected, rel=1e-6)
