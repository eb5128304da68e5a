"""Divergences of action distributions against enumeration, quadrature, identities and samples."""

import math
import re
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from torch import Generator, Tensor
from torch.distributions import Independent, Normal, TransformedDistribution, kl_divergence
from torch.distributions.transforms import TanhTransform

from rlkl.numerics import divergences
from rlkl.numerics.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
)
from rlkl.numerics.divergences import (
    JOINT_LIMIT,
    NAMES,
    NoClosedFormError,
    alpha,
    compare,
    cross_entropy,
    entropy,
    estimate,
    estimate_entropy,
    from_probabilities,
    jeffreys,
    jensen_shannon,
    jensen_shannon_distance,
    kl,
    renyi,
    total_variation,
)

Make = Callable[[Tensor], Distribution]

UNEQUAL = partial(MultiCategorical, sizes=(1, 3, 2))
# Every family takes 6 parameters here, and the finite ones a mask.
FAMILIES: dict[str, Make] = {
    "categorical": Categorical,
    "multi": UNEQUAL,
    "bernoulli": Bernoulli,
    "gaussian": DiagonalGaussian,
    "tanh": TanhGaussian,
}
SIZES = {"categorical": [6], "multi": [1, 3, 2], "bernoulli": [2] * 6}
MASKS = {
    "categorical": "101011",
    "multi": "110101",
    "bernoulli": "111001111101",
}
ALL = pytest.mark.parametrize("family", FAMILIES)
FINITE = pytest.mark.parametrize("family", SIZES)
CONTINUOUS = pytest.mark.parametrize("make", [DiagonalGaussian, TanhGaussian])

LOGITS = st.lists(st.floats(-8, 8), min_size=4, max_size=4)
PAIR = st.tuples(LOGITS, LOGITS)
ORDERS = st.floats(-3, 4)
ORDERED = ("renyi", "alpha")


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def random_pair(family: str, rows: int = 4, scale: float = 1.0) -> tuple[Distribution, ...]:
    shape = (2, rows, 6)
    parameters = scale * torch.randn(shape, generator=seeded(3), dtype=torch.float64)
    if family in ("gaussian", "tanh"):
        parameters[..., 3:] *= 0.4
    return tuple(FAMILIES[family](p) for p in parameters)


def masked_pair(family: str) -> tuple[Distribution, ...]:
    mask = torch.tensor([[c == "1" for c in MASKS[family]]])
    return tuple(d.masked(mask) for d in random_pair(family))


def joint(distribution: Distribution, family: str) -> np.ndarray:
    """Return the probability of every joint action, `[B, joint actions]`."""
    everything = torch.tensor(list(product(*map(range, SIZES[family]))))
    actions = everything.squeeze(-1) if family == "categorical" else everything
    rows = len(distribution.parameters)
    columns = [distribution.log_prob(a.expand(rows, *a.shape)).exp() for a in actions]
    return torch.stack(columns, -1).numpy()


def categoricals(*rows: list[float]) -> list[Categorical]:
    return [Categorical(torch.tensor([row], dtype=torch.float64)) for row in rows]


def bits(*probabilities: float) -> list[Categorical]:
    return [from_probabilities([p, 1 - p]) for p in probabilities]


def formula(name: str, p: Distribution, q: Distribution, order: float = 0.5) -> Tensor:
    if name == "reverse_kl":
        return kl(q, p)
    function = getattr(divergences, name)
    return function(p, q, order) if name in ORDERED else function(p, q)


def estimated(
    name: str, p: Distribution, q: Distribution, samples: int, order: float = 0.5, seed: int = 0
) -> divergences.Divergence:
    own_order = order if name in ORDERED else None
    return estimate(name, p, q, samples, seeded(seed), own_order)


# Known values


