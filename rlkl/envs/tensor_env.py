"""Step N sub-environments whose results are tensors, without waiting for the device."""

from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor

from rlkl.envs.base_env import BaseEnvironment
from rlkl.envs.checks import MASK_ALIAS
from rlkl.envs.infos import tensor_info_rows
from rlkl.envs.observations import ACTION_MASK
from rlkl.envs.tensor_spaces import TensorEncoder, TensorObservations, actions_like, as_tensor
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError

_NO_MASKS = "env.backend=tensor does not support action masks"


class TensorStep(NamedTuple):
    """One step of N sub-environments: tensors with the meaning of those in `vector_env.Step`.

    Attributes:
        final_observations: N rows, the last observations where an episode ended; other rows mean
            nothing. None with NEXT_STEP autoreset, where `observations` show them.
        rewards, infos: float64.
    """

    observations: TensorObservations
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    is_transition: Tensor
    begins: Tensor
    final_observations: TensorObservations | None
    infos: Tensor | None = None


class TensorEnvironment(BaseEnvironment[TensorObservations, TensorStep]):
    """Steps N sub-environments that return tensors or arrays with DLPack; see `BaseEnvironment`.

    Shapes are checked in every step. Numbers are not: the collector checks them once a rollout.
    The first seed is that of all sub-environments. With SAME_STEP autoreset, the infos of `envs`
    have `final_obs`: an observation of N rows. The tensors go to `device`.
    """

    backend = "tensor"

    def __init__(
        self,
        envs: gym.vector.VectorEnv[Any, Any, Any],
        device: torch.device | str = "cpu",
        name: str = "environment",
        observation_keys: tuple[str, ...] = (),
        info_keys: Sequence[str] = (),
    ) -> None:
        self.device = torch.device(device)
        flags = partial(torch.tensor, device=self.device)
        super().__init__(envs, name, observation_keys, info_keys, itemgetter(0), flags)
        space = envs.single_observation_space
        if isinstance(space, gym.spaces.Dict) and ACTION_MASK in space.spaces:
            raise ConfigError(_NO_MASKS)
        self._encode = TensorEncoder(self.encoder, self.device, self.num_envs, self.where)
        self._all = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)

    def _first(self, observations: Any, infos: dict[str, Any]) -> TensorObservations:
        if any(key in infos for key in (ACTION_MASK, MASK_ALIAS)):
            raise BrokenEnvironmentError(f"{self.where}: {_NO_MASKS}")
        encoded = self._encode(observations)
        self._actions = actions_like(observations)
        return encoded

    def _step(self, actions: Tensor) -> TensorStep:
        observations, rewards, terminated, truncated, infos = self._call(
            "step", lambda: self._envs.step(self._actions(actions))
        )
        rewards = self._row("reward", rewards).double()
        terminated = self._row("terminated", terminated, torch.bool)
        truncated = self._row("truncated", truncated, torch.bool)
        ended, finals = terminated | truncated, None
        if not self.skips_rows:
            if "final_obs" not in infos:
                raise BrokenEnvironmentError(
                    f"{self.where}: expected infos['final_obs'], the observations before the "
                    "autoreset, N rows in every step"
                )
            finals = self._encode(infos["final_obs"])
        is_transition = ~self._ended if self.skips_rows else self._all
        begins = self._ended if self.skips_rows else ended
        self._ended = ended
        encoded = self._encode(observations)
        numbers = None
        if self.info_keys:
            of_reset = None if self.skips_rows else ended
            numbers = tensor_info_rows(infos, self.info_keys, of_reset, ended)
        ends = terminated, truncated, is_transition, begins
        return TensorStep(encoded, rewards, *ends, finals, numbers)

    def _row(self, what: str, values: Any, dtype: torch.dtype | None = None) -> Tensor:
        """Return one value for each sub-environment, `[N]`."""
        tensor = as_tensor(values, self.device, self.where)
        if tensor.numel() != self.num_envs or (dtype is not None and tensor.dtype != dtype):
            raise BrokenEnvironmentError(
                f"{self.where}: {what} has shape {tuple(tensor.shape)} and type {tensor.dtype}; "
                f"expected {'numbers' if dtype is None else 'True or False'}, one for each of "
                f"{self.num_envs} sub-environments"
            )
        return tensor.reshape(self.num_envs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Raise ConfigError: the tensors of all sub-environments are one environment's."""
        raise self._no_single_envs()

    get_attr = set_attr = call
