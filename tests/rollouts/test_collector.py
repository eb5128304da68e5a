"""Collected data compared with what environments record, in both autoreset modes."""

from typing import Any

import numpy as np
import pytest
import torch
from diaries import (
    BOTH_MODES,
    MODES,
    ROWS,
    Diary,
    NoisyResets,
    collector_of,
    reward_of,
    two_rollouts,
)
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from learning_loop import iterate, small_policy, vectors_of
from torch import Generator

import rlkl
from rlkl.engines.make import make_engine
from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.observations import VECTOR
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.rollouts.collector import Collector
from rlkl.rollouts.make import make_batch


@BOTH_MODES
def test_episode_returns_are_raw_and_span_rollouts(mode: AutoresetMode) -> None:
    collector, diaries = collector_of(mode)
    (first, _), (second, _) = two_rollouts(collector, ROWS[mode])
    found = sorted(episode[1:] for episode in (*first.episodes, *second.episodes))
    expected = []
    for diary in diaries:
        start = 0
        for part in (diary.plan * 2)[:4]:
            length = int(part[:-1])
            rewards = [
                reward_of(diary.number, t + 1, action)
                for t, action in enumerate(diary.received[start : start + length])
            ]
            start += length
            expected.append((sum(rewards), length))
    assert found == sorted(expected)
    assert len(first.episodes) == 6
    assert len(second.episodes) == 6
    assert first.episodes[0].env_steps == 9
    assert all(30 < episode.env_steps <= 54 for episode in second.episodes)
    assert (first.env_steps, second.env_steps) == (30, 54)


@BOTH_MODES
def test_episodes_match_step_by_step_count(mode: AutoresetMode) -> None:
    plans = ("1T 1L 2B 1T 3L", "9T 1L", "2L 1T 1T", "30T")
    collector, _ = collector_of(mode, plans, vector=NoisyResets)
    env_steps, returns, lengths = 0, [0.0] * 4, [0] * 4
    endings = []
    for collector.rollout_steps in (13, 1, 2, 20, 1):
        rollout = collector.collect()
        expected = []
        for t in range(collector.rollout_steps):
            env_steps += int(rollout.is_transition[t].sum())
            for i in np.flatnonzero(rollout.is_transition[t]):
                returns[i] += float(rollout.rewards[t, i])
                lengths[i] += 1
                if rollout.terminated[t, i] or rollout.truncated[t, i]:
                    expected.append((env_steps, returns[i], lengths[i]))
                    endings.append((collector.rollout_steps, int(i)))
                    returns[i], lengths[i] = 0.0, 0
        assert [episode[::2] for episode in rollout.episodes] == [e[::2] for e in expected]
        found = [episode.reward_sum for episode in rollout.episodes]
        assert found == pytest.approx([reward_sum for _, reward_sum, _ in expected], rel=1e-12)
        assert rollout.env_steps == collector.env_steps == env_steps
    assert endings.count((13, 0)) > 2
    assert {i for _, i in endings} == {0, 1, 2, 3}


def test_final_observations_are_of_truncated_episodes_only() -> None:
    collector, _ = collector_of(AutoresetMode.SAME_STEP)
    rollout = collector.collect()
    finals = {
        int(row): (8 * observation).tolist()
        for row, observation in zip(
            rollout.final_rows, rollout.final_observations[VECTOR], strict=True
        )
    }
    # Row 3t + i: sub-environment 0 is truncated at t = 6, 1 at t = 3, 2 at t = 6.
    assert finals == {18: [0, 1, 4], 10: [1, 0, 4], 20: [2, 1, 2]}


def test_normalizer_is_unchanged_while_collecting() -> None:
    normalizer = ObservationNormalizer((3,))
    normalizer.update(np.array([[0, 0, 0], [1, 2, 3]], np.float32))
    before = normalizer.state_dict()
    collector, _ = collector_of(AutoresetMode.SAME_STEP, normalizer=normalizer)
    rollout = collector.collect()
    assert normalizer.state_dict() == before
    assert rollout.raw_vectors is not None
    *found, found_last = rollout.observations[VECTOR]
    np.testing.assert_array_equal(found, normalizer(rollout.raw_vectors))
    last = np.array([[0, 2, 3], [1, 2, 3], [2, 2, 3]], np.float32) / 8
    np.testing.assert_array_equal(found_last, normalizer(last))