@pytest.mark.parametrize(
    ("p", "q", "nats"),
    [
        ([0.9, 0.1], [0.5, 0.5], 0.3681),
        ([0.5, 0.5], [0.9, 0.1], 0.5108),
        ([0.99, 0.01], [0.5, 0.5], 0.6371),
        ([0.5, 0.5], [0.99, 0.01], 1.6145),
        ([0.9, 0.1], [0.1, 0.9], 1.7578),
        ([1.0, 0.0], [0.5, 0.5], 0.6931),
        ([0.5, 0.5], [1.0, 0.0], math.inf),
        ([0.5, 0.5, 0.0], [0.9, 0.1, 0.0], 0.5108),
    ],
)
def test_kl_of_plain_probabilities_has_the_known_values(
    p: list[float], q: list[float], nats: float
) -> None:
    there = kl(from_probabilities(p), from_probabilities(q))
    assert there.tolist() == pytest.approx([nats], abs=5e-5)
    back = kl(from_probabilities(q), from_probabilities(p))
    assert (
        jeffreys(from_probabilities(p), from_probabilities(q)).tolist() == (there + back).tolist()
    )


def test_all_divergences_of_disjoint_distributions() -> None:
    p, q = from_probabilities([[0.3, 0.7, 0.0]]), from_probabilities([[0.0, 0.0, 1.0]])
    values = {name: float(formula(name, p, q)) for name in NAMES}
    assert values == {
        "kl": math.inf,
        "reverse_kl": math.inf,
        "jeffreys": math.inf,
        "jensen_shannon": pytest.approx(math.log(2), rel=1e-12),
        "jensen_shannon_distance": pytest.approx(math.sqrt(math.log(2)), rel=1e-12),
        "renyi": math.inf,
        "alpha": pytest.approx(4.0),
        "total_variation": pytest.approx(1.0),
        "cross_entropy": math.inf,
    }
    assert alpha(p, q, 2.0) == alpha(p, q, -1.0) == math.inf


def test_alpha_divergences_have_the_values_worked_out_by_hand() -> None:
    p, q = bits(0.9, 0.5)
    # χ² is (0.4² + 0.4²) / 0.5 = 0.64 one way and 0.16 / 0.9 + 0.16 / 0.1 the other.
    assert float(alpha(p, q, 2.0)) == pytest.approx(0.32, rel=1e-12)
    assert float(alpha(p, q, -1.0)) == pytest.approx((0.16 / 0.9 + 1.6) / 2, rel=1e-12)
    overlap = math.sqrt(0.45) + math.sqrt(0.05)
    assert float(alpha(p, q, 0.5)) == pytest.approx(4 * (1 - overlap), rel=1e-12)
    assert float(alpha(p, q, 1.0)) == pytest.approx(0.3681, abs=5e-5)
    assert float(alpha(p, q, 0.0)) == pytest.approx(0.5108, abs=5e-5)


def test_kl_breaks_the_triangle_inequality_and_the_jensen_shannon_distance_keeps_it() -> None:
    a, b, c = bits(0.5, 0.25, 0.1)
    assert float(kl(a, c)) == pytest.approx(0.5108, abs=5e-5)
    assert float(kl(a, b) + kl(b, c)) == pytest.approx(0.2362, abs=5e-5)
    assert jensen_shannon_distance(a, c) <= jensen_shannon_distance(a, b) + jensen_shannon_distance(
        b, c
    )


# Against enumeration


