"""Every algorithm improves with every kind of action, observation and memory, or says it cannot.

One of two cues calls for one of two actions. It is shown when the action is asked for, or one step
before, where only a policy with memory can do better than chance.
"""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from learning_loop import CORE, Loop, config_of
from worlds import ACTION_SETTINGS, ACTIONS, OBSERVATIONS, cue

from rlkl.algos import ALGORITHMS
from rlkl.algos.critic import CriticConfig
from rlkl.models.policy import Policy

NUM_ENVS = 16
MEMORIES = ("none", "gru", "lstm")


def learner(name: str, action: str, observation: str, memory: str, *, recall: bool) -> Loop:
    # One step for each rollout wants a larger rate than many; rectified features die of too large.
    one_step_rate = 0.01 if observation == "image" else 0.04
    algo = config_of(
        name,
        learning_rate=one_step_rate if name == "vanilla_pg" else 0.02,
        learning_rate_schedule="constant",
        num_epochs=4,
        num_minibatches=2,
        max_kl=0.1,
        max_kl_schedule="constant",
        target_kl=0.1 if name in ("ppo_kl", "ppo_kl_lr", "vmpo") else None,
        learning_rate_max=0.02,
        max_state_kl=1.0,
        covariance_bound=0.1,
        kl_coefficient=0.1,
        cg_damping=0.01,
        max_grad_norm=None,
    )
    settings: dict[str, Any] = ACTION_SETTINGS.get(action, {}) | {
        "memory": memory,
        "memory_size": 8,
        "image_features": 8,
        "actor_gain": 0.1,
        "log_std": 0.0 if action == "box_beta" else -0.7,
    }
    return Loop(
        algo,
        cue(NUM_ENVS, observation, action, recall),
        rollout_steps=12,
        gamma=0.9,
        critic=CriticConfig(learning_rate=0.02, num_epochs=2, num_minibatches=1),
        seed=1,
        **settings,
    )


@torch.no_grad()
def score(policy: Policy, action: str, observation: str, *, recall: bool) -> float:
    """Return the mean reward of the most probable actions, each cue shown equally often."""
    envs = cue(32, observation, action, recall)
    observations, total = envs.reset([99] * 32), 0.0
    states = policy.initial_state(32)
    for _ in range(2 if recall else 1):
        distribution, states = policy.step(policy.tensors(observations), states)
        step = envs.step(policy.decoder(distribution.mode().cpu().numpy()))
        observations, total = step.observations, total + float(step.rewards.mean())
    return total


def mean_reward(loop: Loop) -> float:
    """Return the mean reward of an episode in one rollout."""
    rollout = loop.collector.collect()
    return float(np.mean([episode.reward_sum for episode in rollout.episodes]))


def places(name: str, action: str, observation: str) -> tuple[int, int, int]:
    """Return the place of each in its list."""
    lists = (ALGORITHMS, name), (ACTIONS, action), (OBSERVATIONS, observation)
    a, b, c = (list(among).index(one) for among, one in lists)
    return a, b, c


def is_first(name: str, action: str, observation: str, memory: str) -> bool:
    """Choose the cases of the fast suite.

    Without memory half of the pairs of algorithm and action are among them; a GRU and an LSTM meet
    each algorithm, action and observation once.
    """
    a, b, c = places(name, action, observation)
    wanted = {
        "none": a + b // 2 if (a + b) % 2 == 0 else -1,
        "gru": 2 * a if a == b else -1,
        "lstm": 2 * a + 1 if a == b else -1,
    }[memory]
    return wanted >= 0 and c == wanted % len(OBSERVATIONS)


def is_slow(name: str, action: str, observation: str, memory: str) -> bool:
    """Choose the cases of the slow suite: all pairs of algorithm, action and observation."""
    if name not in CORE or memory == "lstm":
        return False
    _, b, c = places(name, action, observation)
    a = [algo for algo in ALGORITHMS if algo in CORE].index(name)  # consecutive, unlike its place
    return (a + b + (memory == "gru")) % len(OBSERVATIONS) == c


CASES = [
    pytest.param(*case, marks=() if is_first(*case) else pytest.mark.slow)
    for case in product(ALGORITHMS, ACTIONS, OBSERVATIONS, MEMORIES)
    if is_first(*case) or is_slow(*case)
]


@pytest.mark.parametrize(("name", "action", "observation", "memory"), CASES)
def test_every_algorithm_learns_what_is_asked(
    name: str, action: str, observation: str, memory: str
) -> None:
    recall = memory != "none"
    loop = learner(name, action, observation, memory, recall=recall)
    before = mean_reward(loop)
    found, gained = -1.0, 0.0
    for _ in range(60):
        loop.iterate(5)
        found = score(loop.policy, action, observation, recall=recall)
        gained = mean_reward(loop) - before
        if found > 0.75 and gained > 0.2:
            break
    assert found > 0.75
    assert gained > 0.2


@pytest.mark.parametrize("name", ALGORITHMS)
def test_without_memory_nothing_is_recalled(name: str) -> None:
    loop = learner(name, "discrete", "discrete", "none", recall=True)
    loop.iterate(20)
    # The same action for both cues is right at most half the time.
    assert score(loop.policy, "discrete", "discrete", recall=True) <= 0.5
