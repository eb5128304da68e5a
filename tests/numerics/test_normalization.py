"""Running moments against NumPy over all data, and recomputed returns."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkl.numerics.normalization import (
    ObservationNormalizer,
    RewardScaler,
    RunningMoments,
    ValueNormalizer,
)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_moments_do_not_depend_on_batches(sizes: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    pieces = [generator.normal(generator.normal(), 2, size=(size, 3)) for size in sizes]
    whole = np.concatenate(pieces)
    moments = RunningMoments((3,))
    for piece in pieces:
        moments.update(piece)
    assert moments.count == len(whole)
    if len(whole) > 1:
        np.testing.assert_allclose(moments.mean, whole.mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(moments.variance, whole.var(0), rtol=1e-12)


def test_moments_keep_their_digits_far_from_zero() -> None:
    samples = 1e8 + np.random.default_rng(0).normal(size=(5000, 2))
    moments = RunningMoments((2,))
    for piece in np.array_split(samples, 100):
        moments.update(piece)
    np.testing.assert_allclose(moments.variance, (samples - 1e8).var(0), rtol=1e-7)


def test_float32_samples_are_summed_in_float64() -> None:
    samples = np.full((100_000, 1), 0.1, np.float32)
    moments = RunningMoments((1,))
    moments.update(samples)
    assert moments.mean.dtype == np.float64
    np.testing.assert_allclose(moments.mean, np.float64(np.float32(0.1)), rtol=1e-12)


def test_variance_is_1_before_two_samples() -> None:
    moments = RunningMoments((2,))
    assert moments.variance.tolist() == [1, 1]
    moments.update(np.array([[3.0, 5.0]]))
    assert moments.variance.tolist() == [1, 1]
    assert moments.mean.tolist() == [3, 5]
    moments.update(np.array([[5.0, 5.0]]))
    assert moments.variance.tolist() == [1, 0]


def test_normalized_observations_have_mean_0_and_variance_1() -> None:
    samples = np.random.default_rng(0).normal([5, -100], [2, 0.1], size=(1000, 2))
    normalizer = ObservationNormalizer((2,))
    normalizer.update(samples.astype(np.float32))
    normalized = normalizer(samples.astype(np.float32))
    assert normalized.dtype == np.float32
    assert normalizer(samples).dtype == np.float32
    np.testing.assert_allclose(normalized.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(normalized.std(0), 1, atol=1e-3)


def test_normalized_observations_have_known_values() -> None:
    normalizer = ObservationNormalizer((1,), clip=3.0)
    normalizer.update(np.array([[1.0], [5.0]]))
    raw = np.array([[[3.0], [5.0]], [[100.0], [-100.0]]], np.float32)
    np.testing.assert_allclose(normalizer(raw), [[[0], [1]], [[3], [-3]]], atol=1e-6)


def test_constant_observation_becomes_zero() -> None:
    normalizer = ObservationNormalizer((1,))
    normalizer.update(np.full((10, 1), 7.0, np.float32))
    assert normalizer(np.full((2, 1), 7.0, np.float32)).tolist() == [[0], [0]]


def test_only_updates_change_the_normalizer() -> None:
    normalizer = ObservationNormalizer((1,))
    normalizer.update(np.array([[0.0], [2.0]]))
    state, probe = normalizer.state_dict(), np.array([[1.5]], np.float32)
    first = normalizer(probe)
    normalizer(np.full((100, 1), 50.0, np.float32))
    assert normalizer(probe) == first
    assert normalizer.state_dict() == state
    normalizer.update(np.array([[50.0]]))
    assert normalizer(probe) != first


def test_only_measured_entries_are_normalized() -> None:
    normalizer = ObservationNormalizer((3,), clip=3.0, is_measured=np.array([True, False, True]))
    samples = np.array([[1, 0, 2], [5, 1, 2], [1, 0, 8], [5, 1, 8]], np.float32)
    normalizer.update(samples)
    found = normalizer(samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, [[-1, 0, -1], [1, 1, -1], [-1, 0, 1], [1, 1, 1]], rtol=1e-6, atol=1e-6
    )
    assert normalizer(np.array([[1e6, 1, -1e6]], np.float32)).tolist() == [[3, 1, -3]]
    resumed = ObservationNormalizer((3,), clip=3.0, is_measured=np.array([True, False, True]))
    resumed.load_state_dict(json.loads(json.dumps(normalizer.state_dict())))
    np.testing.assert_array_equal(resumed(samples), found)


def test_unmeasured_observations_are_unchanged() -> None:
    normalizer = ObservationNormalizer((2,), is_measured=np.zeros(2, np.bool_))
    normalizer.update(np.array([[4, 0], [8, 1]], np.float32))
    assert normalizer(np.array([[0, 1]], np.float32)).tolist() == [[0, 1]]


def returns_by_episode(
    rewards: np.ndarray, ends: np.ndarray, valid: np.ndarray, gamma: float
) -> list[float]:
    """Return R of each transition as a sum over its episode."""
    returns = []
    for env in range(rewards.shape[1]):
        start = 0
        for t in range(len(rewards)):
            so_far = rewards[start : t + 1, env]
            if valid[t, env]:
                returns.append(sum(gamma ** (t - start - k) * r for k, r in enumerate(so_far)))
            if ends[t, env]:
                start = t + 1
    return returns


def test_rewards_are_divided_by_return_deviation() -> None:
    generator = np.random.default_rng(0)
    rewards = generator.normal(1, 2, size=(40, 3))
    ends = generator.random((40, 3)) < 0.15
    valid = np.ones((40, 3), bool)
    valid[1:] = ~ends[:-1]  # autoreset steps
    ends &= valid
    valid[1:] = ~ends[:-1]
    rewards[~valid] = 0
    assert 5 < (~valid).sum() < 60
    scaler = RewardScaler(3, gamma=0.9, clip=1e9)
    for rows in (slice(0, 13), slice(13, 14), slice(14, 40)):
        scaler.update(rewards[rows], ends[rows], valid[rows])
    expected = np.array(returns_by_episode(rewards, ends, valid, 0.9))
    assert scaler.moments.count == len(expected)
    np.testing.assert_allclose(scaler.moments.mean, expected.mean(), rtol=1e-12)
    np.testing.assert_allclose(scaler(rewards), rewards / expected.std(), rtol=1e-6)


@pytest.mark.parametrize("num_envs", [3, 20])
def test_reward_scaler_does_not_depend_on_rollouts(num_envs: int) -> None:
    generator = np.random.default_rng(1)
    rewards = generator.normal(1, 2, size=(30, num_envs))
    ends = generator.random((30, num_envs)) < 0.2
    ends[11] = np.arange(num_envs) % 2 == 0  # some episodes end with the first rollout
    valid = np.ones((30, num_envs), bool)
    one, two = RewardScaler(num_envs, 0.9), RewardScaler(num_envs, 0.9)
    one.update(rewards, ends, valid)
    for rows in (slice(0, 12), slice(12, 30)):
        two.update(rewards[rows], ends[rows], valid[rows])
    assert one.moments.count == two.moments.count == 30 * num_envs
    np.testing.assert_allclose(two.moments.mean, one.moments.mean, rtol=1e-12)
    np.testing.assert_allclose(two.moments.variance, one.moments.variance, rtol=1e-12)
    assert two.state_dict()["returns"] == one.state_dict()["returns"]


def test_observations_are_normalized_into_a_buffer() -> None:
    samples = np.random.default_rng(0).normal([5, -100], [2, 0.1], size=(50, 2)).astype(np.float32)
    normalizer = ObservationNormalizer((2,), clip=1.5)
    normalizer.update(samples)
    buffer, before = np.full((3, 50, 2), 7, np.float32), samples.copy()
    normalizer.write(samples, buffer[1])
    np.testing.assert_array_equal(buffer[1], normalizer(samples))
    assert (buffer[[0, 2]] == 7).all()
    assert buffer.max() == 7
    assert np.abs(buffer[1]).max() == 1.5
    np.testing.assert_array_equal(samples, before)


def test_reward_of_autoreset_step_is_ignored() -> None:
    ends = np.array([[False], [True], [False], [False]])
    valid = np.array([[True], [True], [False], [True]])
    quiet, noisy = RewardScaler(1, 0.9), RewardScaler(1, 0.9)
    quiet.update(np.array([[1.0], [2.0], [0.0], [4.0]]), ends, valid)
    noisy.update(np.array([[1.0], [2.0], [1e3], [4.0]]), ends, valid)
    assert quiet.moments.mean == pytest.approx((1 + 2.9 + 4) / 3)
    assert noisy.state_dict() == quiet.state_dict()


def test_scaled_rewards_keep_their_sign_and_are_clipped() -> None:
    scaler = RewardScaler(1, gamma=0.0, clip=2.0)
    scaler.update(np.array([[10.0], [14.0]]), np.zeros((2, 1), bool), np.ones((2, 1), bool))
    np.testing.assert_allclose(scaler(np.array([1.0, -1.0, 0.0, 9.0])), [0.5, -0.5, 0, 2])


def test_calls_do_not_change_the_reward_scaler() -> None:
    scaler = RewardScaler(1, gamma=0.9)
    scaler.update(np.array([[1.0], [5.0]]), np.zeros((2, 1), bool), np.ones((2, 1), bool))
    state = scaler.state_dict()
    scaler(np.array([[100.0]]))
    assert scaler.state_dict() == state


@pytest.mark.parametrize("kind", ["observations", "rewards"])
def test_state_survives_json_bit_for_bit(kind: str) -> None:
    generator = np.random.default_rng(0)
    before, after = generator.normal(size=(2, 50, 3))
    no_ends, valid = np.zeros((50, 3), bool), np.ones((50, 3), bool)

    def update(normalizer: ObservationNormalizer | RewardScaler, samples: np.ndarray) -> None:
        if isinstance(normalizer, RewardScaler):
            normalizer.update(samples, no_ends, valid)
        else:
            normalizer.update(samples)

    def make() -> ObservationNormalizer | RewardScaler:
        return ObservationNormalizer((3,)) if kind == "observations" else RewardScaler(3, 0.9)

    original, resumed = make(), make()
    update(original, before)
    resumed.load_state_dict(json.loads(json.dumps(original.state_dict())))
    np.testing.assert_array_equal(resumed(after), original(after))
    for normalizer in (original, resumed):
        update(normalizer, after)
    assert resumed.state_dict() == original.state_dict()
    np.testing.assert_array_equal(resumed(after), original(after))


def test_values_are_in_units_of_returns() -> None:
    normalizer = ValueNormalizer()
    assert normalizer.denormalize(3.0) == normalizer.normalize(3.0) == 3.0
    normalizer.update(np.array([1.0, 5.0]))
    normalizer.update(np.array([9.0]))
    # Mean 5, variance 32/3.
    assert normalizer.denormalize(0.0) == pytest.approx(5.0)
    assert normalizer.denormalize(1.0) == pytest.approx(5 + 3.26599, rel=1e-5)
    assert normalizer.normalize(5 + 2 * 3.26599) == pytest.approx(2.0, rel=1e-5)


def test_value_statistics_tell_how_outputs_keep_their_values() -> None:
    normalizer, outputs = ValueNormalizer(), np.array([-1.0, 0.0, 2.5])
    for returns in ([-300.0, -200.0, -280.0], [10.0], [0.0, 1e4]):
        values = normalizer.denormalize(outputs)
        scale, shift = normalizer.update(np.array(returns))
        outputs = scale * outputs + shift
        np.testing.assert_allclose(normalizer.denormalize(outputs), values, rtol=1e-12, atol=1e-9)


def test_equal_returns_give_finite_units() -> None:
    normalizer = ValueNormalizer()
    normalizer.update(np.zeros(8))
    assert normalizer.std == pytest.approx(0.00316228, rel=1e-5)
    assert normalizer.normalize(0.0) == 0.0
