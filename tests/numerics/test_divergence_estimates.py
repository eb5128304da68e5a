"""Estimated and compared divergences against exact values, quadrature and the documentation."""

import math
import re
from pathlib import Path

import pytest
import torch
from action_families import (
    ALL,
    CONTINUOUS,
    seeded,
)
from divergence_pairs import ORDERED, bits, divergence, estimated, random_pair
from torch import Tensor
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from rlkl import divergences
from rlkl.divergences import (
    JOINT_LIMIT,
    NAMES,
    NoClosedFormError,
    alpha,
    compare,
    entropy,
    estimate,
    estimate_entropy,
    from_probabilities,
    jensen_shannon,
    kl,
    renyi,
    total_variation,
)
from rlkl.numerics.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    TanhGaussian,
)


@pytest.mark.parametrize("order", [-0.2, 0.0, 0.3, 1.0, 1.3])
@ALL
def test_estimates_agree_with_exact_values(family: str, order: float) -> None:
    p, q = random_pair(family, scale=0.5)
    for name in NAMES if order == 0.3 else ORDERED:
        if name == "renyi" and order <= 0:
            continue
        try:
            exact = divergence(name, p, q, order)
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
        centre = divergence(name, p, q, order)[0]
    scores = (found.value - centre) / found.standard_error
    # Value and error of skewed samples are correlated, which shifts the mean score a little.
    assert abs(float(scores.mean())) < 0.25
    assert float(scores.std()) == pytest.approx(1, abs=0.1)
    spread = float(found.value.std())
    assert spread == pytest.approx(float(found.standard_error.square().mean().sqrt()), rel=0.06)


def test_estimates_detect_lost_support() -> None:
    p, q = from_probabilities([[0.5, 0.5, 0.0]]), from_probabilities([[0.0, 0.5, 0.5]])
    for name in ("kl", "reverse_kl", "jeffreys", "cross_entropy"):
        found = estimated(name, p, q, 100)
        assert float(found.value) == float(found.standard_error) == math.inf, name
    for name in ("jensen_shannon", "total_variation", "renyi", "alpha"):
        found = estimated(name, p, q, 10_000)
        exact = float(divergence(name, p, q))
        assert float(found.value) == pytest.approx(exact, abs=4 * float(found.standard_error))
    one_way = estimated(
        "kl", from_probabilities([[1.0, 0.0]]), from_probabilities([[0.5, 0.5]]), 9999
    )
    assert float(one_way.value) == pytest.approx(math.log(2), abs=0.05)


def test_estimates_of_equal_distributions_are_zero() -> None:
    p = random_pair("gaussian")[0]
    for name in NAMES:
        if name != "cross_entropy":
            found = estimated(name, p, p, 10)
            assert found.value.abs().max() < 1e-15
            assert found.standard_error.abs().max() < 1e-15