@FINITE
@pytest.mark.parametrize("masked", [False, True])
def test_divergences_of_finite_families_are_those_of_the_joint_distribution(
    family: str, masked: bool
) -> None:
    p, q = masked_pair(family) if masked else random_pair(family)
    a, b = joint(p, family), joint(q, family)
    there, back = rel_entr(a, b).sum(-1), rel_entr(b, a).sum(-1)
    a, b = (x[:, (a + b).sum(0) > 0] for x in (a, b))
    expected = {
        "kl": there,
        "reverse_kl": back,
        "jeffreys": there + back,
        "jensen_shannon": jensenshannon(a, b, axis=1) ** 2,
        "jensen_shannon_distance": jensenshannon(a, b, axis=1),
        "total_variation": 0.5 * np.abs(a - b).sum(-1),
        "cross_entropy": -(a * np.log(b)).sum(-1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(formula(name, p, q), values, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(entropy(p), -(a * np.log(a)).sum(-1), rtol=1e-9)
    for order in (-1.5, 0.2, 0.5, 0.8, 3.0):
        total = (a**order * b ** (1 - order)).sum(-1)
        wanted = (1 - total) / (order * (1 - order))
        np.testing.assert_allclose(alpha(p, q, order), wanted, rtol=1e-9)
        if order > 0:
            np.testing.assert_allclose(renyi(p, q, order), np.log(total) / (order - 1), rtol=1e-9)


@FINITE
def test_where_a_mask_takes_support_away(family: str) -> None:
    full, masked = random_pair(family)[0], masked_pair(family)[0]
    for name in ("kl", "jeffreys", "cross_entropy"):
        assert formula(name, full, masked).eq(math.inf).all()
    assert alpha(full, masked, 2.0).eq(math.inf).all()
    for name in ("jensen_shannon", "total_variation", "renyi", "alpha"):
        assert formula(name, full, masked).isfinite().all()
        assert formula(name, full, masked).gt(0).all()
    # Given that the action is allowed, KL is -log of the probability that it is.
    allowed = joint(full, family) * (joint(masked, family) > 0)
    np.testing.assert_allclose(kl(masked, full), -np.log(allowed.sum(-1)), rtol=1e-9)
    np.testing.assert_allclose(total_variation(masked, full), 1 - allowed.sum(-1), rtol=1e-9)


@FINITE
def test_masked_actions_make_no_gradient_nan(family: str) -> None:
    mask = torch.tensor([[c == "1" for c in MASKS[family]]])
    for name in NAMES:
        for order in (0.5, 2.0) if name in ORDERED else (0.5,):
            parameters = torch.randn(2, 4, 6, generator=seeded(), dtype=torch.float64)
            parameters.requires_grad_()
            p, q = (FAMILIES[family](x).masked(mask) for x in parameters)
            (gradient,) = torch.autograd.grad(formula(name, p, q, order).sum(), parameters)
            assert gradient.isfinite().all(), name
            assert gradient.abs().sum() > 0, name


def test_joint_actions_are_enumerated_up_to_the_limit() -> None:
    assert JOINT_LIMIT == 2**12
    twelve, thirteen = (
        [Bernoulli(row) for row in torch.randn(2, 1, n, generator=seeded())] for n in (12, 13)
    )
    assert 0 < float(jensen_shannon(*twelve)) < math.log(2)
    assert 0 < float(total_variation(*twelve)) < 1
    for name in ("jensen_shannon", "jensen_shannon_distance", "total_variation"):
        with pytest.raises(NoClosedFormError, match="8192 joint actions"):
            formula(name, *thirteen)
    assert {name: found.exact for name, found in compare(*thirteen, 2, seeded()).items()} == {
        name: "jensen" not in name and name != "total_variation" for name in (*NAMES, "entropy")
    }


# Against quadrature


def log_density(make: Make, parameters: Tensor, actions: Tensor) -> Tensor:
    """Return log of the density of what the environment gets, in one dimension, by torch."""
    mean, log_std = parameters.squeeze(0)
    normal = Normal(mean, log_std.exp())
    if make is DiagonalGaussian:
        return normal.log_prob(actions)
    return TransformedDistribution(normal, [TanhTransform()]).log_prob(actions)


@CONTINUOUS
def test_divergences_of_gaussians_agree_with_quadrature_before_and_after_tanh(make: Make) -> None:
    first, second = torch.tensor([[0.3, -0.6]]).double(), torch.tensor([[-0.2, -0.4]]).double()
    p, q = make(first), make(second)
    bound = 1 - 1e-7 if make is TanhGaussian else 8.0
    grid = torch.linspace(-bound, bound, 200_001, dtype=torch.float64)
    log_p, log_q = (log_density(make, row, grid) for row in (first, second))
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    a, b = log_p.exp(), log_q.exp()

    def integral(integrand: Tensor) -> float:
        return float(torch.trapezoid(integrand, grid))

    def power(order: float) -> float:
        return integral((order * log_p + (1 - order) * log_q).exp())

    expected = {
        "kl": integral(a * (log_p - log_q)),
        "reverse_kl": integral(b * (log_q - log_p)),
        "jeffreys": integral((a - b) * (log_p - log_q)),
        "total_variation": integral(0.5 * (a - b).abs()),
        "renyi": math.log(power(0.3)) / (0.3 - 1),
        "alpha": (1 - power(0.3)) / (0.3 * 0.7),
    }
    for name, value in expected.items():
        assert float(formula(name, p, q, 0.3)) == pytest.approx(value, rel=1e-6), name
    assert float(alpha(p, q, -0.4)) == pytest.approx((1 - power(-0.4)) / (-0.4 * 1.4), rel=1e-6)
    expected["jensen_shannon"] = integral(0.5 * (a * (log_p - log_m) + b * (log_q - log_m)))
    expected["jensen_shannon_distance"] = math.sqrt(expected["jensen_shannon"])
    expected["cross_entropy"] = -integral(a * log_q)
    for name, value in expected.items():
        found = estimated(name, p, q, 20_000, 0.3)
        error = float(found.standard_error)
        assert 0 < error < 0.02
        assert float(found.value) == pytest.approx(value, abs=4 * error), name
    found = estimate_entropy(p, 20_000, seeded())
    surprise = -integral(a * log_p)
    assert float(found.value) == pytest.approx(surprise, abs=4 * float(found.standard_error))


@CONTINUOUS
def test_divergences_of_gaussians_in_many_dimensions(make: Make) -> None:
    parameters = torch.randn(2, 5, 6, generator=seeded(), dtype=torch.float64)
    p, q = (make(row) for row in parameters)
    theirs, others = (Independent(Normal(row[:, :3], row[:, 3:].exp()), 1) for row in parameters)
    there, back = kl_divergence(theirs, others), kl_divergence(others, theirs)
    torch.testing.assert_close(kl(p, q), there)
    torch.testing.assert_close(jeffreys(p, q), there + back)
    if make is DiagonalGaussian:
        torch.testing.assert_close(entropy(p), theirs.entropy())
        torch.testing.assert_close(cross_entropy(p, q), theirs.entropy() + there)
    apart = [
        renyi(make(parameters[0][:, d::3]), make(parameters[1][:, d::3]), 0.4) for d in range(3)
    ]
    torch.testing.assert_close(renyi(p, q, 0.4), sum(apart))


def test_renyi_of_order_one_half_is_twice_the_distance_of_bhattacharyya() -> None:
    p, q = (
        DiagonalGaussian(torch.tensor([[0.0, 0.0]])),
        DiagonalGaussian(torch.tensor([[3.0, 0.0]])),
    )
    # Of two Gaussians of deviation 1, 3 apart, it is 3²/8.
    assert float(renyi(p, q, 0.5)) == pytest.approx(2 * 9 / 8)


# Laws


@given(PAIR, ORDERS)
def test_divergences_are_never_negative_and_bounded_where_they_are(
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
def test_divergences_are_zero_of_equal_distributions_and_of_no_others(
    family: str, dtype: torch.dtype
) -> None:
    p, q = (d.at(d.parameters.to(dtype)) for d in random_pair(family))
    again = p.at(p.parameters.clone())
    for name in NAMES:
        if name == "cross_entropy":
            continue
        for order in (0.3, 1.0, 3.0):
            try:
                same, other = formula(name, p, again, order), formula(name, p, q, order)
            except NoClosedFormError:
                continue
            assert same.eq(0).all(), name
            assert other.gt(0).all(), name
            assert same.dtype == other.dtype == dtype


@given(LOGITS, LOGITS, LOGITS)
def test_the_jensen_shannon_distance_and_total_variation_are_metrics(
    a: list[float], b: list[float], c: list[float]
) -> None:
    p, q, r = categoricals(a, b, c)
    for metric in (jensen_shannon_distance, total_variation):
        assert metric(p, r) <= metric(p, q) + metric(q, r) + 1e-12
        assert metric(p, q) == metric(q, p)


@given(PAIR)
def test_alpha_and_renyi_tend_to_kl_at_their_ends(pair: tuple[list[float], list[float]]) -> None:
    p, q = categoricals(*pair)
    there, back = (pytest.approx(float(x), rel=1e-5, abs=1e-12) for x in (kl(p, q), kl(q, p)))
    for step in (-1e-7, 1e-7):
        assert float(alpha(p, q, 1 + step)) == there
        assert float(renyi(p, q, 1 + step)) == there
        assert float(alpha(p, q, step)) == back
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
def test_renyi_grows_with_its_order(
    pair: tuple[list[float], list[float]], order: float, factor: float
) -> None:
    p, q = categoricals(*pair)
    assert renyi(p, q, order) <= renyi(p, q, factor * order) + 1e-12


@given(PAIR, st.permutations(range(4)), ORDERS)
def test_renaming_the_actions_changes_nothing_and_merging_them_adds_nothing(
    pair: tuple[list[float], list[float]], places: list[int], order: float
) -> None:
    """A bijection keeps a divergence, and no processing increases one."""
    p, q = categoricals(*pair)
    renamed = categoricals(*([logits[i] for i in places] for logits in pair))
    merged = [from_probabilities(d.log_probabilities.exp() @ MERGE) for d in (p, q)]
    for name in NAMES:
        if name == "renyi" and order <= 0:
            continue
        value = float(formula(name, p, q, order))
        if name != "cross_entropy":
            assert float(formula(name, *merged, order)) <= value * (1 + 1e-9) + 1e-12, name
        assert float(formula(name, *renamed, order)) == pytest.approx(value, rel=1e-9, abs=1e-12)


MERGE = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).double()


@given(PAIR, PAIR, st.floats(0.1, 3))
def test_independent_choices_add_up(
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
def test_pinskers_inequality_holds_for_gaussians(numbers: list[float]) -> None:
    rows = torch.tensor(numbers, dtype=torch.float64).reshape(2, 3, 2)
    p, q = map(DiagonalGaussian, rows)
    assert (total_variation(p, q) <= (kl(p, q) / 2).sqrt() + 1e-9).all()
    assert (alpha(p, q, 0.5) >= 0).all()
    assert (total_variation(p, q) <= alpha(p, q, 0.5).sqrt() + 1e-9).all()  # Le Cam


@pytest.mark.parametrize("order", [1e-12, 1e-100, 1e-300])
def test_alpha_near_its_ends_where_support_is_lost(order: float) -> None:
    # p = (½, ½, 0), q = (0, ½, ½): ∫ p^α q^(1-α) = ½ for every α within (0, 1).
    p, q = from_probabilities([[0.5, 0.5, 0.0]]), from_probabilities([[0.0, 0.5, 0.5]])
    assert float(alpha(p, q, order)) == pytest.approx(0.5 / order / (1 - order), rel=1e-14)
    # Where none is lost the end itself is near.
    p, q = from_probabilities([[0.9, 0.1]]), from_probabilities([[0.5, 0.5]])
    assert float(alpha(p, q, order)) == pytest.approx(float(kl(q, p)), rel=1e-9)
    assert float(renyi(p, q, order)) == pytest.approx(order * float(kl(q, p)), rel=1e-9)


# Estimates


@pytest.mark.parametrize("order", [-0.2, 0.0, 0.3, 1.0, 1.3])
@ALL
def test_estimates_agree_with_what_is_exact(family: str, order: float) -> None:
    p, q = random_pair(family, scale=0.5)
    for name in NAMES if order == 0.3 else ORDERED:
        if name == "renyi" and order <= 0:
            continue
        try:
            exact = formula(name, p, q, order)
        except NoClosedFormError:
            continue
        found = estimated(name, p, q, 2000, order)
        assert not found.exact
        assert ((found.value - exact).abs() <= 4.5 * found.standard_error).all(), name


@pytest.mark.parametrize(
    ("name", "order"), [*((name, 0.7) for name in NAMES), ("renyi", 0.3), ("renyi", 1.3)]
)
def test_standard_errors_are_calibrated(name: str, order: float) -> None:
    p = DiagonalGaussian(torch.tensor([[0.4, 0.1]], dtype=torch.float64).expand(2000, -1))
    q = DiagonalGaussian(torch.tensor([[-0.3, -0.1]], dtype=torch.float64).expand(2000, -1))
    found = estimated(name, p, q, 200, order)
    centre = found.value.mean()
    if "jensen" not in name:
        centre = formula(name, p, q, order)[0]
    scores = (found.value - centre) / found.standard_error
    # Value and error of skewed samples go together, which moves the mean of a score a little.
    assert abs(float(scores.mean())) < 0.25
    assert float(scores.std()) == pytest.approx(1, abs=0.1)
    # In all, the estimates err as much as the errors say.
    spread = float(found.value.std())
    assert spread == pytest.approx(float(found.standard_error.square().mean().sqrt()), rel=0.06)


def test_estimates_see_support_that_was_lost_on_either_side() -> None:
    p, q = from_probabilities([[0.5, 0.5, 0.0]]), from_probabilities([[0.0, 0.5, 0.5]])
    for name in ("kl", "reverse_kl", "jeffreys", "cross_entropy"):
        found = estimated(name, p, q, 100)
        assert float(found.value) == float(found.standard_error) == math.inf, name
    for name in ("jensen_shannon", "total_variation", "renyi", "alpha"):
        found = estimated(name, p, q, 10_000)
        exact = float(formula(name, p, q))
        assert float(found.value) == pytest.approx(exact, abs=4 * float(found.standard_error))
    one_way = estimated(
        "kl", from_probabilities([[1.0, 0.0]]), from_probabilities([[0.5, 0.5]]), 9999
    )
    assert float(one_way.value) == pytest.approx(math.log(2), abs=0.05)


def test_estimates_of_equal_distributions_are_zero_without_error() -> None:
    p = random_pair("gaussian")[0]
    for name in NAMES:
        if name != "cross_entropy":
            found = estimated(name, p, p, 10)
            assert found.value.abs().max() < 1e-15
            assert found.standard_error.abs().max() < 1e-15


def test_estimates_depend_on_their_generator_alone_and_carry_no_gradient() -> None:
    p, q = random_pair("tanh")
    p.parameters.requires_grad_()
    state = torch.get_rng_state()
    one, again, other = (estimated("jensen_shannon", p, q, 10, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.value, again.value)
    assert not torch.equal(one.value, other.value)
    assert torch.equal(torch.get_rng_state(), state)
    assert not one.value.requires_grad


def test_the_estimate_of_a_squashed_entropy_agrees_with_its_quadrature() -> None:
    p = random_pair("tanh")[0]
    found = estimate_entropy(p, 20_000, seeded())
    assert ((found.value - p.entropy()).abs() <= 4.5 * found.standard_error + 1e-4).all()


# What is exact, and what is said where nothing is

NOT_EXACT = {
    "categorical": set(),
    "multi": set(),
    "bernoulli": set(),
    "gaussian": {"jensen_shannon", "jensen_shannon_distance", "total_variation"},
    "tanh": {
        "jensen_shannon", "jensen_shannon_distance", "total_variation", "entropy", "cross_entropy",
    },
}  # fmt: skip


PAGE = Path(__file__).resolve().parents[2] / "docs" / "divergences.md"


def test_the_table_of_what_is_exact_is_true() -> None:
    """Here the actions are few and the standard deviations of Gaussians differ."""
    lines = PAGE.read_text().partition("## What is exact")[2].partition("\n- ")[0].splitlines()
    header, _, *rows = [line.split("|")[1:-1] for line in lines if line.startswith("|")]
    names = [family(torch.zeros(1, 6)).__class__.__name__ for family in FAMILIES.values()]
    assert [name.strip() for name in header[1:]] == names
    not_exact = {family: set() for family in FAMILIES}
    listed = []
    for quantities, *cells in rows:
        listed += re.findall(r"`(\w+)`", quantities)
        for family, cell in zip(FAMILIES, cells, strict=True):
            if cell.strip() not in ("exact", "exact, small"):
                not_exact[family] |= set(re.findall(r"`(\w+)`", quantities))
    assert sorted(listed) == sorted([*NAMES, "entropy"])
    assert not_exact == NOT_EXACT


@ALL
def test_compare_gives_all_and_says_what_is_exact(family: str) -> None:
    p, q = random_pair(family)
    found = compare(p, q, 50, seeded(), order=0.7)
    assert list(found) == [*NAMES, "entropy"]
    assert {name for name, result in found.items() if not result.exact} == NOT_EXACT[family]
    for name, result in found.items():
        assert result.value.shape == result.standard_error.shape == (4,)
        assert result.standard_error.gt(0).all() == (not result.exact)
        if result.exact:
            exact = entropy(p) if name == "entropy" else formula(name, p, q, 0.7)
            assert torch.equal(result.value, exact)


@ALL
def test_where_there_is_no_closed_form_the_error_names_what_to_call(family: str) -> None:
    p, q = random_pair(family)
    for name in NOT_EXACT[family] - {"entropy"}:
        with pytest.raises(NoClosedFormError) as raised:
            formula(name, p, q)
        message = str(raised.value)
        assert "\n" not in message
        (call,) = (message[message.index("divergences.") :],)
        names = {"divergences": divergences, "p": p, "q": q, "samples": 5, "generator": seeded()}
        if name != "jensen_shannon_distance":
            assert eval(call, names).value.shape == (4,)
    if family == "tanh":
        with pytest.raises(NoClosedFormError, match=r"divergences.estimate_entropy\(p, samples"):
            entropy(p)


def test_total_variation_of_gaussians_is_exact_in_one_dimension_or_of_equal_deviations() -> None:
    one = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.5]])
    two = torch.tensor([[0.0, 0.0, 0.3, 0.2]]), torch.tensor([[1.0, 2.0, 0.3, 0.2]])
    for pair in (one, two):
        assert 0 < float(total_variation(*map(DiagonalGaussian, pair))) < 1


def test_pairs_that_do_not_fit_are_refused_in_one_line() -> None:
    p = Categorical(torch.zeros(2, 4))
    for q, words in (
        (Bernoulli(torch.zeros(2, 4)), "expected one family"),
        (Categorical(torch.zeros(2, 5)), "expected one shape"),
        (Categorical(torch.zeros(1, 4)), "expected one shape"),
    ):
        for name in NAMES:
            with pytest.raises(ValueError, match=words):
                formula(name, p, q)
            with pytest.raises(ValueError, match=words):
                estimated(name, p, q, 5)
    with pytest.raises(ValueError, match="p is a Categorical and q a Bernoulli"):
        kl(p, Bernoulli(torch.zeros(2, 4)))
    with pytest.raises(ValueError, match=r"of p are \[2, 4\] and of q \[2, 5\]"):
        kl(p, Categorical(torch.zeros(2, 5)))
    choices = [MultiCategorical(torch.zeros(1, 6), sizes) for sizes in ((3, 3), (2, 4))]
    with pytest.raises(ValueError, match=r"\(3, 3\) and q \(2, 4\)"):
        kl(*choices)


@pytest.mark.parametrize("order", [math.inf, -math.inf, math.nan])
def test_orders_without_a_meaning_are_refused(order: float) -> None:
    p, q = bits(0.9, 0.5)
    for refused in (
        lambda: alpha(p, q, order),
        lambda: renyi(p, q, order),
        lambda: estimate("alpha", p, q, 5, seeded(), order),
        lambda: estimate("renyi", p, q, 5, seeded(), order),
    ):
        with pytest.raises(ValueError, match="order="):
            refused()


@pytest.mark.parametrize("order", [0.0, -1.0])
def test_renyi_has_orders_above_0_alone(order: float) -> None:
    p, q = bits(0.9, 0.5)
    for refused in (
        lambda: renyi(p, q, order),
        lambda: estimate("renyi", p, q, 5, seeded(), order),
        lambda: compare(p, q, 5, seeded(), order),
    ):
        with pytest.raises(ValueError, match="expected a finite number above 0"):
            refused()


def test_what_cannot_be_estimated_is_refused_in_one_line() -> None:
    p, q = bits(0.9, 0.5)
    with pytest.raises(ValueError, match="did you mean jensen_shannon"):
        estimate("jenson_shannon", p, q, 5, seeded())
    with pytest.raises(ValueError, match="renyi with order=None: expected a number"):
        estimate("renyi", p, q, 5, seeded())
    with pytest.raises(ValueError, match=r"kl with order=0.5: expected none"):
        estimate("kl", p, q, 5, seeded(), 0.5)
    for call in (
        lambda: estimate("kl", p, q, 1, seeded()),
        lambda: estimate_entropy(p, 1, seeded()),
    ):
        with pytest.raises(ValueError, match="samples=1: expected at least 2"):
            call()


# From probabilities


def test_probabilities_come_back_as_they_were_given() -> None:
    given_rows = torch.tensor([[0.2, 0.0, 0.8], [1.0, 0.0, 0.0]], dtype=torch.float32)
    p = from_probabilities(given_rows)
    assert p.log_probabilities.dtype == torch.float32
    torch.testing.assert_close(p.log_probabilities.exp(), given_rows)
    assert p.log_probabilities.exp()[given_rows == 0].eq(0).all()
    assert from_probabilities([0.25, 0.75]).parameters.shape == (1, 2)
    assert from_probabilities([[0.25, 0.75]] * 3).parameters.dtype == torch.float64
    # What rounding leaves of the sum is divided out: thirds in float32 are no thirds in float64.
    thirds = torch.full((1, 3), 1 / 3, dtype=torch.float32).double()
    assert float(entropy(from_probabilities(thirds))) == pytest.approx(math.log(3), rel=1e-14)


def test_no_epsilon_hides_in_the_logarithm_of_a_probability() -> None:
    p, q = from_probabilities([0.5, 0.5]), from_probabilities([1.0, 1e-300])
    assert float(kl(p, q)) == pytest.approx(rel_entr([0.5, 0.5], [1.0, 1e-300]).sum(), rel=1e-12)


def test_gradients_by_probabilities_that_are_0_are_not_nan() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    numbers = kl(from_probabilities(rows), from_probabilities([[0.9, 0.1, 0.0]]))
    (gradient,) = torch.autograd.grad(numbers, rows)
    assert gradient.isfinite().all()
    assert gradient[0, 2] == 0
    assert float(gradient[0, 0] - gradient[0, 1]) == pytest.approx(math.log(1 / 9))


@pytest.mark.parametrize(
    ("probabilities", "words"),
    [
        ([[0.5, 0.5], [0.6, 0.5]], "row 1 of the probabilities sums to 1.1: expected 1"),
        ([0.5, 0.49], "row 0 of the probabilities sums to 0.99"),
        ([1.5, -0.5], "row 0 of the probabilities has the entry -0.5: expected none"),
        ([math.nan, 1.0], "has the entry nan"),
        ([math.inf, 0.0], "sums to inf"),
        ([[[1.0]]], r"shape \[1, 1, 1\]"),
        (torch.tensor([1, 0]), "torch.int64"),
    ],
)
def test_what_is_no_probability_is_refused_in_one_line(probabilities: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        from_probabilities(probabilities)
    assert "\n" not in str(raised.value)
