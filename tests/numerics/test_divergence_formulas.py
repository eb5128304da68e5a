"""Formulas of divergences against literal numbers, scipy, torch.distributions and quadrature."""

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy, norm
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from rlkl.numerics.distributions import DiagonalGaussian
from rlkl.numerics.divergence_formulas import (
    categorical_entropy,
    categorical_jensen_shannon,
    categorical_kl,
    categorical_renyi,
    categorical_total_variation,
    diagonal_gaussian_kl,
    diagonal_gaussian_kl_to_standard_normal,
    diagonal_gaussian_renyi,
    diagonal_gaussian_total_variation,
    jensen_shannon_share,
    kl_estimates,
)

ZERO = torch.zeros(1, dtype=torch.float64)
FOUR_LOGITS = st.lists(st.floats(-8, 8), min_size=4, max_size=4)
THREE_NUMBERS = st.lists(st.floats(-3, 3), min_size=3, max_size=3)


def log_of(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def parts(parameters: list[float]) -> tuple[Tensor, Tensor]:
    """Split one list into means and log standard deviations."""
    return vector(*parameters[:3]), vector(*parameters[3:])


@pytest.mark.parametrize(
    ("p", "q", "nats"),
    [
        ((0.9, 0.1), (0.5, 0.5), 0.3681),
        ((0.5, 0.5), (0.9, 0.1), 0.5108),
        ((0.99, 0.01), (0.5, 0.5), 0.6371),
        ((0.5, 0.5), (0.99, 0.01), 1.6145),
        ((0.9, 0.1), (0.1, 0.9), 1.7578),
        ((0.1, 0.9), (0.9, 0.1), 1.7578),
        ((1.0, 0.0), (0.5, 0.5), 0.6931),
        ((0.5, 0.5), (1.0, 0.0), math.inf),
        ((1.0, 0.0), (0.0, 1.0), math.inf),
        ((0.5, 0.5, 0.0), (0.9, 0.1, 0.0), 0.5108),
    ],
)
def test_categorical_kl_has_the_known_values(
    p: tuple[float, ...], q: tuple[float, ...], nats: float
) -> None:
    assert float(categorical_kl(log_of(*p), log_of(*q))) == pytest.approx(nats, abs=5e-5)


@pytest.mark.parametrize(
    ("mean", "log_variance", "nats"),
    [(0, 1, 0.3591), (1, 0, 0.5), (2, 1, 2.3591), (0, -2, 0.5677)],
)
def test_gaussian_kl_to_the_standard_normal_has_the_known_values(
    mean: float, log_variance: float, nats: float
) -> None:
    kl = diagonal_gaussian_kl(vector(mean), vector(log_variance / 2), ZERO, ZERO)
    assert float(kl) == pytest.approx(nats, abs=5e-5)
    kl = diagonal_gaussian_kl_to_standard_normal(vector(mean), vector(log_variance))
    assert float(kl) == pytest.approx(nats, abs=5e-5)


@given(THREE_NUMBERS, THREE_NUMBERS)
def test_kl_to_the_standard_normal_takes_log_variances_and_sums_over_dimensions(
    mean: list[float], log_variance: list[float]
) -> None:
    std = (0.5 * vector(*log_variance)).exp()
    expected = kl_divergence(Normal(vector(*mean), std), Normal(ZERO, 1.0)).sum()
    kl = diagonal_gaussian_kl_to_standard_normal(vector(*mean), vector(*log_variance))
    assert float(kl) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


def test_kl_to_the_standard_normal_does_not_cancel_near_it() -> None:
    # ¼ δ² for a log-variance that is off by δ.
    kl = diagonal_gaussian_kl_to_standard_normal(ZERO, ZERO + 1e-8)
    assert float(kl) == pytest.approx(2.5e-17, rel=1e-3, abs=0)


def test_gaussian_kl_is_summed_over_dimensions_and_not_averaged() -> None:
    zeros, ones = torch.zeros(2, 7), torch.ones(2, 7)
    assert diagonal_gaussian_kl(ones, zeros, zeros, zeros).tolist() == [3.5, 3.5]


@given(FOUR_LOGITS, FOUR_LOGITS)
def test_categorical_kl_is_never_negative_and_agrees_with_scipy(
    p_logits: list[float], q_logits: list[float]
) -> None:
    log_p, log_q = vector(*p_logits).log_softmax(-1), vector(*q_logits).log_softmax(-1)
    kl = float(categorical_kl(log_p, log_q))
    assert kl >= -1e-15
    assert kl == pytest.approx(entropy(softmax(p_logits), softmax(q_logits)), rel=1e-9, abs=1e-12)


@given(
    st.lists(st.floats(-3, 3), min_size=6, max_size=6),
    st.lists(st.floats(-3, 3), min_size=6, max_size=6),
)
def test_gaussian_kl_is_never_negative_and_agrees_with_torch(
    p_parameters: list[float], q_parameters: list[float]
) -> None:
    p, q = parts(p_parameters), parts(q_parameters)
    kl = float(diagonal_gaussian_kl(*p, *q))
    expected = kl_divergence(
        Independent(Normal(p[0], p[1].exp()), 1), Independent(Normal(q[0], q[1].exp()), 1)
    )
    assert kl >= 0
    assert kl == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_of_a_distribution_from_itself_is_exactly_zero(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = 4 * torch.randn(1000, 6, generator=generator, dtype=dtype)
    log_p = numbers.log_softmax(-1)
    mean, log_std = numbers.chunk(2, -1)
    assert categorical_kl(log_p, log_p.clone()).eq(0).all()
    assert diagonal_gaussian_kl(mean, log_std, mean.clone(), log_std.clone()).eq(0).all()


def test_kl_of_nearly_equal_gaussians_does_not_cancel() -> None:
    # KL = δ² + O(δ³) for a log standard deviation that is off by δ: far below the rounding of ½.
    kl = diagonal_gaussian_kl(ZERO, ZERO + 1e-8, ZERO, ZERO)
    assert float(kl) == pytest.approx(1e-16, rel=1e-3, abs=0)


def test_no_epsilon_hides_in_the_logarithm() -> None:
    kl = categorical_kl(log_of(0.5, 0.5), log_of(1.0, 1e-300))
    assert float(kl) == pytest.approx(entropy([0.5, 0.5], [1.0, 1e-300]), rel=1e-12)


def test_a_probability_that_underflows_counts_as_zero() -> None:
    # exp(-1000) is 0 in float64: its share is 0 · log(0 / q), whatever q is.
    log_p = vector(0.0, -1000.0).requires_grad_()
    kl = categorical_kl(log_p, log_of(1.0, 0.0))
    (gradient,) = torch.autograd.grad(kl, log_p)
    assert float(kl.detach()) == 0
    assert gradient.tolist() == [1.0, 0.0]


def test_gaussian_kl_agrees_with_finite_differences_to_second_order() -> None:
    generator = torch.Generator().manual_seed(0)
    arguments = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    inputs = tuple(arguments.requires_grad_().unbind())
    assert torch.autograd.gradcheck(diagonal_gaussian_kl, inputs)
    assert torch.autograd.gradgradcheck(diagonal_gaussian_kl, inputs)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ((0.5, 0.5, 0.0), (0.9, 0.1, 0.0)),
        ((0.5, 0.5, 0.0), (0.2, 0.3, 0.5)),
        ((0.2, 0.3, 0.5), (0.5, 0.5, 0.0)),
        ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    ],
)
def test_gradients_of_categorical_kl_and_entropy_are_never_nan(
    p: tuple[float, ...], q: tuple[float, ...]
) -> None:
    log_p, log_q = log_of(*p).requires_grad_(), log_of(*q).requires_grad_()
    (categorical_kl(log_p, log_q) + categorical_entropy(log_p)).backward()
    assert log_p.grad is not None
    assert log_q.grad is not None
    assert not log_p.grad.isnan().any()
    assert not log_q.grad.isnan().any()


