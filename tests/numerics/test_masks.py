"""Masked action distributions against distributions over the allowed actions."""

import math

import numpy as np
import pytest
import torch
from action_families import (
    ALLOWED,
    CONTINUOUS,
    DISCRETE,
    FAMILIES,
    SIZES,
    dimensions,
    joint_actions,
    joint_log_probabilities,
    mask_of,
    random_parameters,
    seeded,
    total,
)
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import kl_divergence

from rlkl.numerics.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
)


def allowed_parts(family: str, parameters: Tensor) -> list[TorchCategorical]:
    """Return, for each choice, torch's categorical over the allowed actions."""
    if family == "bernoulli":
        parameters = torch.stack((torch.zeros_like(parameters), parameters), -1).flatten(1)
    split = parameters.split(SIZES[family], -1)
    return [
        TorchCategorical(logits=part[:, allowed])
        for part, allowed in zip(split, ALLOWED[family], strict=True)
    ]


@DISCRETE
def test_masked_probabilities_are_renormalized(family: str) -> None:
    ours = FAMILIES[family](random_parameters())
    everything = joint_actions(family, [list(range(size)) for size in SIZES[family]])
    allowed = joint_actions(family, ALLOWED[family])
    possible = torch.tensor([a.tolist() in allowed.tolist() for a in everything])
    expected = joint_log_probabilities(ours, family).exp() * possible
    expected /= expected.sum(-1, keepdim=True)
    actual = joint_log_probabilities(ours.masked(mask_of(family)), family).exp()
    assert actual[:, ~possible].eq(0).all()
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_masked_probabilities_have_known_values() -> None:
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
def test_masking_equals_removing_actions(family: str) -> None:
    """Compare values, gradients and Hessian-vector products."""
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

    for found, expected, by in (
        (ours.log_prob(actions), total(log_prob), theta),
        (ours.entropy(), total([p.entropy() for p in theirs]), theta),
        (ours.kl(other), total([kl_divergence(p, q) for p, q in both]), theta),
        (ours.kl(other), total([kl_divergence(p, q) for p, q in both]), phi),
    ):
        for one, two in zip(differentiated(found, by), differentiated(expected, by), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


@DISCRETE
def test_parameters_include_the_mask(family: str) -> None:
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
def test_masked_actions_are_never_sampled(family: str, scale: float) -> None:
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


def test_single_allowed_action_is_always_sampled() -> None:
    mask = torch.arange(1000).eq(123).expand(5000, -1)
    masked = Categorical(torch.zeros(5000, 1000)).masked(mask)
    assert masked.sample(seeded()).eq(123).all()


@DISCRETE
def test_kl_is_infinite_where_support_is_lost(family: str) -> None:
    full = FAMILIES[family](random_parameters())
    masked = full.masked(mask_of(family))
    assert full.kl(masked).eq(math.inf).all()
    assert masked.kl(full).isfinite().all()


@DISCRETE
def test_underflowing_probability_counts_as_zero(family: str) -> None:
    """In float32 exp(-500) is 0, and 0 · log(0/0) counts as 0."""
    masked = FAMILIES[family](torch.zeros(1, 6)).masked(mask_of(family))
    nearly = masked.at(masked.parameters.clamp(-500, 500))
    assert nearly.kl(masked).tolist() == masked.kl(nearly).tolist() == [0.0]
    assert torch.equal(nearly.entropy(), masked.entropy())


@CONTINUOUS
def test_continuous_actions_reject_masks(kind: type[DiagonalGaussian]) -> None:
    with pytest.raises(ValueError, match="continuous actions cannot be masked"):
        kind(random_parameters()).masked(torch.ones(5, 3, dtype=torch.bool))
