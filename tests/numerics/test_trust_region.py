"""Second-order methods against dense matrices, scores and direct solvers in float64."""

import math
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
import torch
from learning_loop import as_inputs, vector_encoder
from torch import Generator, Tensor
from torch.distributions import Categorical, Normal
from torch.func import functional_call

from rlkl.models.policy import Policy, PolicyConfig
from rlkl.numerics.trust_region import (
    backtracking_line_search,
    conjugate_gradient,
    fisher_vector_product,
    flat_gradient,
)

SPACES = {"categorical": gym.spaces.Discrete(3), "gaussian": gym.spaces.Box(-1, 1, (1,))}
BOTH = pytest.mark.parametrize("kind", SPACES)


def small_policy(kind: str) -> tuple[Policy, Tensor]:
    """Make a policy with about twenty perturbed parameters, and seven states."""
    config = PolicyConfig(actor_hidden_sizes=[3], actor_gain=1.0, log_std=-0.5)
    generator = Generator().manual_seed(0)
    policy = Policy(config, vector_encoder(2), SPACES[kind], generator, dtype=torch.float64)
    policy.actor_parameters.vector.data.add_(
        torch.randn(policy.actor_parameters.vector.shape, generator=generator), alpha=0.3
    )
    return policy, torch.randn(7, 2, generator=generator, dtype=torch.float64)


def mean_kl_at(policy: Policy, states: Tensor, *, reverse: bool = False) -> Tensor:
    new = policy.distribution(as_inputs(states))
    old = new.at(new.parameters.detach())
    return (new.kl(old) if reverse else old.kl(new)).mean()


def outputs(policy: Policy, states: Tensor, vector: Tensor) -> Tensor:
    """Return the parameters of the distributions for a flat vector of weights."""
    named, offset = {}, 0
    for name, parameter in policy.actor.named_parameters():
        named[name] = vector[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    return functional_call(policy.actor, named, (as_inputs(states),))


def dense_product(policy: Policy, states: Tensor, damping: float, *, reverse: bool) -> Tensor:
    """Return the whole matrix, from products with the unit vectors."""
    tensors = policy.actor_parameters.tensors
    kl = mean_kl_at(policy, states, reverse=reverse)
    product = fisher_vector_product(kl, tensors, damping)
    unit = torch.eye(len(policy.actor_parameters.vector), dtype=torch.float64)
    return torch.stack([product(column) for column in unit], 1)


def expected_outer_product_of_scores(kind: str, policy: Policy, states: Tensor) -> Tensor:
    """Return E_s E_a [∇log π ∇log πᵀ], the definition of the Fisher matrix."""
    vector = policy.actor_parameters.vector.detach()
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)

    def log_probs(at: Tensor) -> Tensor:
        parameters = outputs(policy, states, at)
        if kind == "categorical":
            return Categorical(logits=parameters).logits
        mean, log_std = parameters.chunk(2, -1)
        actions = mean.detach() + log_std.detach().exp() * torch.as_tensor(nodes)
        return Normal(mean, log_std.exp()).log_prob(actions)

    scores = torch.autograd.functional.jacobian(log_probs, vector)
    if kind == "categorical":
        probabilities = log_probs(vector).exp()
    else:
        probabilities = torch.as_tensor(weights / weights.sum()).expand(len(states), -1)
    return torch.einsum("sa,sai,saj->ij", probabilities, scores, scores) / len(states)


@BOTH
@pytest.mark.parametrize("reverse", [False, True])
def test_products_are_those_of_the_fisher_matrix(kind: str, reverse: bool) -> None:
    policy, states = small_policy(kind)
    expected = expected_outer_product_of_scores(kind, policy, states)
    found = dense_product(policy, states, 0.0, reverse=reverse)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@BOTH
def test_products_are_those_of_the_kl_hessian(kind: str) -> None:
    policy, states = small_policy(kind)
    vector = policy.actor_parameters.vector.detach()
    old = outputs(policy, states, vector)

    def mean_kl(at: Tensor) -> Tensor:
        new = outputs(policy, states, at)
        if kind == "categorical":
            p, q = Categorical(logits=old), Categorical(logits=new)
        else:
            p, q = (Normal(o[:, 0], o[:, 1].exp()) for o in (old, new))
        return torch.distributions.kl_divergence(p, q).mean()

    expected = torch.autograd.functional.hessian(mean_kl, vector)
    found = dense_product(policy, states, 0.0, reverse=False)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_damping_adds_to_the_diagonal() -> None:
    policy, states = small_policy("categorical")
    without, damped = (dense_product(policy, states, d, reverse=False) for d in (0.0, 0.25))
    torch.testing.assert_close(damped - without, 0.25 * torch.eye(len(without)).double())


