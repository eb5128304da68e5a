"""Divergences of Gaussians against literal numbers, torch.distributions and quadrature."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from rlkl.numerics.divergence_formulas import (
    diagonal_gaussian_kl,
    diagonal_gaussian_kl_to_standard_normal,
    diagonal_gaussian_renyi,
    diagonal_gaussian_total_variation,
)

ZERO = torch.zeros(1, dtype=torch.float64)
THREE_NUMBERS = st.lists(st.floats(-3, 3), min_size=3, max_size=3)


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def parts(parameters: list[float]) -> tuple[Tensor, Tensor]:
    """Split one list into means and log standard deviations."""
    return vector(*parameters[:3]), vector(*parameters[3:])


@pytest.mark.parametrize(
    ("mean", "log_variance", "nats"),
    [(0, 1, 0.3591), (1, 0, 0.5), (2, 1, 2.3591), (0, -2, 0.5677)],
)
def test_kl_to_standard_normal_has_known_values(
    mean: float, log_variance: float, nats: float
) -> None:
    kl = diagonal_gaussian_kl(vector(mean), vector(log_variance / 2), ZERO, ZERO)
    assert float(kl) == pytest.approx(nats, abs=5e-5)
    kl = diagonal_gaussian_kl_to_standard_normal(vector(mean), vector(log_variance))
    assert float(kl) == pytest.approx(nats, abs=5e-5)


@given(THREE_NUMBERS, THREE_NUMBERS)
def test_kl_to_standard_normal_agrees_with_torch(
    mean: list[float], log_variance: list[float]
) -> None:
    std = (0.5 * vector(*log_variance)).exp()
    expected = kl_divergence(Normal(vector(*mean), std), Normal(ZERO, 1.0)).sum()
    kl = diagonal_gaussian_kl_to_standard_normal(vector(*mean), vector(*log_variance))
    assert float(kl) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


def test_small_kl_to_standard_normal_is_accurate() -> None:
    # ¼ δ² for a log-variance of δ.
    kl = diagonal_gaussian_kl_to_standard_normal(ZERO, ZERO + 1e-8)
    assert float(kl) == pytest.approx(2.5e-17, rel=1e-3, abs=0)


def test_gaussian_kl_is_summed_over_dimensions() -> None:
    zeros, ones = torch.zeros(2, 7), torch.ones(2, 7)
    assert diagonal_gaussian_kl(ones, zeros, zeros, zeros).tolist() == [3.5, 3.5]


@given(
    st.lists(st.floats(-3, 3), min_size=6, max_size=6),
    st.lists(st.floats(-3, 3), min_size=6, max_size=6),
)
def test_gaussian_kl_agrees_with_torch(
    p_parameters: list[float], q_parameters: list[float]
) -> None:
    p, q = parts(p_parameters), parts(q_parameters)
    kl = float(diagonal_gaussian_kl(*p, *q))
    expected = kl_divergence(
        Independent(Normal(p[0], p[1].exp()), 1), Independent(Normal(q[0], q[1].exp()), 1)
    )
    assert kl >= 0
    assert kl == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


def test_kl_of_nearly_equal_gaussians_is_accurate() -> None:
    # KL = δ² + O(δ³) for log standard deviations that differ by δ.
    kl = diagonal_gaussian_kl(ZERO, ZERO + 1e-8, ZERO, ZERO)
    assert float(kl) == pytest.approx(1e-16, rel=1e-3, abs=0)


def test_gaussian_kl_gradients_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    arguments = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    inputs = tuple(arguments.requires_grad_().unbind())
    assert torch.autograd.gradcheck(diagonal_gaussian_kl, inputs)
    assert torch.autograd.gradgradcheck(diagonal_gaussian_kl, inputs)


# Mean and standard deviation of p, then of q.
GAUSSIANS = [
    (0.0, 1.0, 1.0, 1.0),
    (0.0, 1.0, 0.0, 2.0),
    (0.0, 2.0, 0.0, 1.0),
    (-0.5, 0.3, 1.5, 0.9),
    (1.0, 1.2, -1.0, 1.3),
    (3.0, 0.1, -4.0, 2.0),
    (0.1, 1.0, 0.1, 1.0001),
]


def one_dimension(
    mean_p: float, std_p: float, mean_q: float, std_q: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return vector(mean_p), vector(std_p).log(), vector(mean_q), vector(std_q).log()


def log_density(x: float, mean: float, std: float) -> float:
    return -0.5 * ((x - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)


def integral(integrand: Callable[[float], float], *centres: float) -> float:
    points = [c + offset for c in centres for offset in (-0.5, -0.1, 0.0, 0.1, 0.5)]
    return float(quad(integrand, -30, 30, points=points, limit=500, epsabs=1e-11)[0])


@pytest.mark.parametrize("order", [0.1, 0.5, 0.9, 1.2])
@pytest.mark.parametrize("gaussians", GAUSSIANS)
def test_gaussian_renyi_agrees_with_quadrature(
    gaussians: tuple[float, float, float, float], order: float
) -> None:
    mean_p, std_p, mean_q, std_q = gaussians

    def integrand(x: float) -> float:
        log_p, log_q = log_density(x, mean_p, std_p), log_density(x, mean_q, std_q)
        return math.exp(order * log_p + (1 - order) * log_q)

    expected = math.log(integral(integrand, mean_p, mean_q)) / (order - 1)
    renyi = float(diagonal_gaussian_renyi(*one_dimension(*gaussians), order))
    assert renyi == pytest.approx(expected, rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("gaussians", GAUSSIANS)
def test_gaussian_renyi_tends_to_kl(
    gaussians: tuple[float, float, float, float],
) -> None:
    arguments = one_dimension(*gaussians)
    kl = float(diagonal_gaussian_kl(*arguments))
    for order in (1 - 1e-9, 1 + 1e-9):
        assert float(diagonal_gaussian_renyi(*arguments, order)) == pytest.approx(kl, rel=1e-6)


def test_gaussian_renyi_is_infinite_for_wide_tails() -> None:
    # The integral of p² / q exists as long as 1/σ_q² < 2/σ_p².
    wide, narrow = one_dimension(0.0, 1.5, 0.0, 1.0), one_dimension(0.0, 1.4, 0.0, 1.0)
    assert diagonal_gaussian_renyi(*wide, 2.0) == math.inf
    assert diagonal_gaussian_renyi(*narrow, 2.0).isfinite()
    two = (torch.zeros(2), vector(1.5, 1.0).log(), torch.zeros(2), torch.zeros(2))
    assert diagonal_gaussian_renyi(*two, 2.0) == math.inf
    log_std = vector(1.5).log().requires_grad_()
    renyi = diagonal_gaussian_renyi(ZERO, log_std, ZERO, ZERO, 2.0)
    assert not torch.autograd.grad(renyi, log_std)[0].isnan().any()


def test_renyi_of_nearly_equal_gaussians_is_accurate() -> None:
    # α δ² for log standard deviations that differ by δ.
    renyi = diagonal_gaussian_renyi(ZERO, ZERO + 1e-8, ZERO, ZERO, 0.3)
    assert float(renyi) == pytest.approx(3e-17, rel=1e-3, abs=0)


@pytest.mark.parametrize("order", [-1.0, 0.0, 1.0, math.inf, math.nan])
def test_gaussian_renyi_rejects_invalid_orders(order: float) -> None:
    with pytest.raises(ValueError, match="order"):
        diagonal_gaussian_renyi(ZERO, ZERO, ZERO, ZERO, order)


@pytest.mark.parametrize("gaussians", GAUSSIANS)
def test_gaussian_total_variation_agrees_with_quadrature(
    gaussians: tuple[float, float, float, float],
) -> None:
    mean_p, std_p, mean_q, std_q = gaussians

    def integrand(x: float) -> float:
        return abs(
            math.exp(log_density(x, mean_p, std_p)) - math.exp(log_density(x, mean_q, std_q))
        )

    expected = 0.5 * integral(integrand, mean_p, mean_q)
    p, q = one_dimension(*gaussians)[:2], one_dimension(*gaussians)[2:]
    tv, reverse = (float(diagonal_gaussian_total_variation(*pair)) for pair in ((*p, *q), (*q, *p)))
    assert tv == pytest.approx(expected, abs=1e-7)
    assert reverse == pytest.approx(tv, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("mean", [-1.0, 1.0])
@pytest.mark.parametrize("log_std", [-1e-15, 1e-15])
def test_gaussian_total_variation_of_nearly_equal_deviations(mean: float, log_std: float) -> None:
    # One crossing is at ½, the other near infinity.
    tv = diagonal_gaussian_total_variation(ZERO, ZERO, vector(mean), vector(log_std))
    assert float(tv) == pytest.approx(math.erf(0.5 / math.sqrt(2)), rel=1e-12)


def test_gaussian_total_variation_in_two_dimensions() -> None:
    x = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    p = Normal(0.5, 1.0).log_prob(x).exp()[:, None] * Normal(-1.0, 2.0).log_prob(x).exp()
    q = Normal(-0.3, 1.0).log_prob(x).exp()[:, None] * Normal(0.5, 2.0).log_prob(x).exp()
    expected = 0.5 * torch.trapezoid(torch.trapezoid((p - q).abs(), x), x)
    log_std = vector(1.0, 2.0).log()
    tv = diagonal_gaussian_total_variation(vector(0.5, -1), log_std, vector(-0.3, 0.5), log_std)
    assert float(tv) == pytest.approx(float(expected), abs=1e-4)


def test_gaussian_total_variation_gradients() -> None:
    arguments = torch.tensor([[0.5, 0.1, -0.3, 0.4], [0.5, 0.1, -0.3, 0.1]]).double().T
    inputs = tuple(arguments.unsqueeze(-1).requires_grad_().unbind())
    values = diagonal_gaussian_total_variation(*(x[:1] for x in inputs))
    assert values.shape == (1,)
    assert torch.autograd.gradcheck(
        lambda *x: diagonal_gaussian_total_variation(*(y[:1] for y in x)), inputs
    )
    # Row 2 has equal deviations, where the gradient of the means has a closed form.
    means = (inputs[0], inputs[2])
    gradients = torch.autograd.grad(diagonal_gaussian_total_variation(*inputs)[1], means)
    expected = float(norm.pdf(0.4 / math.exp(0.1)) / math.exp(0.1))
    assert [float(g[1]) for g in gradients] == pytest.approx([expected, -expected])
    # Equal Gaussians get the gradient 0.
    zeros = torch.zeros(4, 1, 1, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(diagonal_gaussian_total_variation(*zeros.unbind()), zeros)
    assert gradient.eq(0).all()
