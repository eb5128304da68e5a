"""Action distributions against torch.distributions, scipy, enumeration and counts of samples."""

import math
from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.spatial.distance import jensenshannon
from scipy.stats import chisquare, gumbel_r, kstest, norm
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, TransformedDistribution, kl_divergence
from torch.distributions.transforms import TanhTransform

from rlkl.numerics.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
)

Make = Callable[[Tensor], Distribution]

# Every family takes 6 parameters here. Of the discrete ones: how many possibilities each choice
# has, and those of them that the tests of masks allow.
MULTI = partial(MultiCategorical, sizes=(3, 3))
UNEQUAL = partial(MultiCategorical, sizes=(1, 3, 2))
FAMILIES: dict[str, Make] = {
    "categorical": Categorical,
    "multi": MULTI,
    "unequal": UNEQUAL,
    "bernoulli": Bernoulli,
    "gaussian": DiagonalGaussian,
    "tanh": TanhGaussian,
}
SIZES = {"categorical": [6], "multi": [3, 3], "unequal": [1, 3, 2], "bernoulli": [2] * 6}
ALLOWED = {
    "categorical": [[0, 2, 4, 5]],
    "multi": [[1, 2], [0, 2]],
    "unequal": [[0], [0, 2], [1]],
    "bernoulli": [[0, 1], [0], [1], [0, 1], [0, 1], [1]],
}
ALL = pytest.mark.parametrize("family", FAMILIES)
DISCRETE = pytest.mark.parametrize("family", SIZES)
CONTINUOUS = pytest.mark.parametrize("kind", [DiagonalGaussian, TanhGaussian])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_parameters(seed: int = 0, rows: int = 5) -> Tensor:
    return torch.randn(rows, 6, generator=seeded(seed), dtype=torch.float64)


def mask_of(family: str) -> Tensor:
    """Return the mask that leaves ALLOWED, one row."""
    choices = zip(SIZES[family], ALLOWED[family], strict=True)
    return torch.tensor([[a in allowed for size, allowed in choices for a in range(size)]])


def joint_actions(family: str, choices: list[list[int]]) -> Tensor:
    """Return every joint action of these choices, shaped as the family has its actions."""
    actions = torch.tensor(list(product(*choices)))
    return actions.squeeze(-1) if family == "categorical" else actions


def parts(family: str, parameters: Tensor) -> list[torch.distributions.Distribution]:
    """Return the independent distributions, one for each action dimension, by torch."""
    if family in ("gaussian", "tanh"):
        mean, log_std = parameters.chunk(2, -1)
        return [Normal(m, s) for m, s in zip(mean.T, log_std.exp().T, strict=True)]
    if family == "bernoulli":
        return [TorchBernoulli(logits=logit) for logit in parameters.T]
    return [TorchCategorical(logits=part) for part in parameters.split(SIZES[family], -1)]


def allowed_parts(family: str, parameters: Tensor) -> list[TorchCategorical]:
    """Return, for each choice, torch's categorical over the allowed actions alone."""
    if family == "bernoulli":
        parameters = torch.stack((torch.zeros_like(parameters), parameters), -1).flatten(1)
    split = parameters.split(SIZES[family], -1)
    return [
        TorchCategorical(logits=part[:, allowed])
        for part, allowed in zip(split, ALLOWED[family], strict=True)
    ]


def dimensions(actions: Tensor) -> list[Tensor]:
    return [actions] if actions.ndim == 1 else list(actions.unbind(-1))


def total(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum(0)


def joint_log_probabilities(distribution: Distribution, family: str) -> Tensor:
    """Return log π of every joint action, `[B, joint actions]`."""
    everything = joint_actions(family, [list(range(size)) for size in SIZES[family]])
    rows = len(distribution.parameters)
    columns = [distribution.log_prob(a.expand(rows, *a.shape)) for a in everything]
    return torch.stack(columns, -1)


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
    if family != "tanh":
        expected.append((ours.entropy(), total([p.entropy() for p in theirs])))
    for mine, wanted in expected:
        assert mine.shape == (5,)
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-12)


@DISCRETE
@pytest.mark.parametrize("masked", [False, True])
def test_entropy_and_kl_are_those_of_the_joint_distribution(family: str, masked: bool) -> None:
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
def test_kl_from_itself_rebuilt_is_exactly_zero(family: str, dtype: torch.dtype) -> None:
    distribution = FAMILIES[family](random_parameters().to(dtype))
    if family in SIZES:
        masked = distribution.masked(mask_of(family))
        assert masked.kl(masked.at(masked.parameters.clone())).tolist() == [0.0] * 5
    assert distribution.kl(distribution.at(distribution.parameters.clone())).tolist() == [0.0] * 5


