"""Collected data compared with what environments record, in both autoreset modes."""

from dataclasses import fields
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import small_environments  # registers environments
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from learning_loop import as_inputs, iterate, small_policy, vectors_of
from small_environments import Moment
from torch import Generator

import rlkl
from rlkl.engines.make import make_engine
from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.observations import ACTION_MASK, VECTOR
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.models.policy import Policy
from rlkl.numerics.normalization import ObservationNormalizer, RunningMoments
from rlkl.rollouts.batch import Batch, make_batch
from rlkl.rollouts.collector import Collector
from rlkl.rollouts.rollout import Rollout

MODES = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)
BOTH_MODES = pytest.mark.parametrize("mode", MODES, ids=["same_step", "next_step"])


class Diary(gym.Env[np.ndarray, Any]):
    """Observes (number, episode, step) / 8 and records its actions.

    Args:
        number: of this sub-environment.
        plan: lengths and ends of episodes, repeated: `3T 5L 4B` is terminated after 3 steps,
            truncated after 5, both after 4.
        action_space: of the environment.
    """

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)

    def __init__(self, number: int, plan: str, action_space: gym.Space[Any]) -> None:
        self.number = number
        self.plan = plan.split()
        self.action_space = action_space
        self.episode = -1
        self.received: list[Any] = []

    def observe(self) -> np.ndarray:
        return np.array([self.number, self.episode, self.t], np.float32) / 8

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.episode, self.t = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.received.append(np.array(action))
        self.t += 1
        terminated, truncated = self.ending(self.episode, self.t)
        return self.observe(), reward_of(self.number, self.t, action), terminated, truncated, {}

    def ending(self, episode: int, t: int) -> tuple[bool, bool]:
        part = self.plan[episode % len(self.plan)]
        ended = t == int(part[:-1])
        return ended and part[-1] in "TB", ended and part[-1] in "LB"


def reward_of(number: int, t: int, action: Any) -> float:
    return 10.0 * number + t + float(np.sum(action))


PLANS = ("3T 4L 6T", "4L 3T 6B", "5B 2L 6T")
# Rows of two rollouts that contain the same transitions in both modes.
ROWS = {AutoresetMode.SAME_STEP: (10, 8), AutoresetMode.NEXT_STEP: (12, 10)}


def collector_of(
    mode: AutoresetMode,
    plans: tuple[str, ...] = PLANS,
    *,
    space: gym.Space[Any] | None = None,
    normalizer: ObservationNormalizer | None = None,
    vector: type[SyncVectorEnv] = SyncVectorEnv,
    **policy_settings: Any,
) -> tuple[Collector, list[Diary]]:
    space = Discrete(2) if space is None else space
    diaries = [Diary(number, plan, space) for number, plan in enumerate(plans)]
    envs = vector([partial(lambda diary: diary, d) for d in diaries], autoreset_mode=mode)
    generator, seeds = Generator().manual_seed(0), [0] * len(plans)
    policy = small_policy(3, space, **policy_settings)
    collector = Collector(
        VectorEnvironment(envs), make_engine(policy), 10, generator, seeds, normalizer
    )
    return collector, diaries


def two_rollouts(collector: Collector, rows: tuple[int, int]) -> list[tuple[Rollout, Batch]]:
    found = []
    for collector.rollout_steps in rows:
        rollout = collector.collect()
        found.append((rollout, make_batch(rollout, make_engine(collector.policy), 0.9, 0.8)))
    return found


