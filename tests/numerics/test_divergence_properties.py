"""Properties and identities of divergences, for random distributions."""

import math
from functools import partial

import pytest
import torch
from action_families import (
    ALL,
)
from divergence_pairs import divergence, random_pair
from hypothesis import given
from hypothesis import strategies as st

from rlkl.divergences import (
    NAMES,
    NoClosedFormError,
    alpha,
    from_probabilities,
    jensen_shannon,
    jensen_shannon_distance,
    kl,
    renyi,
    total_variation,
)
from rlkl.numerics.distributions import (
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
)

LOGITS = st.lists(st.floats(-8, 8), min_size=4, max_size=4)
PAIR = st.tuples(LOGITS, LOGITS)
ORDERS = st.floats(-3, 4)


def categoricals(*rows: list[float]) -> list[Categorical]:
    return [Categorical(torch.tensor([row], dtype=torch.float64)) for row in rows]


MERGE = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).double()


@given(PAIR, ORDERS)
def test_divergences_respect_their_bounds(
    pair: tuple[list[float], list[float]], order: float
) -> None:
    p, q = categoricals(*pair)
    assert kl(p, q) >= -1e-15
    assert alpha(p, q, order) >= 0
    if order > 0:
        assert renyi(p, q, order) >= 0
    js, tv = float(jensen_shannon(p, q)), float(total_variation(p, q))
    assert 0 <= js <= math.log(2)
    assert 0 <= tv <= 1 + 1e-15
    assert tv <= math.sqrt(max(float(kl(p, q)), 0) / 2) + 1e-8  # Pinsker
    assert js <= tv * math.log(2) + 1e-15  # Lin 1991, theorem 3
    assert jensen_shannon_distance(p, q) == pytest.approx(math.sqrt(js))
    assert float(jensen_shannon(q, p)) == js


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@ALL
def test_divergences_are_zero_only_for_equal_distributions(family: str, dtype: torch.dtype) -> None:
    p, q = (d.at(d.parameters.to(dtype)) for d in random_pair(family))
    again = p.at(p.parameters.clone())
    for name in NAMES:
        if name == "cross_entropy":
            continue
        for order in (0.3, 1.0, 3.0):
            try:
                same, other = divergence(name, p, again, order), divergence(name, p, q, order)
            except NoClosedFormError:
                continue
            assert same.eq(0).all(), name
            assert other.gt(0).all(), name
            assert same.dtype == other.dtype == dtype


@given(LOGITS, LOGITS, LOGITS)
def test_jensen_shannon_distance_and_total_variation_are_metrics(
    a: list[float], b: list[float], c: list[float]
) -> None:
    p, q, r = categoricals(a, b, c)
    for metric in (jensen_shannon_distance, total_variation):
        assert metric(p, r) <= metric(p, q) + metric(q, r) + 1e-12
        assert metric(p, q) == metric(q, p)


@given(PAIR)
def test_alpha_and_renyi_tend_to_kl(pair: tuple[list[float], list[float]]) -> None:
    p, q = categoricals(*pair)
    forward, reverse = (pytest.approx(float(x), rel=1e-5, abs=1e-12) for x in (kl(p, q), kl(q, p)))
    for step in (-1e-7, 1e-7):
        assert float(alpha(p, q, 1 + step)) == forward
        assert float(renyi(p, q, 1 + step)) == forward
        assert float(alpha(p, q, step)) == reverse
    assert alpha(p, q, 1.0) == renyi(p, q, 1.0) == kl(p, q)
    assert alpha(p, q, 0.0) == kl(q, p)


@given(PAIR, ORDERS)
def test_identities_of_alpha_and_renyi(pair: tuple[list[float], list[float]], order: float) -> None:
    p, q = categoricals(*pair)
    a, b = p.log_probabilities.exp(), q.log_probabilities.exp()
    hellinger = float(2 * (a.sqrt() - b.sqrt()).square().sum())
    assert float(alpha(p, q, 0.5)) == pytest.approx(hellinger, rel=1e-6, abs=1e-12)
    bhattacharyya = -math.log(float((a * b).sqrt().sum()))
    assert float(renyi(p, q, 0.5)) == pytest.approx(2 * bhattacharyya, rel=1e-6, abs=1e-12)
    chi_square = float(((a - b).square() / b).sum())
    assert float(alpha(p, q, 2.0)) == pytest.approx(chi_square / 2, rel=1e-6, abs=1e-12)
    mirrored = float(alpha(q, p, 1 - order))
    assert float(alpha(p, q, order)) == pytest.approx(mirrored, rel=1e-6, abs=1e-12)
    if 0 < order < 1:  # skew symmetry, van Erven 2014, proposition 2
        other = order / (1 - order) * float(renyi(q, p, 1 - order))
        assert float(renyi(p, q, order)) == pytest.approx(other, rel=1e-6, abs=1e-12)


