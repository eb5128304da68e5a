"""The update of both networks: one after the other, or the critic in a process of its own."""

import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from statistics import median

import torch
from torch import Tensor

from rlkl.algos.base import Metrics, PolicyOptimizer
from rlkl.algos.critic import CriticFit
from rlkl.envs.spaces import VECTOR
from rlkl.models.flat_parameters import in_shared_memory
from rlkl.models.policy import Inputs
from rlkl.rollouts.rollout import Batch
from rlkl.utils.cpu import has_another_core
from rlkl.utils.signals import ignore_stops
from rlkl.utils.streams import tell
from rlkl.utils.validation import ConfigError, one_line

PROBES, PERIOD = 3, 50
"""Of each `PERIOD` updates the first `PROBES` are made one way and as many the other; the rest go
the way that took less time."""

WORTHWHILE = 0.002
"""Seconds that a fit must take for another core to be asked at all."""


class Updates:
    """Moves the actor and fits the critic, which share nothing: in turn, or at once on two cores.

    The numbers are the same either way. Which takes less time depends on what else the machine
    does, so it is measured again and again. With 8 HalfCheetah, 640 minibatches of 64 for each
    network, an update took 241 ms in turn and 163 ms at once.

    Args:
        policy_optimizer: moves the actor.
        critic_fit: moves the critic.
        max_rows: of a batch.

    Raises:
        ConfigError: `critic.worker=always` where it cannot be.
    """

    def __init__(
        self, policy_optimizer: PolicyOptimizer, critic_fit: CriticFit, max_rows: int
    ) -> None:
        self.policy_optimizer = policy_optimizer
        self.critic_fit = critic_fit
        self._max_rows = max_rows
        self._worker: CriticWorker | None = None
        self._count = 0
        self._seconds: dict[bool, deque[float]] = {
            at_once: deque(maxlen=PROBES) for at_once in (False, True)
        }
        self._fit_seconds: deque[float] = deque(maxlen=PROBES)
        self._wanted = critic_fit.config.worker
        by_hand, forks = critic_fit.policy.by_hand is not None, hasattr(os, "fork")
        if self._wanted == "always" and not (by_hand and forks):
            raise ConfigError(
                "critic.worker=always: it needs a Unix, and networks that are differentiated by "
                "hand (policy.differentiation says which are); use critic.worker=auto"
            )
        if not (by_hand and forks and has_another_core()) and self._wanted == "auto":
            self._wanted = "never"

    def update(self, batch: Batch, progress: float) -> Metrics:
        """Learn from a batch.

        Args:
            batch: made before either network moved.
            progress: share of the training budget that is spent.

        Returns:
            What the policy-optimizer and the critic's fit have to tell.
        """
        at_once, start = self._at_once(), time.perf_counter()
        if at_once:
            at_once = self._has_worker(batch)
        if at_once:
            assert self._worker is not None
            self._worker.start(batch, progress)
            metrics = self.policy_optimizer.update(batch, progress)
            metrics |= self._worker.finish()
        else:
            metrics = self.policy_optimizer.update(batch, progress)
            moved = time.perf_counter()
            metrics |= self.critic_fit.update(batch, progress)
            self._fit_seconds.append(time.perf_counter() - moved)
        self._seconds[at_once].append(time.perf_counter() - start)
        self._count += 1
        return metrics

    def _has_worker(self, batch: Batch) -> bool:
        """Start the process if there is none; return whether there is one now.

        Raises:
            ChildProcessError: it cannot be started, and `critic.worker=always` asks for it.
        """
        try:
            self._worker = self._worker or CriticWorker(self.critic_fit, batch, self._max_rows)
        except OSError as error:
            text = f"no process to fit the critic can be started: {one_line(error)}"
            if self._wanted == "always":
                raise ChildProcessError(f"{text}; use critic.worker=auto") from error
            tell(f"{text}; it is fitted after the actor")
            self._wanted = "never"
        return self._worker is not None

    def _at_once(self) -> bool:
        turn = self._count % PERIOD
        if self._wanted != "auto" or turn < PROBES:
            return self._wanted == "always"
        if median(self._fit_seconds) < WORTHWHILE:
            return False
        in_turn, at_once = self._seconds[False], self._seconds[True]
        if turn < 2 * PROBES or len(at_once) < PROBES:
            return True
        return median(at_once) < median(in_turn)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None


class CriticWorker:
    """A fork of this process that fits the critic when asked to.

    It is the same fit on the same memory: the critic's parameters and Adam's moments are shared,
    the batch is copied to where both see it, and the state of the stream of minibatches goes there
    and back. So the numbers are those of `CriticFit.update`, bit for bit. It ends when the pipe to
    the trainer does, whatever the trainer dies of.

    Args:
        fit: of a critic that is done by hand.
        batch: one of those that it will be asked for.
        max_rows: of a batch.
    """

    def __init__(self, fit: CriticFit, batch: Batch, max_rows: int) -> None:
        self._fit = fit
        self._room = [
            in_shared_memory(tensor.new_empty((max_rows, *tensor.shape[1:])))
            for tensor in _tensors(batch)
        ]
        self._pipe, theirs = Pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._pipe.close()
                self._serve(theirs)
            finally:
                os._exit(0)  # what else a process does at its end is the trainer's to do
        theirs.close()

    def start(self, batch: Batch, progress: float) -> None:
        """Have a batch fitted; the arguments are those of `CriticFit.update`.

        Raises:
            ChildProcessError: the worker died.
        """
        for room, tensor in zip(self._room, _tensors(batch), strict=True):
            room[: len(batch)] = tensor
        stream = self._fit.generator.get_state().numpy()
        with _told_of_death():
            self._pipe.send((len(batch), progress, stream))

    def finish(self) -> Metrics:
        """Wait until it is, and return what `CriticFit.update` returns.

        Raises:
            ChildProcessError: the worker died.
        """
        fit = self._fit
        with _told_of_death():
            outcome = self._pipe.recv()
        if isinstance(outcome, Exception):
            raise outcome
        metrics, fit.losses, fit.gradient_norms, fit.adam.learning_rate, stream = outcome
        fit.generator.set_state(torch.from_numpy(stream))
        found: Metrics = metrics
        return found

    def end(self) -> None:
        """End the process."""
        self._pipe.close()
        os.kill(self._pid, signal.SIGKILL)  # it may be at a fit that nobody waits for
        os.waitpid(self._pid, 0)

    def _serve(self, pipe: Connection) -> None:
        # A Ctrl-C reaches all processes, but the trainer ends an iteration before it stops.
        ignore_stops()
        fit, nothing = self._fit, torch.empty(0)
        while True:
            try:
                size, progress, stream = pipe.recv()
            except (EOFError, ConnectionError):
                return
            vectors, returns, old_values = (room[:size] for room in self._room)
            inputs = Inputs({VECTOR: vectors})
            batch = Batch(inputs, nothing, nothing, returns, nothing, nothing, old_values)
            try:
                fit.generator.set_state(torch.from_numpy(stream))
                metrics = fit.update(batch, progress)
                stream = fit.generator.get_state().numpy()
                rate = fit.adam.learning_rate
                pipe.send((metrics, fit.losses, fit.gradient_norms, rate, stream))
            except Exception as error:
                pipe.send(error)


@contextmanager
def _told_of_death() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise ChildProcessError(
            "the process that fits the critic died (was it killed, or memory short?); "
            "critic.worker=never does without it"
        ) from error


def _tensors(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the critic learns from."""
    return batch.inputs.observations[VECTOR], batch.returns, batch.old_values