def test_standard_normal_in_two_dimensions_has_the_known_values() -> None:
    standard = DiagonalGaussian(torch.zeros(1, 4, dtype=torch.float64))
    at = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    assert float(standard.log_prob(at)) == pytest.approx(norm.logpdf(1) + norm.logpdf(-2))
    assert float(standard.entropy()) == pytest.approx(2.837877, abs=1e-6)


def test_jensen_shannon_of_categoricals_is_the_square_of_scipys_distance() -> None:
    p, q = Categorical(random_parameters(0)), Categorical(random_parameters(1))
    expected = jensenshannon(p.log_probabilities.exp(), q.log_probabilities.exp(), axis=1) ** 2
    np.testing.assert_allclose(p.jensen_shannon(q), expected, rtol=1e-12)


@ALL
def test_jensen_shannon_is_not_made_up(family: str) -> None:
    p = FAMILIES[family](random_parameters())
    assert (p.jensen_shannon(p) is None) == (family != "categorical")


@pytest.mark.parametrize("masked", [False, True])
@DISCRETE
def test_joint_actions_are_drawn_with_their_probabilities(family: str, masked: bool) -> None:
    count = 40_000
    row = random_parameters(rows=1)
    distribution = FAMILIES[family](row)
    if masked:
        distribution = distribution.masked(mask_of(family))
    probabilities = joint_log_probabilities(distribution, family).squeeze(0).exp().numpy()
    actions = distribution.at(distribution.parameters.expand(count, -1)).sample(seeded())
    place = np.ravel_multi_index([d.numpy() for d in dimensions(actions)], SIZES[family])
    frequencies = np.bincount(place, minlength=len(probabilities)) / count
    # For a masked action the standard error is 0: it is never drawn.
    error = np.sqrt(probabilities * (1 - probabilities) / count)
    assert (np.abs(frequencies - probabilities) <= 4.5 * error).all()


def test_categorical_samples_come_with_their_probabilities_row_by_row() -> None:
    probabilities = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.0, 0.5]], dtype=torch.float64)
    rows = Categorical(probabilities.log().repeat_interleave(50_000, 0))
    actions = rows.sample(seeded()).reshape(2, 50_000)
    first, second = (np.bincount(row, minlength=3) for row in actions)
    assert chisquare(first, [5_000, 10_000, 35_000]).pvalue > 0.01
    assert second[1] == 0
    assert chisquare(second[[0, 2]]).pvalue > 0.01


@ALL
@pytest.mark.parametrize("masked", [False, True])
def test_a_sample_is_what_the_noise_of_its_generator_stands_for(family: str, masked: bool) -> None:
    distribution = FAMILIES[family](random_parameters(rows=50))
    if masked and family in SIZES:
        distribution = distribution.masked(mask_of(family))
    noise = distribution.noise((50,), seeded(7))
    assert noise.dtype == torch.float64
    assert torch.equal(distribution.draw(noise), distribution.sample(seeded(7)))


@ALL
def test_noise_is_of_the_shape_asked_for_and_knows_nothing_of_the_parameters(family: str) -> None:
    first, other = (FAMILIES[family](random_parameters(seed)) for seed in (0, 1))
    noise = first.noise((7, 3), seeded())
    assert torch.equal(noise, other.noise((7, 3), seeded()))
    assert noise.shape[:2] == (7, 3)
    assert noise.isfinite().all()
    three = first.at(first.parameters[:3])
    for row in noise:
        assert three.draw(row).shape == three.sample(seeded()).shape
    # What is drawn for a state depends on its own noise alone.
    changed = noise[0].clone()
    changed[1:] = noise[1, 1:]
    assert torch.equal(three.draw(changed)[0], three.draw(noise[0])[0])
    assert torch.equal(three.draw(changed)[1:], three.draw(noise[1])[1:])


def test_noise_drawn_for_many_steps_at_once_gives_each_step_its_probabilities() -> None:
    probabilities = torch.tensor([0.1, 0.2, 0.7, 0.0], dtype=torch.float64)
    rows = Categorical(probabilities.log().expand(5_000, 4))
    noise = rows.noise((4, 5_000), seeded())
    counts = np.stack([np.bincount(rows.draw(step), minlength=4) for step in noise])
    assert (counts[:, 3] == 0).all()
    for count in counts:
        assert chisquare(count[:3], [500, 1_000, 3_500]).pvalue > 0.01
    # One step says nothing of the next.
    pairs = np.bincount(3 * rows.draw(noise[0]) + rows.draw(noise[1]), minlength=9)
    expected = 5_000 * np.outer([0.1, 0.2, 0.7], [0.1, 0.2, 0.7])
    assert chisquare(pairs, expected.ravel()).pvalue > 0.01