@given(PAIR, st.floats(0.05, 3), st.floats(1.01, 3))
def test_renyi_never_decreases_with_order(
    pair: tuple[list[float], list[float]], order: float, factor: float
) -> None:
    p, q = categoricals(*pair)
    assert renyi(p, q, order) <= renyi(p, q, factor * order) + 1e-12


@given(PAIR, st.permutations(range(4)), ORDERS)
def test_divergences_obey_the_data_processing_inequality(
    pair: tuple[list[float], list[float]], places: list[int], order: float
) -> None:
    """Permuting the actions keeps a divergence, and merging actions does not increase it."""
    p, q = categoricals(*pair)
    permuted = categoricals(*([logits[i] for i in places] for logits in pair))
    merged = [from_probabilities(d.log_probabilities.exp() @ MERGE) for d in (p, q)]
    for name in NAMES:
        if name == "renyi" and order <= 0:
            continue
        value = float(divergence(name, p, q, order))
        if name != "cross_entropy":
            assert float(divergence(name, *merged, order)) <= value * (1 + 1e-9) + 1e-12, name
        assert float(divergence(name, *permuted, order)) == pytest.approx(
            value, rel=1e-9, abs=1e-12
        )


@given(PAIR, PAIR, st.floats(0.1, 3))
def test_independent_choices_are_additive(
    first: tuple[list[float], list[float]], second: tuple[list[float], list[float]], order: float
) -> None:
    p, q = categoricals(*first)
    r, s = categoricals(*second)
    both = [
        MultiCategorical(torch.cat((a.parameters, b.parameters), -1), (4, 4))
        for a, b in ((p, r), (q, s))
    ]
    near = partial(pytest.approx, rel=1e-9, abs=1e-12)
    assert float(kl(*both)) == near(float(kl(p, q) + kl(r, s)))
    assert float(renyi(*both, order)) == near(float(renyi(p, q, order) + renyi(r, s, order)))
    one, two = total_variation(p, q), total_variation(r, s)
    tv = float(total_variation(*both))
    assert max(float(one), float(two)) - 1e-12 <= tv <= float(one + two) + 1e-12


@given(st.lists(st.floats(-2, 2), min_size=12, max_size=12))
def test_pinsker_inequality_holds_for_gaussians(numbers: list[float]) -> None:
    rows = torch.tensor(numbers, dtype=torch.float64).reshape(2, 3, 2)
    p, q = map(DiagonalGaussian, rows)
    assert (total_variation(p, q) <= (kl(p, q) / 2).sqrt() + 1e-9).all()
    assert (alpha(p, q, 0.5) >= 0).all()
    assert (total_variation(p, q) <= alpha(p, q, 0.5).sqrt() + 1e-9).all()  # Le Cam


@pytest.mark.parametrize("order", [1e-12, 1e-100, 1e-300])
def test_alpha_near_order_zero(order: float) -> None:
    # p = (½, ½, 0), q = (0, ½, ½): ∫ p^α q^(1-α) = ½ for every α within (0, 1).
    p, q = from_probabilities([[0.5, 0.5, 0.0]]), from_probabilities([[0.0, 0.5, 0.5]])
    assert float(alpha(p, q, order)) == pytest.approx(0.5 / order / (1 - order), rel=1e-14)
    # Without lost support it tends to KL(q ‖ p).
    p, q = from_probabilities([[0.9, 0.1]]), from_probabilities([[0.5, 0.5]])
    assert float(alpha(p, q, order)) == pytest.approx(float(kl(q, p)), rel=1e-9)
    assert float(renyi(p, q, order)) == pytest.approx(order * float(kl(q, p)), rel=1e-9)
