"""Exact divergences against enumeration, torch.distributions and identities."""

import math

import numpy as np
import pytest
import torch
from action_families import (
    CONTINUOUS,
    DISCRETE,
    FAMILIES,
    mask_of,
    seeded,
)
from divergence_pairs import ORDERED, bits, divergence, joint, masked_pair, random_pair
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from torch.distributions import Independent, Normal, kl_divergence

from rlkl.divergences import (
    NAMES,
    alpha,
    cross_entropy,
    entropy,
    from_probabilities,
    jeffreys,
    jensen_shannon_distance,
    kl,
    renyi,
    total_variation,
)
from rlkl.numerics.distributions import (
    DiagonalGaussian,
)


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
def test_kl_of_probabilities_has_known_values(p: list[float], q: list[float], nats: float) -> None:
    first, second = from_probabilities(p), from_probabilities(q)
    forward, reverse = kl(first, second), kl(second, first)
    assert forward.tolist() == pytest.approx([nats], abs=5e-5)
    assert torch.equal(jeffreys(first, second), forward + reverse)


def test_divergences_of_disjoint_distributions() -> None:
    p, q = from_probabilities([[0.3, 0.7, 0.0]]), from_probabilities([[0.0, 0.0, 1.0]])
    values = {name: float(divergence(name, p, q)) for name in NAMES}
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


def test_alpha_has_known_values() -> None:
    p, q = bits(0.9, 0.5)
    # χ² is (0.4² + 0.4²) / 0.5 = 0.64, and 0.16 / 0.9 + 0.16 / 0.1 in reverse.
    assert float(alpha(p, q, 2.0)) == pytest.approx(0.32, rel=1e-12)
    assert float(alpha(p, q, -1.0)) == pytest.approx((0.16 / 0.9 + 1.6) / 2, rel=1e-12)
    overlap = math.sqrt(0.45) + math.sqrt(0.05)
    assert float(alpha(p, q, 0.5)) == pytest.approx(4 * (1 - overlap), rel=1e-12)
    assert float(alpha(p, q, 1.0)) == pytest.approx(0.3681, abs=5e-5)
    assert float(alpha(p, q, 0.0)) == pytest.approx(0.5108, abs=5e-5)


def test_only_jensen_shannon_distance_obeys_triangle_inequality() -> None:
    a, b, c = bits(0.5, 0.25, 0.1)
    assert float(kl(a, c)) == pytest.approx(0.5108, abs=5e-5)
    assert float(kl(a, b) + kl(b, c)) == pytest.approx(0.2362, abs=5e-5)
    ab, bc, ac = (jensen_shannon_distance(*pair) for pair in ((a, b), (b, c), (a, c)))
    assert ac <= ab + bc


