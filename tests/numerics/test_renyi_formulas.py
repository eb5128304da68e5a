"""Rényi divergence of categoricals against literal numbers and its limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlkl.numerics.divergence_formulas import (
    categorical_kl,
    categorical_renyi,
)

FOUR_LOGITS = st.lists(st.floats(-8, 8), min_size=4, max_size=4)


def log_of(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_renyi_tends_to_kl_at_order_one() -> None:
    log_p, log_q = log_of(0.9, 0.1), log_of(0.5, 0.5)
    kl = float(categorical_kl(log_p, log_q))
    for side in (-1, 1):
        far, near = (
            float(categorical_renyi(log_p, log_q, 1 + side * step)) - kl for step in (1e-3, 1e-4)
        )
        assert far / near == pytest.approx(10, rel=0.01)
        assert near * side > 0


def test_renyi_has_known_values() -> None:
    log_p, log_q = log_of(0.9, 0.1), log_of(0.5, 0.5)
    assert float(categorical_renyi(log_p, log_q, 2.0)) == pytest.approx(math.log(1.64), rel=1e-12)
    coefficient = math.sqrt(0.45) + math.sqrt(0.05)
    half = float(categorical_renyi(log_p, log_q, 0.5))
    assert half == pytest.approx(-2 * math.log(coefficient), rel=1e-12)


def test_renyi_where_support_is_lost() -> None:
    half, one_sure = log_of(0.5, 0.5), log_of(1.0, 0.0)
    assert categorical_renyi(half, one_sure, 2.0) == math.inf
    assert float(categorical_renyi(half, one_sure, 0.5)) == pytest.approx(math.log(2))
    assert float(categorical_renyi(one_sure, half, 2.0)) == pytest.approx(math.log(2))
    assert categorical_renyi(one_sure, log_of(0.0, 1.0), 0.5) == math.inf


@given(FOUR_LOGITS, FOUR_LOGITS, st.floats(0.1, 0.9), st.floats(1.1, 5))
def test_renyi_grows_with_order(
    p_logits: list[float], q_logits: list[float], low: float, high: float
) -> None:
    log_p, log_q = vector(*p_logits).log_softmax(-1), vector(*q_logits).log_softmax(-1)
    below, above = (float(categorical_renyi(log_p, log_q, order)) for order in (low, high))
    assert -1e-9 <= below <= float(categorical_kl(log_p, log_q)) + 1e-9 <= above + 2e-9


@pytest.mark.parametrize("order", [-1.0, 0.0, 1.0, math.nan])
def test_renyi_rejects_invalid_orders(order: float) -> None:
    with pytest.raises(ValueError, match="order"):
        categorical_renyi(log_of(0.5, 0.5), log_of(0.5, 0.5), order)


def test_renyi_of_nearly_disjoint_distributions() -> None:
    # Σ √(pq) = 2 e^-50.
    log_p, log_q = vector(0.0, -100.0), vector(-100.0, 0.0)
    renyi = float(categorical_renyi(log_p, log_q, 0.5))
    assert renyi == pytest.approx(100 - 2 * math.log(2), rel=1e-12)


def test_renyi_of_high_order_does_not_overflow() -> None:
    # The second term is (1e-200)^5 · (1e-300)^-4 = 1e200, but (p/q)^4 would be 1e400.
    renyi = categorical_renyi(log_of(1.0, 1e-200), log_of(1.0, 1e-300), 5.0)
    assert float(renyi) == pytest.approx(200 * math.log(10) / 4, rel=1e-12)


def test_renyi_handles_underflowing_probabilities() -> None:
    # q = e^-1000 is 0 in float64, but its logarithm is finite.
    log_p = log_of(0.5, 0.5).requires_grad_()
    renyi = categorical_renyi(log_p, vector(0.0, -1000.0), 2.0)
    assert float(renyi.detach()) == pytest.approx(1000 - math.log(4), rel=1e-12)
    assert torch.autograd.grad(renyi, log_p)[0].tolist() == pytest.approx([0, 2])
    assert float(categorical_renyi(vector(0.0, -1000.0), log_of(0.5, 0.5), 2.0)) == pytest.approx(
        math.log(2), rel=1e-12
    )


def test_renyi_counts_underflowing_p_as_zero() -> None:
    for order in (0.5, 2.0):
        renyi = categorical_renyi(vector(0.0, -1000.0), log_of(1.0, 0.0), order)
        assert float(renyi) == 0