@pytest.fixture
def zero_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make actions deterministic: autoreset steps would use random numbers."""
    noise = Policy.noise
    monkeypatch.setattr(Policy, "noise", lambda *given: torch.zeros_like(noise(*given)))


@pytest.mark.usefixtures("zero_noise")
@pytest.mark.parametrize(
    ("plans", "rows"),
    [
        (PLANS, ROWS),
        # The rollout ends with the episode; the next one begins with the autoreset step.
        (("4L",), {AutoresetMode.SAME_STEP: (4, 4), AutoresetMode.NEXT_STEP: (4, 5)}),
        (("4T",), {AutoresetMode.SAME_STEP: (4, 4), AutoresetMode.NEXT_STEP: (4, 5)}),
        # The rollout ends with the autoreset step.
        (("4L",), {AutoresetMode.SAME_STEP: (4, 5), AutoresetMode.NEXT_STEP: (5, 6)}),
    ],
)
def test_autoreset_modes_give_same_batches_and_statistics(
    plans: tuple[str, ...], rows: dict[AutoresetMode, tuple[int, int]]
) -> None:
    same, following = (collector_of(mode, plans)[0] for mode in MODES)
    for (rollout_a, a), (rollout_b, b) in zip(
        two_rollouts(same, rows[MODES[0]]), two_rollouts(following, rows[MODES[1]]), strict=True
    ):
        assert len(a) == len(b) == rollout_a.is_transition.sum() == rollout_b.is_transition.sum()
        order_a, order_b = (
            torch.as_tensor(np.lexsort(vectors_of(batch).T.flip(0).numpy())) for batch in (a, b)
        )
        pairs = [(vectors_of(a), vectors_of(b))] + [
            (getattr(a, field.name), getattr(b, field.name))
            for field in fields(Batch)
            if field.name != "inputs"
        ]
        for found_a, found_b in ((one[order_a], other[order_b]) for one, other in pairs):
            torch.testing.assert_close(found_a, found_b, rtol=1e-6, atol=1e-6)
        assert rollout_a.env_steps == rollout_b.env_steps
        assert sorted(e[1:] for e in rollout_a.episodes) == sorted(
            e[1:] for e in rollout_b.episodes
        )
        first, second = RunningMoments((3,)), RunningMoments((3,))
        first.update(rollout_a.observations[VECTOR][:-1][rollout_a.is_transition])
        second.update(rollout_b.observations[VECTOR][:-1][rollout_b.is_transition])
        assert first.count == second.count
        np.testing.assert_allclose(first.mean, second.mean, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(first.variance, second.variance, rtol=1e-12, atol=1e-12)


@BOTH_MODES
@pytest.mark.parametrize("normalize", [False, True], ids=["raw", "normalized"])
def test_every_row_bootstraps_from_true_next_observation(
    mode: AutoresetMode, normalize: bool
) -> None:
    normalizer = ObservationNormalizer((3,)) if normalize else None
    if normalizer is not None:
        normalizer.update(np.array([[0, 0, 0], [1, 2, 3]], np.float32))
    collector, diaries = collector_of(mode, normalizer=normalizer)
    policy, total = collector.policy, 0
    for collector.rollout_steps in ROWS[mode]:
        rollout = collector.collect()
        batch = make_batch(rollout, make_engine(policy), 0.9, gae_lambda=0.0)
        assert (rollout.raw_vectors is None) == (normalizer is None)
        raw = rollout.observations[VECTOR][:-1]
        if rollout.raw_vectors is not None:
            raw = rollout.raw_vectors
        raw = raw[rollout.is_transition]
        for row, action in enumerate(batch.actions.tolist()):
            number, episode, t = (round(8 * x) for x in raw[row].tolist())
            here, there = raw[row], np.array([number, episode, t + 1], np.float32) / 8
            if normalizer is not None:
                here, there = normalizer(here), normalizer(there)
            with torch.no_grad():
                value, next_value = policy.values(as_inputs(np.stack((here, there)))).tolist()
            terminated, _ = diaries[number].ending(episode, t + 1)
            target = reward_of(number, t + 1, action) + 0.9 * next_value * (not terminated)
            assert vectors_of(batch)[row].tolist() == pytest.approx(here.tolist())
            assert batch.advantages[row].item() == pytest.approx(target - value, rel=1e-5)
            assert batch.returns[row].item() == pytest.approx(target, rel=1e-5)
            assert batch.old_values[row].item() == pytest.approx(value, rel=1e-5, abs=1e-6)
        total += len(batch)
    assert total == 3 * 18 == collector.env_steps
    assert [len(diary.received) for diary in diaries] == [18, 18, 18]


@BOTH_MODES
def test_batch_pairs_actions_with_their_observations(
    mode: AutoresetMode,
) -> None:
    collector, diaries = collector_of(mode)
    taken: list[list[int]] = [[], [], []]
    for _, batch in two_rollouts(collector, ROWS[mode]):
        for observation, action in zip(vectors_of(batch), batch.actions.tolist(), strict=True):
            taken[round(8 * observation[0].item())].append(action)
    assert taken == [[int(action) for action in diary.received] for diary in diaries]
    assert 10 < sum(map(sum, taken)) < 44


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


class NoisyResets(SyncVectorEnv):
    """Returns rewards at autoreset steps, where they mean nothing."""

    def step(self, actions: Any) -> Any:
        resetting = self._autoreset_envs.copy()
        observations, rewards, *rest = super().step(actions)
        return observations, np.where(resetting, 1e3, rewards), *rest


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


def test_reward_of_autoreset_step_is_ignored() -> None:
    quiet, noisy = (
        collector_of(AutoresetMode.NEXT_STEP, vector=vector)[0]
        for vector in (SyncVectorEnv, NoisyResets)
    )
    for collector in (quiet, noisy):
        collector.rollout_steps = 12
    rollouts = quiet.collect(), noisy.collect()
    assert rollouts[1].rewards.max() == 1e3
    batches = [
        make_batch(rollout, make_engine(collector.policy), 0.9, 0.8)
        for rollout, collector in zip(rollouts, (quiet, noisy), strict=True)
    ]
    assert torch.equal(batches[0].advantages, batches[1].advantages)
    assert rollouts[0].episodes == rollouts[1].episodes


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


@pytest.mark.parametrize("backend", ["sync", "native"])
def test_batch_aligns_masks_images_and_vectors(backend: str) -> None:
    config = EnvConfig(
        "SmallNative-v0" if backend == "native" else "SmallCounter-v0",
        3,
        backend,
        observation_keys=["where", "what", "view"],
        kwargs={"shows": "dict", "masks": "info"},
    )
    envs = make_vector_env(config)
    policy = small_policy(envs.encoder, envs.action_space, image_features=8)
    collector = Collector(envs, make_engine(policy), 12, Generator().manual_seed(0), [0, 1, 2])
    episodes = set()
    for _ in range(2):
        rollout = collector.collect()
        batch = make_batch(rollout, make_engine(policy), 0.9, gae_lambda=0.0)
        observations = batch.inputs.observations
        assert set(observations) == {VECTOR, "image/view", ACTION_MASK}
        assert observations["image/view"].dtype == torch.uint8
        assert rollout.observations[ACTION_MASK].shape == (13, 3, small_environments.ACTIONS)
        for row, action in enumerate(batch.actions.tolist()):
            *code, number, episode, t = map(int, observations[VECTOR][row].tolist())
            moment = Moment(number, episode, t)
            episodes.add((number, episode))
            assert code == [int(k == number) for k in range(3)]
            assert observations["image/view"][row, 0, :, 1].tolist() == [number, episode, t]
            assert observations[ACTION_MASK][row].tolist() == moment.mask().astype(bool).tolist()
            assert moment.mask()[action]
            after = moment._replace(t=t + 1)
            with torch.no_grad():
                vector = torch.tensor([[*code, *after]], dtype=torch.float32)
                image = torch.zeros(1, 1, 3, 2, dtype=torch.uint8)
                image[0, 0, :, 1] = torch.tensor(after)
                inputs = batch.inputs._replace(observations={VECTOR: vector, "image/view": image})
                value = policy.values(inputs).item()
            target = after.reward(action) + 0.9 * value * (not after.ending()[0])
            assert batch.returns[row].item() == pytest.approx(target, rel=1e-5)
    assert len(episodes) > 9
    envs.close()


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
