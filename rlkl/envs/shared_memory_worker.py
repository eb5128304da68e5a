"""The worker processes of `SharedMemoryVectorEnv`, and the layout of the shared memory."""

import ctypes
import math
import os
import pickle
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from operator import methodcaller
from typing import Any

import numpy as np

from rlkl.envs.snapshots import set_state, state_of
from rlkl.envs.spaces import FLAT, leaves, nested
from rlkl.envs.sync_env import SyncVectorEnv
from rlkl.utils.errors import BrokenEnvironmentError
from rlkl.utils.validation import described

SPINS = 200  # reads of a flag after which a waiting process yields its core between two reads
SPIN_SECONDS = 0.002  # time of such reads after which a worker sleeps; waking it is slow
CACHE_LINE = 64  # bytes that move between cores together: two writers must lie that far apart

REQUESTED, IS_STEP, RESTING, ANSWERED, HAS_REPLY, SLEEPING, WORDS = 0, 1, 2, 8, 9, 10, 16
"""The flags of a worker, 8 bytes each: three on a cache line that the trainer writes, three on the
worker's. A step is requested and answered by a higher number."""

FENCE = threading.Lock()
"""Acquiring a lock completes all writes before the next read, which x86-64 does not guarantee."""

Layout = list[tuple[tuple[int, ...], Any]]
"""Shapes and types of the arrays in shared memory, in order."""


def layout_of(envs: SyncVectorEnv, workers: int, num_envs: int) -> Layout:
    """Return the layout: flags, actions, rewards, terminated, truncated, observations.

    `envs` are some of the N sub-environments, for their spaces.
    """
    actions: Any = envs.single_action_space
    # VectorEnvironment refuses other action spaces.
    is_flat = isinstance(actions, FLAT)
    rows: Layout = [(actions.shape, actions.dtype) if is_flat else ((), np.bool_)]
    rows += [((), np.float64), ((), np.bool_), ((), np.bool_)]
    rows += [
        (leaf.shape, leaf.dtype) for leaf in leaves(envs.single_observation_space) if leaf.is_array
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
    info_keys: Sequence[str],
    memory: Any,
    layout: Layout,
    number: int,
    span: slice,
    pipe: Connection,
    other_end: Connection,
) -> None:
    """Worker main loop: step the sub-environments of a span whenever the trainer requests it.

    The first request makes them. `other_end` is the trainer's end of the pipe, which a fork leaves
    open here too.
    """
    other_end.close()
    all_flags, *arrays = arrays_in(memory, layout)
    flags = memoryview(all_flags[number])
    part: Part | None = None
    answered, step = 0, methodcaller("step")
    # The trainer's death closes its end of the pipe.
    with suppress(EOFError, ConnectionError):
        while part is None or not part.closed:
            _wait(flags, answered, pipe)
            answered = flags[REQUESTED]
            request = step
            if not flags[IS_STEP]:
                # An old wake-up call may precede the message.
                while (request := pipe.recv()) is None:
                    pass
            try:
                reply = None
                if part is None:
                    part = Part(makers.fn, info_keys)
                    part.share([array[span] for array in arrays])
                else:
                    reply = request(part)
                payload = ForkingPickler.dumps(reply)
            except Exception as error:
                reply = error
                if not isinstance(error, BrokenEnvironmentError):
                    reply = BrokenEnvironmentError(described(error))
                payload = ForkingPickler.dumps(reply)
            flags[HAS_REPLY] = reply is not None
            flags[ANSWERED] = answered
            # After the flag: sending a large reply blocks until the trainer reads it.
            if reply is not None:
                pipe.send_bytes(payload)
    if part is not None:
        part.close()


def _wait(flags: memoryview, answered: int, pipe: Connection) -> None:
    spins, since = 0, 0.0
    while flags[REQUESTED] == answered:
        spins += 1
        if spins == SPINS:
            since = time.perf_counter()
        elif spins > SPINS:
            if not flags[RESTING] and time.perf_counter() - since < SPIN_SECONDS:
                os.sched_yield()
                continue
            flags[SLEEPING] = 1
            with FENCE:
                pass
            if flags[REQUESTED] == answered:
                pipe.recv()
            flags[SLEEPING] = 0


class Part(SyncVectorEnv):
    """The sub-environments of one process, whose results go to the shared memory."""

    def share(self, arrays: Sequence[Any]) -> None:
        """Set their rows of the actions, results and observations in shared memory."""
        self._actions, *self._results = arrays[:4]
        flat = [leaf for leaf in self._leaves if leaf.is_array]
        self._shared = list(zip(flat, arrays[4:], strict=True))

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Reset all sub-environments; return the infos, None for an empty dict."""
        return self._written(*super().reset(seed=seed, options=options))

    def step(self, actions: Any = None) -> Any:
        """Step with the given actions, or those in shared memory; return as `reset`."""
        given = self._actions if actions is None else actions
        observations, *results, infos = super().step(given)
        for buffer, rows in zip(self._results, results, strict=True):
            buffer[...] = rows
        return self._written(observations, infos)

    def states(self) -> bytes:
        """Return the states of all sub-environments."""
        return pickle.dumps(state_of(self))

    def set_states(self, states: bytes) -> None:
        """Restore what `states` returned."""
        set_state(self, pickle.loads(states))

    def _written(self, observations: Any, infos: dict[str, Any]) -> dict[str, Any] | None:
        for leaf, buffer in self._shared:
            buffer[...] = leaf.select(observations)
        if "final_obs" in infos:
            infos["final_obs"] = [
                None if final is None else self._only_arrays(final) for final in infos["final_obs"]
            ]
        return infos or None

    def _only_arrays(self, observation: Any) -> Any:
        """Return an observation with None for parts that the trainer might not unpickle."""
        parts = (leaf.select(observation) if leaf.is_array else None for leaf in self._leaves)
        return nested(self.single_observation_space, parts)