@pytest.mark.parametrize(
    "divergence",
    [
        categorical_kl,
        categorical_jensen_shannon,
        partial(categorical_renyi, order=0.5),
        partial(categorical_renyi, order=2.0),
        categorical_total_variation,
    ],
    ids=["kl", "js", "renyi half", "renyi 2", "tv"],
)
def test_gradients_at_logits_of_masked_actions_are_exactly_zero(
    divergence: Callable[[Tensor, Tensor], Tensor],
) -> None:
    p = vector(0.0, 1.0, -math.inf).requires_grad_()
    q = vector(0.5, 0.2, -math.inf).requires_grad_()
    divergence(p.log_softmax(-1), q.log_softmax(-1)).backward()
    for gradient in (p.grad, q.grad):
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient[2] == 0
        assert gradient[0] != 0


def test_losing_support_gives_a_finite_gradient_to_the_new_policy() -> None:
    new = vector(0.0, -math.inf).requires_grad_()
    kl = categorical_kl(log_of(0.5, 0.5), new.log_softmax(-1))
    assert kl == math.inf
    assert torch.autograd.grad(kl, new)[0].isfinite().all()


def test_kl_breaks_the_triangle_inequality() -> None:
    a, b, c = (log_of(p, 1 - p) for p in (0.5, 0.25, 0.1))
    assert float(categorical_kl(a, c)) == pytest.approx(0.5108, abs=5e-5)
    by_way_of_b = float(categorical_kl(a, b) + categorical_kl(b, c))
    assert by_way_of_b == pytest.approx(0.2362, abs=5e-5)


