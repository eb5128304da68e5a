"""Clock that measures whole iterations of one training run after its start-up and warm-up."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

PHASES = ("collect", "prepare", "update", "report", "log")
"""Phases of an iteration of rlkl, in order."""


@dataclass(frozen=True)
class Measurement:
    """Speed and memory of one run; steps, iterations and seconds are those after the warm-up.

    Attributes:
        startup_seconds: from the launch of the process, imports included, to the first step.
        optimizer_steps: per iteration.
        start_megabytes: peak memory of the process before its first environment step.
        peak_megabytes: peak memory of the process.
        rollout_megabytes: arrays of one rollout; None if unknown.
        phases: seconds of each of `PHASES`; empty if unknown.
    """

    startup_seconds: float
    env_steps: int
    iterations: int
    seconds: float
    optimizer_steps: float
    start_megabytes: float
    peak_megabytes: float
    rollout_megabytes: float | None = None
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Environment steps per second."""
        return self.env_steps / self.seconds

    @property
    def added_megabytes(self) -> float:
        """Peak memory minus the memory at the first environment step."""
        return self.peak_megabytes - self.start_megabytes


class Clock:
    """Measures time and memory of a run that reports its first step and each iteration.

    The time runs from the end of the last warm-up iteration to the end of the last measured one.
    Optimizer steps are counted only during the warm-up, because counting takes time.
    """

    def __init__(self, launched: float, warmup: int, measured: int) -> None:
        self.launched = launched  # time.monotonic() when the process was launched
        self.warmup, self.measured = warmup, measured  # numbers of iterations
        self.iterations = self.env_steps = self.optimizer_steps = 0
        self.startup_seconds = self.start_megabytes = self.started = self.ended = 0.0
        self._hook: Any = None

    @property
    def is_measuring(self) -> bool:
        """Whether the current iteration is measured."""
        return self.warmup <= self.iterations < self.warmup + self.measured

    def start(self) -> None:
        """Record that the first environment step begins."""
        self.startup_seconds = time.monotonic() - self.launched
        self.start_megabytes = peak_megabytes()
        self._hook = register_optimizer_step_post_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.optimizer_steps += 1

    def tick(self, env_steps: int) -> None:
        """Record the end of an iteration with this number of environment steps."""
        now = time.perf_counter()
        if self.is_measuring:
            self.env_steps += env_steps
            self.ended = now
        self.iterations += 1
        if self.iterations == self.warmup:
            self._hook.remove()
            self.started = time.perf_counter()

    def measurement(self, **known: Any) -> Measurement:
        """Return the measurement; `known` has its optional fields."""
        expected = self.warmup + self.measured
        if self.iterations < expected:
            raise RuntimeError(f"made {self.iterations} iterations, expected {expected}")
        return Measurement(
            startup_seconds=self.startup_seconds,
            env_steps=self.env_steps,
            iterations=self.measured,
            seconds=self.ended - self.started,
            optimizer_steps=self.optimizer_steps / self.warmup,
            start_megabytes=self.start_megabytes,
            peak_megabytes=peak_megabytes(),
            **known,
        )


def peak_megabytes() -> float:
    """Return the peak resident memory of this process in megabytes (10⁶ bytes)."""
    # On Linux, ru_maxrss of a new process starts at the memory of its parent.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def before_first_call(owner: Any, name: str, action: Callable[[], None]) -> None:
    """Call `action` before the first call of an object's method, without a cost later."""
    method = getattr(owner, name)

    def first(*args: Any, **kwargs: Any) -> Any:
        delattr(owner, name)
        action()
        return method(*args, **kwargs)

    setattr(owner, name, first)


def after_each_call(owner: Any, name: str, action: Callable[[Any], None]) -> None:
    """Call `action` with the result of each call of an object's method."""
    method = getattr(owner, name)

    def every(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        action(result)
        return result

    setattr(owner, name, every)
