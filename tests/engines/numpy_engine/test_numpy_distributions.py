"""Closed forms of log-probability, KL and entropy, compared with torch and scipy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import entropy as scipy_entropy
from scipy.stats import norm
from torch import Generator, Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import Independent, Normal, kl_divergence

from rlkl.engines.base import Loss
from rlkl.engines.numpy.distributions import (
    CategoricalForm,
    ClosedForm,
    GaussianForm,
    two_action_root,
)
from rlkl.engines.numpy.rows import Rows
from rlkl.numerics.distributions import Categorical, DiagonalGaussian, Distribution

Array = NDArray[np.float64]
ROWS = 7
CASES: dict[str, float] = {"categorical": 1, "masked": 1, "sharp": 30, "gaussian": 1, "wide": 3}
"""Cases, and the scale of their parameters."""
EVERY_CASE = pytest.mark.parametrize("case", CASES)
FAMILIES: dict[bool, tuple[type[ClosedForm], type[Distribution]]] = {
    True: (GaussianForm, DiagonalGaussian),
    False: (CategoricalForm, Categorical),
}


def is_gaussian(case: str) -> bool:
    return case in ("gaussian", "wide")


def masks() -> Tensor:
    mask = torch.ones(ROWS, 4, dtype=torch.bool)
    mask[torch.arange(ROWS), torch.arange(ROWS) % 4] = False
    mask[0, 1:3] = False  # only one action is allowed
    return mask


def example(case: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return parameters, actions, and parameters of a π_old at a moderate distance."""
    generator = Generator().manual_seed(0)
    new, difference = torch.randn(2, ROWS, 4, generator=generator, dtype=torch.float64)
    new, old = CASES[case] * new, CASES[case] * new + 0.5 * difference
    if case == "masked":
        new, old = (torch.where(masks(), p, -math.inf) for p in (new, old))
    return new, FAMILIES[is_gaussian(case)][1](old).sample(generator), old


def in_torch(case: str, parameters: Tensor) -> TorchDistribution:
    if is_gaussian(case):
        mean, log_std = parameters.chunk(2, -1)
        return Independent(Normal(mean, log_std.exp()), 1)
    return TorchCategorical(logits=parameters)


def made(form: type[ClosedForm], parameters: Any, actions: Any, old: Any) -> ClosedForm:
    """Return the closed form for arrays, with π_old from `prepare_old`."""
    nothing = np.zeros(len(parameters), parameters.dtype)
    rows = Rows(nothing, nothing, nothing, None, actions, nothing, form.prepare_old(old), nothing)
    return form(parameters, rows)


def form_of(case: str, parameters: Tensor, actions: Tensor, old: Tensor) -> ClosedForm:
    form = FAMILIES[is_gaussian(case)][0]
    return made(form, parameters.detach().numpy(), actions.numpy(), old.numpy())


@EVERY_CASE
def test_quantities_match_torch_and_their_definition(case: str) -> None:
    parameters, actions, old = example(case)
    form = form_of(case, parameters, actions, old)
    family = FAMILIES[is_gaussian(case)][1]
    theirs, their_old = in_torch(case, parameters), in_torch(case, old)
    ours = family(parameters)
    for found, expected, defined in (
        (form.log_prob, theirs.log_prob(actions), ours.log_prob(actions)),
        (form.kl, kl_divergence(their_old, theirs), ours.at(old).kl(ours)),
        (form.reverse_kl, kl_divergence(theirs, their_old), ours.kl(ours.at(old))),
        (form.entropy, theirs.entropy(), ours.entropy()),
    ):
        assert found.shape == (ROWS,)
        np.testing.assert_allclose(found, defined, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    mean_kl = float(kl_divergence(their_old, theirs).mean())
    assert form.mean_kl() == pytest.approx(mean_kl, rel=1e-9, abs=1e-12)


def test_categorical_matches_scipy() -> None:
    p, q = np.array([[0.1, 0.2, 0.7]]), np.array([[0.5, 0.25, 0.25]])
    form = made(CategoricalForm, np.log(p), np.array([2]), np.log(q))
    assert form.log_prob.item() == pytest.approx(math.log(0.7), rel=1e-14)
    assert form.entropy.item() == pytest.approx(scipy_entropy(p[0]), rel=1e-14)
    assert form.kl.item() == pytest.approx(scipy_entropy(q[0], p[0]), rel=1e-14)
    assert form.reverse_kl.item() == pytest.approx(scipy_entropy(p[0], q[0]), rel=1e-14)


def test_gaussian_matches_scipy() -> None:
    parameters = np.array([[1.0, -2.0, math.log(0.5), math.log(3)]])
    action = np.array([[1.5, 4.0]])
    form = made(GaussianForm, parameters, action, parameters)
    parts = norm(1, 0.5), norm(-2, 3)
    log_prob = parts[0].logpdf(1.5) + parts[1].logpdf(4)
    assert form.log_prob.item() == pytest.approx(log_prob, rel=1e-14)
    assert form.entropy.item() == pytest.approx(sum(p.entropy() for p in parts), rel=1e-14)
    assert form.kl.item() == form.reverse_kl.item() == 0


WEIGHTS = {
    "log_prob": (1.0, 0.0, 0.0, 0.0),
    "kl": (0.0, 0.7, 0.0, 0.0),
    "entropy": (0.0, 0.0, -0.3, 0.0),
    "reverse_kl": (0.0, 0.0, 0.0, 0.6),
    "all": (1.0, 0.7, -0.3, 0.6),
}
EVERY_WEIGHT = pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)


