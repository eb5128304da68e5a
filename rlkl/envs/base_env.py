"""What environments of arrays and environments of tensors have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Generic, TypeVar

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from rlkl.envs.actions import check_action_space
from rlkl.envs.checks import reported_close
from rlkl.envs.observations import ObservationEncoder
from rlkl.envs.snapshots import set_state, state_of
from rlkl.envs.spaces import autoreset_mode
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError
from rlkl.utils.validation import described

Seen = TypeVar("Seen")
Made = TypeVar("Made")


class BaseEnvironment(ABC, Generic[Seen, Made]):
    """Steps N sub-environments, encodes their observations and checks all results.

    An exception in an environment or undeclared data raises `BrokenEnvironmentError`, after which
    the environments are closed.

    Args:
        envs: a vector environment with NEXT_STEP or SAME_STEP autoreset.
        name: of the environment, for messages.
        observation_keys: the parts of a Dict or Tuple to use; none for all.
        info_keys: numbers in infos, for each sub-environment, that steps have.
        seeding: from the seeds of the sub-environments to the form that `envs.reset` takes.
        flags: from N flags to the kind of array that steps have.

    Attributes:
        encoder: of observations, as arrays.
        action_space: of one sub-environment.
        skips_rows: whether autoreset steps occur (NEXT_STEP), which are no transitions.
        attributes: what `set_attr` has set: one value for all, or a list of one for each.
        ranks: among which the run's sub-environments are split; these are those of one.

    Raises:
        ConfigError: for an unsupported space or autoreset mode.
    """

    backend: str
    _calling: Callable[[], AbstractContextManager[None]] = nullcontext
    _instead_of_mode = ""

    def __init__(
        self,
        envs: gym.vector.VectorEnv[Any, Any, Any],
        name: str,
        observation_keys: tuple[str, ...],
        info_keys: Sequence[str],
        seeding: Callable[[list[int]], Any],
        flags: Callable[[list[bool]], Any],
    ) -> None:
        self._envs: Any = envs
        self.name, self.where = name, f"env.id={name}"
        self.info_keys = tuple(info_keys)
        self.num_envs = envs.num_envs
        self.encoder = ObservationEncoder(envs.single_observation_space, observation_keys)
        check_action_space(envs.single_action_space)
        self.action_space = envs.single_action_space
        self.attributes: dict[str, Any] = {}
        self.ranks = 1
        self._seeding, self._flags = seeding, flags
        mode = autoreset_mode(envs)
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise ConfigError(
                f"autoreset mode {mode} is not supported: expected NEXT_STEP or SAME_STEP in the "
                f"vector environment's metadata['autoreset_mode']{self._instead_of_mode}"
            )
        self.skips_rows = mode == AutoresetMode.NEXT_STEP
        self._states: Callable[[], list[Any] | None] = partial(state_of, envs)
        self._set_states: Callable[[list[Any]], None] = partial(set_state, envs)

    def reset(self, seeds: list[int]) -> Seen:
        """Reset all sub-environments, with a seed for each; return the first observations.

        A backend with one generator for all sub-environments uses the first seed.
        """
        self._ended = self._flags([False] * self.num_envs)
        try:
            return self._first(*self._call("reset", self._envs.reset, seed=self._seeding(seeds)))
        except BrokenEnvironmentError:
            self.close()
            raise

    def step(self, actions: Any) -> Made:
        """Step all sub-environments; the two autoreset modes differ only in autoreset steps."""
        try:
            return self._step(actions)
        except BrokenEnvironmentError:
            self.close()  # so that no process remains
            raise

    @abstractmethod
    def _first(self, observations: Any, infos: Any) -> Seen: ...

    @abstractmethod
    def _step(self, actions: Any) -> Made: ...

    def _call(self, what: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of the environments; raise an exception of one line."""
        try:
            with self._calling():
                return method(*args, **kwargs)
        except (Exception, SystemExit) as error:
            reason = self._reason(error)
            raise BrokenEnvironmentError(f"{self.where}: {what} failed: {reason}") from error

    def _reason(self, error: BaseException) -> str:
        return described(error)

    @abstractmethod
    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of each sub-environment."""

    def restore_attributes(self, attributes: dict[str, Any] | None) -> None:
        """Set the attributes that `set_attr` of other environments has set."""
        for name, values in (attributes or {}).items():
            # Older checkpoints have a list where one value was set.
            is_one = isinstance(values, list) and len(set(map(str, values))) == 1
            self.set_attr(name, values[0] if self.ranks > 1 and is_one else values)

    def state(self) -> dict[str, Any] | None:
        """Return the state of all sub-environments as plain data; None if it cannot be read."""
        try:
            states = self._states()
        except BrokenEnvironmentError as error:
            raise BrokenEnvironmentError(f"{self.where}: {error}") from error
        except (EOFError, ConnectionError):  # a process died; the next step reports it
            states = None
        return None if states is None else {"copies": states, "ended": self._ended.tolist()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned; the sub-environments must have been reset."""
        try:
            self._set_states(state["copies"])
        except BrokenEnvironmentError as error:
            raise BrokenEnvironmentError(f"{self.where}: {error}") from error
        self._ended = self._flags(state["ended"])

    def _no_single_envs(self) -> ConfigError:
        return ConfigError(
            f"env.backend={self.backend} has no single sub-environments with attributes to read or "
            "set; use env.backend=sync"
        )

    def close(self) -> None:
        """Close the environments; exceptions are only reported."""
        with reported_close(self.where):
            self._envs.close()
