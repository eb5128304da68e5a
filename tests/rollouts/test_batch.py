"""How a rollout becomes a batch, and a batch minibatches."""

from dataclasses import fields

import numpy as np
import pytest
import small_environments
import torch
from diaries import (
    BOTH_MODES,
    MODES,
    PLANS,
    ROWS,
    NoisyResets,
    collector_of,
    reward_of,
    two_rollouts,
)
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from learning_loop import as_inputs, small_policy, vectors_of
from small_environments import Moment
from torch import Generator

from rlkl.engines.make import make_engine
from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.observations import ACTION_MASK, VECTOR
from rlkl.models.policy import Policy
from rlkl.numerics.normalization import ObservationNormalizer, RewardScaler, RunningMoments
from rlkl.rollouts.batch import Batch, minibatches
from rlkl.rollouts.collector import Collector
from rlkl.rollouts.make import make_batch
from rlkl.rollouts.rollout import Rollout


@pytest.mark.parametrize(("size", "parts"), [(16, 4), (17, 4), (3, 8), (1, 1)])
def test_minibatches_partition_rows_evenly(size: int, parts: int) -> None:
    made = list(minibatches(size, parts, torch.Generator().manual_seed(0)))
    assert len(made) == min(parts, size)
    assert torch.equal(torch.cat(made).sort().values, torch.arange(size))
    sizes = [len(rows) for rows in made]
    assert max(sizes) - min(sizes) <= 1


def test_each_pass_has_new_order() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.cat(list(minibatches(64, 4, generator))) for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.arange(64))


REWARDS = [[-7.0, 0.5], [0.0, 3.0], [-0.25, 99.0]]


def small_batch(**given: object) -> Batch:
    """Make a batch of 3 steps of 2 sub-environments, with one autoreset step."""
    policy = small_policy(1, Discrete(2))
    never = np.zeros((3, 2), np.bool_)
    is_transition = ~never
    is_transition[2, 1] = False
    rollout = Rollout(
        observations={VECTOR: np.arange(8, dtype=np.float32).reshape(4, 2, 1)},
        raw_vectors=None,
        states=torch.zeros(4, 2, 0),
        actions=np.array([[0, 1], [1, 0], [1, 1]]),
        rewards=np.array(REWARDS),
        terminated=never,
        truncated=never,
        is_transition=is_transition,
        begins=np.zeros((4, 2), np.bool_),
        final_observations={VECTOR: np.empty((0, 1), np.float32)},
        final_states=torch.zeros(0, 0),
        final_rows=np.empty(0, np.int64),
        episodes=(),
        env_steps=5,
    )
    # With γ = 0 the returns are the rewards.
    return make_batch(rollout, make_engine(policy), 0.0, 0.95, **given)


def test_batch_is_time_major_without_autoreset_steps() -> None:
    batch = small_batch()
    assert vectors_of(batch).flatten().tolist() == [0, 1, 2, 3, 4]
    assert batch.actions.tolist() == [0, 1, 1, 0, 1]
    torch.testing.assert_close(batch.returns, torch.tensor([-7, 0.5, 0, 3, -0.25]))
    torch.testing.assert_close(batch.advantages, batch.returns - batch.old_values)


def test_rewards_are_scaled_and_clipped_for_learning() -> None:
    clipped = small_batch(reward_clip=1.0)
    torch.testing.assert_close(clipped.returns, torch.tensor([-1, 0.5, 0, 1, -0.25]))
    scaler = RewardScaler(2, gamma=0.0)
    # Rewards of ±2 have the standard deviation 2.
    ends = np.ones((1, 2), np.bool_)
    scaler.update(np.array([[2.0, -2.0]]), ends, ends)
    scaled = small_batch(reward_scaler=scaler)
    torch.testing.assert_close(scaled.returns, torch.tensor([-3.5, 0.25, 0, 1.5, -0.125]))
    both = small_batch(reward_scaler=scaler, reward_clip=1.0)
    torch.testing.assert_close(both.returns, torch.tensor([-1, 0.25, 0, 1, -0.125]))


def test_minibatches_keep_fields_of_rows_together() -> None:
    batch, generator = small_batch(), torch.Generator().manual_seed(1)
    (only,) = batch.minibatches(1, generator)
    assert only is batch
    parts = list(batch.minibatches(2, generator))
    assert sorted(len(part) for part in parts) == [2, 3]
    rows = torch.cat([vectors_of(part).flatten() for part in parts]).long()
    assert rows.sort().values.tolist() == [0, 1, 2, 3, 4]
    assert rows.tolist() != [0, 1, 2, 3, 4]
    for name in ("actions", "advantages", "returns", "old_parameters", "old_log_prob"):
        found = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(found, getattr(batch, name)[rows])


@pytest.mark.parametrize(("fraction", "size"), [(0.01, 1), (0.4, 2), (1.0, 5)])
def test_sample_is_random_fraction_of_rows(fraction: float, size: int) -> None:
    batch, generator = small_batch(), torch.Generator().manual_seed(0)
    samples = [batch.sample(fraction, generator) for _ in range(20)]
    found = [tuple(sorted(vectors_of(sample).flatten().tolist())) for sample in samples]
    assert {len(rows) for rows in found} == {size}
    assert all(len(set(rows)) == size for rows in found)
    assert (len(set(found)) > 1) == (size < 5)


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
            if field.name not in ("inputs", "reference_parameters")
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
@pytest.mark.parametrize(
    ("normalize", "bootstraps"),
    [(False, True), (True, True), (False, False)],
    ids=["raw", "normalized", "truncated as terminated"],
)
def test_every_row_bootstraps_from_true_next_observation(
    mode: AutoresetMode, normalize: bool, bootstraps: bool
) -> None:
    normalizer = ObservationNormalizer((3,)) if normalize else None
    if normalizer is not None:
        normalizer.update(np.array([[0, 0, 0], [1, 2, 3]], np.float32))
    collector, diaries = collector_of(mode, normalizer=normalizer)
    policy, total = collector.policy, 0
    for collector.rollout_steps in ROWS[mode]:
        rollout = collector.collect()
        batch = make_batch(
            rollout, make_engine(policy), 0.9, gae_lambda=0.0, bootstrap_truncated=bootstraps
        )
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
            terminated, truncated = diaries[number].ending(episode, t + 1)
            terminated |= truncated and not bootstraps
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