def test_the_noise_of_a_race_is_that_of_gumbel_and_of_a_gaussian_normal() -> None:
    race = Categorical(torch.zeros(1, 10, dtype=torch.float64)).noise((5_000,), seeded())
    assert kstest(race.flatten(), gumbel_r.cdf).pvalue > 0.01
    bell = DiagonalGaussian(torch.zeros(1, 20, dtype=torch.float64)).noise((5_000,), seeded())
    assert kstest(bell.flatten(), norm.cdf).pvalue > 0.01


def test_without_noise_the_best_action_and_the_mean_are_drawn() -> None:
    for family in ("categorical", "multi", "unequal", "bernoulli", "gaussian"):
        distribution = FAMILIES[family](random_parameters())
        none = torch.zeros_like(distribution.noise((5,), seeded()))
        assert torch.equal(distribution.draw(none), distribution.mode())


@CONTINUOUS
def test_gaussian_samples_are_normal_and_independent_dimension_by_dimension(
    kind: type[DiagonalGaussian],
) -> None:
    parameters = torch.tensor([1.0, -2.0, 0.0, math.log(3.0)], dtype=torch.float64)
    actions = kind(parameters.expand(50_000, 4)).sample(seeded())
    assert kstest(actions[:, 0], norm(1, 1).cdf).pvalue > 0.01
    assert kstest(actions[:, 1], norm(-2, 3).cdf).pvalue > 0.01
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.015
    assert abs(np.corrcoef(actions[1:, 0], actions[:-1, 0])[0, 1]) < 0.015


