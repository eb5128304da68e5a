"""Copies of an environment in as many processes as there are cores, which share memory and spin."""

import ctypes
import math
import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper, batch_space

from rlkl.envs.spaces import FLAT, leaves
from rlkl.envs.sync_env import Copies, nested
from rlkl.utils.cpu import usable_cores
from rlkl.utils.validation import BrokenEnvironmentError, ConfigError, one_line

SPINS = 200
"""Looks at a flag, some 20 µs of them, after which the core is offered to others between two."""

PATIENCE = 0.002
"""Seconds of looking after which a process sleeps: to wake it takes some 0.05 ms."""

LINE = 64
"""Bytes that move between cores together: what two processes write lies that far apart."""

ASKED, IS_STEP, ANSWERED, HAS_REPLY, SLEEPS, WORDS = 0, 1, 8, 9, 10, 16
"""The flags of a worker, 8 bytes each: two on a line that the trainer writes, three on its own."""

_FENCE = threading.Lock()
"""To take a lock is to finish all writes before the next read, which x86-64 alone does not."""


class SharedCopies(gym.vector.VectorEnv[Any, Any, Any]):
    """Steps N copies in this process and one more for each further core, with SAME_STEP autoreset.

    This process steps the first copies, each worker a further part. Actions, observations, rewards
    and ends lie in shared memory. One flag says that a step is asked for, another that it is done;
    both sides look at them all the time, because to sleep and be woken takes as long as a step of
    many environments. Whoever looked for `PATIENCE` seconds in vain sleeps, and leaves its core to
    an update of the networks. What is rare goes through a pipe: resets, final observations, action
    masks, exceptions. What comes out is that of `Copies`, bit for bit, but for the parts of
    observations that no array holds (a text, a graph), which are None.

    With 8 copies of HalfCheetah-v5 on two cores without other work, steps came 1.4 times as fast as
    from `Copies`; with other work on one of them, 0.6 to 0.8 times.

    Args:
        makers: of the copies, one each; actions are of a space that `check_action_space` accepts.
        cores: processes that step, this one included; as many as may be used if it is None.

    Attributes:
        processes: the workers.

    Raises:
        ConfigError: a machine on which this is not safe.
        BrokenEnvironmentError: a worker could not make a copy.
    """

    def __init__(
        self, makers: Sequence[Callable[[], gym.Env[Any, Any]]], cores: int | None = None
    ) -> None:
        self.processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        self._copies: Copies | None = None
        if platform.machine() not in ("x86_64", "AMD64") or not hasattr(os, "sched_yield"):
            raise ConfigError(
                "env.backend=shared needs a Unix on x86-64, where processes see each other's "
                "writes in the order in which they were made; use env.backend=sync"
            )
        self.num_envs = len(makers)
        parts = np.array_split(np.arange(self.num_envs), min(cores or usable_cores(), len(makers)))
        self._spans = [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
        # First, since what cannot be made fails here, with the exception as it is.
        self._copies = copies = Copies(makers[self._spans[0]])
        self.metadata, self.render_mode = copies.metadata, copies.render_mode
        self.single_observation_space = copies.single_observation_space
        self.single_action_space = copies.single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._leaves = list(leaves(self.single_observation_space))
        self._asked = 0
        context = multiprocessing.get_context()
        layout = _layout(copies, len(parts) - 1, self.num_envs)
        memory = context.RawArray(ctypes.c_byte, LINE + sum(map(_bytes, layout)))
        flags, self._actions, *rooms = _arrays(memory, layout)
        self._results, self._observations = rooms[:3], rooms[3:]
        self._flags = [memoryview(row) for row in flags]
        try:
            for number, span in enumerate(self._spans[1:]):
                here, there = context.Pipe()
                self._pipes.append(here)
                given = (memory, layout[0], number, span, self.num_envs, there, here)
                own: Any = CloudpickleWrapper(list(makers[span]))  # type: ignore[arg-type]
                worker = context.Process(target=_work, args=(own, *given), daemon=True)
                worker.start()
                self.processes.append(worker)
                there.close()
            self._ask("make")
            self._replies()
        except BaseException:
            self.end_processes()
            raise

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin N episodes; as `Copies.reset`."""
        if seed is None or isinstance(seed, int):
            seed = [None if seed is None else seed + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} copies")
        first, *others = [seed[span] for span in self._spans]
        self._ask("reset", [(seeds, options) for seeds in others])
        observations, infos = self._here.reset(seed=first, options=options)
        infos = self._all_infos([infos, *self._replies()])
        return self._all_observations(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all copies, and begin the next episode of those that ended; as `Copies.step`."""
        own, room = self._spans[0], self._actions
        if actions.dtype == room.dtype and actions.shape == room.shape:
            room[...] = actions
            self._ask()
        else:  # To cast them might change what the environments do.
            self._ask("step", [actions[span] for span in self._spans[1:]])
        observations, *results, infos = self._here.step(actions[own])
        infos = self._all_infos([infos, *self._replies()])
        for whole, part in zip(self._results, results, strict=True):
            whole[own] = part
        rewards, terminated, truncated = (whole.copy() for whole in self._results)
        return self._all_observations(observations), rewards, terminated, truncated, infos

    @property
    def _here(self) -> Copies:
        assert self._copies is not None
        return self._copies

    def _ask(self, what: str | None = None, messages: Sequence[Any] | None = None) -> None:
        """Set every worker to work: on the next step, or on what a message says."""
        self._asked += 1
        for number, (flags, pipe) in enumerate(zip(self._flags, self._pipes, strict=True)):
            flags[IS_STEP] = what is None
            flags[ASKED] = self._asked
            with _FENCE:
                pass
            if flags[SLEEPS]:
                pipe.send(None)
            if what is not None:
                pipe.send((what, messages[number] if messages else None))

    def _replies(self) -> list[Any]:
        """Wait for every worker; return what each has to say, None where that is nothing.

        Raises:
            EOFError: a worker died.
            BrokenEnvironmentError: what was asked for failed.
        """
        replies = []
        for flags, pipe, worker in zip(self._flags, self._pipes, self.processes, strict=True):
            looks, since = 0, 0.0
            while flags[ANSWERED] != self._asked:
                looks += 1
                if looks == SPINS:
                    since = time.perf_counter()
                elif looks > SPINS:
                    if time.perf_counter() - since < PATIENCE:
                        os.sched_yield()
                    # Short sleeps from here on: a worker that is slow, or one that died.
                    elif wait([worker.sentinel], 0.0002) and flags[ANSWERED] != self._asked:
                        raise EOFError
            replies.append(pipe.recv() if flags[HAS_REPLY] else None)
        for reply in replies:
            if isinstance(reply, BrokenEnvironmentError):
                raise reply
        return replies

    def _all_observations(self, own: Any) -> Any:
        """Return the observations of all copies, given those of this process."""
        parts = []
        for leaf, whole in zip(self._leaves, self._rooms_of_leaves(), strict=True):
            if whole is not None:
                whole[self._spans[0]] = leaf.of(own)
            parts.append(None if whole is None else whole.copy())
        return nested(self.single_observation_space, iter(parts))

    def _rooms_of_leaves(self) -> Iterator[Any]:
        rooms = iter(self._observations)
        for leaf in self._leaves:
            yield next(rooms) if isinstance(leaf.space, FLAT) else None

    def _all_infos(self, infos: list[dict[str, Any] | None]) -> dict[str, Any]:
        """Return the infos of all parts side by side; None is one that says nothing."""
        whole: dict[str, Any] = {}
        for info, span in zip(infos, self._spans, strict=True):
            for key, rows in (info or {}).items():
                if key not in whole:
                    is_mask = isinstance(rows, np.ndarray)
                    whole[key] = (
                        np.zeros(self.num_envs, np.bool_) if is_mask else [None] * self.num_envs
                    )
                whole[key][span] = rows
        return whole

    def call(self, name: str, *given: Any, **named: Any) -> tuple[Any, ...]:
        """Return what a method of each copy returns, or its attribute; as `Copies.call`."""
        self._ask("call", [(name, given, named)] * len(self._pipes))
        own = self._here.call(name, *given, **named)
        return sum(self._replies(), own)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of each copy."""
        return self.call(name)

    def close_extras(self, **_: Any) -> None:
        """Close the copies, and end the workers."""
        if self.processes:
            with suppress(ConnectionError):
                self._ask("leave")
        if self._copies is not None:
            self._copies.close()
        self.end_processes(within=1.0)

    def end_processes(self, within: float = 0.0) -> None:
        """End the workers.

        Args:
            within: seconds that each has to end by itself.
        """
        for worker in self.processes:
            if within:
                worker.join(within)
            worker.kill()
            worker.join()
        for pipe in self._pipes:
            pipe.close()
        self.processes, self._pipes = [], []


Layout = list[tuple[tuple[int, ...], Any]]
"""Shapes and types of the arrays that lie in shared memory, in order."""


def _layout(copies: Copies, workers: int, count: int) -> Layout:
    """Return what lies in shared memory: flags, actions, rewards, two kinds of ends, observations.

    Args:
        copies: some of them, for their spaces.
        workers: how many.
        count: N.
    """
    results = [((), np.dtype(kind)) for kind in (np.float64, np.bool_, np.bool_)]
    actions: Any = copies.single_action_space
    # The others are refused by those who ask for steps.
    is_held = isinstance(copies.single_action_space, FLAT)
    rows = [(actions.shape, actions.dtype) if is_held else ((), np.dtype(np.bool_)), *results]
    rows += [
        (leaf.shape, leaf.dtype)
        for leaf in leaves(copies.single_observation_space)
        if isinstance(leaf.space, FLAT)
    ]
    return [((workers, WORDS), np.int64), *(((count, *shape), dtype) for shape, dtype in rows)]


def _bytes(part: tuple[tuple[int, ...], Any]) -> int:
    """Return how much room an array takes, in whole lines."""
    shape, dtype = part
    size: int = -(-math.prod(shape) * np.dtype(dtype).itemsize // LINE) * LINE
    return size


def _arrays(memory: Any, layout: Layout) -> list[Any]:
    """Return the arrays in the memory, each of which begins on a line of its own."""
    offset = -ctypes.addressof(memory) % LINE
    arrays = []
    for shape, dtype in layout:
        flat = np.frombuffer(memory, dtype, math.prod(shape), offset)
        arrays.append(flat.reshape(shape))
        offset += _bytes((shape, dtype))
    return arrays


def _work(
    makers: Any,
    memory: Any,
    flag_layout: tuple[tuple[int, ...], Any],
    number: int,
    span: slice,
    count: int,
    pipe: Connection,
    other_end: Connection,
) -> None:
    """Be a worker: make copies, then do what is asked for, until there is nobody to ask.

    Args:
        makers: of the copies.
        memory: shared.
        flag_layout: shape and type of all flags.
        number: of this worker.
        span: of the copies that are its own.
        count: N.
        pipe: to the trainer.
        other_end: the trainer's, which a fork leaves open here too.
    """
    other_end.close()
    flags = memoryview(_arrays(memory, [flag_layout])[0][number])
    worker = _Worker(makers.fn, memory, flag_layout[0][0], span, count)
    done = 0
    # The trainer is gone, which closes its end.
    with suppress(EOFError, ConnectionError):
        while True:
            _wait(flags, done, pipe)
            done = flags[ASKED]
            what, message = "step", None
            if not flags[IS_STEP]:
                # What woke it may lie there yet.
                while (received := pipe.recv()) is None:
                    pass
                what, message = received
            if what == "leave":
                break
            reply = None
            try:
                reply = getattr(worker, what)(message)
                payload = ForkingPickler.dumps(reply)
            except Exception as error:
                reply = error
                if not isinstance(error, BrokenEnvironmentError):
                    reply = BrokenEnvironmentError(f"{type(error).__name__}: {one_line(error)}")
                payload = ForkingPickler.dumps(reply)
            flags[HAS_REPLY] = reply is not None
            flags[ANSWERED] = done
            # After the flag, since a large one is taken only when someone reads it.
            if reply is not None:
                pipe.send_bytes(payload)
    worker.close()


def _wait(flags: memoryview, done: int, pipe: Connection) -> None:
    """Return when more is asked for than was done."""
    looks, since = 0, 0.0
    while flags[ASKED] == done:
        looks += 1
        if looks == SPINS:
            since = time.perf_counter()
        elif looks > SPINS:
            if time.perf_counter() - since < PATIENCE:
                os.sched_yield()
                continue
            flags[SLEEPS] = 1
            with _FENCE:
                pass
            if flags[ASKED] == done:
                pipe.recv()
            flags[SLEEPS] = 0


class _Worker:
    """The copies of one worker, and what it can be asked for.

    Args:
        makers: of the copies.
        memory: shared.
        workers: how many there are.
        span: of the copies that are its own.
        count: N.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], gym.Env[Any, Any]]],
        memory: Any,
        workers: int,
        span: slice,
        count: int,
    ) -> None:
        self._makers, self._memory, self._span = makers, memory, span
        self._workers, self._count = workers, count
        self._copies: Any = None

    def make(self, _: None) -> None:
        """Make the copies."""
        self._copies = Copies(self._makers)
        layout = _layout(self._copies, self._workers, self._count)
        _, *rooms = [array[self._span] for array in _arrays(self._memory, layout)]
        self._actions, self._results, observations = rooms[0], rooms[1:4], rooms[4:]
        self._space = self._copies.single_observation_space
        flat = (leaf for leaf in leaves(self._space) if isinstance(leaf.space, FLAT))
        self._rooms = list(zip(flat, observations, strict=True))

    def reset(self, message: tuple[Any, Any]) -> Any:
        """Begin episodes; return what is to be told of them, if anything."""
        seeds, options = message
        observations, infos = self._copies.reset(seed=seeds, options=options)
        return self._shown(observations, infos)

    def step(self, actions: Any) -> Any:
        """Take a step by the actions in the memory unless others are given."""
        observations, *results, infos = self._copies.step(
            self._actions if actions is None else actions
        )
        for room, rows in zip(self._results, results, strict=True):
            room[...] = rows
        return self._shown(observations, infos)

    def _shown(self, observations: Any, infos: dict[str, Any]) -> Any:
        for leaf, room in self._rooms:
            room[...] = leaf.of(observations)
        if "final_obs" in infos:
            infos["final_obs"] = [
                None if final is None else self._without_odd_parts(final)
                for final in infos["final_obs"]
            ]
        return infos or None

    def _without_odd_parts(self, observation: Any) -> Any:
        """Return an observation of parts that other processes are sure to understand."""
        parts = (
            leaf.of(observation) if isinstance(leaf.space, FLAT) else None
            for leaf in leaves(self._space)
        )
        return nested(self._space, parts)

    def call(self, message: tuple[str, tuple[Any, ...], dict[str, Any]]) -> tuple[Any, ...]:
        """Return what a method of each copy returns, or its attribute."""
        name, given, named = message
        found: tuple[Any, ...] = self._copies.call(name, *given, **named)
        return found

    def close(self) -> None:
        """Close the copies."""
        if self._copies is not None:
            self._copies.close()
