"""How a rollout becomes a batch, and a batch minibatches."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from learning_loop import small_policy, vectors_of

from rlkl.engines.make import make_engine
from rlkl.envs.observations import VECTOR
from rlkl.numerics.normalization import RewardScaler
from rlkl.rollouts.batch import Batch, make_batch, minibatches
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