def test_actions_are_clipped_only_for_environment() -> None:
    box = Box(np.array([-0.5, -0.1], np.float32), np.array([0.2, 3.0], np.float32))
    collector, (diary,) = collector_of(AutoresetMode.SAME_STEP, ("50T",), space=box)
    batch = make_batch(collector.collect(), make_engine(collector.policy), 0.9, 0.8)
    received = np.stack(diary.received)
    sampled = batch.actions.numpy()
    # In half-ranges from the middle.
    wanted = np.array([-0.15, 1.45]) + np.array([0.35, 1.55]) * sampled
    assert (wanted < box.low).any()
    assert (wanted > box.high).any()
    assert received.dtype == np.float32
    np.testing.assert_allclose(received, np.clip(wanted, box.low, box.high), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        log_prob = collector.policy.distribution(batch.inputs).log_prob(batch.actions)
    torch.testing.assert_close(batch.old_log_prob, log_prob)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_box_actions_have_shape_and_dtype_of_space(dtype: type[np.floating[Any]]) -> None:
    box = Box(-9, 9, (2, 3), dtype)
    collector, diaries = collector_of(AutoresetMode.SAME_STEP, ("50T", "50T"), space=box)
    batch = make_batch(collector.collect(), make_engine(collector.policy), 0.9, 0.8)
    assert batch.actions.shape == (20, 6)
    for number, diary in enumerate(diaries):
        received = np.stack(diary.received)
        assert received.dtype == dtype
        assert received.shape == (10, 2, 3)
        wanted = np.clip(9 * batch.actions[number::2].numpy(), -9, 9)
        np.testing.assert_allclose(received.reshape(10, 6), wanted, rtol=2e-3)


def test_discrete_actions_are_shifted_to_space_start() -> None:
    collector, (diary,) = collector_of(
        AutoresetMode.SAME_STEP, ("50T",), space=Discrete(3, start=5)
    )
    collector.rollout_steps = 30
    batch = make_batch(collector.collect(), make_engine(collector.policy), 0.9, 0.8)
    assert set(batch.actions.tolist()) == {0, 1, 2}
    assert [int(action) for action in diary.received] == [a + 5 for a in batch.actions.tolist()]


def test_outside_reset_clears_pending_autoreset() -> None:
    diary = Diary(0, "2T", Discrete(2))
    envs = VectorEnvironment(SyncVectorEnv([lambda: diary], autoreset_mode=MODES[1]))
    envs.reset([0])
    action = np.zeros(1, np.int64)
    steps = [envs.step(action) for _ in range(2)]
    assert steps[1].terminated.all()
    envs.reset([0])
    assert envs.step(action).is_transition.all()


def test_native_cartpole_matches_sync() -> None:
    limit = {"max_episode_steps": 12}
    native, sync = (
        make_vector_env(EnvConfig("CartPole-v1", 6, backend=backend, kwargs=limit))
        for backend in ("native", "sync")
    )
    for envs in (native, sync):
        envs.reset(list(range(6)))
    for i, env in enumerate(sync._envs.unwrapped.envs):
        env.unwrapped.state = native._envs.unwrapped.state[:, i].copy()
    alive = np.ones(6, bool)
    endings = []
    for t in range(12):
        # Three push in one direction and fall, three alternate and reach the time limit.
        actions = np.array([1, 1, 0, t % 2, t % 2, (t + 1) % 2])
        a, b = native.step(actions), sync.step(actions)
        expected = b.observations[VECTOR].copy()
        expected[b.final_envs] = b.final_observations[VECTOR]
        found = a.observations[VECTOR]
        np.testing.assert_allclose(found[alive], expected[alive], rtol=1e-5, atol=1e-6)
        for name in ("rewards", "terminated", "truncated", "is_transition"):
            np.testing.assert_array_equal(getattr(a, name)[alive], getattr(b, name)[alive])
        ended = a.terminated | a.truncated
        endings += [(int(i), bool(a.terminated[i])) for i in np.flatnonzero(alive & ended)]
        alive &= ~ended
    assert sorted(endings) == [(i, i < 3) for i in range(6)]


def test_native_cartpole_batch_has_no_autoreset_steps() -> None:
    envs = make_vector_env(EnvConfig("CartPole-v1", 4, backend="native"))
    policy = small_policy(4, Discrete(2))
    collector = Collector(envs, make_engine(policy), 100, Generator().manual_seed(0), [0] * 4)
    rollout = collector.collect()
    batch = make_batch(rollout, make_engine(policy), 1.0, 1.0)
    ends = int(rollout.ends[:-1].sum())
    assert ends > 4
    assert len(batch) == 400 - ends == collector.env_steps
    # Every reward is 1: an episode's return is its length.
    assert all(episode.reward_sum == episode.length for episode in rollout.episodes)
    falls = rollout.observations[VECTOR][1:][rollout.terminated]
    assert (np.abs(falls[:, 2]) > 0.2).all()
    assert vectors_of(batch)[:, 2].abs().max() < 0.2095


@pytest.mark.parametrize(
    ("space", "received"),
    [
        (
            MultiDiscrete([[2, 3], [4, 2]], start=[[5, 0], [0, -1]]),
            lambda a: np.add(a, [5, 0, 0, -1]),
        ),
        (MultiBinary([2, 2]), lambda a: a),
    ],
)
def test_multi_discrete_actions_are_shaped_and_shifted(space: Any, received: Any) -> None:
    collector, (diary,) = collector_of(AutoresetMode.SAME_STEP, ("50T",), space=space)
    batch = make_batch(collector.collect(), make_engine(collector.policy), 0.9, 0.8)
    assert batch.actions.shape == (10, 4)
    assert all(space.contains(action) for action in diary.received)
    flat = np.stack(diary.received).reshape(10, 4)
    np.testing.assert_array_equal(flat, received(batch.actions.numpy()))
    assert len(np.unique(flat, axis=0)) > 3


def test_squashed_actions_are_stored_before_squashing() -> None:
    box = Box(np.array([-2, 0], np.float32), np.array([2, 10], np.float32))
    collector, (diary,) = collector_of(
        AutoresetMode.SAME_STEP, ("50T",), space=box, box_distribution="tanh_gaussian", log_std=0.5
    )
    batch = make_batch(collector.collect(), make_engine(collector.policy), 0.9, 0.8)
    expected = [2, 5] * np.tanh(batch.actions.numpy()) + [0, 5]
    np.testing.assert_allclose(np.stack(diary.received), expected, rtol=1e-5, atol=1e-5)
    assert batch.actions.abs().max() > 1


@BOTH_MODES
def test_memory_is_reset_at_episode_starts(mode: AutoresetMode) -> None:
    collector, _ = collector_of(mode, memory="gru", memory_size=4, sequence_length=4)
    policy = collector.policy
    rollouts = []
    for collector.rollout_steps in ROWS[mode]:
        rollouts.append(collector.collect())
    for rollout in rollouts:
        assert rollout.states.shape == (len(rollout.rewards) + 1, 3, 8)
        is_first = rollout.observations[VECTOR][..., 2] == 0
        if mode == AutoresetMode.SAME_STEP:
            np.testing.assert_array_equal(rollout.begins, is_first)
        assert not rollout.states[rollout.begins].any()
        # Elsewhere the state is that after one step of the policy.
        with torch.no_grad():
            for t, states in enumerate(rollout.states[:-1]):
                at_t = policy.tensors({VECTOR: rollout.observations[VECTOR][t]})
                _, after = policy.step(at_t, states)
                continues = ~rollout.begins[t + 1]
                torch.testing.assert_close(after[continues], rollout.states[t + 1][continues])
                for row, state in zip(rollout.final_rows, rollout.final_states, strict=True):
                    if row // 3 == t:
                        torch.testing.assert_close(after[row % 3], state)
        assert len(rollout.final_rows) == len(rollout.final_states)
    first, second = rollouts
    assert torch.equal(first.states[-1], second.states[0])
    assert second.states[0].any()


@BOTH_MODES
def test_same_seeds_give_same_rollout(mode: AutoresetMode) -> None:
    first, second = (collector_of(mode)[0].collect() for _ in range(2))
    np.testing.assert_array_equal(first.actions, second.actions)
    np.testing.assert_array_equal(first.rewards, second.rewards)


def test_rollouts_of_only_autoreset_steps_are_skipped() -> None:
    config = rlkl.TrainConfig(
        env=rlkl.EnvConfig("CartPole-v1", 1, "native"),
        algo=rlkl.VanillaPGConfig(),
        critic=rlkl.CriticConfig(num_minibatches=1),
        rollout_steps=1,
        total_env_steps=40,
        eval_episodes=0,
    )
    trainer = rlkl.Trainer(config)
    rollouts = [iterate(trainer.learner)[0] for _ in range(40)]
    trainer.close()
    assert all(rollout.is_transition.all() for rollout in rollouts)
    assert trainer.learner.tracker.count >= 1
    assert trainer.learner.env_steps == 40
