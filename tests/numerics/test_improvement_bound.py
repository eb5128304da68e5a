"""Quadratic model and TRPO's bound against literal numbers and random MDPs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlkl.numerics.distributions import Bernoulli, Categorical, DiagonalGaussian, Distribution
from rlkl.numerics.improvement_bound import TabularMDP, improvement_bound, quadratic_kl, solve
from rlkl.numerics.trust_region import fisher_vector_product


def table(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


STAY, SWITCH = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]
TWO_STATES = TabularMDP(
    torch.tensor([STAY, SWITCH], dtype=torch.float64).transpose(0, 1),
    table([[0.0, 0.0], [1.0, 1.0]]),
    torch.tensor([1.0, 0.0], dtype=torch.float64),
    0.9,
)
UNIFORM = table([[0.5, 0.5], [0.5, 0.5]])
LAZY = table([[0.7, 0.3], [0.4, 0.6]])
GREEDY = table([[0.0, 1.0], [1.0, 0.0]])


def test_uniform_policy_has_known_values() -> None:
    solved = solve(TWO_STATES, UNIFORM)
    assert solved.values.tolist() == pytest.approx([4.5, 5.5])
    assert solved.advantages.flatten().tolist() == pytest.approx([-0.45, 0.45, 0.45, -0.45])
    assert solved.visits.tolist() == pytest.approx([5.5, 4.5])
    assert solved.expected_return == pytest.approx(4.5)


def test_bound_is_infinite_where_support_is_lost() -> None:
    bound = improvement_bound(TWO_STATES, LAZY, GREEDY)
    assert bound.old_return == pytest.approx(2.967033, abs=1e-6)
    assert bound.new_return - bound.old_return == pytest.approx(6.032967, abs=1e-6)
    assert bound.surrogate - bound.old_return == pytest.approx(6.629634, abs=1e-6)
    assert bound.max_kl == math.inf
    assert bound.lower_bound == -math.inf


def test_bound_has_known_value() -> None:
    # ε = 0.45 and 4εγ/(1-γ)² = 162. L = 4.5 + 5.5 · 0.2 · 0.45 = 4.995.
    new = table([[0.4, 0.6], [0.5, 0.5]])
    bound = improvement_bound(TWO_STATES, UNIFORM, new)
    max_kl = -0.5 * math.log(4 * 0.4 * 0.6)
    assert bound.epsilon == pytest.approx(0.45)
    assert bound.max_kl == pytest.approx(max_kl)
    assert bound.surrogate == pytest.approx(4.995)
    assert bound.lower_bound == pytest.approx(4.995 - 162 * max_kl)
    # V(0) = 0.9 (0.4 V(0) + 0.6 V(1)) and V(1) = 1 + 0.45 (V(0) + V(1)).
    assert bound.new_return == pytest.approx(0.54 / (0.64 * 0.55 - 0.54 * 0.45))


def test_bound_of_unchanged_policy_is_its_return() -> None:
    bound = improvement_bound(TWO_STATES, LAZY, LAZY)
    assert bound.max_kl == 0
    for value in (bound.new_return, bound.surrogate, bound.lower_bound):
        assert value == pytest.approx(bound.old_return, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.9])
def test_infinite_kl_is_free_without_advantage_or_future(gamma: float) -> None:
    rewards = TWO_STATES.rewards if gamma == 0 else torch.zeros(2, 2, dtype=torch.float64)
    mdp = TabularMDP(TWO_STATES.transitions, rewards, TWO_STATES.start, gamma)
    bound = improvement_bound(mdp, LAZY, GREEDY)
    assert bound.max_kl == math.inf
    assert bound.lower_bound == bound.new_return == pytest.approx(bound.surrogate)


def random_mdp(seed: int, states: int, actions: int, gamma: float) -> TabularMDP:
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet([0.3] * states, (states, actions))
    rewards = rng.normal(size=(states, actions)) * 10 ** rng.uniform(-2, 2)
    start = rng.dirichlet([1.0] * states)
    return TabularMDP(*map(torch.from_numpy, (transitions, rewards, start)), gamma)


SMALL_MDPS = st.builds(
    random_mdp, st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 4), st.floats(0, 0.97)
)


@given(SMALL_MDPS, st.integers(0, 10**6), st.floats(-6, 1))
def test_bound_holds(mdp: TabularMDP, seed: int, log10_step: float) -> None:
    rng = np.random.default_rng(seed)
    logits, change = torch.from_numpy(rng.normal(size=(2, *mdp.rewards.shape)))
    old = logits.softmax(-1)
    new = (logits + 10**log10_step * change).softmax(-1)
    bound = improvement_bound(mdp, old, new)
    scale = float(mdp.rewards.abs().max()) / (1 - mdp.gamma)
    assert bound.new_return >= bound.lower_bound - 1e-9 * scale
    # Also as an upper bound, which is the bound of -J.
    penalty = bound.surrogate - bound.lower_bound
    assert abs(bound.new_return - bound.surrogate) <= penalty + 1e-9 * scale


@settings(max_examples=20)
@given(SMALL_MDPS, st.integers(0, 10**6))
def test_solution_satisfies_the_bellman_equations(mdp: TabularMDP, seed: int) -> None:
    policy = np.random.default_rng(seed).dirichlet([0.5] * mdp.rewards.shape[1], len(mdp.rewards))
    solved = solve(mdp, torch.from_numpy(policy))
    scale = float(mdp.rewards.abs().max()) / (1 - mdp.gamma)
    expected_advantages = (policy * solved.advantages.numpy()).sum(-1)
    np.testing.assert_allclose(expected_advantages, 0, atol=1e-10 * scale)
    assert float(solved.visits.sum()) == pytest.approx(1 / (1 - mdp.gamma))
    # J from the visits, and visits and J from 800 steps of the Markov chain.
    earned = float(solved.visits @ (torch.from_numpy(policy) * mdp.rewards).sum(-1))
    assert solved.expected_return == pytest.approx(earned, rel=1e-9, abs=1e-10 * scale)
    states, visits, returned, weight = mdp.start.numpy(), 0.0, 0.0, 1.0
    for _ in range(800):
        pairs = states[:, None] * policy
        visits += weight * states
        returned += weight * (pairs * mdp.rewards.numpy()).sum()
        states, weight = np.einsum("sa,sat->t", pairs, mdp.transitions.numpy()), weight * mdp.gamma
    np.testing.assert_allclose(solved.visits, visits, rtol=1e-6)
    assert solved.expected_return == pytest.approx(returned, rel=1e-6, abs=1e-8 * scale)


def test_float32_is_solved_in_float64() -> None:
    parts = (TWO_STATES.transitions, TWO_STATES.rewards, TWO_STATES.start)
    mdp = TabularMDP(*(x.float() for x in parts), 0.9)
    assert solve(mdp, LAZY.float()).values.dtype == torch.float64
    assert improvement_bound(mdp, UNIFORM.float(), UNIFORM.float()).old_return == pytest.approx(4.5)


def test_invalid_mdps_and_policies_are_rejected() -> None:
    transitions, rewards, start = TWO_STATES.transitions, TWO_STATES.rewards, TWO_STATES.start
    for parts, message in (
        ((transitions, rewards[0], start, 0.9), r"rewards of shape \[2\]: expected \[S, A\]"),
        ((transitions[:, :1], rewards, start, 0.9), r"transitions of shape \[2, 1, 2\]"),
        ((transitions, rewards, start[:1], 0.9), r"start of shape \[1\]: expected \[2\]"),
        ((transitions, rewards, start, 1.0), "gamma=1.0: expected at least 0 and below 1"),
        ((transitions, rewards, start, -0.1), "gamma=-0.1"),
        ((2 * transitions, rewards, start, 0.9), "sums to 2"),
        ((transitions, rewards, -start, 0.9), "entry -1"),
    ):
        with pytest.raises(ValueError, match=message):
            TabularMDP(*parts)
    wrong_shape = r"shape \[1, 2\]: expected \[2, 2\]"
    for policy, message in ((UNIFORM[:1], wrong_shape), (LAZY / 2, "sums to")):
        for call in (
            lambda policy=policy: solve(TWO_STATES, policy),
            lambda policy=policy: improvement_bound(TWO_STATES, LAZY, policy),
            lambda policy=policy: improvement_bound(TWO_STATES, policy, LAZY),
        ):
            with pytest.raises(ValueError, match=message):
                call()


# The quadratic model


def test_quadratic_model_has_known_values() -> None:
    # For logits at (½, ½), F = diag(π) - ππᵀ, and F (1, -1) = (½, -½).
    fisher = table([[0.25, -0.25], [-0.25, 0.25]])
    step = torch.tensor([0.141421, -0.141421], dtype=torch.float64)
    for matrix in (fisher, fisher.matmul):
        assert float(quadratic_kl(matrix, step)) == pytest.approx(0.01, rel=1e-5)
    # For (μ, log σ) of a Gaussian, F = diag(1/σ², 2).
    gaussian = torch.diag(torch.tensor([4.0, 2.0]))
    assert float(quadratic_kl(gaussian, torch.tensor([0.5, 0.3]))) == pytest.approx(0.59)


@pytest.mark.parametrize("family", [Categorical, Bernoulli, DiagonalGaussian])
def test_both_kls_tend_to_the_quadratic_model(family: type[Distribution]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    old = family((rows @ weights).detach())
    direction = torch.randn(24, generator=generator, dtype=torch.float64)
    product = fisher_vector_product(old.kl(family(rows @ weights)).mean(), [weights], damping=0.0)
    dense = torch.stack([product(e) for e in torch.eye(24, dtype=torch.float64)])

    def excess(size: float, reverse: bool) -> float:
        step = size * direction
        new = family(rows @ (weights.detach() + step.view(4, 6)))
        kl = (new.kl(old) if reverse else old.kl(new)).mean()
        model = quadratic_kl(product, step)
        torch.testing.assert_close(quadratic_kl(dense, step), model)
        return float(kl / model - 1)

    for reverse in (False, True):
        far, near = excess(1e-2, reverse), excess(1e-3, reverse)
        assert abs(near) < 0.01
        assert far / near == pytest.approx(10, rel=0.1)
