"""Measure whether `shared` steps sub-environments faster than `sync` on this machine."""

import multiprocessing
import platform
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from copy import deepcopy
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator

from rlkl.envs.shared_memory_env import SharedMemoryVectorEnv
from rlkl.envs.snapshots import gives_state, state_of
from rlkl.envs.sync_env import SyncVectorEnv
from rlkl.utils.cpu import has_another_core, usable_cores
from rlkl.utils.signals import children_ignore_signals

MIN_GAIN = 1.2
"""How many times as fast `shared` must be: its workers also take cores from other processes."""

WORTHWHILE = 0.0003  # shortest step of all sub-environments in seconds for which `shared` is tried
SECONDS_TO_MAKE = 0.5  # longest time that making the sub-environments for the measurement may take

SECONDS, SECONDS_PER_ROUND, MIN_ROUNDS = 0.2, 0.01, 5
"""Time of the whole measurement, of one of its rounds, and how many rounds there are at least."""


def is_shared_faster(spec: EnvSpec, makers: Sequence[Callable[[], gym.Env[Any, Any]]]) -> bool:
    """Measure both backends in turns, with environments that are used for nothing else.

    Only environments whose complete state can be saved are tried. Such an environment takes the
    same steps in any process, so the choice changes no result. It is False without a measurement
    if this process is not alone: a job of a grid or a trial of `rlkl tune` shares the cores.
    """
    if len(makers) < 2 or not has_another_core() or not _can_fork():
        return False
    try:
        if not _is_known(spec):
            return False
        start = time.perf_counter()
        with closing(SyncVectorEnv(makers[:1])) as one:
            seconds_to_make = time.perf_counter() - start
            if one.render_mode is not None:
                return False
            one.reset(seed=[0])
            if state_of(one) is None:
                return False
            seconds = median(_seconds(one, 1) for _ in range(10))
        if seconds * len(makers) < WORTHWHILE:
            return False
        makers = makers[: 4 * usable_cores()]  # the gain is that of more
        if seconds_to_make * len(makers) > SECONDS_TO_MAKE:
            return False
        return _gain(makers, seconds * len(makers)) > MIN_GAIN
    except (Exception, SystemExit):  # making the environments of the run reports it
        return False


def _can_fork() -> bool:
    """Return whether `shared` is possible in the main thread of a process of its own."""
    method = multiprocessing.get_start_method(allow_none=True)
    method = method or multiprocessing.get_all_start_methods()[0]
    is_alone = multiprocessing.parent_process() is None
    is_main = is_alone and threading.current_thread() is threading.main_thread()
    return is_main and method == "fork" and platform.machine() in ("x86_64", "AMD64")


def _is_known(spec: EnvSpec) -> bool:
    """Return whether an environment can be made again without an effect on others."""
    entry: Any = spec.entry_point
    kind = load_env_creator(entry) if isinstance(entry, str) else entry
    return kind.__module__.startswith("gymnasium.envs.") or gives_state(kind)


def _gain(makers: Sequence[Callable[[], gym.Env[Any, Any]]], seconds: float) -> float:
    """Return how many times as fast `shared` is, if a step of `sync` takes so many seconds."""
    steps = max(1, round(SECONDS_PER_ROUND / seconds))
    gains: list[float] = []
    with ExitStack() as closed:
        sync = closed.enter_context(closing(SyncVectorEnv(makers)))
        with children_ignore_signals():
            shared = closed.enter_context(closing(SharedMemoryVectorEnv(makers)))
        for envs in (sync, shared):
            envs.reset(seed=list(range(len(makers))))
        end = time.perf_counter() + SECONDS
        while len(gains) < MIN_ROUNDS or time.perf_counter() < end:
            gains.append(_seconds(sync, steps) / _seconds(shared, steps))
            shared.rest()
    return median(gains)


def _seconds(envs: SyncVectorEnv | SharedMemoryVectorEnv, steps: int) -> float:
    """Return the time of some steps, after one that wakes the workers."""
    space = deepcopy(envs.single_action_space)  # instances may share it
    actions = np.stack([space.sample() for _ in range(envs.num_envs)])
    envs.step(actions)
    start = time.perf_counter()
    for _ in range(steps):
        envs.step(actions)
    return time.perf_counter() - start