def derivative_of(case: str, weights: tuple[float, ...], *given: Tensor) -> tuple[Array, Tensor]:
    """Return the derivative, and the weights of its log-probabilities."""
    of_log_prob = weights[0] * torch.linspace(-2, 3, ROWS, dtype=torch.float64)
    form = form_of(case, *given)
    names = ("kl", "entropy", "reverse_kl")
    loss = Loss(0.0, of_log_prob.numpy(), **dict(zip(names, weights[1:], strict=True)))
    return form.derivative(loss), of_log_prob


@EVERY_CASE
@EVERY_WEIGHT
def test_derivatives_match_autograd(case: str, weights: tuple[float, ...]) -> None:
    parameters, actions, old = example(case)
    found, of_log_prob = derivative_of(case, weights, parameters, actions, old)
    leaf = parameters.clone().requires_grad_()
    new = FAMILIES[is_gaussian(case)][1](leaf)
    loss = (new.log_prob(actions) * of_log_prob).sum()
    loss = loss + weights[1] * new.at(old).kl(new).sum() + weights[2] * new.entropy().sum()
    loss = loss + weights[3] * new.kl(new.at(old)).sum()
    (expected,) = torch.autograd.grad(loss, leaf)
    assert found.shape == parameters.shape
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    if case == "masked":
        assert (found[~masks().numpy()] == 0).all()


@EVERY_CASE
@EVERY_WEIGHT
def test_derivatives_match_finite_differences(case: str, weights: tuple[float, ...]) -> None:
    parameters, actions, old = example(case)
    found, of_log_prob = derivative_of(case, weights, parameters, actions, old)

    def losses(at: Tensor) -> Tensor:
        new = in_torch(case, at)
        kl = kl_divergence(in_torch(case, old), new)
        reverse = kl_divergence(new, in_torch(case, old))
        rest = weights[1] * kl + weights[2] * new.entropy() + weights[3] * reverse
        return of_log_prob * new.log_prob(actions) + rest

    step = 1e-5
    for column in range(parameters.shape[1]):
        finite = parameters[:, column].isfinite()
        change = torch.zeros_like(parameters)
        change[:, column] = step
        expected = (losses(parameters + change) - losses(parameters - change)) / (2 * step)
        scale = float(expected[finite].abs().max()) + 1
        np.testing.assert_allclose(
            found[finite, column], expected[finite], rtol=1e-6, atol=1e-8 * scale
        )


def test_masked_actions_have_zero_gradient_and_no_nan() -> None:
    logits = np.array([[3, -np.inf, -1, -np.inf], [-np.inf, 5, -np.inf, -np.inf]], np.float32)
    old = np.array([[1, -np.inf, 2, -np.inf], [-np.inf, -7, -np.inf, -np.inf]], np.float32)
    form = made(CategoricalForm, logits, np.array([2, 1]), old)
    loss = Loss(0.0, np.array([2, -3], np.float32), 0.7, -0.3, reverse_kl=0.6)
    derivative = form.derivative(loss)
    for found in (form.log_prob, form.kl, form.reverse_kl, form.entropy, derivative):
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
    assert (derivative[np.isneginf(logits)] == 0).all()
    assert (derivative[1] == 0).all()  # only one action is allowed
    assert form.log_prob[1] == form.kl[1] == form.reverse_kl[1] == form.entropy[1] == 0
    images = CategoricalForm.fisher(logits, np.ones_like(logits))
    np.testing.assert_allclose(images, 0, atol=1e-7)
    assert (images[np.isneginf(logits)] == 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e2, 1e3, 1e30])
