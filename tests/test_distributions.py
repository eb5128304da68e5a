"""Action distributions against torch.distributions, scipy and counts of samples."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import chisquare, kstest, norm
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from rlkl.distributions import Categorical, DiagonalGaussian

Type = type[Categorical] | type[DiagonalGaussian]
BOTH = pytest.mark.parametrize("kind", [Categorical, DiagonalGaussian])


def random_parameters(seed: int = 0, rows: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=generator, dtype=torch.float64)


def reference(kind: Type, parameters: Tensor) -> torch.distributions.Distribution:
    if kind is Categorical:
        return torch.distributions.Categorical(logits=parameters)
    mean, log_std = parameters.chunk(2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)


@BOTH
def test_log_prob_entropy_and_kl_agree_with_torch(kind: Type) -> None:
    ours, other = kind(random_parameters(0)), kind(random_parameters(1))
    theirs, their_other = reference(kind, ours.parameters), reference(kind, other.parameters)
    actions = ours.sample(torch.Generator().manual_seed(0))
    for mine, expected in (
        (ours.log_prob(actions), theirs.log_prob(actions)),
        (ours.entropy(), theirs.entropy()),
        (ours.kl(other), kl_divergence(theirs, their_other)),
        (other.kl(ours), kl_divergence(their_other, theirs)),
    ):
        assert mine.shape == (5,)
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


@BOTH
def test_kl_from_itself_rebuilt_is_exactly_zero(kind: Type) -> None:
    for dtype in (torch.float32, torch.float64):
        distribution = kind(random_parameters().to(dtype))
        assert distribution.kl(kind(distribution.parameters.clone())).tolist() == [0.0] * 5


def test_standard_normal_in_two_dimensions_has_the_known_values() -> None:
    standard = DiagonalGaussian(torch.zeros(1, 4, dtype=torch.float64))
    at = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    assert float(standard.log_prob(at)) == pytest.approx(norm.logpdf(1) + norm.logpdf(-2))
    assert float(standard.entropy()) == pytest.approx(2.837877, abs=1e-6)


def test_jensen_shannon_of_categoricals_is_the_square_of_scipys_distance() -> None:
    p, q = Categorical(random_parameters(0)), Categorical(random_parameters(1))
    expected = jensenshannon(p.log_probabilities.exp(), q.log_probabilities.exp(), axis=1) ** 2
    np.testing.assert_allclose(p.jensen_shannon(q), expected, rtol=1e-12)


def test_jensen_shannon_of_gaussians_is_not_made_up() -> None:
    p = DiagonalGaussian(random_parameters())
    assert p.jensen_shannon(p) is None


def test_categorical_samples_come_with_their_probabilities_row_by_row() -> None:
    probabilities = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.0, 0.5]], dtype=torch.float64)
    rows = Categorical(probabilities.log().repeat_interleave(50_000, 0))
    actions = rows.sample(torch.Generator().manual_seed(0)).reshape(2, 50_000)
    first, second = (np.bincount(row, minlength=3) for row in actions)
    assert chisquare(first, [5_000, 10_000, 35_000]).pvalue > 0.01
    assert second[1] == 0
    assert chisquare(second[[0, 2]]).pvalue > 0.01


def test_gaussian_samples_are_normal_and_independent_dimension_by_dimension() -> None:
    parameters = torch.tensor([1.0, -2.0, 0.0, math.log(3.0)], dtype=torch.float64)
    actions = DiagonalGaussian(parameters.expand(50_000, 4)).sample(
        torch.Generator().manual_seed(0)
    )
    assert kstest(actions[:, 0], norm(1, 1).cdf).pvalue > 0.01
    assert kstest(actions[:, 1], norm(-2, 3).cdf).pvalue > 0.01
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.015
    assert abs(np.corrcoef(actions[1:, 0], actions[:-1, 0])[0, 1]) < 0.015


@BOTH
def test_samples_depend_on_the_generator_alone(kind: Type) -> None:
    distribution = kind(random_parameters(rows=1000))
    state = torch.get_rng_state()
    first, second, third = (
        distribution.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(torch.get_rng_state(), state)


def test_masked_actions_are_never_taken_and_make_no_nan() -> None:
    mask = torch.tensor([0.0, -math.inf, 0.0, -math.inf, 0.0, 0.0], dtype=torch.float64)
    logits = (random_parameters(rows=10_000) + mask).requires_grad_()
    ours, other = Categorical(logits), Categorical(random_parameters(1, 10_000) + mask)
    actions = ours.sample(torch.Generator().manual_seed(0))
    assert set(actions.tolist()) == {0, 2, 4, 5}
    masked = torch.ones(10_000, dtype=torch.int64)
    assert ours.log_prob(masked).eq(-math.inf).all()
    numbers = torch.stack((ours.log_prob(actions), ours.entropy(), ours.kl(other), other.kl(ours)))
    assert numbers.isfinite().all()
    (gradient,) = torch.autograd.grad(numbers.sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[:, 1].eq(0).all()


def test_modes_are_the_best_action_and_the_mean() -> None:
    assert Categorical(torch.tensor([[0.0, 3.0, -1.0], [5.0, 1.0, 2.0]])).mode().tolist() == [1, 0]
    assert DiagonalGaussian(torch.tensor([[0.5, -2.0, 9.0, 9.0]])).mode().tolist() == [[0.5, -2.0]]


@BOTH
def test_a_distribution_is_rebuilt_from_rows_of_its_parameters(kind: Type) -> None:
    whole = kind(random_parameters(rows=20).float())
    actions = whole.sample(torch.Generator().manual_seed(0))
    rows = torch.tensor([7, 0, 7, 19])
    part = type(whole)(whole.parameters[rows])
    assert torch.equal(part.log_prob(actions[rows]), whole.log_prob(actions)[rows])
    assert torch.equal(part.entropy(), whole.entropy()[rows])
    assert torch.equal(part.mode(), whole.mode()[rows])


@BOTH
def test_float64_in_is_float64_out(kind: Type) -> None:
    distribution = kind(random_parameters())
    actions = distribution.sample(torch.Generator().manual_seed(0))
    assert actions.dtype == (torch.int64 if kind is Categorical else torch.float64)
    for numbers in (
        distribution.log_prob(actions),
        distribution.entropy(),
        distribution.kl(distribution),
    ):
        assert numbers.dtype == torch.float64


@BOTH
def test_gradients_agree_with_finite_differences(kind: Type) -> None:
    parameters = random_parameters().requires_grad_()
    other = random_parameters(1).requires_grad_()
    actions = kind(parameters.detach()).sample(torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda p: kind(p).log_prob(actions), parameters)
    assert torch.autograd.gradcheck(lambda p: kind(p).entropy(), parameters)
    assert torch.autograd.gradcheck(lambda p, q: kind(p).kl(kind(q)), (parameters, other))
    assert torch.autograd.gradgradcheck(lambda p, q: kind(p).kl(kind(q)), (parameters, other))


def test_adding_a_constant_to_the_logits_changes_nothing() -> None:
    logits = random_parameters()
    assert Categorical(logits).kl(Categorical(logits + 100)).abs().max() < 1e-12
