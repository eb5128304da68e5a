"""Choose between arrays and tensors: the collector, the normalizers and the batch."""

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Generator

from rlkl.engines.base import Engine
from rlkl.envs.tensor_env import TensorEnvironment
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.numerics.normalization import ObservationNormalizer, RewardScaler, ValueNormalizer
from rlkl.numerics.tensor_normalization import TensorObservationNormalizer, TensorRewardScaler
from rlkl.rollouts.batch import Batch
from rlkl.rollouts.batch import make_batch as make_array_batch
from rlkl.rollouts.batch import recompute_advantages as recompute_array_advantages
from rlkl.rollouts.collector import Collector
from rlkl.rollouts.rollout import Rollout
from rlkl.rollouts.tensor_collector import TensorCollector
from rlkl.rollouts.tensor_rollout import (
    TensorRollout,
    make_tensor_batch,
    recompute_tensor_advantages,
)
from rlkl.utils.errors import ConfigError
from rlkl.utils.ranks import ALONE, Ranks

AnyEnvironment = VectorEnvironment | TensorEnvironment
AnyRollout = Rollout | TensorRollout


class AnyCollector(Protocol):
    """What `Collector` and `TensorCollector` share; rollouts are of the matching kind."""

    env_steps: int

    def restart(self, envs: Any, seeds: list[int]) -> None:
        """Reset all sub-environments."""
        ...

    def collect(self) -> Any:
        """Return the next rollout with a transition."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state to resume from."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        ...


def make_collector(
    envs: Any,
    engine: Engine,
    rollout_steps: int,
    generator: Generator,
    seeds: list[int],
    normalizer: Any = None,
    ranks: Ranks = ALONE,
) -> AnyCollector:
    """Return the collector for environments of arrays or of tensors; see `Collector`."""
    shared = (envs, engine, rollout_steps, generator, seeds, normalizer)
    if isinstance(envs, TensorEnvironment):
        return TensorCollector(*shared)
    return Collector(*shared, ranks)


def make_normalizer(envs: AnyEnvironment, name: str = "the environment") -> Any:
    """Return the normalizer of the environments' observations.

    Raises:
        ConfigError: naming the environment, if there is nothing to normalize.
    """
    if not envs.encoder.is_measured.any():
        raise ConfigError(
            f"normalize_observations=true: {name} has nothing to normalize, only images (see "
            "policy.pixel_scale) or one-hot codes; leave it out"
        )
    shape: tuple[int, ...] = (envs.encoder.vector_size,)
    is_measured: NDArray[np.bool_] = envs.encoder.is_measured
    if isinstance(envs, TensorEnvironment):
        return TensorObservationNormalizer(shape, envs.device, is_measured=is_measured)
    return ObservationNormalizer(shape, is_measured=is_measured)


def make_reward_scaler(envs: AnyEnvironment, num_envs: int, gamma: float) -> Any:
    """Return the scaler of the rewards of all ranks' sub-environments."""
    if isinstance(envs, TensorEnvironment):
        return TensorRewardScaler(num_envs, gamma, envs.device)
    return RewardScaler(num_envs, gamma)


def make_batch(
    rollout: AnyRollout,
    engine: Engine,
    gamma: float,
    gae_lambda: float,
    reward_scaler: Any = None,
    reward_clip: float | None = None,
    value_normalizer: ValueNormalizer | None = None,
) -> Batch:
    """Turn a rollout of arrays or of tensors into a batch; see `batch.make_batch`.

    With a value normalizer, old values and returns are what the critic's outputs are fitted to.
    """
    make: Any = make_tensor_batch if isinstance(rollout, TensorRollout) else make_array_batch
    settings = gamma, gae_lambda, reward_scaler, reward_clip, value_normalizer
    batch: Batch = make(rollout, engine, *settings)
    if value_normalizer is None:
        return batch
    normalize = value_normalizer.normalize
    return replace(batch, old_values=normalize(batch.old_values), returns=normalize(batch.returns))


def recompute_advantages(
    batch: Batch,
    rollout: AnyRollout,
    engine: Engine,
    gamma: float,
    gae_lambda: float,
    reward_scaler: Any = None,
    reward_clip: float | None = None,
    value_normalizer: ValueNormalizer | None = None,
) -> Batch:
    """Return a batch of `make_batch` with advantages and returns from the current critic."""
    is_tensor = isinstance(rollout, TensorRollout)
    compute: Any = recompute_tensor_advantages if is_tensor else recompute_array_advantages
    settings = gamma, gae_lambda, reward_scaler, reward_clip, value_normalizer
    recomputed: Batch = compute(batch, rollout, engine, *settings)
    if value_normalizer is None:
        return recomputed
    return replace(recomputed, returns=value_normalizer.normalize(recomputed.returns))


def for_arrays(normalizer: Any) -> ObservationNormalizer | None:
    """Return the same normalizer for NumPy arrays; None without one."""
    if isinstance(normalizer, TensorObservationNormalizer):
        return normalizer.of_arrays()
    arrays: ObservationNormalizer | None = normalizer
    return arrays
