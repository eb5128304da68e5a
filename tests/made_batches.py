"""Policies of every kind of action and memory, and batches as if they had collected them."""

from typing import Any

import gymnasium as gym
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from learning_loop import as_inputs, small_policy
from torch import Generator, nn

from rlkl.engines.make import make_engine
from rlkl.envs.observations import ACTION_MASK
from rlkl.models.policy import Inputs, Policy
from rlkl.models.recurrent import Sequences
from rlkl.rollouts.batch import Batch

GRU = {"memory": "gru", "memory_size": 8, "sequence_length": 8}
KINDS: dict[str, tuple[gym.Space[Any], dict[str, Any]]] = {
    "categorical": (Discrete(3), {}),
    "gaussian": (Box(-1, 1, (2,)), {}),
    "masked": (Discrete(4), {}),
    "multi_categorical": (MultiDiscrete([2, 3]), {}),
    "bernoulli": (MultiBinary(3), {}),
    "gaussian_of_state": (Box(-1, 1, (2,)), {"state_dependent_std": True}),
    "tanh_gaussian": (Box(-1, 1, (2,)), {"box_distribution": "tanh_gaussian"}),
    "beta": (Box(-1, 1, (2,)), {"box_distribution": "beta", "log_std": 0.0}),
    "gru": (Discrete(3), GRU),
    "lstm": (Box(-1, 1, (2,)), GRU | {"memory": "lstm"}),
}
"""What the laws are held for: actions, and settings of the policy."""
SPACES = KINDS | {"two_actions": (Discrete(2), {}), "two_actions_masked": (Discrete(2), {})}
"""And what a test asks for by name."""


def policy_of(kind: str, seed: int = 0, **settings: Any) -> Policy:
    """Make a small policy of four numbers."""
    space, of_kind = SPACES[kind]
    return small_policy(4, space, seed, **of_kind | settings)


def inputs_for(policy: Policy, kind: str, size: int, generator: Generator) -> Inputs:
    """Make observations; where there is a memory, sequences of unequal lengths amid an episode."""
    inputs = as_inputs(torch.randn(size, 4, generator=generator).to(policy.dtype))
    if kind.endswith("masked"):
        mask = torch.rand(size, policy.decoder.parameter_size, generator=generator) < 0.5
        mask[:, 1:3] |= ~mask.any(-1, keepdim=True)
        inputs.observations[ACTION_MASK] = mask
    if not policy.state_size:
        return inputs
    lengths = [1 + i % 8 for i in range(size // 4)]
    while sum(lengths) > size:
        lengths.pop()
    lengths += [1] * (size - sum(lengths))
    rows = torch.randperm(size, generator=generator)
    cells = nn.utils.rnn.pad_sequence(list(rows.split(lengths)))
    states = 0.5 * torch.randn(len(lengths), policy.state_size, generator=generator)
    states = states.to(policy.dtype)
    return Inputs(inputs.observations, Sequences(cells, torch.tensor(lengths), states))


@torch.no_grad()
def batch_for(policy: Policy, kind: str, size: int = 256, seed: int = 0) -> Batch:
    """Make a batch as if collected: advantages are large for some actions in some states."""
    generator = Generator().manual_seed(seed)
    inputs = inputs_for(policy, kind, size, generator)
    old = make_engine(policy).distribution(inputs)
    actions = old.sample(generator)
    toward = actions - 1.0 if actions.ndim == 1 else actions.sum(-1)
    if actions.ndim > 1 and not actions.is_floating_point():
        toward = toward - 1.5
    noise = torch.randn(size, generator=generator)
    returns = (2 + 3 * toward * inputs.observations["vector"][:, 0].sign() + noise).to(policy.dtype)
    values = policy.values(inputs)
    return Batch(
        inputs,
        actions,
        returns - values,
        returns,
        old.parameters,
        old.log_prob(actions),
        values,
    )