@ALL
def test_samples_depend_on_the_generator_alone(family: str) -> None:
    distribution = FAMILIES[family](random_parameters(rows=1000))
    state = torch.get_rng_state()
    first, second, third = (distribution.sample(seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(torch.get_rng_state(), state)


def test_modes_are_the_best_actions_and_the_mean() -> None:
    assert Categorical(torch.tensor([[0.0, 3.0, -1.0], [5.0, 1.0, 2.0]])).mode().tolist() == [1, 0]
    logits = torch.tensor([[-7.0, -3.0, -1.0, -2.0, -4.0, -5.0]])
    assert UNEQUAL(logits).mode().tolist() == [[0, 1, 0]]
    assert Bernoulli(torch.tensor([[-1.0, 2.0, math.inf]])).mode().tolist() == [[0, 1, 1]]
    for kind in (DiagonalGaussian, TanhGaussian):
        assert kind(torch.tensor([[0.5, -2.0, 9.0, 9.0]])).mode().tolist() == [[0.5, -2.0]]


@ALL
def test_a_distribution_is_rebuilt_from_rows_of_its_parameters(family: str) -> None:
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
def test_float64_in_is_float64_out(family: str) -> None:
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


def test_adding_a_constant_to_the_logits_changes_nothing() -> None:
    logits = random_parameters()
    assert Categorical(logits).kl(Categorical(logits + 100)).abs().max() < 1e-12
    assert MULTI(logits).kl(MULTI(logits + 100)).abs().max() < 1e-12


@ALL
@given(numbers=st.lists(st.floats(-40, 40), min_size=12, max_size=12), masked=st.booleans())
def test_kl_is_never_negative_either_way(family: str, numbers: list[float], masked: bool) -> None:
    rows = torch.tensor(numbers, dtype=torch.float64).reshape(2, 1, 6)
    if family not in SIZES:
        rows[..., 3:] /= 10
    p, q = map(FAMILIES[family], rows)
    if masked and family in SIZES:
        p, q = p.masked(mask_of(family)), q.masked(mask_of(family))
    assert float(p.kl(q)) >= -1e-12
    assert float(q.kl(p)) >= -1e-12


# Many choices in one action


def test_unequal_sizes_are_separate_categoricals() -> None:
    logits = random_parameters()
    together = UNEQUAL(logits)
    apart = [Categorical(part) for part in logits.split((1, 3, 2), -1)]
    actions = together.sample(seeded())
    log_prob = [p.log_prob(a) for p, a in zip(apart, actions.T, strict=True)]
    torch.testing.assert_close(together.log_prob(actions), total(log_prob))
    torch.testing.assert_close(together.entropy(), total([p.entropy() for p in apart]))
    assert torch.equal(together.mode(), torch.stack([p.mode() for p in apart], -1))


@pytest.mark.parametrize("sizes", [(3,), (2, 2), (1, 2), (3, 3, 3)])
def test_sizes_that_do_not_fit_the_logits_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        MultiCategorical(random_parameters(), sizes)


def test_what_is_first_made_in_inference_mode_can_still_be_learned_from() -> None:
    make = partial(MultiCategorical, sizes=(1, 2, 1, 1, 1))  # no other test has these sizes
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


# Masks


@DISCRETE
def test_masked_probabilities_are_renormalised(family: str) -> None:
    ours = FAMILIES[family](random_parameters())
    everything = joint_actions(family, [list(range(size)) for size in SIZES[family]])
    allowed = joint_actions(family, ALLOWED[family])
    possible = torch.tensor([a.tolist() in allowed.tolist() for a in everything])
    expected = joint_log_probabilities(ours, family).exp() * possible
    expected /= expected.sum(-1, keepdim=True)
    actual = joint_log_probabilities(ours.masked(mask_of(family)), family).exp()
    assert actual[:, ~possible].eq(0).all()
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_a_mask_leaves_the_probabilities_worked_out_by_hand() -> None:
    quarters = torch.tensor([[0.5, 0.25, 0.25]]).log()
    first_two = torch.tensor([[True, True, False]])
    np.testing.assert_allclose(
        Categorical(quarters).masked(first_two).log_probabilities.exp(), [[2 / 3, 1 / 3, 0]]
    )
    half = torch.zeros(1, 3)
    mask = torch.tensor([[True, True, True, False, False, True]])
    assert Bernoulli(half).masked(mask).parameters.tolist() == [[0, -math.inf, math.inf]]


def test_each_row_has_its_own_mask() -> None:
    mask = torch.tensor([[True, False, False], [False, True, True]])
    uniform = Categorical(torch.zeros(2, 3)).masked(mask)
    assert uniform.log_probabilities.exp().tolist() == [[1, 0, 0], [0, 0.5, 0.5]]


@DISCRETE
def test_a_masked_distribution_is_that_over_the_allowed_actions_alone(family: str) -> None:
    """Values, gradients and Hessian-vector products, of all that an update differentiates."""
    make, mask = FAMILIES[family], mask_of(family)
    theta, phi = random_parameters(0).requires_grad_(), random_parameters(1).requires_grad_()
    ours, other = make(theta).masked(mask), make(phi).masked(mask)
    theirs, their_other = allowed_parts(family, theta), allowed_parts(family, phi)
    actions = ours.sample(seeded())
    log_prob = [
        part.log_prob(torch.searchsorted(torch.tensor(allowed), action.contiguous()))
        for part, allowed, action in zip(theirs, ALLOWED[family], dimensions(actions), strict=True)
    ]
    both = list(zip(theirs, their_other, strict=True))
    vector = random_parameters(2)

    def differentiated(numbers: Tensor, by: Tensor) -> list[Tensor]:
        """Return the numbers, the gradient of their sum and the Hessian times a vector."""
        (gradient,) = torch.autograd.grad(numbers.sum(), by, create_graph=True)
        (product,) = torch.autograd.grad((gradient * vector).sum(), by, retain_graph=True)
        return [numbers, gradient, product]

    for mine, expected, by in (
        (ours.log_prob(actions), total(log_prob), theta),
        (ours.entropy(), total([p.entropy() for p in theirs]), theta),
        (ours.kl(other), total([kl_divergence(p, q) for p, q in both]), theta),
        (ours.kl(other), total([kl_divergence(p, q) for p, q in both]), phi),
    ):
        for one, two in zip(differentiated(mine, by), differentiated(expected, by), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


@DISCRETE
def test_the_parameters_alone_make_a_masked_distribution_again(family: str) -> None:
    mask = mask_of(family)
    ours = FAMILIES[family](random_parameters())
    masked = ours.masked(mask)
    again = ours.at(masked.parameters)
    assert torch.equal(
        joint_log_probabilities(again, family), joint_log_probabilities(masked, family)
    )
    assert torch.equal(masked.masked(mask).parameters, masked.parameters)
    assert torch.equal(ours.masked(torch.ones_like(mask)).parameters, ours.parameters)


@DISCRETE
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e30])
def test_a_masked_action_is_never_taken_whatever_the_logits(family: str, scale: float) -> None:
    """The network may prefer masked actions as much as it likes."""
    mask = mask_of(family)
    logits = (scale * random_parameters(rows=5000)).float().requires_grad_()
    ours = FAMILIES[family](logits).masked(mask)
    other = ours.at(ours.parameters.detach().roll(1, 0))
    allowed = joint_actions(family, ALLOWED[family]).tolist()
    actions, mode = ours.sample(seeded()), ours.mode()
    assert all(action in allowed for action in actions.tolist())
    assert all(action in allowed for action in mode.tolist())
    numbers = torch.stack((ours.log_prob(actions), ours.entropy(), ours.kl(other), other.kl(ours)))
    assert numbers.isfinite().all()
    (gradient,) = torch.autograd.grad(numbers.sum(), logits, create_graph=True)
    (product,) = torch.autograd.grad(gradient.sum(), logits)
    assert gradient.isfinite().all()
    assert product.isfinite().all()


def test_one_action_allowed_among_a_thousand_is_the_one_taken() -> None:
    mask = torch.arange(1000).eq(123).expand(5000, -1)
    masked = Categorical(torch.zeros(5000, 1000)).masked(mask)
    assert masked.sample(seeded()).eq(123).all()


@DISCRETE
def test_kl_is_infinite_where_support_is_lost_and_finite_where_it_is_gained(family: str) -> None:
    full = FAMILIES[family](random_parameters())
    masked = full.masked(mask_of(family))
    assert full.kl(masked).eq(math.inf).all()
    assert masked.kl(full).isfinite().all()


@DISCRETE
def test_a_probability_that_underflows_counts_as_zero_and_makes_no_nan(family: str) -> None:
    """In float32 exp(-500) is 0, and 0 · log(0/0) is 0 also where the other is masked."""
    masked = FAMILIES[family](torch.zeros(1, 6)).masked(mask_of(family))
    nearly = masked.at(masked.parameters.clamp(-500, 500))
    assert nearly.kl(masked).tolist() == masked.kl(nearly).tolist() == [0.0]
    assert torch.equal(nearly.entropy(), masked.entropy())


@CONTINUOUS
def test_continuous_actions_have_no_masks(kind: type[DiagonalGaussian]) -> None:
    with pytest.raises(ValueError, match="continuous actions cannot be masked"):
        kind(random_parameters()).masked(torch.ones(5, 3, dtype=torch.bool))


# Squashed actions


def squashed(parameters: Tensor) -> TransformedDistribution:
    mean, log_std = parameters.chunk(2, -1)
    return TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform()])