def test_product_is_repeatable_and_keeps_its_vector() -> None:
    policy, states = small_policy("gaussian")
    kl = mean_kl_at(policy, states)
    product = fisher_vector_product(kl, policy.actor_parameters.tensors, 0.1)
    vector = torch.ones_like(policy.actor_parameters.vector.data)
    first, second = product(vector), product(vector)
    assert torch.equal(first, second)
    assert vector.eq(1).all()


@BOTH
def test_kl_gradient_is_zero_at_old_parameters(kind: str) -> None:
    policy, states = small_policy(kind)
    for reverse in (False, True):
        kl = mean_kl_at(policy, states, reverse=reverse)
        assert kl == 0
        assert flat_gradient(kl, policy.actor_parameters.tensors).abs().max() < 1e-15


@BOTH
def test_quadratic_model_error_is_linear_in_step(kind: str) -> None:
    policy, states = small_policy(kind)
    vector = policy.actor_parameters.vector.data
    direction = torch.randn(vector.shape, generator=Generator().manual_seed(1)).double()
    product = fisher_vector_product(
        mean_kl_at(policy, states), policy.actor_parameters.tensors, damping=0.0
    )
    curvature = direction @ product(direction)
    start, old = vector.clone(), policy.distribution(as_inputs(states))
    errors = []
    for size in (4e-4, 2e-4, 1e-4):
        vector.copy_(start + size * direction)
        kl = old.kl(policy.distribution(as_inputs(states))).mean()
        errors.append((kl / (0.5 * size**2 * curvature) - 1).item())
    assert abs(errors[2]) < 1e-3
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.01)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.01)


def test_flat_gradient_follows_parameter_order() -> None:
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    b = torch.tensor([5.0], requires_grad=True)
    scalar = (a * torch.tensor([[10.0, 20.0], [30.0, 40.0]])).sum() + b.square().sum()
    assert flat_gradient(scalar, [a, b], keep=True).tolist() == [10, 20, 30, 40, 10]
    assert flat_gradient(scalar, [b, a]).tolist() == [10, 10, 20, 30, 40]


def test_flat_gradient_matches_flat_parameters() -> None:
    policy, states = small_policy("gaussian")
    loss = policy.distribution(as_inputs(states)).parameters.square().sum()
    expected = flat_gradient(loss, policy.actor_parameters.tensors, keep=True)
    loss.backward()
    assert torch.equal(policy.actor_parameters.gradient, expected)


def positive_definite(size: int) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(0)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + 0.5 * torch.eye(size, dtype=torch.float64)
    return matrix, torch.randn(size, generator=generator, dtype=torch.float64)


def test_conjugate_gradient_agrees_with_direct_solver() -> None:
    matrix, b = positive_definite(12)
    x, residual = conjugate_gradient(matrix.mv, b.clone(), 30, 0.0)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-8, atol=1e-10)
    assert residual.norm() < 1e-8


