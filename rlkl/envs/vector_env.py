"""Step N sub-environments with any backend, encode their observations, and check their results."""

import os
import signal
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from numpy.typing import NDArray

from rlkl.envs import attributes
from rlkl.envs.actions import check_action_space, mask_rows
from rlkl.envs.checks import MASK_ALIAS, quiet, reported_close
from rlkl.envs.infos import info_rows
from rlkl.envs.observations import ACTION_MASK, ObservationEncoder, Observations, all_finite
from rlkl.envs.shared_memory_env import SharedMemoryVectorEnv
from rlkl.envs.snapshots import set_state, state_of
from rlkl.envs.spaces import autoreset_mode
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


class VectorEnvironment:
    """Steps N sub-environments, encodes observations and checks all results.

    An exception in an environment or undeclared data raises `BrokenEnvironmentError`, after which
    the environments are closed. Without `observation_keys` it uses all parts of a Dict or Tuple,
    but a part `action_mask` is an action mask, as in PettingZoo. `seeding` converts the seeds of
    the sub-environments to the form that `envs.reset` takes. `info_keys` are the numbers in infos
    that `Step.infos` has.

    Attributes:
        shows_masks: whether the environment has action masks; known after the first reset.
        attributes: what `set_attr` has set: one value for all, or a list of one for each.
        ranks: among which the run's sub-environments are split; these are those of one.

    Raises:
        ConfigError: for an unsupported space or autoreset mode.
    """

    def __init__(
        self,
        envs: gym.vector.VectorEnv[Any, Any, Any],
        backend: str = "sync",
        name: str = "environment",
        observation_keys: tuple[str, ...] = (),
        seeding: Callable[[list[int]], Any] = list,
        info_keys: Sequence[str] = (),
    ) -> None:
        self._envs = envs
        self.info_keys = tuple(info_keys)
        self._calling = quiet if isinstance(envs.unwrapped, AsyncVectorEnv) else nullcontext
        self.backend = backend
        self.name = name
        self.num_envs = envs.num_envs
        keys = observation_keys or _keys_without_mask(envs.single_observation_space)
        self.encoder = ObservationEncoder(envs.single_observation_space, keys)
        self._has_mask_part = bool(keys) and not observation_keys
        check_action_space(envs.single_action_space)
        self.action_space = envs.single_action_space
        self.shows_masks = False
        self.attributes: dict[str, Any] = {}
        self.ranks = 1
        self._seeding = seeding
        mode = autoreset_mode(envs)
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise ConfigError(
                f"autoreset mode {mode} is not supported: expected NEXT_STEP or SAME_STEP in the "
                "vector environment's metadata['autoreset_mode'], or use env.backend=sync"
            )
        self._resets_on_next_step = mode == AutoresetMode.NEXT_STEP
        # Workers ignore the signal with which Python ends them when this process exits.
        processes = list(getattr(envs.unwrapped, "processes", ()))
        weakref.finalize(self, _kill, os.getpid(), processes)
        self._where = f"env.id={name}"
        self._no_observations, self._no_envs = self.encoder.empty(0), np.empty(0, np.int64)
        self._all = np.ones(self.num_envs, np.bool_)
        self._all.flags.writeable = False  # many steps share it

    def reset(self, seeds: list[int]) -> Observations:
        """Reset all sub-environments, with a seed for each; return the first observations.

        A backend with one generator for all sub-environments uses the first seed.
        """
        self._ended = np.zeros(self.num_envs, np.bool_)
        try:
            observations, infos = self._call("reset", seed=self._seeding(seeds))
            self.shows_masks = self._has_mask_part or any(key in infos for key in _MASK_KEYS)
            return self._encoded(observations, infos)
        except BrokenEnvironmentError:
            self.close()
            raise

    def step(self, actions: NDArray[Any]) -> Step:
        """Step all sub-environments; the two autoreset modes differ only in autoreset steps."""
        try:
            return self._step(actions)
        except BrokenEnvironmentError:
            self.close()  # so that no process remains
            raise

    def _step(self, actions: NDArray[Any]) -> Step:
        observations, rewards, terminated, truncated, infos = self._call("step", actions)
        rewards = self._checked("reward", rewards, "biuf").astype(np.float64, copy=False)
        terminated = self._checked("terminated", terminated, "b")
        truncated = self._checked("truncated", truncated, "b")
        if not all_finite(rewards):
            row = int(np.argmin(np.isfinite(rewards)))
            raise BrokenEnvironmentError(
                f"{self._where}: the reward of sub-environment {row} is {rewards[row]}; "
                "expected a finite number"
            )
        ended = terminated | truncated
        finals, final_envs = self._no_observations, self._no_envs
        if self._resets_on_next_step:
            is_transition, begins = ~self._ended, self._ended
        else:
            is_transition, begins = self._all, ended
            if np.count_nonzero(ended):  # faster than ended.any()
                final_envs = np.flatnonzero(ended)
                finals = self.encoder.stack(
                    [infos["final_obs"][i] for i in final_envs], self._where
                )
        self._ended = ended
        numbers = None
        if self.info_keys:
            of_reset = None if self._resets_on_next_step else ended
            numbers = info_rows(infos, self.info_keys, of_reset, self.num_envs)
        encoded = self._encoded(observations, infos)
        ends = terminated, truncated, is_transition, begins
        return Step(encoded, rewards, *ends, finals, final_envs, numbers)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the environments; raise an exception of one line."""
        try:
            with self._calling():
                return getattr(self._envs, method)(*args, **kwargs)
        except (Exception, SystemExit) as error:
            codes = self._exit_codes()
            self._end_processes()
            reason = described(error)
            if isinstance(error, BrokenEnvironmentError):
                reason = one_line(error)
            elif isinstance(error, EOFError | ConnectionError):
                reason = f"the process of a sub-environment died{codes}"
            raise BrokenEnvironmentError(f"{self._where}: {method} failed: {reason}") from error

    def _checked(self, what: str, values: Any, kinds: str) -> NDArray[Any]:
        """Return one value for each sub-environment, `[N]`."""
        array = np.asarray(values)
        if array.shape == (self.num_envs,) and array.dtype.kind in kinds:
            return array
        if array.size != self.num_envs or array.dtype.kind not in kinds:
            raise BrokenEnvironmentError(
                f"{self._where}: {what} has shape {array.shape} and type {array.dtype}; expected "
                f"{'numbers' if 'f' in kinds else 'True or False'}, one for each of "
                f"{self.num_envs} sub-environments"
            )
        return array.reshape(self.num_envs)

    def _encoded(self, observations: Any, infos: dict[str, Any]) -> Observations:
        where = self._where
        encoded = self.encoder(observations, where)
        name = next((key for key in _MASK_KEYS if key in infos), "")
        if self.shows_masks:
            masks = observations[ACTION_MASK] if self._has_mask_part else infos.get(name)
            given = infos.get(f"_{name}", np.ones(self.num_envs, np.bool_))
            # No action is taken in a final state, and its mask often allows none.
            ignored = self._ended & self._resets_on_next_step
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

    def state(self) -> dict[str, Any] | None:
        """Return the state of all sub-environments as plain data; None if it cannot be read."""
        envs = self._envs
        try:
            states = envs.states() if isinstance(envs, SharedMemoryVectorEnv) else state_of(envs)
        except BrokenEnvironmentError as error:
            raise BrokenEnvironmentError(f"{self._where}: {error}") from error
        except (EOFError, ConnectionError):  # a process died; the next step reports it
            states = None
        return None if states is None else {"copies": states, "ended": self._ended.tolist()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned; the sub-environments must have been reset."""
        envs, states = self._envs, state["copies"]
        try:
            if isinstance(envs, SharedMemoryVectorEnv):
                envs.set_states(states)
            else:
                set_state(envs, states)
        except BrokenEnvironmentError as error:
            raise BrokenEnvironmentError(f"{self._where}: {error}") from error
        self._ended = np.array(state["ended"], np.bool_)

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
        found = attributes.as_list(name, values, self.num_envs, self.ranks)
        self._on_each(name, "set_attr", name, found)
        self.attributes[name] = found if isinstance(values, list | tuple) else values

    def call(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method of each sub-environment; return the results."""
        return list(self._on_each(name, "call", name, *args, **kwargs))

    def _on_each(self, name: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Check that each sub-environment has an attribute, and do something with it."""
        attributes.check_backend(self._envs, self.backend)
        try:
            if all(self._call("call", "has_wrapper_attr", name)):
                return self._call(method, *args, **kwargs)
        except BrokenEnvironmentError:
            self.close()
            raise
        raise ConfigError(f"{self._where}: its sub-environments have no attribute {name!r}")

    def rest(self) -> None:
        """Free the cores of worker processes until the next call."""
        if isinstance(self._envs, SharedMemoryVectorEnv):
            self._envs.rest()

    def close(self) -> None:
        """Close the environments, and end their processes; exceptions are only reported."""
        envs = self._envs.unwrapped
        # Of a process that died since the last step nothing is reported.
        with reported_close(self._where), suppress(EOFError, ConnectionError):
            if isinstance(envs, AsyncVectorEnv):
                self._close_async(envs)
            else:
                self._envs.close()
        self._end_processes()

    def _close_async(self, envs: AsyncVectorEnv) -> None:
        """Ask the processes to end, and wait."""
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
        for process in envs.processes:
            process.kill()
            process.join()
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
