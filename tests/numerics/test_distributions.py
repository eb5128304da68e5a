"""Action distributions against torch.distributions, SciPy and enumeration."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from action_families import (
    ALL,
    DISCRETE,
    FAMILIES,
    MULTI,
    SIZES,
    UNEQUAL,
    dimensions,
    joint_log_probabilities,
    mask_of,
    random_parameters,
    seeded,
    total,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Independent,
    Normal,
    TransformedDistribution,
    kl_divergence,
)
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Beta as TorchBeta
from torch.distributions import Categorical as TorchCategorical
from torch.distributions.transforms import TanhTransform

from rlkl.numerics.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    TanhGaussian,
)


def parts(family: str, parameters: Tensor) -> list[torch.distributions.Distribution]:
    """Return torch's distribution of each action dimension."""
    if family in ("gaussian", "tanh"):
        mean, log_std = parameters.chunk(2, -1)
        return [Normal(m, s) for m, s in zip(mean.T, log_std.exp().T, strict=True)]
    if family == "beta":
        shapes = (1 + (1 + parameters.exp()).log()).chunk(2, -1)
        scale = [AffineTransform(-1.0, 2.0)]
        pairs = zip(*(shape.T for shape in shapes), strict=True)
        return [TransformedDistribution(TorchBeta(a, b), scale) for a, b in pairs]
    if family == "bernoulli":
        return [TorchBernoulli(logits=logit) for logit in parameters.T]
    return [TorchCategorical(logits=part) for part in parameters.split(SIZES[family], -1)]


@ALL
def test_log_prob_entropy_and_kl_agree_with_torch(family: str) -> None:
    make = FAMILIES[family]
    ours, other = make(random_parameters(0)), make(random_parameters(1))
    theirs, their_other = parts(family, ours.parameters), parts(family, other.parameters)
    actions = ours.sample(seeded())
    pairs = zip(theirs, dimensions(actions), strict=True)
    log_prob = [p.log_prob(a.double() if family == "bernoulli" else a) for p, a in pairs]
    both = list(zip(theirs, their_other, strict=True))
    expected = [
        (ours.log_prob(actions), total(log_prob)),
        (ours.kl(other), total([kl_divergence(p, q) for p, q in both])),
        (other.kl(ours), total([kl_divergence(q, p) for p, q in both])),
    ]
    if family == "beta":
        entropies = [p.base_dist.entropy() + math.log(2) for p in theirs]
        expected.append((ours.entropy(), total(entropies)))
    elif family != "tanh":
        expected.append((ours.entropy(), total([p.entropy() for p in theirs])))
    for found, value in expected:
        assert found.shape == (5,)
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)


@DISCRETE
@pytest.mark.parametrize("masked", [False, True])
def test_entropy_and_kl_agree_with_enumeration(family: str, masked: bool) -> None:
    ours, other = (FAMILIES[family](random_parameters(seed)) for seed in (0, 1))
    if masked:
        ours, other = (d.masked(mask_of(family)) for d in (ours, other))
    log_p, log_q = (joint_log_probabilities(d, family) for d in (ours, other))
    p = log_p.exp()
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(ours.entropy(), -(p * log_p).nansum(-1), rtol=1e-12)
    np.testing.assert_allclose(ours.kl(other), (p * (log_p - log_q)).nansum(-1), rtol=1e-12)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_from_rebuilt_distribution_is_exactly_zero(family: str, dtype: torch.dtype) -> None:
    distribution = FAMILIES[family](random_parameters().to(dtype))
    if family in SIZES:
        masked = distribution.masked(mask_of(family))
        assert masked.kl(masked.at(masked.parameters.clone())).tolist() == [0.0] * 5
    assert distribution.kl(distribution.at(distribution.parameters.clone())).tolist() == [0.0] * 5


def test_standard_normal_has_known_values() -> None:
    standard = DiagonalGaussian(torch.zeros(1, 4, dtype=torch.float64))
    at = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    assert float(standard.log_prob(at)) == pytest.approx(norm.logpdf(1) + norm.logpdf(-2))
    assert float(standard.entropy()) == pytest.approx(2.837877, abs=1e-6)


def test_jensen_shannon_agrees_with_scipy() -> None:
    p, q = Categorical(random_parameters(0)), Categorical(random_parameters(1))
    expected = jensenshannon(p.log_probabilities.exp(), q.log_probabilities.exp(), axis=1) ** 2
    np.testing.assert_allclose(p.jensen_shannon(q), expected, rtol=1e-12)