@DISCRETE
@pytest.mark.parametrize("masked", [False, True])
def test_discrete_divergences_agree_with_enumeration(family: str, masked: bool) -> None:
    p, q = masked_pair(family) if masked else random_pair(family)
    a, b = joint(p, family), joint(q, family)
    forward, reverse = rel_entr(a, b).sum(-1), rel_entr(b, a).sum(-1)
    a, b = (x[:, (a + b).sum(0) > 0] for x in (a, b))
    expected = {
        "kl": forward,
        "reverse_kl": reverse,
        "jeffreys": forward + reverse,
        "jensen_shannon": jensenshannon(a, b, axis=1) ** 2,
        "jensen_shannon_distance": jensenshannon(a, b, axis=1),
        "total_variation": 0.5 * np.abs(a - b).sum(-1),
        "cross_entropy": -(a * np.log(b)).sum(-1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(divergence(name, p, q), values, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(entropy(p), -(a * np.log(a)).sum(-1), rtol=1e-9)
    for order in (-1.5, 0.2, 0.5, 0.8, 3.0):
        total = (a**order * b ** (1 - order)).sum(-1)
        value = (1 - total) / (order * (1 - order))
        np.testing.assert_allclose(alpha(p, q, order), value, rtol=1e-9)
        if order > 0:
            np.testing.assert_allclose(renyi(p, q, order), np.log(total) / (order - 1), rtol=1e-9)


@DISCRETE
def test_divergences_where_a_mask_removes_support(family: str) -> None:
    full, masked = random_pair(family)[0], masked_pair(family)[0]
    for name in ("kl", "jeffreys", "cross_entropy"):
        assert divergence(name, full, masked).eq(math.inf).all()
    assert alpha(full, masked, 2.0).eq(math.inf).all()
    for name in ("jensen_shannon", "total_variation", "renyi", "alpha"):
        assert divergence(name, full, masked).isfinite().all()
        assert divergence(name, full, masked).gt(0).all()
    # KL(masked ‖ full) is -log of the probability of the allowed actions.
    allowed = joint(full, family) * (joint(masked, family) > 0)
    np.testing.assert_allclose(kl(masked, full), -np.log(allowed.sum(-1)), rtol=1e-9)
    np.testing.assert_allclose(total_variation(masked, full), 1 - allowed.sum(-1), rtol=1e-9)


@DISCRETE
def test_gradients_of_masked_pairs_are_finite(family: str) -> None:
    mask = mask_of(family)
    for name in NAMES:
        for order in (0.5, 2.0) if name in ORDERED else (0.5,):
            parameters = torch.randn(2, 4, 6, generator=seeded(), dtype=torch.float64)
            parameters.requires_grad_()
            p, q = (FAMILIES[family](x).masked(mask) for x in parameters)
            (gradient,) = torch.autograd.grad(divergence(name, p, q, order).sum(), parameters)
            assert gradient.isfinite().all(), name
            assert gradient.abs().sum() > 0, name


@CONTINUOUS
def test_gaussian_divergences_in_many_dimensions(kind: type[DiagonalGaussian]) -> None:
    parameters = torch.randn(2, 5, 6, generator=seeded(), dtype=torch.float64)
    p, q = (kind(row) for row in parameters)
    theirs, others = (Independent(Normal(row[:, :3], row[:, 3:].exp()), 1) for row in parameters)
    forward, reverse = kl_divergence(theirs, others), kl_divergence(others, theirs)
    torch.testing.assert_close(kl(p, q), forward)
    torch.testing.assert_close(jeffreys(p, q), forward + reverse)
    if kind is DiagonalGaussian:
        torch.testing.assert_close(entropy(p), theirs.entropy())
        torch.testing.assert_close(cross_entropy(p, q), theirs.entropy() + forward)
    apart = [
        renyi(kind(parameters[0][:, d::3]), kind(parameters[1][:, d::3]), 0.4) for d in range(3)
    ]
    torch.testing.assert_close(renyi(p, q, 0.4), sum(apart))


def test_renyi_of_order_half_is_twice_bhattacharyya() -> None:
    p, q = (DiagonalGaussian(torch.tensor([[mean, 0.0]])) for mean in (0.0, 3.0))
    # The Bhattacharyya distance of Gaussians of deviation 1 at a distance of 3 is 3²/8.
    assert float(renyi(p, q, 0.5)) == pytest.approx(2 * 9 / 8)


def test_simple_gaussian_total_variation_is_exact() -> None:
    one = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.5]])
    two = torch.tensor([[0.0, 0.0, 0.3, 0.2]]), torch.tensor([[1.0, 2.0, 0.3, 0.2]])
    for pair in (one, two):
        assert 0 < float(total_variation(*map(DiagonalGaussian, pair))) < 1


def test_probabilities_are_kept() -> None:
    given_rows = torch.tensor([[0.2, 0.0, 0.8], [1.0, 0.0, 0.0]], dtype=torch.float32)
    p = from_probabilities(given_rows)
    assert p.log_probabilities.dtype == torch.float32
    torch.testing.assert_close(p.log_probabilities.exp(), given_rows)
    assert p.log_probabilities.exp()[given_rows == 0].eq(0).all()
    assert from_probabilities([0.25, 0.75]).parameters.shape == (1, 2)
    assert from_probabilities([[0.25, 0.75]] * 3).parameters.dtype == torch.float64
    # Rows are normalized: ⅓ in float32 is not ⅓ in float64.
    thirds = torch.full((1, 3), 1 / 3, dtype=torch.float32).double()
    assert float(entropy(from_probabilities(thirds))) == pytest.approx(math.log(3), rel=1e-14)


def test_log_of_probabilities_has_no_epsilon() -> None:
    p, q = from_probabilities([0.5, 0.5]), from_probabilities([1.0, 1e-300])
    assert float(kl(p, q)) == pytest.approx(rel_entr([0.5, 0.5], [1.0, 1e-300]).sum(), rel=1e-12)


def test_zero_probabilities_have_finite_gradients() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    numbers = kl(from_probabilities(rows), from_probabilities([[0.9, 0.1, 0.0]]))
    (gradient,) = torch.autograd.grad(numbers, rows)
    assert gradient.isfinite().all()
    assert gradient[0, 2] == 0
    assert float(gradient[0, 0] - gradient[0, 1]) == pytest.approx(math.log(1 / 9))


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([[0.5, 0.5], [0.6, 0.5]], "row 1 of the probabilities sums to 1.1: expected 1"),
        ([0.5, 0.49], "row 0 of the probabilities sums to 0.99"),
        ([1.5, -0.5], "row 0 of the probabilities has the entry -0.5: expected at least 0"),
        ([math.nan, 1.0], "has the entry nan"),
        ([math.inf, 0.0], "sums to inf"),
        ([[[1.0]]], r"shape \[1, 1, 1\]"),
        (torch.tensor([1, 0]), "torch.int64"),
    ],
)
def test_invalid_probabilities_are_rejected(probabilities: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        from_probabilities(probabilities)
    assert "\n" not in str(raised.value)
