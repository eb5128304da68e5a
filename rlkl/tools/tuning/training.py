"""Trials: train the seeds of a trial side by side, in this process or in a separate one."""

import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from rlkl.tools.grid.job import describe_exit
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.utils.signals import ignore_stop_signals
from rlkl.utils.validation import described

POLL_SECONDS = 0.2

Stop = Callable[[], bool]
"""Returns whether the user asked to stop, such as `threading.Event.is_set`."""


@dataclass(frozen=True)
class Plan:
    """A trial to be trained."""

    config: TrainConfig  # of the first seed's run
    seeds: int  # number of runs
    reports: int  # number of points at which its return is reported


@dataclass(frozen=True)
class Outcome:
    """The result of a trial."""

    state: str  # `complete`, `pruned`, `failed`, or `stopped` by the user
    value: float = math.nan  # mean over seeds of the training return
    returns: list[float] = field(default_factory=list)  # of each seed, if complete
    reason: str = ""  # why it failed
    seconds: float = 0.0


def train(plan: Plan, should_continue: Callable[[int, float], bool], stop: Stop) -> Outcome:
    """Train a trial; an error becomes its outcome.

    `should_continue` gets the number of a report, from 1, and the mean return there.
    """
    start = time.perf_counter()
    try:
        outcome = _train(plan, should_continue, stop)
    except KeyboardInterrupt:
        outcome = Outcome("stopped")
    except Exception as error:  # a failed trial does not end the study
        outcome = Outcome("failed", reason=described(error))
    return replace(outcome, seconds=time.perf_counter() - start)


def _train(plan: Plan, should_continue: Callable[[int, float], bool], stop: Stop) -> Outcome:
    config, value = plan.config, math.nan
    with ExitStack() as closing:
        learners = []
        for number in range(plan.seeds):
            learners.append(Learner(replace(config, seed=config.seed + number)))
            closing.callback(learners[-1].close)
        for report in range(1, plan.reports + 1):
            for learner in learners:
                while learner.env_steps < config.total_env_steps * report / plan.reports:
                    if stop():
                        raise KeyboardInterrupt
                    learner.iterate()
            value = float(np.mean([learner.tracker.return_mean for learner in learners]))
            is_known = not math.isnan(value)  # no return before the first episode ends
            if is_known and not should_continue(report, value) and report < plan.reports:
                return Outcome("pruned", value)
        if math.isnan(value):
            raise RuntimeError("no episode ended within total_env_steps: no return to compare")
        return Outcome("complete", value, [learner.tracker.return_mean for learner in learners])


def train_in_parallel(
    plans: Sequence[Plan], should_continue: Callable[[int, int, float], bool], stop: Stop
) -> list[Outcome]:
    """Train each trial in a separate process; return the outcomes in the order of the plans.

    If a process crashes or is killed, only its trial fails. All end when this process ends, which
    calls `should_continue` with the index of the plan, the number of a report, and the return.
    """
    context: Any = multiprocessing.get_context("fork")
    workers: dict[Any, tuple[int, Any]] = {}
    for index, plan in enumerate(plans):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(plan, theirs, [ours, *workers]))
        process.start()
        theirs.close()
        workers[ours] = index, process
    running, outcomes = dict(workers), [Outcome("stopped")] * len(plans)
    try:
        while running and not stop():
            ready: Any = wait(list(running), POLL_SECONDS)
            for pipe in ready:
                index, process = running[pipe]
                try:
                    message = pipe.recv()
                    if not isinstance(message, Outcome):
                        pipe.send(should_continue(index, *message))
                        continue
                except (EOFError, ConnectionError):
                    process.join()
                    message = Outcome("failed", reason=describe_exit(process.exitcode))
                outcomes[index] = message
                del running[pipe]
    except KeyboardInterrupt:
        pass
    finally:
        for pipe in workers:
            pipe.close()  # stops the trials that still run
        for _, process in workers.values():
            process.join()
    return outcomes


def _work(plan: Plan, pipe: Connection, others: Sequence[Connection]) -> None:
    """Train a trial in this process, and send its reports and its outcome."""
    for other in others:  # duplicated by the fork; a pipe closes only with its last duplicate
        other.close()
    ignore_stop_signals()  # Ctrl-C reaches all processes; the main one closes the pipe

    def should_continue(report: int, value: float) -> bool:
        try:
            pipe.send((report, value))
            return bool(pipe.recv())
        except (EOFError, ConnectionError):
            raise KeyboardInterrupt from None

    # The other end sends nothing unasked, so readable means closed: a stop request.
    outcome = train(plan, should_continue, pipe.poll)
    with suppress(OSError):
        pipe.send(outcome)
