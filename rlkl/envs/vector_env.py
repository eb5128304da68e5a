"""N environments behind one door: the same step whatever steps them, and broken promises caught."""

import os
import signal
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from numpy.typing import NDArray

from rlkl.envs.checks import ALIAS, closing
from rlkl.envs.shared_memory_env import SharedCopies
from rlkl.envs.snapshots import set_state, state_of
from rlkl.envs.spaces import (
    ACTION_MASK,
    ObservationEncoder,
    Observations,
    all_finite,
    check_action_space,
    mask_rows,
)
from rlkl.utils.validation import BrokenEnvironmentError, ConfigError, one_line


class Step(NamedTuple):
    """One step of N environments.

    Attributes:
        observations: what the policy sees next.
        rewards: `[N]`.
        terminated: where the episode ended in a terminal state, `[N]`.
        truncated: where it was cut off, `[N]`.
        is_transition: where the row is a step of an episode; elsewhere the environment only reset
            itself, and action and reward mean nothing, `[N]`.
        begins: where `observations` are the first of an episode, `[N]`.
        final_observations: the true last observations of the episodes that ended where
            `observations` already show the next episode (SAME_STEP autoreset only), K rows.
        final_envs: whose they are, `[K]`.
    """

    observations: Observations
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    is_transition: NDArray[np.bool_]
    begins: NDArray[np.bool_]
    final_observations: Observations
    final_envs: NDArray[np.int64]


SECONDS_TO_CLOSE = 2.0
"""That the processes of environments have to close them."""


