"""A loaded policy acts on batches, deterministically or not, with states of its memory."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from gymnasium.vector.utils import batch_space
from torch import Generator

from rlkl.engines.acting import TrainedPolicy
from rlkl.envs.observations import ObservationEncoder
from rlkl.models.policy import Policy, PolicyConfig
from rlkl.utils.errors import ConfigError

SPACES: list[Any] = [
    Box(-1, 1, (3,)),
    Discrete(4, start=2),
    MultiDiscrete([2, 3]),
    Box(0, 255, (5, 6, 3), np.uint8),
    Dict({"a": Box(-1, 1, (2, 2)), "b": Discrete(3)}),
    Tuple([Discrete(3), Box(-1, 1, (1,))]),
]


def trained(space: Any, actions: Any = None, **settings: Any) -> TrainedPolicy:
    config = PolicyConfig([8], [8], image_features=4, actor_gain=2.0, **settings)
    actions = actions or Box(-2, 3, (2,))
    generator = Generator().manual_seed(0)
    return TrainedPolicy(Policy(config, ObservationEncoder(space), actions, generator), None)


def row(batch: Any, i: int) -> Any:
    if isinstance(batch, dict):
        return {key: row(part, i) for key, part in batch.items()}
    return tuple(row(part, i) for part in batch) if isinstance(batch, tuple) else batch[i]


@pytest.mark.parametrize("space", SPACES)
def test_batch_acts_like_its_rows(space: Any) -> None:
    policy, batched = trained(space), batch_space(space, 3)
    batched.seed(0)
    observations = batched.sample()
    actions = policy.act(observations)
    assert actions.shape == (3, 2)
    expected = [policy.act(row(observations, i)) for i in range(3)]
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)


def test_batch_has_a_mask_for_each_row() -> None:
    policy = trained(Box(-1, 1, (3,)), Discrete(3))
    masks = np.eye(3, dtype=np.int8)
    assert policy.act(np.zeros((3, 3), np.float32), action_mask=masks).tolist() == [0, 1, 2]


def test_deterministic_overrides_generator() -> None:
    policy, zeros = trained(Box(-1, 1, (3,))), np.zeros(3, np.float32)
    mean = policy.act(zeros)
    generator = Generator().manual_seed(0)
    np.testing.assert_array_equal(mean, policy.act(zeros, generator, deterministic=True))
    assert not np.array_equal(mean, policy.act(zeros, generator))
    one, other = (policy.act(zeros, deterministic=False) for _ in range(2))
    assert not np.array_equal(one, other)


def test_states_reset_by_row_and_can_be_set() -> None:
    policy = trained(Box(-1, 1, (3,)), memory="gru", memory_size=4)
    ones = np.ones((2, 3), np.float32)
    start = policy.act(ones)
    states = policy.states
    assert states is not None and states.shape == (2, 8)
    later = policy.act(ones)
    assert not np.allclose(start, later)
    policy.states = states
    np.testing.assert_array_equal(later, policy.act(ones))
    policy.states = states
    policy.reset([True, False])
    np.testing.assert_allclose(policy.act(ones), [start[0], later[1]], rtol=1e-6)
    with pytest.raises(ConfigError, match="1 observations, but the memory has the states of 2"):
        policy.act(ones[0])
    policy.reset()
    np.testing.assert_allclose(policy.act(ones[0]), start[0], rtol=1e-6)
    with pytest.raises(ConfigError, match=r"states of shape \(2, 3\): expected \[N, 8\]"):
        policy.states = torch.zeros(2, 3)


@pytest.mark.parametrize("settings", [{}, {"memory": "lstm", "memory_size": 3}])
def test_parts_of_the_critic_may_be_missing(settings: dict[str, Any]) -> None:
    parts = {"seen": Box(-1, 1, (2,)), "state": Box(-1, 1, (3,)), "goal": Discrete(3, start=5)}
    policy = trained(Dict(parts), actor_observation_keys=["seen"], **settings)
    seen = np.array([0.5, -0.5], np.float32)
    whole = policy.act({"seen": seen, "state": np.ones(3, np.float32), "goal": 7})
    policy.reset()
    np.testing.assert_allclose(whole, policy.act({"seen": seen}), rtol=1e-6)
    policy.reset()
    batch = policy.act({"seen": np.stack((seen, -seen))})
    np.testing.assert_allclose(whole, batch[0], rtol=1e-5)
    with pytest.raises(ConfigError, match="'seen' is missing"):
        policy.act({"state": np.ones(3, np.float32), "goal": 7})
