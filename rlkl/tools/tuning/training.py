"""What a trial does: its seeds trained side by side, in this process or in one of its own."""

import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import numpy as np

from rlkl.tools.grid.job import how_it_died
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.utils.signals import ignore_stops
from rlkl.utils.validation import one_line

PATIENCE = 0.2
"""Seconds between two looks at whether the user wants an end."""


class Stop(Protocol):
    """Says whether the user wants an end, such as `threading.Event`."""

    def is_set(self) -> bool:
        """Return whether."""
        ...


@dataclass(frozen=True)
class Plan:
    """A trial that is to be made.

    Attributes:
        config: of its first seed's run.
        seeds: how many.
        reports: times that its return is looked at.
    """

    config: TrainConfig
    seeds: int
    reports: int


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: `complete`, `pruned`, `failed`, or `stopped` by the user.
        value: mean over seeds of the training return; NaN where it is not known.
        returns: of each seed, at the end.
        reason: why it failed.
        seconds: that it took.
    """

    state: str
    value: float = math.nan
    returns: list[float] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0


class _StoppedError(Exception):
    """The user wants an end, in the middle of a trial."""


def train(plan: Plan, is_worth_it: Callable[[int, float], bool], stop: Stop) -> Outcome:
    """Make a trial. Whatever breaks it is its outcome.

    Args:
        plan: of the trial.
        is_worth_it: told the number of a look, from 1, and the mean return there; says whether to
            go on.
        stop: looked at before each iteration.
    """
    start = time.perf_counter()
    try:
        outcome = _train(plan, is_worth_it, stop)
    except (_StoppedError, KeyboardInterrupt):
        outcome = Outcome("stopped")
    except Exception as error:  # one trial's end is not the study's
        outcome = Outcome("failed", reason=f"{type(error).__name__}: {one_line(error)}")
    return replace(outcome, seconds=time.perf_counter() - start)


def _train(plan: Plan, is_worth_it: Callable[[int, float], bool], stop: Stop) -> Outcome:
    config, value = plan.config, math.nan
    with ExitStack() as closing:
        learners = []
        for number in range(plan.seeds):
            learners.append(Learner(replace(config, seed=config.seed + number)))
            closing.callback(learners[-1].close)
        for mark in range(1, plan.reports + 1):
            for learner in learners:
                while learner.env_steps < config.total_env_steps * mark / plan.reports:
                    if stop.is_set():
                        raise _StoppedError
                    learner.iterate()
            value = float(np.mean([learner.return_mean for learner in learners]))
            # Before the first episode has ended there is nothing to judge.
            if not math.isnan(value) and not is_worth_it(mark, value) and mark < plan.reports:
                return Outcome("pruned", value)
        if math.isnan(value):
            raise RuntimeError("no episode ended within total_env_steps: no return to compare")
        return Outcome("complete", value, [learner.return_mean for learner in learners])


def train_at_once(
    plans: Sequence[Plan], is_worth_it: Callable[[int, int, float], bool], stop: Stop
) -> list[Outcome]:
    """Make trials at the same time, each in a process of its own; return how each ended.

    A process that crashes or is killed breaks no trial but its own. All end when this one does.

    Args:
        plans: of the trials.
        is_worth_it: asked in this process; told the place among the plans first.
        stop: looked at while the trials are under way.
    """
    context: Any = multiprocessing.get_context("fork")
    workers: list[tuple[Any, Connection]] = []
    for plan in plans:
        ours, theirs = context.Pipe()
        others = [ours, *(pipe for _, pipe in workers)]
        process = context.Process(target=_serve, args=(plan, theirs, others))
        process.start()
        theirs.close()
        workers.append((process, ours))
    outcomes: dict[int, Outcome] = {}
    try:
        while len(outcomes) < len(plans) and not stop.is_set():
            waiting: list[Any] = [p for i, (_, p) in enumerate(workers) if i not in outcomes]
            ready = wait(waiting, PATIENCE)
            for place, (process, pipe) in enumerate(workers):
                if pipe not in ready:
                    continue
                try:
                    said = pipe.recv()
                    if not isinstance(said, Outcome):
                        pipe.send(is_worth_it(place, *said))
                        continue
                except (EOFError, ConnectionError):
                    process.join()
                    said = Outcome("failed", reason=how_it_died(process.exitcode))
                outcomes[place] = said
    except KeyboardInterrupt:
        pass
    finally:
        for _, pipe in workers:
            pipe.close()  # which each of those that are still at it takes for a stop
        for process, _ in workers:
            process.join()
    return [outcomes.get(place, Outcome("stopped")) for place in range(len(plans))]


class _Other:
    """Says that the user wants an end when the other end of a pipe is closed.

    Nothing else comes through it unasked.
    """

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def is_set(self) -> bool:
        """Return whether it is."""
        return self.pipe.poll()


def _serve(plan: Plan, pipe: Connection, others: Sequence[Connection]) -> None:
    for other in others:  # copies that the fork made; a pipe closes with the last of them
        other.close()
    # A Ctrl-C reaches all processes; the one that was given the command closes the pipe.
    ignore_stops()

    def is_worth_it(mark: int, value: float) -> bool:
        try:
            pipe.send((mark, value))
            return bool(pipe.recv())
        except (EOFError, ConnectionError):
            raise _StoppedError from None

    outcome = train(plan, is_worth_it, _Other(pipe))
    with suppress(OSError):
        pipe.send(outcome)