class VectorEnvironment:
    """N copies of an environment whose observations are encoded and whose promises are checked.

    It is closed as soon as a promise is broken.

    Args:
        envs: Gymnasium's vector environment, with NEXT_STEP or SAME_STEP autoreset.
        backend: how it was made, for logs.
        name: of the environment, for messages.
        observation_keys: the parts of a Dict or Tuple to use; none for all, but for a part of the
            name `action_mask`, which is an action mask as PettingZoo gives it.
        seeding: the form in which `envs.reset` takes the seeds of the copies.

    Attributes:
        encoder: of observations.
        action_space: of one copy.
        shows_masks: whether observations come with action masks; known after the first reset.

    Raises:
        ConfigError: a space or an autoreset mode that is not supported.
    """

    def __init__(
        self,
        envs: gym.vector.VectorEnv[Any, Any, Any],
        backend: str = "sync",
        name: str = "environment",
        observation_keys: tuple[str, ...] = (),
        seeding: Callable[[list[int]], Any] = list,
    ) -> None:
        self._envs = envs
        self._reset_envs: Callable[..., Any] = envs.reset
        self._step_envs: Callable[..., Any] = envs.step
        if isinstance(envs.unwrapped, AsyncVectorEnv):
            self._reset_envs, self._step_envs = _quietly(envs.reset), _quietly(envs.step)
        self.backend = backend
        self.name = name
        self.num_envs = envs.num_envs
        keys = observation_keys or _without_mask(envs.single_observation_space)
        self.encoder = ObservationEncoder(envs.single_observation_space, keys)
        self._has_mask_part = bool(keys) and not observation_keys
        check_action_space(envs.single_action_space)
        self.action_space = envs.single_action_space
        self.shows_masks = False
        self._seeding = seeding
        # ALE writes its mode into a dict that all classes share; its own attribute is right.
        mode = getattr(envs.unwrapped, "autoreset_mode", envs.metadata.get("autoreset_mode"))
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise ConfigError(
                f"autoreset mode {mode} is not supported: expected NEXT_STEP or SAME_STEP in the "
                "vector environment's metadata['autoreset_mode'], or use env.backend=sync"
            )
        self._resets_on_next_step = mode == AutoresetMode.NEXT_STEP
        # They ignore the signal by which Python would end them when this process exits.
        processes = list(getattr(envs.unwrapped, "processes", ()))
        weakref.finalize(self, _kill, os.getpid(), processes)
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._where = f"env.id={name}"
        self._none = self.encoder.empty(0)
        self._no_envs = np.empty(0, np.int64)
        self._all = np.ones(self.num_envs, np.bool_)
        self._all.flags.writeable = False  # many steps share it

    def reset(self, seeds: list[int]) -> Observations:
        """Begin N episodes.

        Args:
            seeds: one for each copy; a backend with one generator for all takes the first.

        Returns:
            First observations.

        Raises:
            BrokenEnvironmentError: an exception in an environment, or anything it did not declare.
        """
        try:
            self._ended = np.zeros(self.num_envs, np.bool_)
            try:
                observations, infos = self._reset_envs(seed=self._seeding(seeds))
            except (Exception, SystemExit) as error:
                raise self._failure("reset", error) from error
            self.shows_masks = self._has_mask_part or any(key in infos for key in _MASK_KEYS)
            return self._encoded(observations, infos)
        except BrokenEnvironmentError:
            self.close()
            raise

    def step(self, actions: NDArray[Any]) -> Step:
        """Step all environments.

        Args:
            actions: that the environment takes, one row for each copy.

        Returns:
            The step, alike for both autoreset modes but for the rows that only reset.

        Raises:
            BrokenEnvironmentError: an exception in an environment, or anything it did not declare.
        """
        try:
            return self._step(actions)
        except BrokenEnvironmentError:
            self.close()  # and leave no process behind, whoever forgets to
            raise

    def _step(self, actions: NDArray[Any]) -> Step:
        try:
            observations, rewards, terminated, truncated, infos = self._step_envs(actions)
        except (Exception, SystemExit) as error:
            raise self._failure("step", error) from error
        rewards = self._checked("reward", rewards, "biuf").astype(np.float64, copy=False)
        terminated = self._checked("terminated", terminated, "b")
        truncated = self._checked("truncated", truncated, "b")
        if not all_finite(rewards):
            row = int(np.argmin(np.isfinite(rewards)))
            raise BrokenEnvironmentError(
                f"{self._where}: the reward of copy {row} is {rewards[row]}; "
                "expected a finite number"
            )
        ended = terminated | truncated
        final_observations, final_envs = self._none, self._no_envs
        if self._resets_on_next_step:
            is_transition = ~self._ended
            begins = self._ended
        else:
            is_transition = self._all
            begins = ended
            if np.count_nonzero(ended):  # in less than half the time of ended.any()
                final_envs = np.flatnonzero(ended)
                finals = [infos["final_obs"][i] for i in final_envs]
                final_observations = self.encoder.stack(finals, self._where)
        self._ended = ended
        return Step(
            self._encoded(observations, infos),
            rewards,
            terminated,
            truncated,
            is_transition,
            begins,
            final_observations,
            final_envs,
        )

    def _checked(self, what: str, values: Any, kinds: str) -> NDArray[Any]:
        """Return one value for each sub-environment, `[N]`.

        Raises:
            BrokenEnvironmentError: of another number or type.
        """
        array = np.asarray(values)
        if array.shape == (self.num_envs,) and array.dtype.kind in kinds:
            return array
        if array.size != self.num_envs or array.dtype.kind not in kinds:
            raise BrokenEnvironmentError(
                f"{self._where}: {what} has shape {array.shape} and type {array.dtype}; expected "
                f"{'numbers' if 'f' in kinds else 'True or False'}, one for each of "
                f"{self.num_envs} environments"
            )
        return array.reshape(self.num_envs)

    def _encoded(self, observations: Any, infos: dict[str, Any]) -> Observations:
        where = self._where
        encoded = self.encoder(observations, where)
        name = next((key for key in _MASK_KEYS if key in infos), "")
        if self.shows_masks:
            masks = observations[ACTION_MASK] if self._has_mask_part else infos.get(name)
            given = infos.get(f"_{name}", np.ones(self.num_envs, np.bool_))
            # In a final state no action is taken, and often none is allowed.
            free = np.zeros(self.num_envs, np.bool_)
            if self._resets_on_next_step:
                free = self._ended
            if masks is None or not (given | free).all():
                raise BrokenEnvironmentError(
                    f"{where}: the action mask that came with reset is missing from a step"
                )
            encoded[ACTION_MASK] = mask_rows(self.action_space, masks, free, where)
        elif name:
            raise BrokenEnvironmentError(
                f"{where}: an action mask came with a step and none with reset; expected one in "
                "the info of both"
            )
        return encoded

    def state(self) -> dict[str, Any] | None:
        """Return the state of all copies as plain data; None where it cannot be read.

        Raises:
            BrokenEnvironmentError: an environment that gives its state itself failed to.
        """
        try:
            copies = state_of(self._envs)
        except BrokenEnvironmentError as error:
            raise BrokenEnvironmentError(f"{self._where}: {error}") from error
        return None if copies is None else {"copies": copies, "ended": self._ended.tolist()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put copies that were reset into the state that `state` returned.

        Raises:
            BrokenEnvironmentError: an environment that takes its state itself failed to.
        """
        try:
            set_state(self._envs, state["copies"])
        except BrokenEnvironmentError as error:
            raise BrokenEnvironmentError(f"{self._where}: {error}") from error
        self._ended = np.array(state["ended"], np.bool_)

    def close(self) -> None:
        """Close the environments, and end their processes if they have any.

        Nothing that an environment does here ends the run, or keeps it from ending.
        """
        envs = self._envs.unwrapped
        with closing(self._where):
            try:
                if isinstance(envs, AsyncVectorEnv):
                    self._leave(envs)
                else:
                    self._envs.close()
            except (EOFError, ConnectionError):  # a process died since the last step
                pass
        self._end_processes()

    def _leave(self, envs: AsyncVectorEnv) -> None:
        """Ask the processes to end, and wait for them a while."""
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
        """End the processes of environments that failed: a dead one would not answer when asked."""
        envs = self._envs.unwrapped
        if isinstance(envs, SharedCopies):
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
        """Return the exit codes of the processes that ended, for a message."""
        processes = getattr(self._envs.unwrapped, "processes", ())
        for process in processes:
            process.join(0.1)
        codes = sorted({process.exitcode for process in processes} - {None, 0})
        ends = [f"exit code {code}" if code > 0 else signal.Signals(-code).name for code in codes]
        return f" ({', '.join(ends)})" if ends else ""

    def _failure(self, what: str, error: BaseException) -> BrokenEnvironmentError:
        """Return what to raise for an exception of the environments."""
        codes = self._exit_codes()
        self._end_processes()
        reason = f"{type(error).__name__}: {one_line(error)}"
        if isinstance(error, BrokenEnvironmentError):
            reason = one_line(error)
        elif isinstance(error, EOFError | ConnectionError):
            reason = f"the process of a copy died{codes}"
        return BrokenEnvironmentError(f"{self._where}: {what} failed: {reason}")


_MASK_KEYS = (ACTION_MASK, ALIAS)
"""What an info may call an action mask; the first counts."""


def _without_mask(space: gym.Space[Any]) -> tuple[str, ...]:
    """Return the parts of a Dict beside its action mask; none where it has none."""
    if not isinstance(space, gym.spaces.Dict) or ACTION_MASK not in space.spaces:
        return ()
    return tuple(key for key in space.spaces if key != ACTION_MASK)


def _kill(owner: int, processes: Sequence[Any]) -> None:
    """End processes of environments that nothing closed."""
    for process in processes if owner == os.getpid() else ():
        process.kill()
        process.join()


def _quietly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Keep Gymnasium from printing a worker's traceback: the message that is raised says enough."""

    def quiet(*given: Any, **named: Any) -> Any:
        level = gym.logger.min_level
        gym.logger.min_level = gym.logger.ERROR + 1
        try:
            return method(*given, **named)
        finally:
            gym.logger.min_level = level

    return quiet
