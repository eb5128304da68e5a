"""Experiment `estimators`: moments of k1, k2 and k3 against quadrature and samples."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from experiment_configs import silent

from rlkl.tools.experiments import estimators


def test_bias_and_deviation_at_half_a_nat() -> None:
    pair = estimators.at_kl(estimators.FAMILIES["Gaussian, mean moves"], 0.5)
    bias = [mean / 0.5 - 1 for mean in pair.means]
    assert bias == pytest.approx([0, 0.25, 0], abs=1e-9)
    assert [std / 0.5 for std in pair.stds] == pytest.approx([2, 1.73, 1.70], abs=6e-3)


@pytest.mark.parametrize("family", estimators.FAMILIES)
@pytest.mark.parametrize("kl", [0.01, 0.08, 0.5])
def test_k1_and_k3_are_unbiased(family: str, kl: float) -> None:
    pair = estimators.at_kl(estimators.FAMILIES[family], kl)
    assert pair.old.kl(pair.new).item() == pytest.approx(kl, rel=1e-9)
    assert pair.means[0] == pytest.approx(kl, rel=1e-9)
    assert pair.means[2] == pytest.approx(kl, rel=1e-9)


@pytest.mark.parametrize(("shift", "std"), [(0.7, 1.0), (0.0, 1.2), (0.0, 0.6), (0.3, 1.1)])
def test_moments_of_gaussians_match_quadrature(shift: float, std: float) -> None:
    pair = estimators.gaussian_pair(shift, std)
    x = np.linspace(-30, 30, 20_001)
    density = scipy.stats.norm.pdf(x)
    log_ratio = scipy.stats.norm.logpdf(x, shift, std) - scipy.stats.norm.logpdf(x)
    of_sample = (-log_ratio, 0.5 * log_ratio**2, np.exp(log_ratio) - 1 - log_ratio)
    for k, mean, deviation in zip(of_sample, pair.means, pair.stds, strict=True):
        first, second = (scipy.integrate.simpson(density * k**n, x=x) for n in (1, 2))
        assert mean == pytest.approx(first, rel=1e-6)
        assert deviation == pytest.approx(math.sqrt(second - first**2), rel=1e-6)


@pytest.mark.parametrize(("std", "finite"), [(1.414, True), (1.4143, False)])
def test_variance_of_k3_is_infinite_beyond_root_two(std: float, finite: bool) -> None:
    pair = estimators.gaussian_pair(0.0, std)
    assert math.isfinite(pair.stds[2]) == finite
    assert math.isfinite(pair.stds[0])


def test_samples_agree_with_exact_moments() -> None:
    config = estimators.EstimatorsConfig(kl_min=0.01, kl_max=0.08, points=2, samples=20_000)
    rows = estimators.calculate(config, silent)
    assert len(rows) == 4 * 2 * 3
    for row in rows:
        error = float(row["standard_error"])
        # If σ grows by more than a third, the fourth moment of k3 is infinite and its standard
        # error is meaningless.
        if not (row["family"] == "Gaussian, σ grows" and row["estimator"] == "k3"):
            assert abs(float(row["sampled_bias"]) - float(row["bias"])) < 5 * error
            assert error == pytest.approx(float(row["std"]) / math.sqrt(20_000), rel=0.25)
