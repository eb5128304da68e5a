"""Experiment `geometry` against quadrature and closed forms."""

import math

import pytest
import scipy.integrate
import scipy.stats
import torch

from rlkl.tools.experiments import geometry
from rlkl.tools.rows import Rows, column, distinct, select


def test_gaussian_curve_has_its_kl(curves: Rows) -> None:
    for mean, std in geometry.GAUSSIAN_CENTERS:
        row = select(curves, center=f"σ = {std:g}", curve="equal KL")[5]
        old = scipy.stats.norm(mean, std)
        new = scipy.stats.norm(float(row["x"]), float(row["y"]))
        kl, _ = scipy.integrate.quad(
            lambda x, p=old, q=new: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)),
            mean - 12 * std,
            mean + 12 * std,
        )
        assert kl == pytest.approx(0.05, rel=1e-7)


def test_softmax_curve_has_its_kl(curves: Rows) -> None:
    for probabilities in geometry.SOFTMAX_CENTERS:
        name = "p = ({:.2f}, {:.2f}, {:.2f})".format(*probabilities)
        for row in select(curves, center=name, curve="equal KL"):
            third = float(row["y"]) / (math.sqrt(3) / 2)
            second = float(row["x"]) - third / 2
            new = [1 - second - third, second, third]
            assert scipy.stats.entropy(probabilities, new) == pytest.approx(0.05, rel=1e-7)


def test_curves_close_and_circles_have_one_radius(curves: Rows) -> None:
    for name in distinct(curves, "center"):
        for curve in distinct(curves, "curve"):
            rows = select(curves, center=name, curve=curve)
            assert len(rows) == 25
            assert rows[0]["x"] == pytest.approx(rows[-1]["x"])
            assert rows[0]["y"] == pytest.approx(rows[-1]["y"])
        distances = column(select(curves, center=name, curve="equal distance"), "distance")
        assert distances == pytest.approx([math.sqrt(0.1)] * 25)


@pytest.mark.parametrize("std", [0.4, 1.0, 2.0])
def test_fisher_matrix_of_gaussian(std: float) -> None:
    center = torch.tensor([0.3, std], dtype=torch.float64)
    expected = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64) / std**2
    torch.testing.assert_close(geometry.fisher_matrix(geometry.gaussian, center), expected)


def test_fisher_matrix_of_equal_logits() -> None:
    center = torch.zeros(2, dtype=torch.float64)
    expected = torch.eye(2, dtype=torch.float64) / 3
    torch.testing.assert_close(geometry.fisher_matrix(geometry.softmax, center), expected)


def test_curves_along_the_mean_match_closed_form(curves: Rows) -> None:
    # If only the mean moves, KL = d² / (2σ²): exactly δ at the distance √(2δ) for σ = 1.
    for std in (0.4, 1.0, 2.0):
        at = {
            curve: select(curves, center=f"σ = {std:g}", curve=curve)[0]
            for curve in distinct(curves, "curve")
        }
        assert at["equal distance"]["kl"] == pytest.approx(0.05 / std**2)
        assert at["equal KL"]["distance"] == pytest.approx(math.sqrt(0.1) * std)
        assert at["equal ½ dᵀFd"]["distance"] == pytest.approx(math.sqrt(0.1) * std)