@ALL
def test_only_categoricals_have_exact_jensen_shannon(family: str) -> None:
    p = FAMILIES[family](random_parameters())
    assert (p.jensen_shannon(p) is None) == (family != "categorical")


@ALL
def test_distribution_is_rebuilt_from_parameter_rows(family: str) -> None:
    whole = FAMILIES[family](random_parameters(rows=20).float())
    if family in SIZES:
        whole = whole.masked(mask_of(family))
    actions = whole.sample(seeded())
    rows = torch.tensor([7, 0, 7, 19])
    part = whole.at(whole.parameters[rows])
    assert type(part) is type(whole)
    assert torch.equal(part.log_prob(actions[rows]), whole.log_prob(actions)[rows])
    assert torch.equal(part.entropy(), whole.entropy()[rows])
    assert torch.equal(part.mode(), whole.mode()[rows])


@ALL
def test_float64_is_preserved(family: str) -> None:
    distribution = FAMILIES[family](random_parameters())
    actions = distribution.sample(seeded())
    if family in SIZES:
        assert actions.dtype == distribution.mode().dtype == torch.int64
        distribution = distribution.masked(torch.ones(1, sum(SIZES[family]), dtype=torch.bool))
    else:
        assert actions.dtype == distribution.mode().dtype == torch.float64
    for numbers in (
        distribution.parameters,
        distribution.log_prob(actions),
        distribution.entropy(),
        distribution.kl(distribution),
    ):
        assert numbers.dtype == torch.float64


@ALL
def test_gradients_agree_with_finite_differences(family: str) -> None:
    make = FAMILIES[family]
    parameters = random_parameters(rows=3).requires_grad_()
    other = random_parameters(1, rows=3).requires_grad_()
    actions = make(parameters.detach()).sample(seeded())
    assert torch.autograd.gradcheck(lambda p: make(p).log_prob(actions), parameters)
    assert torch.autograd.gradcheck(lambda p: make(p).entropy(), parameters)
    assert torch.autograd.gradcheck(lambda p, q: make(p).kl(make(q)), (parameters, other))
    assert torch.autograd.gradgradcheck(lambda p, q: make(p).kl(make(q)), (parameters, other))


def test_constant_added_to_logits_changes_nothing() -> None:
    logits = random_parameters()
    assert Categorical(logits).kl(Categorical(logits + 100)).abs().max() < 1e-12
    assert MULTI(logits).kl(MULTI(logits + 100)).abs().max() < 1e-12


@ALL
@given(numbers=st.lists(st.floats(-40, 40), min_size=12, max_size=12), masked=st.booleans())
def test_kl_is_never_negative(family: str, numbers: list[float], masked: bool) -> None:
    rows = torch.tensor(numbers, dtype=torch.float64).reshape(2, 1, 6)
    if family not in SIZES:
        rows[..., 3:] /= 10
    p, q = map(FAMILIES[family], rows)
    if masked and family in SIZES:
        p, q = p.masked(mask_of(family)), q.masked(mask_of(family))
    assert float(p.kl(q)) >= -1e-12
    assert float(q.kl(p)) >= -1e-12


def test_multi_categorical_equals_separate_categoricals() -> None:
    logits = random_parameters()
    together = UNEQUAL(logits)
    apart = [Categorical(part) for part in logits.split((1, 3, 2), -1)]
    actions = together.sample(seeded())
    log_prob = [p.log_prob(a) for p, a in zip(apart, actions.T, strict=True)]
    torch.testing.assert_close(together.log_prob(actions), total(log_prob))
    torch.testing.assert_close(together.entropy(), total([p.entropy() for p in apart]))
    assert torch.equal(together.mode(), torch.stack([p.mode() for p in apart], -1))


@pytest.mark.parametrize("sizes", [(3,), (2, 2), (1, 2), (3, 3, 3)])
def test_wrong_sizes_are_rejected(sizes: tuple[int, ...]) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        MultiCategorical(random_parameters(), sizes)


def test_inference_mode_does_not_block_later_gradients() -> None:
    make = partial(MultiCategorical, sizes=(1, 2, 1, 1, 1))  # sizes of no other test: a cache
    with torch.inference_mode():
        make(random_parameters())
    logits = random_parameters().requires_grad_()
    make(logits).entropy().sum().backward()


