"""Measures one training run: start-up apart, the warm-up excluded, counted iterations whole."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

PHASES = ("collect", "prepare", "update", "report", "log")
"""Parts of an iteration of rlkl, in their order."""


@dataclass(frozen=True)
class Measurement:
    """What one run came to.

    Attributes:
        startup_seconds: from the launch of the process, imports included, to the first step.
        env_steps: that were measured.
        iterations: that were measured.
        seconds: that they took.
        optimizer_steps: of one iteration.
        start_megabytes: most memory that the process had had by its first environment step.
        peak_megabytes: most memory that it ever had.
        rollout_megabytes: arrays of one rollout; None where it is not known.
        phases: seconds that each of `PHASES` took; empty where they are not known.
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


class Clock:
    """Is told when the first environment step begins and when an iteration ends.

    The clock runs from the end of the last iteration of the warm-up to that of the last measured
    one, so each counts with everything it does. Steps of optimizers are counted in the warm-up
    alone: counting costs time.

    Args:
        launched: `time.monotonic()` when the process was launched.
        warmup: iterations that do not count.
        measured: iterations that do.
    """

    def __init__(self, launched: float, warmup: int, measured: int) -> None:
        self.launched = launched
        self.warmup = warmup
        self.measured = measured
        self.iterations = 0
        self.env_steps = 0
        self.optimizer_steps = 0
        self.startup_seconds = self.start_megabytes = self.began = self.ended = 0.0
        self._hook: Any = None

    @property
    def counts(self) -> bool:
        """Whether the iteration under way is measured."""
        return self.warmup <= self.iterations < self.warmup + self.measured

    def start(self) -> None:
        """Note that the first environment step begins."""
        self.startup_seconds = time.monotonic() - self.launched
        self.start_megabytes = peak_megabytes()
        self._hook = register_optimizer_step_post_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.optimizer_steps += 1

    def tick(self, env_steps: int) -> None:
        """Note that an iteration has ended.

        Args:
            env_steps: that it made.
        """
        now = time.perf_counter()
        if self.counts:
            self.env_steps += env_steps
            self.ended = now
        self.iterations += 1
        if self.iterations == self.warmup:
            self._hook.remove()
            self.began = time.perf_counter()

    def measurement(self, **known: Any) -> Measurement:
        """Return what was measured.

        Args:
            **known: fields of `Measurement` that the clock does not know.

        Raises:
            RuntimeError: training ended before the last iteration that should count.
        """
        expected = self.warmup + self.measured
        if self.iterations < expected:
            raise RuntimeError(f"made {self.iterations} iterations, expected {expected}")
        return Measurement(
            startup_seconds=self.startup_seconds,
            env_steps=self.env_steps,
            iterations=self.measured,
            seconds=self.ended - self.began,
            optimizer_steps=self.optimizer_steps / self.warmup,
            start_megabytes=self.start_megabytes,
            peak_megabytes=peak_megabytes(),
            **known,
        )


def peak_megabytes() -> float:
    """Return the most memory that this process ever had resident, in megabytes (10⁶ bytes)."""
    # On Linux, ru_maxrss of a new process begins with what its parent had when it was launched.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def before_first_call(owner: Any, name: str, action: Callable[[], None]) -> None:
    """Let `action` happen before an object's method is first called, and cost nothing later."""
    method = getattr(owner, name)

    def first(*given: Any, **named: Any) -> Any:
        delattr(owner, name)
        action()
        return method(*given, **named)

    setattr(owner, name, first)


def after_each_call(owner: Any, name: str, action: Callable[[Any], None]) -> None:
    """Let `action` happen after each call of an object's method, with what that returned."""
    method = getattr(owner, name)

    def every(*given: Any, **named: Any) -> Any:
        result = method(*given, **named)
        action(result)
        return result

    setattr(owner, name, every)
