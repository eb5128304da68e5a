"""Step N sub-environments with any backend, encode their observations, and check their results."""

import os
import signal
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv
from numpy.typing import NDArray

from rlkl.envs.actions import mask_rows
from rlkl.envs.base_env import BaseEnvironment
from rlkl.envs.checks import MASK_ALIAS, quiet, reported_close
from rlkl.envs.infos import info_rows
from rlkl.envs.observations import ACTION_MASK, Observations, all_finite
from rlkl.envs.shared_memory_env import SharedMemoryVectorEnv
from rlkl.envs.snapshots import NotPlainError, packed
from rlkl.envs.sync_env import SyncVectorEnv
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError
from rlkl.utils.validation import described, one_line


class Step(NamedTuple):
    """One step of N sub-environments.

    Attributes:
        observations: what the policy sees next.
        rewards: `[N]`.
        terminated, truncated: episode ends in a terminal state, and other ends, `[N]`.
        is_transition: False for an autoreset step, whose action and reward mean nothing, `[N]`.
        begins: where `observations` are the first of an episode, `[N]`.
        final_observations: the last observations of the K episodes that ended, if `observations`
            already show the next episode (SAME_STEP autoreset only).
        final_envs: the sub-environments of these episodes, `[K]`.
        infos: numbers in the infos of this step, `[N, number of info_keys]`; None without keys.
    """

    observations: Observations
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    is_transition: NDArray[np.bool_]
    begins: NDArray[np.bool_]
    final_observations: Observations
    final_envs: NDArray[np.int64]
    infos: NDArray[np.float64] | None = None


SECONDS_TO_CLOSE = 2.0  # that worker processes may take to close their environments
_MASK_KEYS = (ACTION_MASK, MASK_ALIAS)  # of an info; the first has precedence