def test_infinite_logits_make_bits_certain() -> None:
    logits = torch.tensor([[-math.inf, math.inf, 0.0]]).requires_grad_()
    bits = Bernoulli(logits)
    assert bits.log_probabilities.exp().tolist() == [[[1, 0], [0, 1], [0.5, 0.5]]]
    assert bits.entropy().tolist() == pytest.approx([math.log(2)])
    assert bits.log_prob(torch.tensor([[0, 1, 1]])).tolist() == pytest.approx([-math.log(2)])
    assert bits.log_prob(torch.tensor([[1, 1, 1]])).tolist() == [-math.inf]
    numbers = bits.entropy() + bits.kl(Bernoulli(torch.tensor([[-math.inf, math.inf, 1.0]])))
    (gradient,) = torch.autograd.grad(numbers.sum(), logits)
    assert gradient.isfinite().all()


# Squashed Gaussians


def squashed(parameters: Tensor) -> TransformedDistribution:
    mean, log_std = parameters.chunk(2, -1)
    return TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform()])


def test_only_squashed_entropy_is_inexact() -> None:
    parameters = random_parameters()
    exact = {family: make(parameters).entropy_is_exact for family, make in FAMILIES.items()}
    assert exact == dict.fromkeys(FAMILIES, True) | {"tanh": False}


@pytest.mark.parametrize(
    ("log_std", "error"),
    [(-5, 1e-10), (-2, 1e-10), (0, 1e-6), (0.5, 1e-4), (1, 1e-3), (1.5, 1e-2), (2, 0.05)],
)
@pytest.mark.parametrize("mean", [-3.0, -1.3, 0.0, 0.4, 1.0, 2.0, 3.0])
def test_squashed_entropy_agrees_with_quadrature(mean: float, log_std: float, error: float) -> None:
    std = math.exp(log_std)

    def integrand(z: float) -> float:
        u = mean + std * z
        # log of the derivative 1 / cosh² of tanh
        return norm.pdf(z) * -2 * (np.logaddexp(u, -u) - math.log(2))

    corner = np.clip(-mean / std, -11, 11)
    correction = quad(integrand, -12, 12, points=[corner], epsabs=1e-11, limit=300)[0]
    expected = norm.entropy(mean, std) + correction
    parameters = torch.tensor([[mean, mean, log_std, log_std]], dtype=torch.float64)
    for rows, relative in ((parameters, 1e-12), (parameters.float(), 1e-5)):
        actual = float(TanhGaussian(rows).entropy())
        assert actual == pytest.approx(2 * expected, rel=relative, abs=2 * error)


def test_squashed_entropy_agrees_with_samples() -> None:
    row = torch.tensor([[0.3, -1.0, -0.5, 0.2]], dtype=torch.float64)
    ours = TanhGaussian(row.expand(100_000, -1))
    surprisal = -squashed(row).log_prob(ours.sample(seeded()).tanh())
    standard_error = float(surprisal.std()) / math.sqrt(len(surprisal))
    assert float(surprisal.mean()) == pytest.approx(
        float(ours.entropy()[0]), abs=4 * standard_error
    )


def test_squashing_keeps_ratios_and_kl() -> None:
    old, new = random_parameters(0), random_parameters(1)
    ours, other = TanhGaussian(old), TanhGaussian(new)
    u = ours.sample(seeded())
    ratio = squashed(new).log_prob(u.tanh()) - squashed(old).log_prob(u.tanh())
    torch.testing.assert_close(other.log_prob(u) - ours.log_prob(u), ratio, rtol=1e-6, atol=0)
    old, new = torch.tensor([[0.3, -0.6]]).double(), torch.tensor([[-0.2, -0.4]]).double()
    a = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[1:-1].unsqueeze(-1)
    p, q = squashed(old).log_prob(a), squashed(new).log_prob(a)
    kl = torch.trapezoid(p.exp() * (p - q), a.squeeze(-1))
    assert float(TanhGaussian(old).kl(TanhGaussian(new))) == pytest.approx(float(kl), abs=1e-6)


def test_squashed_mode_is_the_median() -> None:
    row = torch.tensor([[0.7, 0.4]], dtype=torch.float64)
    mean, log_std = row.unbind(-1)
    after = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform()])
    median = TanhGaussian(row).mode().tanh().squeeze(-1)
    assert float(after.cdf(median)) == pytest.approx(0.5, abs=1e-12)


def test_extreme_squashed_entropy_is_finite() -> None:
    rows = torch.tensor([[50.0, 0.0, 4.0, -20.0], [-1e4, 1e4, 5.0, 5.0]]).requires_grad_()
    entropy = TanhGaussian(rows).entropy()
    (gradient,) = torch.autograd.grad(entropy.sum(), rows)
    assert entropy.isfinite().all()
    assert gradient.isfinite().all()
