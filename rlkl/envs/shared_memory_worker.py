"""The worker processes of `SharedMemoryVectorEnv`, and the layout of the shared memory."""

import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium as gym
import numpy as np

from rlkl.envs.spaces import FLAT, leaves, nested
from rlkl.envs.sync_env import SyncVectorEnv
from rlkl.utils.errors import BrokenEnvironmentError
from rlkl.utils.validation import one_line

SPINS = 200
"""Reads of a flag after which a waiting process yields its core between two reads."""

SPIN_SECONDS = 0.002
"""Time of such reads after which a worker sleeps; waking it is slow."""

CACHE_LINE = 64
"""Bytes that move between cores together: data of two writers must lie that far apart."""

REQUESTED, IS_STEP, ANSWERED, HAS_REPLY, SLEEPING, WORDS = 0, 1, 8, 9, 10, 16
"""The flags of a worker, 8 bytes each: two on a cache line that the trainer writes, three on the
worker's. A step is requested and answered by a higher number."""

FENCE = threading.Lock()
"""Acquiring a lock completes all writes before the next read, which x86-64 does not guarantee."""

Layout = list[tuple[tuple[int, ...], Any]]
"""Shapes and types of the arrays in shared memory, in order."""


def layout_of(envs: SyncVectorEnv, workers: int, num_envs: int) -> Layout:
    """Return the layout: flags, actions, rewards, terminated, truncated, observations.

    Args:
        envs: some of the sub-environments, for their spaces.
        workers: their number.
        num_envs: N, of all processes.
    """
    results = [((), np.dtype(kind)) for kind in (np.float64, np.bool_, np.bool_)]
    actions: Any = envs.single_action_space
    # VectorEnvironment refuses other action spaces.
    is_flat = isinstance(actions, FLAT)
    rows = [(actions.shape, actions.dtype) if is_flat else ((), np.dtype(np.bool_)), *results]
    rows += [
        (leaf.shape, leaf.dtype)
        for leaf in leaves(envs.single_observation_space)
        if isinstance(leaf.space, FLAT)
    ]
    return [((workers, WORDS), np.int64), *(((num_envs, *shape), dtype) for shape, dtype in rows)]


def bytes_of(part: tuple[tuple[int, ...], Any]) -> int:
    """Return the size of an array, rounded up to whole cache lines."""
    shape, dtype = part
    size: int = -(-math.prod(shape) * np.dtype(dtype).itemsize // CACHE_LINE) * CACHE_LINE
    return size


def arrays_in(memory: Any, layout: Layout) -> list[Any]:
    """Return the arrays in shared memory, each aligned to a cache line."""
    offset = -ctypes.addressof(memory) % CACHE_LINE
    arrays = []
    for shape, dtype in layout:
        flat = np.frombuffer(memory, dtype, math.prod(shape), offset)
        arrays.append(flat.reshape(shape))
        offset += bytes_of((shape, dtype))
    return arrays


def run_worker(
    makers: Any,
    memory: Any,
    flag_layout: tuple[tuple[int, ...], Any],
    number: int,
    span: slice,
    num_envs: int,
    pipe: Connection,
    other_end: Connection,
) -> None:
    """Worker main loop.

    Args:
        makers: of its sub-environments.
        memory: shared.
        flag_layout: shape and type of the flags of all workers.
        number: of this worker.
        span: the numbers of its sub-environments.
        num_envs: N, of all processes.
        pipe: to the trainer.
        other_end: the trainer's end, which a fork leaves open here too.
    """
    other_end.close()
    flags = memoryview(arrays_in(memory, [flag_layout])[0][number])
    worker = _Worker(makers.fn, memory, flag_layout[0][0], span, num_envs)
    answered = 0
    # The trainer's death closes its end of the pipe.
    with suppress(EOFError, ConnectionError):
        while True:
            _wait(flags, answered, pipe)
            answered = flags[REQUESTED]
            method, message = "step", None
            if not flags[IS_STEP]:
                # An old wake-up call may precede the message.
                while (received := pipe.recv()) is None:
                    pass
                method, message = received
            if method == "stop":
                break
            reply = None
            try:
                reply = getattr(worker, method)(message)
                payload = ForkingPickler.dumps(reply)
            except Exception as error:
                reply = error
                if not isinstance(error, BrokenEnvironmentError):
                    reply = BrokenEnvironmentError(f"{type(error).__name__}: {one_line(error)}")
                payload = ForkingPickler.dumps(reply)
            flags[HAS_REPLY] = reply is not None
            flags[ANSWERED] = answered
            # After the flag: sending a large reply blocks until the trainer reads it.
            if reply is not None:
                pipe.send_bytes(payload)
    worker.close()


def _wait(flags: memoryview, answered: int, pipe: Connection) -> None:
    """Wait for the next request."""
    spins, since = 0, 0.0
    while flags[REQUESTED] == answered:
        spins += 1
        if spins == SPINS:
            since = time.perf_counter()
        elif spins > SPINS:
            if time.perf_counter() - since < SPIN_SECONDS:
                os.sched_yield()
                continue
            flags[SLEEPING] = 1
            with FENCE:
                pass
            if flags[REQUESTED] == answered:
                pipe.recv()
            flags[SLEEPING] = 0


@dataclass
class _Worker:
    """The sub-environments of one worker, and the methods that the trainer can request."""

    makers: Sequence[Callable[[], gym.Env[Any, Any]]]
    memory: Any
    workers: int
    span: slice
    num_envs: int
    _envs: Any = None

    def make(self, _: None) -> None:
        """Make the sub-environments."""
        self._envs = SyncVectorEnv(self.makers)
        layout = layout_of(self._envs, self.workers, self.num_envs)
        _, *buffers = [array[self.span] for array in arrays_in(self.memory, layout)]
        self._actions, self._results, observations = buffers[0], buffers[1:4], buffers[4:]
        self._space = self._envs.single_observation_space
        flat = (leaf for leaf in leaves(self._space) if isinstance(leaf.space, FLAT))
        self._buffers = list(zip(flat, observations, strict=True))

    def reset(self, message: tuple[Any, Any]) -> Any:
        """Reset the sub-environments; return infos, if any."""
        seeds, options = message
        observations, infos = self._envs.reset(seed=seeds, options=options)
        return self._write(observations, infos)

    def step(self, actions: Any) -> Any:
        """Step with the given actions, or with those in shared memory; return infos, if any."""
        observations, *results, infos = self._envs.step(
            self._actions if actions is None else actions
        )
        for buffer, rows in zip(self._results, results, strict=True):
            buffer[...] = rows
        return self._write(observations, infos)

    def _write(self, observations: Any, infos: dict[str, Any]) -> Any:
        for leaf, buffer in self._buffers:
            buffer[...] = leaf.select(observations)
        if "final_obs" in infos:
            infos["final_obs"] = [
                None if final is None else self._only_arrays(final) for final in infos["final_obs"]
            ]
        return infos or None

    def _only_arrays(self, observation: Any) -> Any:
        """Return an observation with None for parts that the trainer might not unpickle."""
        parts = (
            leaf.select(observation) if isinstance(leaf.space, FLAT) else None
            for leaf in leaves(self._space)
        )
        return nested(self._space, parts)

    def call(self, message: tuple[str, tuple[Any, ...], dict[str, Any]]) -> tuple[Any, ...]:
        """Call a method of each sub-environment, or return its attribute."""
        name, args, kwargs = message
        found: tuple[Any, ...] = self._envs.call(name, *args, **kwargs)
        return found

    def close(self) -> None:
        """Close the sub-environments."""
        if self._envs is not None:
            self._envs.close()
