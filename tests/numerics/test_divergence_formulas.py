"""Divergences of categoricals against literal numbers, SciPy and exact arithmetic."""

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor

from rlkl.numerics.divergence_formulas import (
    categorical_entropy,
    categorical_jensen_shannon,
    categorical_kl,
    categorical_renyi,
    categorical_total_variation,
    diagonal_gaussian_kl,
    diagonal_gaussian_renyi,
    diagonal_gaussian_total_variation,
    jensen_shannon_share,
)

FOUR_LOGITS = st.lists(st.floats(-8, 8), min_size=4, max_size=4)
THREE_NUMBERS = st.lists(st.floats(-3, 3), min_size=3, max_size=3)


def log_of(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


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
def test_categorical_kl_has_known_values(
    p: tuple[float, ...], q: tuple[float, ...], nats: float
) -> None:
    assert float(categorical_kl(log_of(*p), log_of(*q))) == pytest.approx(nats, abs=5e-5)


@given(FOUR_LOGITS, FOUR_LOGITS)
def test_categorical_kl_agrees_with_scipy(p_logits: list[float], q_logits: list[float]) -> None:
    log_p, log_q = vector(*p_logits).log_softmax(-1), vector(*q_logits).log_softmax(-1)
    kl = float(categorical_kl(log_p, log_q))
    assert kl >= -1e-15
    assert kl == pytest.approx(entropy(softmax(p_logits), softmax(q_logits)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_from_itself_is_exactly_zero(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = 4 * torch.randn(1000, 6, generator=generator, dtype=dtype)
    log_p = numbers.log_softmax(-1)
    mean, log_std = numbers.chunk(2, -1)
    assert categorical_kl(log_p, log_p.clone()).eq(0).all()
    assert diagonal_gaussian_kl(mean, log_std, mean.clone(), log_std.clone()).eq(0).all()


def test_logarithm_has_no_epsilon() -> None:
    kl = categorical_kl(log_of(0.5, 0.5), log_of(1.0, 1e-300))
    assert float(kl) == pytest.approx(entropy([0.5, 0.5], [1.0, 1e-300]), rel=1e-12)


def test_kl_counts_underflowing_p_as_zero() -> None:
    # exp(-1000) is 0 in float64, and 0 · log(0 / q) = 0 for every q.
    log_p = vector(0.0, -1000.0).requires_grad_()
    kl = categorical_kl(log_p, log_of(1.0, 0.0))
    (gradient,) = torch.autograd.grad(kl, log_p)
    assert float(kl.detach()) == 0
    assert gradient.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ((0.5, 0.5, 0.0), (0.9, 0.1, 0.0)),
        ((0.5, 0.5, 0.0), (0.2, 0.3, 0.5)),
        ((0.2, 0.3, 0.5), (0.5, 0.5, 0.0)),
        ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    ],
)
def test_kl_and_entropy_gradients_are_never_nan(p: tuple[float, ...], q: tuple[float, ...]) -> None:
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
def test_gradients_of_masked_logits_are_zero(
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


def test_infinite_kl_has_finite_gradient() -> None:
    new = vector(0.0, -math.inf).requires_grad_()
    kl = categorical_kl(log_of(0.5, 0.5), new.log_softmax(-1))
    assert kl == math.inf
    assert torch.autograd.grad(kl, new)[0].isfinite().all()


def test_kl_violates_the_triangle_inequality() -> None:
    a, b, c = (log_of(p, 1 - p) for p in (0.5, 0.25, 0.1))
    assert float(categorical_kl(a, c)) == pytest.approx(0.5108, abs=5e-5)
    via_b = float(categorical_kl(a, b) + categorical_kl(b, c))
    assert via_b == pytest.approx(0.2362, abs=5e-5)


@pytest.mark.parametrize(
    ("p", "nats"),
    [((1.0, 0.0), 0.0), ((0.25,) * 4, math.log(4)), ((0.5, 0.5, 0.0), math.log(2))],
)
def test_categorical_entropy_has_known_values(p: tuple[float, ...], nats: float) -> None:
    assert float(categorical_entropy(log_of(*p))) == pytest.approx(nats, abs=1e-15)


@given(FOUR_LOGITS, FOUR_LOGITS)
def test_jensen_shannon_formula_agrees_with_scipy(
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
def test_root_of_jensen_shannon_obeys_triangle_inequality(
    p_logits: list[float], q_logits: list[float], r_logits: list[float]
) -> None:
    p, q, r = (vector(*logits).log_softmax(-1) for logits in (p_logits, q_logits, r_logits))
    pq, qr, pr = (
        categorical_jensen_shannon(*pair).clamp(min=0).sqrt() for pair in ((p, q), (q, r), (p, r))
    )
    assert pr <= pq + qr + 1e-7


@pytest.mark.parametrize("order", [0.3, 0.5, 1.5, 2.0, 20.0])
@pytest.mark.parametrize(
    ("p", "q"), [((1.0, 0.0), (0.0, 1.0)), ((0.5, 0.5), (1.0, 0.0)), ((0.5, 0.5, 0.0),) * 2]
)
def test_renyi_and_jensen_shannon_gradients_are_never_nan(
    p: tuple[float, ...], q: tuple[float, ...], order: float
) -> None:
    for divergence in (partial(categorical_renyi, order=order), categorical_jensen_shannon):
        log_p, log_q = log_of(*p).requires_grad_(), log_of(*q).requires_grad_()
        divergence(log_p, log_q).backward()
        assert log_p.grad is not None
        assert log_q.grad is not None
        assert not log_p.grad.isnan().any()
        assert not log_q.grad.isnan().any()


def test_categorical_gradients_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    # Log-ratios below and above 1, for which the formulas differ.
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
    """Return a formula of the normalized probabilities exp(p) and exp(q)."""
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
def test_divergences_of_nearly_equal_categoricals_are_accurate(step: float) -> None:
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
def test_divergences_from_itself_are_exactly_zero(
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
def test_rounding_makes_no_divergence_negative(dtype: torch.dtype, step: float) -> None:
    generator = torch.Generator().manual_seed(0)
    near, change = torch.randn(2, 20_000, 6, generator=generator).to(dtype)
    log_p, log_q = near.log_softmax(-1), (near + step * change).log_softmax(-1)
    mean, log_std = near.chunk(2, -1)
    assert categorical_renyi(log_p, log_q, 0.3).min() >= 0
    assert categorical_jensen_shannon(log_p, log_q).min() >= 0
    renyi = diagonal_gaussian_renyi(mean, log_std, mean, log_std + step * change[:, :3], 0.3)
    assert renyi.min() >= 0


@given(st.floats(-100, 100))
def test_jensen_shannon_share_agrees_with_exact_arithmetic(log_ratio: float) -> None:
    with localcontext() as context:
        context.prec = 120
        p = 1 / (1 + (-Decimal(log_ratio)).exp())
        share = p * (2 * p).ln() + (1 - p) * (2 * (1 - p)).ln()
    actual = jensen_shannon_share(vector(log_ratio, -log_ratio))
    assert actual.tolist() == pytest.approx([float(share)] * 2, rel=1e-12, abs=1e-30)


def test_jensen_shannon_share_at_its_limits() -> None:
    for dtype in (torch.float32, torch.float64):
        ends = torch.tensor([0.0, math.inf, -math.inf], dtype=dtype)
        assert jensen_shannon_share(ends).tolist() == pytest.approx([0, math.log(2), math.log(2)])


@pytest.mark.parametrize(
    ("p", "q", "distance"),
    [
        ((0.9, 0.1), (0.5, 0.5), 0.4),
        ((0.5, 0.5), (0.5, 0.5), 0.0),
        ((1.0, 0.0, 0.0), (0.0, 0.3, 0.7), 1.0),
        ((0.2, 0.3, 0.5), (0.5, 0.5, 0.0), 0.5),
    ],
)
def test_categorical_total_variation_has_known_values(
    p: tuple[float, ...], q: tuple[float, ...], distance: float
) -> None:
    tv = float(categorical_total_variation(log_of(*p), log_of(*q)))
    assert tv == pytest.approx(distance, abs=1e-15)


@given(THREE_NUMBERS, THREE_NUMBERS)
def test_kl_returns_one_value_per_state(p: list[float], q: list[float]) -> None:
    both = torch.stack((vector(*p).log_softmax(-1), vector(*q).log_softmax(-1)))
    together = categorical_kl(both, both.flip(0))
    apart = [categorical_kl(both[0], both[1]), categorical_kl(both[1], both[0])]
    assert together.tolist() == pytest.approx([float(kl) for kl in apart], rel=1e-12, abs=1e-15)