def test_only_the_entropy_of_a_squashed_gaussian_is_an_estimate() -> None:
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
        # The slope of tanh is 1 / cosh², here by its logarithm.
        return norm.pdf(z) * -2 * (np.logaddexp(u, -u) - math.log(2))

    corner = np.clip(-mean / std, -11, 11)
    correction = quad(integrand, -12, 12, points=[corner], epsabs=1e-11, limit=300)[0]
    expected = norm.entropy(mean, std) + correction
    parameters = torch.tensor([[mean, mean, log_std, log_std]], dtype=torch.float64)
    for rows, relative in ((parameters, 1e-12), (parameters.float(), 1e-5)):
        actual = float(TanhGaussian(rows).entropy())
        assert actual == pytest.approx(2 * expected, rel=relative, abs=2 * error)


def test_squashed_entropy_is_the_mean_surprise_of_squashed_samples() -> None:
    row = torch.tensor([[0.3, -1.0, -0.5, 0.2]], dtype=torch.float64)
    ours = TanhGaussian(row.expand(100_000, -1))
    surprise = -squashed(row).log_prob(ours.sample(seeded()).tanh())
    standard_error = float(surprise.std()) / math.sqrt(len(surprise))
    assert float(surprise.mean()) == pytest.approx(float(ours.entropy()[0]), abs=4 * standard_error)


def test_ratios_and_kl_before_squashing_are_those_after_it() -> None:
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


def test_the_squashed_mode_is_the_median() -> None:
    row = torch.tensor([[0.7, 0.4]], dtype=torch.float64)
    mean, log_std = row.unbind(-1)
    after = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform()])
    median = TanhGaussian(row).mode().tanh().squeeze(-1)
    assert float(after.cdf(median)) == pytest.approx(0.5, abs=1e-12)


def test_the_entropy_of_a_far_or_wide_squashed_gaussian_is_finite() -> None:
    rows = torch.tensor([[50.0, 0.0, 4.0, -20.0], [-1e4, 1e4, 5.0, 5.0]]).requires_grad_()
    entropy = TanhGaussian(rows).entropy()
    (gradient,) = torch.autograd.grad(entropy.sum(), rows)
    assert entropy.isfinite().all()
    assert gradient.isfinite().all()