@pytest.mark.parametrize(
    ("p", "nats"),
    [((1.0, 0.0), 0.0), ((0.25,) * 4, math.log(4)), ((0.5, 0.5, 0.0), math.log(2))],
)
def test_categorical_entropy_has_the_known_values(p: tuple[float, ...], nats: float) -> None:
    assert float(categorical_entropy(log_of(*p))) == pytest.approx(nats, abs=1e-15)


@given(FOUR_LOGITS, FOUR_LOGITS)
def test_root_of_jensen_shannon_is_scipys_distance_and_at_most_root_of_ln_2(
    p_logits: list[float], q_logits: list[float]
) -> None:
    log_p, log_q = vector(*p_logits).log_softmax(-1), vector(*q_logits).log_softmax(-1)
    js = float(categorical_jensen_shannon(log_p, log_q))
    assert js <= math.log(2)
    assert js == pytest.approx(jensenshannon(log_p.exp(), log_q.exp()) ** 2, rel=1e-9, abs=1e-12)
    assert js == pytest.approx(float(categorical_jensen_shannon(log_q, log_p)), abs=1e-15)


def test_jensen_shannon_of_disjoint_distributions_is_ln_2() -> None:
    js = categorical_jensen_shannon(log_of(1.0, 0.0, 0.0), log_of(0.0, 0.3, 0.7))
    assert float(js) == pytest.approx(math.log(2), rel=1e-15)


@given(FOUR_LOGITS, FOUR_LOGITS, FOUR_LOGITS)
def test_root_of_jensen_shannon_obeys_the_triangle_inequality(
    p_logits: list[float], q_logits: list[float], r_logits: list[float]
) -> None:
    p, q, r = (vector(*logits).log_softmax(-1) for logits in (p_logits, q_logits, r_logits))
    pq, qr, pr = (
        categorical_jensen_shannon(*pair).clamp(min=0).sqrt() for pair in ((p, q), (q, r), (p, r))
    )
    assert pr <= pq + qr + 1e-7


def test_renyi_divergence_tends_to_kl_as_its_order_tends_to_1() -> None:
    log_p, log_q = log_of(0.9, 0.1), log_of(0.5, 0.5)
    kl = float(categorical_kl(log_p, log_q))
    for side in (-1, 1):
        far, near = (
            float(categorical_renyi(log_p, log_q, 1 + side * step)) - kl for step in (1e-3, 1e-4)
        )
        assert far / near == pytest.approx(10, rel=0.01)
        assert near * side > 0


def test_renyi_divergence_has_the_known_values() -> None:
    log_p, log_q = log_of(0.9, 0.1), log_of(0.5, 0.5)
    assert float(categorical_renyi(log_p, log_q, 2.0)) == pytest.approx(math.log(1.64), rel=1e-12)
    coefficient = math.sqrt(0.45) + math.sqrt(0.05)
    half = float(categorical_renyi(log_p, log_q, 0.5))
    assert half == pytest.approx(-2 * math.log(coefficient), rel=1e-12)


def test_renyi_divergence_where_support_is_lost() -> None:
    half, one_sure = log_of(0.5, 0.5), log_of(1.0, 0.0)
    assert categorical_renyi(half, one_sure, 2.0) == math.inf
    assert float(categorical_renyi(half, one_sure, 0.5)) == pytest.approx(math.log(2))
    assert float(categorical_renyi(one_sure, half, 2.0)) == pytest.approx(math.log(2))
    assert categorical_renyi(one_sure, log_of(0.0, 1.0), 0.5) == math.inf