def test_estimates_depend_only_on_the_generator() -> None:
    p, q = random_pair("tanh")
    p.parameters.requires_grad_()
    state = torch.get_rng_state()
    one, again, other = (estimated("jensen_shannon", p, q, 10, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.value, again.value)
    assert not torch.equal(one.value, other.value)
    assert torch.equal(torch.get_rng_state(), state)
    assert not one.value.requires_grad


def test_estimated_squashed_entropy_agrees_with_quadrature() -> None:
    p = random_pair("tanh")[0]
    found = estimate_entropy(p, 20_000, seeded())
    assert ((found.value - p.entropy()).abs() <= 4.5 * found.standard_error + 1e-4).all()


GAUSSIAN_ESTIMATES = {"jensen_shannon", "jensen_shannon_distance", "total_variation"}
ESTIMATES = {
    "Categorical": set(),
    "MultiCategorical": set(),
    "Bernoulli": set(),
    "DiagonalGaussian": GAUSSIAN_ESTIMATES,
    "TanhGaussian": GAUSSIAN_ESTIMATES | {"entropy", "cross_entropy"},
    "Beta": GAUSSIAN_ESTIMATES | {"renyi", "alpha"},
}
"""Quantities without a closed form for pairs with few actions, or different deviations."""

PAGE = Path(__file__).resolve().parents[2] / "docs" / "divergences.md"


def test_documented_table_of_closed_forms_is_true() -> None:
    lines = PAGE.read_text().partition("## What is exact")[2].partition("\n- ")[0].splitlines()
    header, _, *rows = [line.split("|")[1:-1] for line in lines if line.startswith("|")]
    estimates = {name.strip(): set() for name in header[1:]}
    listed = []
    for quantities, *cells in rows:
        listed += re.findall(r"`(\w+)`", quantities)
        for name, cell in zip(estimates, cells, strict=True):
            if cell.strip() not in ("exact", "exact, small"):
                estimates[name] |= set(re.findall(r"`(\w+)`", quantities))
    assert sorted(listed) == sorted([*NAMES, "entropy"])
    assert estimates == ESTIMATES


@ALL
def test_compare_marks_exact_values(family: str) -> None:
    p, q = random_pair(family)
    found = compare(p, q, 50, seeded(), order=0.7)
    assert list(found) == [*NAMES, "entropy"]
    assert {name for name, result in found.items() if not result.exact} == ESTIMATES[
        type(p).__name__
    ]
    for name, result in found.items():
        assert result.value.shape == result.standard_error.shape == (4,)
        assert result.standard_error.gt(0).all() == (not result.exact)
        if result.exact:
            exact = entropy(p) if name == "entropy" else divergence(name, p, q, 0.7)
            assert torch.equal(result.value, exact)


@ALL
def test_error_without_closed_form_names_the_estimator(family: str) -> None:
    p, q = random_pair(family)
    for name in ESTIMATES[type(p).__name__] - {"entropy"}:
        with pytest.raises(NoClosedFormError) as raised:
            divergence(name, p, q)
        message = str(raised.value)
        assert "\n" not in message
        call = message[message.index("divergences.") :]
        names = {"divergences": divergences, "p": p, "q": q, "samples": 5, "generator": seeded()}
        names["order"] = 0.7
        if name != "jensen_shannon_distance":
            assert eval(call, names).value.shape == (4,)
    if family == "tanh":
        with pytest.raises(NoClosedFormError, match=r"divergences.estimate_entropy\(p, samples"):
            entropy(p)


def test_mismatched_pairs_are_rejected() -> None:
    p = Categorical(torch.zeros(2, 4))
    for q, message in (
        (Bernoulli(torch.zeros(2, 4)), "expected one family"),
        (Categorical(torch.zeros(2, 5)), "expected one shape"),
        (Categorical(torch.zeros(1, 4)), "expected one shape"),
    ):
        for name in NAMES:
            with pytest.raises(ValueError, match=message):
                divergence(name, p, q)
            with pytest.raises(ValueError, match=message):
                estimated(name, p, q, 5)
    with pytest.raises(ValueError, match="p is a Categorical and q a Bernoulli"):
        kl(p, Bernoulli(torch.zeros(2, 4)))
    with pytest.raises(ValueError, match=r"of p are \[2, 4\] and of q \[2, 5\]"):
        kl(p, Categorical(torch.zeros(2, 5)))
    choices = [MultiCategorical(torch.zeros(1, 6), sizes) for sizes in ((3, 3), (2, 4))]
    with pytest.raises(ValueError, match=r"\(3, 3\) and q \(2, 4\)"):
        kl(*choices)


@pytest.mark.parametrize("order", [math.inf, -math.inf, math.nan])
def test_invalid_orders_are_rejected(order: float) -> None:
    p, q = bits(0.9, 0.5)
    for call in (
        lambda: alpha(p, q, order),
        lambda: renyi(p, q, order),
        lambda: estimate("alpha", p, q, 5, seeded(), order),
        lambda: estimate("renyi", p, q, 5, seeded(), order),
    ):
        with pytest.raises(ValueError, match="order="):
            call()


@pytest.mark.parametrize("order", [0.0, -1.0])
def test_renyi_rejects_orders_up_to_zero(order: float) -> None:
    p, q = bits(0.9, 0.5)
    for call in (
        lambda: renyi(p, q, order),
        lambda: estimate("renyi", p, q, 5, seeded(), order),
        lambda: compare(p, q, 5, seeded(), order),
    ):
        with pytest.raises(ValueError, match="expected a finite number above 0"):
            call()


def test_invalid_estimates_are_rejected() -> None:
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


def test_joint_actions_are_enumerated_up_to_the_limit() -> None:
    assert JOINT_LIMIT == 2**12
    twelve, thirteen = (
        [Bernoulli(row) for row in torch.randn(2, 1, n, generator=seeded())] for n in (12, 13)
    )
    assert 0 < float(jensen_shannon(*twelve)) < math.log(2)
    assert 0 < float(total_variation(*twelve)) < 1
    for name in ("jensen_shannon", "jensen_shannon_distance", "total_variation"):
        with pytest.raises(NoClosedFormError, match="8192 joint actions"):
            divergence(name, *thirteen)
    assert {name: found.exact for name, found in compare(*thirteen, 2, seeded()).items()} == {
        name: "jensen" not in name and name != "total_variation" for name in (*NAMES, "entropy")
    }


def log_density(kind: type[DiagonalGaussian], parameters: Tensor, actions: Tensor) -> Tensor:
    """Return torch's log density of the action of the environment, in one dimension."""
    mean, log_std = parameters.squeeze(0)
    normal = Normal(mean, log_std.exp())
    if kind is DiagonalGaussian:
        return normal.log_prob(actions)
    return TransformedDistribution(normal, [TanhTransform()]).log_prob(actions)


@CONTINUOUS
def test_gaussian_divergences_agree_with_quadrature(kind: type[DiagonalGaussian]) -> None:
    first, second = torch.tensor([[0.3, -0.6]]).double(), torch.tensor([[-0.2, -0.4]]).double()
    p, q = kind(first), kind(second)
    bound = 1 - 1e-7 if kind is TanhGaussian else 8.0
    grid = torch.linspace(-bound, bound, 200_001, dtype=torch.float64)
    log_p, log_q = (log_density(kind, row, grid) for row in (first, second))
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
        assert float(divergence(name, p, q, 0.3)) == pytest.approx(value, rel=1e-6), name
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
    surprisal = -integral(a * log_p)
    assert float(found.value) == pytest.approx(surprisal, abs=4 * float(found.standard_error))
