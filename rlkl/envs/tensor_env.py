"""Step N sub-environments whose results are tensors, without waiting for the device."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from rlkl.envs.actions import check_action_space
from rlkl.envs.attributes import check_backend
from rlkl.envs.checks import MASK_ALIAS, reported_close
from rlkl.envs.infos import tensor_info_rows
from rlkl.envs.observations import ACTION_MASK, ObservationEncoder
from rlkl.envs.snapshots import set_state, state_of
from rlkl.envs.spaces import autoreset_mode
from rlkl.envs.tensor_spaces import (
    TensorEncoder,
    TensorObservations,
    actions_like,
    as_tensor,
)
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError
from rlkl.utils.validation import described

_NO_MASKS = "env.backend=tensor does not support action masks"


class TensorStep(NamedTuple):
    """One step of N sub-environments; like `vector_env.Step`, with rows that are masked.

    Attributes:
        observations: what the policy sees next.
        rewards: float64, `[N]`.
        terminated: where the episode ended in a terminal state, `[N]`.
        truncated: where the episode was truncated, `[N]`.
        is_transition: False for an autoreset step, `[N]`.
        begins: where `observations` are the first of an episode, `[N]`.
        final_observations: N rows, the last observations where an episode ended; other rows mean
            nothing. None with NEXT_STEP autoreset, where `observations` show them.
        infos: numbers in the infos of this step, float64 `[N, number of info_keys]`; None without
            keys.
    """

    observations: TensorObservations
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    is_transition: Tensor
    begins: Tensor
    final_observations: TensorObservations | None
    infos: Tensor | None = None


class TensorEnvironment:
    """Steps N sub-environments that return tensors or arrays with DLPack; see `VectorEnvironment`.

    Shapes are checked in every step. Numbers are not: the collector checks them once a rollout.

    Args:
        envs: a vector environment with NEXT_STEP or SAME_STEP autoreset. With SAME_STEP, its infos
            have `final_obs`: an observation of N rows.
        device: where the tensors go.
        name: of the environment, for messages.
        observation_keys: the parts of a Dict or Tuple to use; none for all.
        info_keys: numbers in infos, tensors `[N]`, that `TensorStep.infos` has.

    Attributes:
        encoder: of observations, as arrays.
        action_space: of one sub-environment.
        skips_rows: whether autoreset steps occur (NEXT_STEP), which are no transitions.

    Raises:
        ConfigError: for an unsupported space or autoreset mode.
    """

    backend = "tensor"
    ranks = 1

    def __init__(
        self,
        envs: gym.vector.VectorEnv[Any, Any, Any],
        device: torch.device | str = "cpu",
        name: str = "environment",
        observation_keys: tuple[str, ...] = (),
        info_keys: Sequence[str] = (),
    ) -> None:
        self._envs = envs
        self.info_keys = tuple(info_keys)
        self.device = torch.device(device)
        self.name = name
        self.num_envs = envs.num_envs
        self.encoder = ObservationEncoder(envs.single_observation_space, observation_keys)
        check_action_space(envs.single_action_space)
        self.action_space = envs.single_action_space
        mode = autoreset_mode(envs)
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise ConfigError(
                f"autoreset mode {mode} is not supported: expected NEXT_STEP or SAME_STEP in the "
                "vector environment's metadata['autoreset_mode']"
            )
        self.skips_rows = mode == AutoresetMode.NEXT_STEP
        self.where = f"env.id={name}"
        space = envs.single_observation_space
        if isinstance(space, gym.spaces.Dict) and ACTION_MASK in space.spaces:
            raise ConfigError(_NO_MASKS)
        self._encode = TensorEncoder(self.encoder, self.device, self.num_envs, self.where)
        self._actions = actions_like(torch.empty(0))
        self._ended = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._all = torch.ones_like(self._ended)

    def reset(self, seeds: list[int]) -> TensorObservations:
        """Reset all sub-environments; the first seed is that of all.

        Raises:
            BrokenEnvironmentError: for an exception in an environment, or undeclared data.
        """
        try:
            observations, infos = self._envs.reset(seed=seeds[0])
        except (Exception, SystemExit) as error:
            raise self._failure("reset", error) from error
        self._ended = torch.zeros_like(self._ended)
        try:
            if any(key in infos for key in (ACTION_MASK, MASK_ALIAS)):
                raise BrokenEnvironmentError(f"{self.where}: {_NO_MASKS}")
            encoded = self._encode(observations)
            self._actions = actions_like(observations)
        except BrokenEnvironmentError:
            self.close()
            raise
        return encoded

    def step(self, actions: Tensor) -> TensorStep:
        """Step all sub-environments.

        Args:
            actions: of the environment, one row for each sub-environment.

        Raises:
            BrokenEnvironmentError: for an exception in an environment, or undeclared data.
        """
        try:
            results = self._envs.step(self._actions(actions))
        except (Exception, SystemExit) as error:
            raise self._failure("step", error) from error
        try:
            return self._checked_step(*results)
        except BrokenEnvironmentError:
            self.close()
            raise

    def _checked_step(
        self, observations: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any
    ) -> TensorStep:
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

    def state(self) -> dict[str, Any] | None:
        """Return the state of all sub-environments as plain data; None if it cannot be read.

        Raises:
            BrokenEnvironmentError: the environment's own `get_state` failed.
        """
        try:
            states = state_of(self._envs)
        except BrokenEnvironmentError as error:
            raise BrokenEnvironmentError(f"{self.where}: {error}") from error
        return None if states is None else {"copies": states, "ended": self._ended.tolist()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned.

        Raises:
            BrokenEnvironmentError: the environment's own `set_state` failed.
        """
        try:
            set_state(self._envs, state["copies"])
        except BrokenEnvironmentError as error:
            raise BrokenEnvironmentError(f"{self.where}: {error}") from error
        self._ended = torch.tensor(state["ended"], device=self.device)

    @property
    def attributes(self) -> dict[str, Any]:
        """None: there are no single sub-environments."""
        return {}

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Raise ConfigError: the tensors of all sub-environments are one environment's."""
        check_backend(self._envs, "tensor")

    get_attr = set_attr = call

    def close(self) -> None:
        """Close the environments; exceptions are only reported."""
        with reported_close(self.where):
            self._envs.close()

    def _failure(self, method: str, error: BaseException) -> BrokenEnvironmentError:
        """Close the environments; return the exception to raise for one of theirs."""
        self.close()
        return BrokenEnvironmentError(f"{self.where}: {method} failed: {described(error)}")