class VectorEnvironment(BaseEnvironment[Observations, Step]):
    """Steps N sub-environments with any backend; see `BaseEnvironment`.

    Without `observation_keys` it uses all parts of a Dict or Tuple, but a part `action_mask` is an
    action mask, as in PettingZoo.

    Attributes:
        shows_masks: whether the environment has action masks; known after the first reset.
    """

    _instead_of_mode = ", or use env.backend=sync"

    def __init__(
        self,
        envs: gym.vector.VectorEnv[Any, Any, Any],
        backend: str = "sync",
        name: str = "environment",
        observation_keys: tuple[str, ...] = (),
        seeding: Callable[[list[int]], Any] = list,
        info_keys: Sequence[str] = (),
    ) -> None:
        keys = observation_keys or _keys_without_mask(envs.single_observation_space)
        super().__init__(envs, name, keys, info_keys, seeding, np.array)
        self.backend = backend
        if isinstance(envs.unwrapped, AsyncVectorEnv):
            self._calling = quiet
        if isinstance(envs, SharedMemoryVectorEnv):
            self._states, self._set_states = envs.states, envs.set_states
        self._has_mask_part = bool(keys) and not observation_keys
        self.shows_masks = False
        # Workers ignore the signal with which Python ends them when this process exits.
        processes = list(getattr(envs.unwrapped, "processes", ()))
        weakref.finalize(self, _kill, os.getpid(), processes)
        self._no_observations, self._no_envs = self.encoder.empty(0), np.empty(0, np.int64)
        self._all = np.ones(self.num_envs, np.bool_)
        self._all.flags.writeable = False  # many steps share it

    def _first(self, observations: Any, infos: dict[str, Any]) -> Observations:
        self.shows_masks = self._has_mask_part or any(key in infos for key in _MASK_KEYS)
        return self._encoded(observations, infos)

    def _step(self, actions: NDArray[Any]) -> Step:
        observations, rewards, terminated, truncated, infos = self._call(
            "step", self._envs.step, actions
        )
        rewards = self._checked("reward", rewards, "biuf").astype(np.float64, copy=False)
        terminated = self._checked("terminated", terminated, "b")
        truncated = self._checked("truncated", truncated, "b")
        if not all_finite(rewards):
            row = int(np.argmin(np.isfinite(rewards)))
            raise BrokenEnvironmentError(
                f"{self.where}: the reward of sub-environment {row} is {rewards[row]}; "
                "expected a finite number"
            )
        ended = terminated | truncated
        finals, final_envs = self._no_observations, self._no_envs
        if self.skips_rows:
            is_transition, begins = ~self._ended, self._ended
        else:
            is_transition, begins = self._all, ended
            if np.count_nonzero(ended):  # faster than ended.any()
                final_envs = np.flatnonzero(ended)
                finals = self.encoder.stack([infos["final_obs"][i] for i in final_envs], self.where)
        self._ended = ended
        numbers = None
        if self.info_keys:
            of_reset = None if self.skips_rows else ended
            numbers = info_rows(infos, self.info_keys, of_reset, self.num_envs)
        encoded = self._encoded(observations, infos)
        ends = terminated, truncated, is_transition, begins
        return Step(encoded, rewards, *ends, finals, final_envs, numbers)

    def _reason(self, error: BaseException) -> str:
        codes = self._exit_codes()
        self._end_processes()
        if isinstance(error, EOFError | ConnectionError):
            return f"the process of a sub-environment died{codes}"
        return one_line(error) if isinstance(error, BrokenEnvironmentError) else described(error)

    def _checked(self, what: str, values: Any, kinds: str) -> NDArray[Any]:
        """Return one value for each sub-environment, `[N]`."""
        array = np.asarray(values)
        if array.shape == (self.num_envs,) and array.dtype.kind in kinds:
            return array
        if array.size != self.num_envs or array.dtype.kind not in kinds:
            raise BrokenEnvironmentError(
                f"{self.where}: {what} has shape {array.shape} and type {array.dtype}; expected "
                f"{'numbers' if 'f' in kinds else 'True or False'}, one for each of "
                f"{self.num_envs} sub-environments"
            )
        return array.reshape(self.num_envs)

    def _encoded(self, observations: Any, infos: dict[str, Any]) -> Observations:
        where = self.where
        encoded = self.encoder(observations, where)
        name = next((key for key in _MASK_KEYS if key in infos), "")
        if self.shows_masks:
            masks = observations[ACTION_MASK] if self._has_mask_part else infos.get(name)
            given = infos.get(f"_{name}", np.ones(self.num_envs, np.bool_))
            # No action is taken in a final state, and its mask often allows none.
            ignored = self._ended & self.skips_rows
            if masks is None or not (given | ignored).all():
                raise BrokenEnvironmentError(
                    f"{where}: the action mask that came with reset is missing from a step"
                )
            encoded[ACTION_MASK] = mask_rows(self.action_space, masks, ignored, where)
        elif name:
            raise BrokenEnvironmentError(
                f"{where}: an action mask came with a step and none with reset; expected one in "
                "the info of both"
            )
        return encoded

    def get_attr(self, name: str) -> list[Any]:
        """Return an attribute of each sub-environment, or of its wrapper that has it."""
        return list(self._on_each(name, "call", "get_wrapper_attr", name))

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute that each sub-environment has; see docs/own_environments.md.

        Args:
            name: of the attribute.
            values: plain data: one value for all, or a list of one for each.

        Raises:
            ConfigError: there is no such attribute, the values do not fit, or the backend has no
                single sub-environments.
        """
        found = self._as_list(name, values)
        self._on_each(name, "set_attr", name, found)
        self.attributes[name] = found if isinstance(values, list | tuple) else values

    def _as_list(self, name: str, values: Any) -> list[Any]:
        """Return one value for each sub-environment, from one for all or a list of N."""
        where, is_list = f"set_attr({name!r}, ...)", isinstance(values, list | tuple)
        if self.ranks > 1 and is_list:
            raise ConfigError(
                f"{where}: got a list, but the sub-environments are split among {self.ranks} "
                "ranks; expected one value for all, set on every rank"
            )
        found = list(values) if is_list else [values] * self.num_envs
        if len(found) != self.num_envs:
            raise ConfigError(
                f"{where}: got {len(found)} values for {self.num_envs} sub-environments; expected "
                "one value for all, or a list of one for each"
            )
        try:
            packed(found)
        except NotPlainError as error:
            raise ConfigError(
                f"{where}: got {error}; expected numbers, texts, arrays and tensors, and lists, "
                "tuples and dicts of them, which a checkpoint can hold"
            ) from None
        return found

    def call(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method of each sub-environment; return the results."""
        return list(self._on_each(name, "call", name, *args, **kwargs))

    def _on_each(self, name: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Check that each sub-environment has an attribute, and do something with it."""
        if not isinstance(self._envs, SyncVectorEnv | SharedMemoryVectorEnv | AsyncVectorEnv):
            raise self._no_single_envs()
        try:
            if all(self._call("call", self._envs.call, "has_wrapper_attr", name)):
                return self._call(method, getattr(self._envs, method), *args, **kwargs)
        except BrokenEnvironmentError:
            self.close()
            raise
        raise ConfigError(f"{self.where}: its sub-environments have no attribute {name!r}")

    def rest(self) -> None:
        """Free the cores of worker processes until the next call."""
        if isinstance(self._envs, SharedMemoryVectorEnv):
            self._envs.rest()

    def close(self) -> None:
        """Close the environments, and end their processes; exceptions are only reported."""
        envs = self._envs.unwrapped
        # Of a process that died since the last step nothing is reported.
        with reported_close(self.where), suppress(EOFError, ConnectionError):
            if isinstance(envs, AsyncVectorEnv):
                self._close_async(envs)
            else:
                self._envs.close()
        self._end_processes()

    def _close_async(self, envs: AsyncVectorEnv) -> None:
        if envs.closed:
            return
        for pipe in envs.parent_pipes:
            with suppress(OSError):
                pipe.send(("close", None))
        deadline = time.monotonic() + SECONDS_TO_CLOSE
        for process in envs.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        if any(process.is_alive() for process in envs.processes):
            raise TimeoutError(f"it takes more than {SECONDS_TO_CLOSE:g} s")

    def _end_processes(self) -> None:
        """Kill the processes: a dead one would not answer a request to close."""
        envs = self._envs.unwrapped
        if isinstance(envs, SharedMemoryVectorEnv):
            envs.end_processes()
        if not isinstance(envs, AsyncVectorEnv):
            return
        _kill(os.getpid(), envs.processes)
        for pipe in envs.parent_pipes:
            if pipe is not None:
                pipe.close()
        envs.closed = True

    def _exit_codes(self) -> str:
        """Return the exit codes of processes that died, for a message."""
        processes = getattr(self._envs.unwrapped, "processes", ())
        for process in processes:
            process.join(0.1)
        codes = sorted({process.exitcode for process in processes} - {None, 0})
        ends = [f"exit code {code}" if code > 0 else signal.Signals(-code).name for code in codes]
        return f" ({', '.join(ends)})" if ends else ""


def _keys_without_mask(space: gym.Space[Any]) -> tuple[str, ...]:
    """Return the keys of a Dict except its action mask; none if it has no mask."""
    if not isinstance(space, gym.spaces.Dict) or ACTION_MASK not in space.spaces:
        return ()
    return tuple(key for key in space.spaces if key != ACTION_MASK)


def _kill(owner: int, processes: Sequence[Any]) -> None:
    """Kill processes that are still running when this process exits."""
    for process in processes if owner == os.getpid() else ():
        process.kill()
        process.join()