@given(FOUR_LOGITS, FOUR_LOGITS, st.floats(0.1, 0.9), st.floats(1.1, 5))
def test_renyi_divergence_grows_with_its_order(
    p_logits: list[float], q_logits: list[float], low: float, high: float
) -> None:
    log_p, log_q = vector(*p_logits).log_softmax(-1), vector(*q_logits).log_softmax(-1)
    below, above = (float(categorical_renyi(log_p, log_q, order)) for order in (low, high))
    assert -1e-9 <= below <= float(categorical_kl(log_p, log_q)) + 1e-9 <= above + 2e-9


@pytest.mark.parametrize("order", [-1.0, 0.0, 1.0, math.nan])
def test_renyi_divergence_refuses_orders_it_has_no_meaning_for(order: float) -> None:
    with pytest.raises(ValueError, match="order"):
        categorical_renyi(log_of(0.5, 0.5), log_of(0.5, 0.5), order)


@pytest.mark.parametrize("order", [0.3, 0.5, 1.5, 2.0, 20.0])
@pytest.mark.parametrize(
    ("p", "q"), [((1.0, 0.0), (0.0, 1.0)), ((0.5, 0.5), (1.0, 0.0)), ((0.5, 0.5, 0.0),) * 2]
)
def test_gradients_of_renyi_and_jensen_shannon_are_never_nan(
    p: tuple[float, ...], q: tuple[float, ...], order: float
) -> None:
    for divergence in (partial(categorical_renyi, order=order), categorical_jensen_shannon):
        log_p, log_q = log_of(*p).requires_grad_(), log_of(*q).requires_grad_()
        divergence(log_p, log_q).backward()
        assert log_p.grad is not None
        assert log_q.grad is not None
        assert not log_p.grad.isnan().any()
        assert not log_q.grad.isnan().any()


def test_gradients_of_the_categorical_formulas_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    # Log-ratios below and above 1, where the formulas change their form.
    for scale in (0.1, 1.0, 3.0):
        logits = scale * torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
        inputs = tuple(logits.requires_grad_().unbind())
        for formula in (
            categorical_jensen_shannon,
            partial(categorical_renyi, order=0.3),
            partial(categorical_renyi, order=1.001),
            partial(categorical_renyi, order=3.0),
            categorical_total_variation,
        ):
            assert torch.autograd.gradcheck(
                lambda p, q, formula=formula: formula(p.log_softmax(-1), q.log_softmax(-1)), inputs
            )


def with_50_digits(
    formula: Callable[[list[Decimal], list[Decimal]], Decimal], p: Tensor, q: Tensor
) -> float:
    """Return a formula of the probabilities that these logarithms stand for, divided by sums."""
    with localcontext() as context:
        context.prec = 50
        rows = [[Decimal(x).exp() for x in log.tolist()] for log in (p, q)]
        return float(formula(*([x / sum(row) for x in row] for row in rows)))


def precise_jensen_shannon(p: list[Decimal], q: list[Decimal]) -> Decimal:
    terms = [
        a * (2 * a / (a + b)).ln() + b * (2 * b / (a + b)).ln() for a, b in zip(p, q, strict=True)
    ]
    return sum(terms, Decimal(0)) / 2


def precise_renyi(p: list[Decimal], q: list[Decimal], order: Decimal) -> Decimal:
    total = sum((a**order * b ** (1 - order) for a, b in zip(p, q, strict=True)), Decimal(0))
    return total.ln() / (order - 1)


