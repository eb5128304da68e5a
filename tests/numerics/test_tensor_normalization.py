"""The normalizers and advantages on a device give the numbers of the NumPy ones."""

from typing import Any

import numpy as np
import pytest
import torch

from rlkl.numerics import advantages, tensor_advantages
from rlkl.numerics.normalization import ObservationNormalizer, RewardScaler
from rlkl.numerics.tensor_normalization import TensorObservationNormalizer, TensorRewardScaler

CPU = torch.device("cpu")


def close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert found["count"] == expected["count"]
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("is_measured", [None, np.array([True, False, True])])
def test_observations_are_normalized_alike(dtype: Any, is_measured: Any) -> None:
    random = np.random.default_rng(0)
    arrays = ObservationNormalizer((3,), 2.0, is_measured)
    tensors = TensorObservationNormalizer((3,), CPU, 2.0, is_measured)
    for size in (1, 5, 0, 40):
        rows = (1e4 + 3 * random.normal(size=(size, 3))).astype(dtype)
        arrays.update(rows)
        tensors.update(torch.from_numpy(rows))
        close(tensors.state_dict(), arrays.state_dict())
    rows = (1e4 + 5 * random.normal(size=(2, 20, 3))).astype(dtype)
    found = tensors(torch.from_numpy(rows))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), arrays(rows), rtol=1e-6)
    np.testing.assert_array_equal(tensors.of_arrays()(rows), arrays(rows))


def test_masked_samples_are_ignored() -> None:
    random = np.random.default_rng(1)
    arrays, tensors = ObservationNormalizer((2,)), TensorObservationNormalizer((2,), CPU)
    for share in (0.5, 0.0, 0.9):
        rows, valid = random.normal(size=(30, 2)), random.random(30) < share
        rows[~valid] = np.nan
        arrays.update(rows[valid])
        tensors.update(torch.from_numpy(rows), torch.from_numpy(valid))
    close(tensors.state_dict(), arrays.state_dict())


def test_rewards_are_scaled_alike() -> None:
    random = np.random.default_rng(2)
    arrays, tensors = RewardScaler(5, 0.9, 1.5), TensorRewardScaler(5, 0.9, CPU, 1.5)
    for _ in range(3):
        rewards = 4 * random.normal(size=(12, 5))
        ends, valid = random.random((12, 5)) < 0.2, random.random((12, 5)) < 0.8
        arrays.update(rewards, ends, valid)
        tensors.update(*(torch.from_numpy(rows) for rows in (rewards, ends, valid)))
    close(tensors.state_dict(), arrays.state_dict())
    np.testing.assert_allclose(tensors(torch.from_numpy(rewards)).numpy(), arrays(rewards))
    tensors.reset_returns()
    arrays.reset_returns()
    close(tensors.state_dict(), arrays.state_dict())


def test_states_fit_the_other_kind() -> None:
    arrays, tensors = RewardScaler(3, 0.9), TensorRewardScaler(3, 0.9, CPU)
    rows = np.random.default_rng(3).normal(size=(6, 3))
    no, yes = np.zeros((6, 3), np.bool_), np.ones((6, 3), np.bool_)
    arrays.update(rows, no, yes)
    tensors.load_state_dict(arrays.state_dict())
    assert tensors.state_dict() == arrays.state_dict()
    seen, others = TensorObservationNormalizer((3,), CPU), ObservationNormalizer((3,))
    seen.update(torch.from_numpy(rows))
    others.load_state_dict(seen.state_dict())
    assert others.state_dict() == seen.state_dict()
    seen.load_state_dict(others.state_dict())
    np.testing.assert_array_equal(seen.scale.numpy(), others.scale)


@pytest.mark.parametrize("num_envs", [1, 7])
def test_advantages_are_those_of_arrays(num_envs: int) -> None:
    random = np.random.default_rng(4)
    rows = [random.normal(size=(11, num_envs)) for _ in range(3)]
    ends = [random.random((11, num_envs)) < 0.2 for _ in range(2)]
    expected = advantages.generalized_advantages(*rows, *ends, 0.97, 0.9)
    given = [torch.from_numpy(part) for part in (*rows, *ends)]
    found = tensor_advantages.generalized_advantages(*given, 0.97, 0.9)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
