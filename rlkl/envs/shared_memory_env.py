"""Step sub-environments in one process per core, through shared memory."""

import ctypes
import multiprocessing
import os
import pickle
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper

from rlkl.envs.shared_memory_worker import (
    ANSWERED,
    CACHE_LINE,
    FENCE,
    HAS_REPLY,
    IS_STEP,
    REQUESTED,
    RESTING,
    SLEEPING,
    SPIN_SECONDS,
    SPINS,
    arrays_in,
    bytes_of,
    layout_of,
    run_worker,
)
from rlkl.envs.snapshots import set_state, state_of
from rlkl.envs.spaces import FLAT, SameStepVectorEnv, leaves, nested
from rlkl.envs.sync_env import SyncVectorEnv
from rlkl.utils.cpu import usable_cores
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError


class SharedMemoryVectorEnv(SameStepVectorEnv):
    """Steps N sub-environments in this process and one worker per further core, with SAME_STEP.

    This process steps the first sub-environments, each worker a further part. Actions,
    observations, rewards, terminated and truncated lie in shared memory. One flag requests a step,
    another one answers it; both sides spin on them, because sleeping and waking takes as long as a
    step of many environments. A worker sleeps after `rest()`, and if it waits longer than
    `SPIN_SECONDS`, which frees its core for an update of the networks. Rare data goes through a
    pipe: resets, final observations, action masks, states, exceptions. Results are bit-for-bit
    those of `SyncVectorEnv`, except that parts of observations that no array can hold (a text, a
    graph) are None.

    By default it uses all usable cores.

    Raises:
        ConfigError: on a machine on which this is not safe.
        BrokenEnvironmentError: a worker could not make a sub-environment.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], gym.Env[Any, Any]]],
        cores: int | None = None,
        info_keys: Sequence[str] = (),
    ) -> None:
        self.processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        self._own: Any = None
        if platform.machine() not in ("x86_64", "AMD64") or not hasattr(os, "sched_yield"):
            raise ConfigError(
                "env.backend=shared needs a Unix system on x86-64, where processes see each "
                "other's writes in the order in which they were made; use env.backend=sync"
            )
        parts = np.array_split(np.arange(len(makers)), min(cores or usable_cores(), len(makers)))
        self._spans = [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
        # Before the workers: if it fails, the original exception is raised here.
        self._own = own = SyncVectorEnv(makers[self._spans[0]], info_keys)
        super().__init__(len(makers), own.single_observation_space, own.single_action_space)
        self.metadata, self.render_mode = own.metadata, own.render_mode
        self._requested = 0
        context = multiprocessing.get_context()
        layout = layout_of(own, len(parts) - 1, self.num_envs)
        memory = context.RawArray(ctypes.c_byte, CACHE_LINE + sum(map(bytes_of, layout)))
        flags, self._actions, *buffers = arrays_in(memory, layout)
        self._results, observations = buffers[:3], iter(buffers[3:])
        self._flags = [memoryview(row) for row in flags]
        # Each leaf with its buffer; None if no array can hold it.
        self._buffers = [
            (leaf, next(observations) if isinstance(leaf.space, FLAT) else None)
            for leaf in leaves(self.single_observation_space)
        ]
        try:
            for number, span in enumerate(self._spans[1:]):
                self._start_worker(makers[span], (memory, layout, number, span))
            self._request("make", [info_keys] * len(self.processes))
            self._replies()
        except BaseException:
            self.end_processes()
            raise

    def _start_worker(self, makers: Sequence[Callable[[], Any]], place: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context()
        here, there = context.Pipe()
        self._pipes.append(here)
        wrapped: Any = CloudpickleWrapper(list(makers))  # type: ignore[arg-type]
        arguments = (wrapped, *place, there, here)
        worker = context.Process(target=run_worker, args=arguments, daemon=True)
        worker.start()
        self.processes.append(worker)
        there.close()

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Reset all sub-environments; see `SyncVectorEnv.reset`."""
        seeds = [None] * self.num_envs if seed is None else seed
        first, *others = [seeds[span] for span in self._spans]
        self._request("reset", [(part, options) for part in others])
        observations, infos = self._own.reset(seed=first, options=options)
        infos = self._all_infos([infos, *self._replies()])
        return self._all_observations(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all sub-environments, and reset those that ended; see `SyncVectorEnv.step`."""
        own, buffer = self._spans[0], self._actions
        if actions.dtype == buffer.dtype and actions.shape == buffer.shape:
            buffer[...] = actions
            self._request()
        else:  # A cast could change what the environments do.
            self._request("step", [actions[span] for span in self._spans[1:]])
        observations, *results, infos = self._own.step(actions[own])
        infos = self._all_infos([infos, *self._replies()])
        for whole, part in zip(self._results, results, strict=True):
            whole[own] = part
        rewards, terminated, truncated = (whole.copy() for whole in self._results)
        return self._all_observations(observations), rewards, terminated, truncated, infos

    def rest(self) -> None:
        """Let the workers sleep until the next call."""
        for flags in self._flags:
            flags[RESTING] = 1

    def states(self) -> list[Any] | None:
        """Return the states of all sub-environments; see `snapshots.state_of`.

        Raises:
            EOFError: a worker died.
            BrokenEnvironmentError: an environment could not return its state.
        """
        if len(self.processes) < len(self._flags):
            return None  # closed
        parts = [state_of(self._own)]
        self._request("states")
        parts += [pickle.loads(reply) for reply in self._replies()]
        if any(part is None for part in parts):
            return None
        return [state for part in parts for state in part or ()]

    def set_states(self, states: list[Any]) -> None:
        """Restore what `states` returned; the sub-environments must have been reset."""
        first, *others = [states[span] for span in self._spans]
        set_state(self._own, first)
        # Pickled here: the pipe would send tensors as files.
        self._request("set_states", [pickle.dumps(part) for part in others])
        self._replies()

    def call(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Return attributes of all sub-environments; see `SyncVectorEnv.call`."""
        self._request("call", [(name, args, kwargs)] * (len(self._spans) - 1))
        own: list[Any] = self._own.call(name, *args, **kwargs)
        return own + [value for part in self._replies() for value in part]

    def set_attr(self, name: str, values: list[Any]) -> None:
        """Set an attribute of each sub-environment."""
        first, *others = [values[span] for span in self._spans]
        self._request("set_attr", [(name, part) for part in others])
        self._own.set_attr(name, first)
        self._replies()

    def _request(self, method: str | None = None, messages: Sequence[Any] | None = None) -> None:
        """Request the next step of every worker, or a method with a message for each."""
        self._requested += 1
        for number, (flags, pipe) in enumerate(zip(self._flags, self._pipes, strict=True)):
            flags[RESTING] = 0
            flags[IS_STEP] = method is None
            flags[REQUESTED] = self._requested
            with FENCE:
                pass
            if flags[SLEEPING]:
                pipe.send(None)
            if method is not None:
                pipe.send((method, messages[number] if messages else None))

    def _replies(self) -> list[Any]:
        """Wait for every worker; return the replies, None for a worker without one.

        Raises:
            EOFError: a worker died.
            BrokenEnvironmentError: a request failed.
        """
        replies = []
        for flags, pipe, worker in zip(self._flags, self._pipes, self.processes, strict=True):
            spins, since = 0, 0.0
            while flags[ANSWERED] != self._requested:
                spins += 1
                if spins == SPINS:
                    since = time.perf_counter()
                elif spins > SPINS:
                    if time.perf_counter() - since < SPIN_SECONDS:
                        os.sched_yield()
                    # Then short sleeps: the worker is slow, or it died.
                    elif wait([worker.sentinel], 0.0002) and flags[ANSWERED] != self._requested:
                        raise EOFError
            replies.append(pipe.recv() if flags[HAS_REPLY] else None)
        for reply in replies:
            if isinstance(reply, BrokenEnvironmentError):
                raise reply
        return replies

    def _all_observations(self, own: Any) -> Any:
        parts = []
        for leaf, buffer in self._buffers:
            if buffer is not None:
                buffer[self._spans[0]] = leaf.select(own)
            parts.append(None if buffer is None else buffer.copy())
        return nested(self.single_observation_space, iter(parts))

    def _all_infos(self, infos: list[dict[str, Any] | None]) -> dict[str, Any]:
        """Merge the infos of all processes; None is an empty one."""
        merged: dict[str, Any] = {}
        for info, span in zip(infos, self._spans, strict=True):
            for key, rows in (info or {}).items():
                is_array = isinstance(rows, np.ndarray)
                empty = np.zeros(self.num_envs, np.bool_) if is_array else [None] * self.num_envs
                merged.setdefault(key, empty)[span] = rows
        return merged

    def close_extras(self, **_: Any) -> None:
        """Close the sub-environments, and end the workers."""
        if self.processes:
            with suppress(ConnectionError):
                self._request("stop")
        if self._own is not None:
            self._own.close()
        self.end_processes(within=1.0)

    def end_processes(self, within: float = 0.0) -> None:
        """End the workers, each of which has so many seconds to end normally."""
        for worker in self.processes:
            if within:
                worker.join(within)
            worker.kill()
            worker.join()
        for pipe in self._pipes:
            pipe.close()
        self.processes, self._pipes = [], []
