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
from operator import methodcaller
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
    Part,
    arrays_in,
    bytes_of,
    layout_of,
    run_worker,
)
from rlkl.envs.spaces import SameStepVectorEnv, leaves, nested
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
        self._own = own = Part(makers[self._spans[0]], info_keys)
        super().__init__(len(makers), own.single_observation_space, own.single_action_space)
        self.metadata, self.render_mode = own.metadata, own.render_mode
        self._requested = 0
        layout = layout_of(own, len(parts) - 1, self.num_envs)
        size = CACHE_LINE + sum(map(bytes_of, layout))
        memory = multiprocessing.get_context().RawArray(ctypes.c_byte, size)
        flags, *arrays = arrays_in(memory, layout)
        own.share([array[self._spans[0]] for array in arrays])
        self._actions, self._results, observations = arrays[0], arrays[1:4], iter(arrays[4:])
        self._flags = [memoryview(row) for row in flags]
        # Of each leaf; None if no array can hold it.
        self._buffers = [
            next(observations) if leaf.is_array else None
            for leaf in leaves(self.single_observation_space)
        ]
        try:
            for number, span in enumerate(self._spans[1:]):
                self._start_worker(makers[span], (info_keys, memory, layout, number, span))
            self._request()
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
        parts = [methodcaller("reset", seed=seeds[i], options=options) for i in self._spans]
        return self._merged(self._ask(parts))

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all sub-environments, and reset those that ended; see `SyncVectorEnv.step`."""
        own, buffer = self._spans[0], self._actions
        if actions.dtype == buffer.dtype and actions.shape == buffer.shape:
            buffer[...] = actions
            self._request()
        else:  # A cast could change what the environments do.
            self._request([methodcaller("step", actions[span]) for span in self._spans[1:]])
        observations, infos = self._merged([self._own.step(actions[own]), *self._replies()])
        rewards, terminated, truncated = (whole.copy() for whole in self._results)
        return observations, rewards, terminated, truncated, infos

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
        own = self._own.states()  # first: after an exception, no reply is left in a pipe
        self._request([methodcaller("states")] * len(self.processes))
        parts = [pickle.loads(part) for part in (own, *self._replies())]
        return None if None in parts else [state for part in parts for state in part]

    def set_states(self, states: list[Any]) -> None:
        """Restore what `states` returned; the sub-environments must have been reset."""
        # Pickled here: the pipe would send tensors as files.
        own, *others = [pickle.dumps(states[span]) for span in self._spans]
        self._own.set_states(own)
        self._request([methodcaller("set_states", part) for part in others])
        self._replies()

    def call(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Return attributes of all sub-environments; see `SyncVectorEnv.call`."""
        parts = self._ask([methodcaller("call", name, *args, **kwargs)] * len(self._spans))
        return [value for part in parts for value in part]

    def set_attr(self, name: str, values: list[Any]) -> None:
        """Set an attribute of each sub-environment."""
        self._ask([methodcaller("set_attr", name, values[span]) for span in self._spans])

    def _ask(self, calls: Sequence[Any]) -> list[Any]:
        """Make a call of each part, at the same time; return the results."""
        self._request(calls[1:])
        return [calls[0](self._own), *self._replies()]

    def _request(self, calls: Sequence[Any] = ()) -> None:
        """Request the next step of every worker, or a call for each."""
        self._requested += 1
        for number, (flags, pipe) in enumerate(zip(self._flags, self._pipes, strict=True)):
            flags[RESTING] = 0
            flags[IS_STEP] = not calls
            flags[REQUESTED] = self._requested
            with FENCE:
                pass
            if flags[SLEEPING]:
                pipe.send(None)
            if calls:
                pipe.send(calls[number])

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

    def _merged(self, infos: list[dict[str, Any] | None]) -> tuple[Any, dict[str, Any]]:
        """Return all observations, and the infos of all processes, of which None is empty."""
        copies = (None if buffer is None else buffer.copy() for buffer in self._buffers)
        merged: dict[str, Any] = {}
        for info, span in zip(infos, self._spans, strict=True):
            for key, rows in (info or {}).items():
                is_array = isinstance(rows, np.ndarray)
                empty = np.zeros(self.num_envs, np.bool_) if is_array else [None] * self.num_envs
                merged.setdefault(key, empty)[span] = rows
        return nested(self.single_observation_space, copies), merged

    def close_extras(self, **_: Any) -> None:
        """Close the sub-environments, and end the workers."""
        if self.processes:
            with suppress(ConnectionError):
                self._request([methodcaller("close")] * len(self.processes))
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
