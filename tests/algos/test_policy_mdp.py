"""A bandit and a two-state MDP with exact solutions, in float64."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from learning_loop import as_inputs, vector_encoder
from torch import Generator, Tensor

from rlkl.algos.npg import NPG, NPGConfig
from rlkl.algos.trpo import TRPO, TRPOConfig
from rlkl.engines.make import make_engine
from rlkl.models.flat_parameters import FlatParameters
from rlkl.models.policy import Policy, PolicyConfig
from rlkl.numerics.advantages import generalized_advantages
from rlkl.numerics.losses import policy_gradient, surrogate
from rlkl.numerics.trust_region import conjugate_gradient, fisher_vector_product, flat_gradient
from rlkl.rollouts.batch import Batch


def tabular_policy(logits: list[list[float]]) -> Policy:
    """Make a policy with one logit for each state (a one-hot observation) and action."""
    space = gym.spaces.Discrete(len(logits[0]))
    encoder = vector_encoder(len(logits))
    config = PolicyConfig([], engine="torch")  # the test changes its modules
    policy = Policy(config, encoder, space, Generator(), dtype=torch.float64)
    (table,) = policy.actor.head
    table.bias = None
    table.weight.data = torch.tensor(logits, dtype=torch.float64).T
    policy.actor_parameters = FlatParameters([table.weight])
    return policy


def batch_of(policy: Policy, states: list[int], actions: list[int], advantages: Tensor) -> Batch:
    inputs = as_inputs(torch.eye(max(states) + 1, dtype=torch.float64)[states])
    old = policy.distribution(inputs)
    taken = torch.tensor(actions)
    zeros = torch.zeros(len(states), dtype=torch.float64)
    return Batch(
        inputs,
        taken,
        advantages,
        zeros,
        old.parameters.detach(),
        old.log_prob(taken).detach(),
        zeros,
    )


def bandit() -> tuple[Policy, Batch]:
    """Make a uniform policy and a batch of both arms, with rewards 1 and 0, so V = ½."""
    policy = tabular_policy([[0.0, 0.0]])
    return policy, batch_of(policy, [0, 0], [0, 1], torch.tensor([0.5, -0.5]).double())


def test_bandit_gradient_and_natural_gradient_are_exact() -> None:
    policy, batch = bandit()
    tensors = policy.actor_parameters.tensors
    new = policy.distribution(batch.inputs)
    by_log_prob = flat_gradient(
        policy_gradient(new.log_prob(batch.actions), batch.advantages)[0], tensors, keep=True
    )
    ratio = (new.log_prob(batch.actions) - batch.old_log_prob).exp()
    by_ratio = flat_gradient(surrogate(ratio, batch.advantages)[0], tensors, keep=True)
    assert by_log_prob.tolist() == pytest.approx([0.25, -0.25])
    assert by_ratio.tolist() == pytest.approx([0.25, -0.25])
    kl = policy.family(batch.old_parameters).kl(new).mean()
    product = fisher_vector_product(kl, tensors, damping=0.0)
    natural, residual = conjugate_gradient(product, by_ratio, 10, 1e-20)
    assert natural.tolist() == pytest.approx([0.5, -0.5])
    assert residual.norm() < 1e-12


@pytest.mark.parametrize("algorithm", [TRPO, NPG])
def test_bandit_trust_region_step_is_exact(algorithm: type[TRPO] | type[NPG]) -> None:
    policy, batch = bandit()
    settings = {"max_kl": 0.01, "cg_damping": 0.0, "advantage_standardization": "none"}
    config = TRPOConfig(**settings) if algorithm is TRPO else NPGConfig(**settings)
    metrics = (
        algorithm(config, make_engine(policy), Generator()).update(batch, progress=0.0).metrics
    )
    assert policy.actor_parameters.vector.tolist() == pytest.approx([0.141421, -0.141421], abs=1e-6)
    new = policy.distribution(batch.inputs)
    assert new.log_probabilities[0, 0].exp().item() == pytest.approx(0.570243, abs=1e-6)
    kl = policy.family(batch.old_parameters).kl(new).mean().item()
    assert kl == pytest.approx(0.0099668, abs=1e-7)
    assert metrics["trust_region/accepted"] == 1
    assert metrics["trust_region/step_fraction"] == 1
    assert metrics["trust_region/backtracks"] == 0
    assert metrics["trust_region/expected_improvement"] == pytest.approx(0.0707107, abs=1e-6)


GAMMA = 0.9
STATES, ACTIONS = [0, 0, 1, 1], [0, 1, 0, 1]  # each pair once; action 0 stays, 1 switches
NEXT_STATES = [0, 1, 1, 0]
REWARDS = np.array([0.0, 0.0, 1.0, 1.0])
UNIFORM = np.full((2, 2), 0.5)
LAZY = np.array([[0.7, 0.3], [0.4, 0.6]])
GREEDY = np.array([[0.0, 1.0], [1.0, 0.0]])


def one_step_advantages(values: np.ndarray) -> np.ndarray:
    never = np.zeros((1, 4), bool)
    return generalized_advantages(
        REWARDS[None], values[STATES][None], values[NEXT_STATES][None], never, never, GAMMA, 0.0
    ).reshape(2, 2)


def evaluate(policy: np.ndarray) -> np.ndarray:
    """Return V, by adding the expected advantage until it is 0."""
    values = np.zeros(2)
    for _ in range(400):
        values = values + (policy * one_step_advantages(values)).sum(1)
    return values


def discounted_visits(policy: np.ndarray) -> np.ndarray:
    stay, switch = policy.T
    transitions = np.array([[stay[0], switch[0]], [switch[1], stay[1]]])
    return np.linalg.solve(np.eye(2) - GAMMA * transitions.T, [1.0, 0.0])


def surrogate_gain(old: np.ndarray, new: np.ndarray, visits: np.ndarray) -> float:
    """Return Σ_s d(s) Σ_a π_new(a|s) A_old(s, a) as a weighted mean over the four pairs."""
    weights = 4 * visits[:, None] * old
    weighted = weights * one_step_advantages(evaluate(old))
    return float(surrogate(torch.tensor(new / old).flatten(), torch.tensor(weighted).flatten())[0])


def test_uniform_policy_has_known_values_and_visits() -> None:
    values = evaluate(UNIFORM)
    assert values.tolist() == pytest.approx([4.5, 5.5])
    assert one_step_advantages(values).tolist() == [
        pytest.approx([-0.45, 0.45]),
        pytest.approx([0.45, -0.45]),
    ]
    assert discounted_visits(UNIFORM).tolist() == pytest.approx([5.5, 4.5])


def test_uniform_policy_gradients_are_exact() -> None:
    policy = tabular_policy([[0.0, 0.0], [0.0, 0.0]])
    visits = torch.tensor(discounted_visits(UNIFORM))
    advantages = torch.tensor(one_step_advantages(evaluate(UNIFORM)))
    batch = batch_of(policy, STATES, ACTIONS, (4 * visits[:, None] * 0.5 * advantages).flatten())
    tensors = policy.actor_parameters.tensors
    by_state = torch.tensor([0, 2, 1, 3])  # the table is [actions, states]
    new = policy.distribution(batch.inputs)
    objective, _ = policy_gradient(new.log_prob(batch.actions), batch.advantages)
    gradient = flat_gradient(objective, tensors, keep=True)
    assert gradient[by_state].tolist() == pytest.approx([-1.2375, 1.2375, 1.0125, -1.0125])
    both = policy.distribution(as_inputs(torch.eye(2, dtype=torch.float64)))
    old = policy.family(both.parameters.detach())
    product = fisher_vector_product((visits * old.kl(both)).sum(), tensors, damping=0.0)
    natural, _ = conjugate_gradient(product, gradient, 10, 1e-20)
    torch.testing.assert_close(natural[by_state], advantages.flatten(), rtol=1e-9, atol=1e-12)


def test_policy_gradient_is_derivative_of_true_return() -> None:
    def true_return(logits: Tensor) -> float:
        return float(evaluate(logits.view(2, 2).softmax(-1).numpy())[0])

    step = 1e-5 * torch.eye(4, dtype=torch.float64)
    differences = [(true_return(e) - true_return(-e)) / 2e-5 for e in step]
    assert differences == pytest.approx([-1.2375, 1.2375, 1.0125, -1.0125], abs=1e-6)


def test_surrogate_is_true_gain_only_under_new_visits() -> None:
    before, after = evaluate(LAZY)[0], evaluate(GREEDY)[0]
    assert before == pytest.approx(2.967033, abs=1e-6)
    assert after - before == pytest.approx(6.032967, abs=1e-6)
    under_old = surrogate_gain(LAZY, GREEDY, discounted_visits(LAZY))
    under_new = surrogate_gain(LAZY, GREEDY, discounted_visits(GREEDY))
    assert under_old == pytest.approx(6.629634, abs=1e-6)
    assert under_new == pytest.approx(6.032967, abs=1e-6)