@pytest.mark.parametrize("step", [1e-6, 1e-3, 0.3, 3.0])
def test_nearly_equal_categoricals_keep_their_digits(step: float) -> None:
    """Of a divergence of 1e-12 a formula with a term of 1 in it would have four digits."""
    logits = vector(0.3, -1.0, 0.5, 2.0)
    log_p = logits.log_softmax(-1)
    log_q = (logits + step * vector(1.0, -1.0, 0.5, 0.0)).log_softmax(-1)
    expected = with_50_digits(precise_jensen_shannon, log_p, log_q)
    js = float(categorical_jensen_shannon(log_p, log_q))
    assert js == pytest.approx(expected, rel=1e-8, abs=0)
    for order in (0.01, 0.5, 1 - 1e-9, 1 + 1e-9, 2.0, 7.0):
        precise = partial(precise_renyi, order=Decimal(order))
        expected = with_50_digits(precise, log_p, log_q)
        renyi = float(categorical_renyi(log_p, log_q, order))
        assert renyi == pytest.approx(expected, rel=1e-7, abs=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_jensen_shannon_and_renyi_of_a_distribution_from_itself_are_exactly_zero(
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = 4 * torch.randn(1000, 6, generator=generator, dtype=dtype)
    log_p = numbers.log_softmax(-1)
    assert categorical_jensen_shannon(log_p, log_p.clone()).eq(0).all()
    mean, log_std = numbers.chunk(2, -1)
    gaussians = (mean, log_std, mean.clone(), log_std.clone())
    for order in (0.1, 0.5, 0.999, 2.0, 10.0):
        assert categorical_renyi(log_p, log_p.clone(), order).eq(0).all()
        assert diagonal_gaussian_renyi(*gaussians, order).eq(0).all()
    assert diagonal_gaussian_total_variation(*gaussians).eq(0).all()


@pytest.mark.parametrize(("dtype", "step"), [(torch.float32, 1e-7), (torch.float64, 1e-15)])
def test_rounding_makes_no_divergence_of_nearly_equal_distributions_negative(
    dtype: torch.dtype, step: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    near, change = torch.randn(2, 20_000, 6, generator=generator).to(dtype)
    log_p, log_q = near.log_softmax(-1), (near + step * change).log_softmax(-1)
    mean, log_std = near.chunk(2, -1)
    assert categorical_renyi(log_p, log_q, 0.3).min() >= 0
    assert categorical_jensen_shannon(log_p, log_q).min() >= 0
    renyi = diagonal_gaussian_renyi(mean, log_std, mean, log_std + step * change[:, :3], 0.3)
    assert renyi.min() >= 0


@given(st.floats(-100, 100))
def test_the_share_of_jensen_shannon_is_ln_2_less_the_entropy_of_a_bit(log_ratio: float) -> None:
    with localcontext() as context:
        context.prec = 120
        p = 1 / (1 + (-Decimal(log_ratio)).exp())
        share = p * (2 * p).ln() + (1 - p) * (2 * (1 - p)).ln()
    actual = jensen_shannon_share(vector(log_ratio, -log_ratio))
    assert actual.tolist() == pytest.approx([float(share)] * 2, rel=1e-12, abs=1e-30)


def test_the_share_of_jensen_shannon_at_its_ends() -> None:
    for dtype in (torch.float32, torch.float64):
        ends = torch.tensor([0.0, math.inf, -math.inf], dtype=dtype)
        assert jensen_shannon_share(ends).tolist() == pytest.approx([0, math.log(2), math.log(2)])


def test_renyi_divergence_of_nearly_disjoint_distributions() -> None:
    # Σ √(pq) = 2 e^-50, whose distance from 1 is 1 to rounding.
    log_p, log_q = vector(0.0, -100.0), vector(-100.0, 0.0)
    renyi = float(categorical_renyi(log_p, log_q, 0.5))
    assert renyi == pytest.approx(100 - 2 * math.log(2), rel=1e-12)


def test_renyi_divergence_of_a_high_order_does_not_overflow() -> None:
    # The second term is (1e-200)^5 · (1e-300)^-4 = 1e200, and the ratio alone to the 4th 1e400.
    renyi = categorical_renyi(log_of(1.0, 1e-200), log_of(1.0, 1e-300), 5.0)
    assert float(renyi) == pytest.approx(200 * math.log(10) / 4, rel=1e-12)


def test_renyi_divergence_reaches_beyond_what_a_probability_can_hold() -> None:
    # q is e^-1000, which is 0 in float64 and has a logarithm all the same: ¼ e^1000 is averaged.
    log_p = log_of(0.5, 0.5).requires_grad_()
    renyi = categorical_renyi(log_p, vector(0.0, -1000.0), 2.0)
    assert float(renyi.detach()) == pytest.approx(1000 - math.log(4), rel=1e-12)
    assert torch.autograd.grad(renyi, log_p)[0].tolist() == pytest.approx([0, 2])
    assert float(categorical_renyi(vector(0.0, -1000.0), log_of(0.5, 0.5), 2.0)) == pytest.approx(
        math.log(2), rel=1e-12
    )


def test_renyi_divergence_counts_a_probability_that_underflows_as_zero() -> None:
    for order in (0.5, 2.0):
        renyi = categorical_renyi(vector(0.0, -1000.0), log_of(1.0, 0.0), order)
        assert float(renyi) == 0


@pytest.mark.parametrize(
    ("p", "q", "distance"),
    [
        ((0.9, 0.1), (0.5, 0.5), 0.4),
        ((0.5, 0.5), (0.5, 0.5), 0.0),
        ((1.0, 0.0, 0.0), (0.0, 0.3, 0.7), 1.0),
        ((0.2, 0.3, 0.5), (0.5, 0.5, 0.0), 0.5),
    ],
)
def test_total_variation_of_categoricals_has_the_known_values(
    p: tuple[float, ...], q: tuple[float, ...], distance: float
) -> None:
    tv = float(categorical_total_variation(log_of(*p), log_of(*q)))
    assert tv == pytest.approx(distance, abs=1e-15)


# Means and standard deviations of two Gaussians in one dimension.
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
def test_renyi_divergence_of_gaussians_agrees_with_quadrature(
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
def test_renyi_divergence_of_gaussians_tends_to_kl(
    gaussians: tuple[float, float, float, float],
) -> None:
    arguments = one_dimension(*gaussians)
    kl = float(diagonal_gaussian_kl(*arguments))
    for order in (1 - 1e-9, 1 + 1e-9):
        assert float(diagonal_gaussian_renyi(*arguments, order)) == pytest.approx(kl, rel=1e-6)


def test_renyi_divergence_of_gaussians_is_infinite_where_the_wide_tail_wins() -> None:
    # The integral of p² / q exists as long as 1/σ_q² < 2/σ_p².
    wide, narrow = one_dimension(0.0, 1.5, 0.0, 1.0), one_dimension(0.0, 1.4, 0.0, 1.0)
    assert diagonal_gaussian_renyi(*wide, 2.0) == math.inf
    assert diagonal_gaussian_renyi(*narrow, 2.0).isfinite()
    two = (torch.zeros(2), vector(1.5, 1.0).log(), torch.zeros(2), torch.zeros(2))
    assert diagonal_gaussian_renyi(*two, 2.0) == math.inf
    log_std = vector(1.5).log().requires_grad_()
    renyi = diagonal_gaussian_renyi(ZERO, log_std, ZERO, ZERO, 2.0)
    assert not torch.autograd.grad(renyi, log_std)[0].isnan().any()


def test_renyi_divergence_of_nearly_equal_gaussians_does_not_cancel() -> None:
    # α δ² for log standard deviations that differ by δ.
    renyi = diagonal_gaussian_renyi(ZERO, ZERO + 1e-8, ZERO, ZERO, 0.3)
    assert float(renyi) == pytest.approx(3e-17, rel=1e-3, abs=0)


@pytest.mark.parametrize("order", [-1.0, 0.0, 1.0, math.inf, math.nan])
def test_renyi_divergence_of_gaussians_refuses_the_same_orders(order: float) -> None:
    with pytest.raises(ValueError, match="order"):
        diagonal_gaussian_renyi(ZERO, ZERO, ZERO, ZERO, order)


@pytest.mark.parametrize("gaussians", GAUSSIANS)
def test_total_variation_of_gaussians_agrees_with_quadrature(
    gaussians: tuple[float, float, float, float],
) -> None:
    mean_p, std_p, mean_q, std_q = gaussians

    def integrand(x: float) -> float:
        return abs(
            math.exp(log_density(x, mean_p, std_p)) - math.exp(log_density(x, mean_q, std_q))
        )

    expected = 0.5 * integral(integrand, mean_p, mean_q)
    p, q = one_dimension(*gaussians)[:2], one_dimension(*gaussians)[2:]
    there, back = (float(diagonal_gaussian_total_variation(*pair)) for pair in ((*p, *q), (*q, *p)))
    assert there == pytest.approx(expected, abs=1e-7)
    assert back == pytest.approx(there, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("mean", [-1.0, 1.0])
@pytest.mark.parametrize("log_std", [-1e-15, 1e-15])
def test_total_variation_of_gaussians_of_nearly_equal_deviations(
    mean: float, log_std: float
) -> None:
    # One of the crossings is at ½ and the other beyond all bounds.
    tv = diagonal_gaussian_total_variation(ZERO, ZERO, vector(mean), vector(log_std))
    assert float(tv) == pytest.approx(math.erf(0.5 / math.sqrt(2)), rel=1e-12)


def test_total_variation_of_gaussians_of_equal_deviations_in_two_dimensions() -> None:
    x = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    p = Normal(0.5, 1.0).log_prob(x).exp()[:, None] * Normal(-1.0, 2.0).log_prob(x).exp()
    q = Normal(-0.3, 1.0).log_prob(x).exp()[:, None] * Normal(0.5, 2.0).log_prob(x).exp()
    expected = 0.5 * torch.trapezoid(torch.trapezoid((p - q).abs(), x), x)
    log_std = vector(1.0, 2.0).log()
    tv = diagonal_gaussian_total_variation(vector(0.5, -1), log_std, vector(-0.3, 0.5), log_std)
    assert float(tv) == pytest.approx(float(expected), abs=1e-4)


def test_gradients_of_the_total_variation_of_gaussians() -> None:
    arguments = torch.tensor([[0.5, 0.1, -0.3, 0.4], [0.5, 0.1, -0.3, 0.1]]).double().T
    inputs = tuple(arguments.unsqueeze(-1).requires_grad_().unbind())
    values = diagonal_gaussian_total_variation(*(x[:1] for x in inputs))
    assert values.shape == (1,)
    assert torch.autograd.gradcheck(
        lambda *x: diagonal_gaussian_total_variation(*(y[:1] for y in x)), inputs
    )
    # Row 2 has equal deviations, where the slopes by the means are those of one formula ...
    means = (inputs[0], inputs[2])
    slopes = torch.autograd.grad(diagonal_gaussian_total_variation(*inputs)[1], means)
    expected = float(norm.pdf(0.4 / math.exp(0.1)) / math.exp(0.1))
    assert [float(s[1]) for s in slopes] == pytest.approx([expected, -expected])
    # ... and for equal Gaussians there is none, so 0 stands for it.
    zeros = torch.zeros(4, 1, 1, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(diagonal_gaussian_total_variation(*zeros.unbind()), zeros)
    assert gradient.eq(0).all()


GRID = torch.linspace(-40, 40, 8001, dtype=torch.float64)
LOG_TARGET = torch.logaddexp(
    Normal(-3.0, 1.0).log_prob(GRID), Normal(3.0, 1.0).log_prob(GRID)
) - math.log(2)


def fitted(mean: float, log_std: float) -> DiagonalGaussian:
    return DiagonalGaussian(vector(mean, log_std).expand(len(GRID), 2))


def forward_kl(x: tuple[float, float]) -> float:
    log_q = fitted(*x).log_prob(GRID.unsqueeze(-1))
    return float(torch.trapezoid(LOG_TARGET.exp() * (LOG_TARGET - log_q), GRID))


def reverse_kl(x: tuple[float, float]) -> float:
    log_q = fitted(*x).log_prob(GRID.unsqueeze(-1))
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


def test_reverse_kl_started_between_the_modes_stays_there() -> None:
    found = minimize(reverse_kl, (0.0, 1.0))
    assert found.x == pytest.approx([0, math.log(2.74)], abs=2e-3)
    assert found.fun == pytest.approx(0.841, abs=5e-4)


def test_bias_and_spread_of_the_estimators_at_kl_one_half() -> None:
    old, new = fitted(0.0, 0.0), fitted(1.0, 0.0)
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


def test_estimators_have_the_known_values_at_a_ratio_of_2() -> None:
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


def test_k3_of_a_ratio_near_1_does_not_cancel() -> None:
    _, _, k3 = kl_estimates(vector(1e-6))
    assert float(k3) == pytest.approx(5e-13, rel=1e-3, abs=0)


@given(THREE_NUMBERS, THREE_NUMBERS)
def test_divergences_return_one_value_for_each_state(p: list[float], q: list[float]) -> None:
    both = torch.stack((vector(*p).log_softmax(-1), vector(*q).log_softmax(-1)))
    together = categorical_kl(both, both.flip(0))
    apart = [categorical_kl(both[0], both[1]), categorical_kl(both[1], both[0])]
    assert together.tolist() == pytest.approx([float(kl) for kl in apart], rel=1e-12, abs=1e-15)