@pytest.mark.parametrize("iterations", [0, 1, 3, 6])
def test_conjugate_gradient_is_optimal_in_krylov_space(iterations: int) -> None:
    matrix, b = positive_definite(12)
    before = b.clone()
    x, residual = conjugate_gradient(matrix.mv, b, iterations, 0.0)
    krylov = [b]
    for _ in range(iterations - 1):
        krylov.append(matrix @ krylov[-1])
    basis = torch.linalg.qr(torch.stack(krylov, 1)).Q[:, :iterations]
    best = basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ b)
    torch.testing.assert_close(x, best, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(residual, b - matrix @ x, rtol=1e-8, atol=1e-10)
    assert torch.equal(b, before)


def test_conjugate_gradient_stops_at_the_residual_tolerance() -> None:
    matrix, b = positive_definite(12)
    products = 0

    def counted(vector: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return matrix @ vector

    norms = [conjugate_gradient(matrix.mv, b, k, 0.0)[1].norm() for k in range(13)]
    first_below = next(k for k, norm in enumerate(norms) if norm**2 < 0.01 * b.norm() ** 2)
    assert norms[first_below] > 0.01 * b.norm()
    _, residual = conjugate_gradient(counted, b, 100, 0.01)
    assert products == first_below
    assert residual.norm() == norms[first_below]


@pytest.mark.parametrize("size", [1e-12, 1e-5, 1e9])
def test_conjugate_gradient_is_invariant_to_scale(size: float) -> None:
    matrix, b = positive_definite(12)
    x, residual = conjugate_gradient(matrix.mv, b, 100, 1e-4)
    scaled, rest = conjugate_gradient(matrix.mv, size * b, 100, 1e-4)
    torch.testing.assert_close(scaled, size * x, rtol=1e-9, atol=0)
    torch.testing.assert_close(rest, size * residual, rtol=1e-9, atol=0)
    assert 1e-4 < residual.norm() / b.norm() < 1e-2


def test_conjugate_gradient_accepts_arrays() -> None:
    matrix, b = positive_definite(12)
    array, before = b.numpy(), b.numpy().copy()
    x, residual = conjugate_gradient(matrix.numpy().__matmul__, array, 5, 0.0)
    expected, rest = conjugate_gradient(matrix.mv, b, 5, 0.0)
    np.testing.assert_allclose(x, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(residual, rest, rtol=1e-10, atol=1e-13)
    np.testing.assert_array_equal(array, before)


def test_conjugate_gradient_stops_without_curvature() -> None:
    diagonal, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])
    x, residual = conjugate_gradient(lambda v: diagonal * v, b, 10, 1e-10)
    assert x.tolist() == [0, 0]
    assert residual.tolist() == [0, 3]


def test_conjugate_gradient_of_zero_is_zero() -> None:
    for tolerance in (1e-10, 0.0):
        x, residual = conjugate_gradient(lambda v: 2 * v, torch.zeros(3), 10, tolerance)
        assert x.tolist() == [0, 0, 0]
        assert residual.tolist() == [0, 0, 0]


def candidates(
    *results: tuple[float, float],
) -> tuple[Callable[[float], tuple[float, float]], list[float]]:
    """Return an `evaluate` with these results in order, and the fractions that it gets."""
    fractions: list[float] = []

    def evaluate(fraction: float) -> tuple[float, float]:
        fractions.append(fraction)
        return results[len(fractions) - 1]

    return evaluate, fractions


@pytest.mark.parametrize(("improvement", "kl"), [(1e-12, 0.01), (3.0, 0.0), (0.5, -1e-18)])
def test_acceptable_full_step_is_accepted(improvement: float, kl: float) -> None:
    evaluate, fractions = candidates((improvement, kl))
    assert backtracking_line_search(evaluate, 0.01, 0.5, 10) == (1.0, 0)
    assert fractions == [1.0]


@pytest.mark.parametrize(
    ("improvement", "kl"),
    [
        (1.0, 0.0100001),
        (0.0, 0.005),
        (-1e-9, 0.005),
        (1.0, math.nan),
        (1.0, math.inf),
        (math.nan, 0.005),
        (math.inf, 0.005),
        (-math.inf, 0.005),
        (math.nan, math.nan),
    ],
)
def test_candidate_that_violates_a_condition_is_rejected(improvement: float, kl: float) -> None:
    evaluate, fractions = candidates((improvement, kl), (1.0, 0.005))
    assert backtracking_line_search(evaluate, 0.01, 0.5, 10) == (0.5, 1)
    assert fractions == [1.0, 0.5]


def test_fractions_are_powers_of_the_decay() -> None:
    evaluate, fractions = candidates((-1.0, 0.0), (1.0, 0.5), (-1.0, 0.5), (2.0, 0.01))
    found = backtracking_line_search(evaluate, 0.01, 0.8, 10)
    assert fractions == pytest.approx([1, 0.8, 0.64, 0.512])
    assert found == (fractions[-1], 3)


@pytest.mark.parametrize("max_backtracks", [0, 4])
def test_failed_search_is_reported(max_backtracks: int) -> None:
    evaluate, fractions = candidates(*[(1.0, 1.0)] * 5)
    found = backtracking_line_search(evaluate, 0.01, 0.5, max_backtracks)
    assert len(fractions) == max_backtracks + 1
    assert found == (0.0, max_backtracks + 1)