def test_extreme_logits_give_no_nan(size: float, dtype: Any) -> None:
    logits = np.array([[size, -size, 0], [-size, size, size]], dtype)
    form = made(CategoricalForm, logits, np.array([0, 1]), logits)
    np.testing.assert_allclose(form.log_prob, [0, -math.log(2)], rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(form.entropy, [0, math.log(2)], rtol=1e-6, atol=1e-30)
    assert form.kl.tolist() == form.reverse_kl.tolist() == [0, 0]
    derivative = form.derivative(Loss(0.0, np.ones(2, dtype), 1.0, 1.0, reverse_kl=1.0))
    np.testing.assert_allclose(derivative, [[0, 0, 0], [0, 0.5, -0.5]], atol=1e-6)


def test_impossible_action_gives_infinite_kl() -> None:
    new, old = np.array([[-np.inf, 1.0, 2.0]]), np.array([[0.0, 1.0, 2.0]])
    form = made(CategoricalForm, new, np.array([0]), old)
    assert form.kl.tolist() == [np.inf]
    assert form.mean_kl() == np.inf
    assert form.log_prob.tolist() == [-np.inf]
    # In the other direction the KL is finite.
    swapped = made(CategoricalForm, old, np.array([0]), new)
    expected = Categorical(torch.tensor(new)).kl(Categorical(torch.tensor(old)))
    np.testing.assert_allclose(swapped.kl, expected, rtol=1e-12)
    np.testing.assert_allclose(form.reverse_kl, expected, rtol=1e-12)
    assert swapped.reverse_kl.tolist() == [np.inf]


@pytest.mark.parametrize("log_std", [-20.0, -8.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thin_and_wide_gaussians_match_autograd(log_std: float, dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(0)
    old = torch.randn(ROWS, 4, generator=generator).to(dtype)
    old[:, 2:] = log_std
    actions = DiagonalGaussian(old).sample(generator)
    new = old.clone()
    new[:, :2] += 0.1 * math.exp(log_std)
    new[:, 2:] += 0.1
    leaf = new.clone().requires_grad_()
    distribution = DiagonalGaussian(leaf)
    kl = distribution.at(old).kl(distribution)
    (distribution.log_prob(actions).sum() + 0.5 * kl.sum()).backward()
    form = made(GaussianForm, new.numpy(), actions.numpy(), old.numpy())
    rtol = 1e-4 if dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(form.log_prob, distribution.log_prob(actions).detach(), rtol=rtol)
    np.testing.assert_allclose(form.kl, kl.detach(), rtol=rtol)
    derivative = form.derivative(Loss(0.0, np.ones(ROWS, old.numpy().dtype), 0.5))
    assert leaf.grad is not None
    np.testing.assert_allclose(derivative, leaf.grad, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9])
def test_tiny_gaussian_kl_keeps_its_digits(distance: float) -> None:
    old = np.array([[0.5, -0.7]])
    # If only σ differs, KL = δ² + ⅔ δ³ + …, with δ = log σ_old - log σ.
    form = made(GaussianForm, old - [[0, distance]], old[:, :1], old)
    expected = distance**2 * (1 + 2 / 3 * distance)
    assert form.kl.item() == pytest.approx(expected, rel=3e-6, abs=0)
    derivative = form.derivative(Loss(0.0, np.zeros(1), 1.0))[0, 1]
    assert derivative == pytest.approx(-2 * distance * (1 + distance), rel=3e-6, abs=0)


@pytest.mark.parametrize("case", ["categorical", "masked", "gaussian"])
def test_kl_from_itself_and_its_gradient_are_zero(case: str) -> None:
    parameters, actions, _ = example(case)
    form = form_of(case, parameters, actions, parameters)
    assert form.kl.tolist() == [0.0] * ROWS
    assert not form.derivative(Loss(0.0, np.zeros(ROWS), 1.0)).any()


@pytest.mark.parametrize("case", ["categorical", "masked", "gaussian", "wide"])
def test_fisher_products_match_kl_hessian(case: str) -> None:
    parameters, _, _ = example(case)
    family = FAMILIES[is_gaussian(case)][1]
    product = (GaussianForm if is_gaussian(case) else CategoricalForm).fisher
    changes = torch.randn(ROWS, 4, generator=Generator().manual_seed(1), dtype=torch.float64)
    before = parameters.clone(), changes.clone()
    found = product(parameters.numpy(), changes.numpy())
    assert torch.equal(parameters, before[0])
    assert torch.equal(changes, before[1])
    for row, u, image in zip(parameters, changes, found, strict=True):
        possible = row.isfinite()
        old = family(row[possible][None])
        hessian = torch.autograd.functional.hessian(
            lambda at, old=old: old.kl(old.at(at[None])).sum(), row[possible]
        )
        np.testing.assert_allclose(image[possible], hessian @ u[possible], rtol=1e-9, atol=1e-12)
        assert (image[~possible] == 0).all()


def test_fisher_matrix_of_two_logits_has_root() -> None:
    logits = np.array([[0.3, -1.2], [0.0, 0.0], [-np.inf, 2.0], [40.0, -40.0]])
    roots = two_action_root(logits)
    for row, root in zip(logits, roots, strict=True):
        columns = [CategoricalForm.fisher(row[None], unit[None])[0] for unit in np.eye(2)]
        np.testing.assert_allclose(np.outer(root, root), columns, rtol=1e-12, atol=1e-30)
    np.testing.assert_allclose(roots[1], [0.5, -0.5])


@EVERY_CASE
def test_derivative_accepts_weights_per_row(case: str) -> None:
    parameters, actions, old = example(case)
    of_kl, of_entropy = np.linspace(-1, 2, ROWS), np.linspace(3, -1, ROWS)
    nothing = np.zeros(ROWS)
    found = form_of(case, parameters, actions, old).derivative(
        Loss(0.0, nothing, of_kl, of_entropy)
    )
    leaf = parameters.clone().requires_grad_()
    new = FAMILIES[is_gaussian(case)][1](leaf)
    loss = (torch.from_numpy(of_kl) * new.at(old).kl(new)).sum()
    loss = loss + (torch.from_numpy(of_entropy) * new.entropy()).sum()
    (expected,) = torch.autograd.grad(loss, leaf)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
