"""The update of actor and critic: sequentially, or in parallel with a worker for the critic."""

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

from rlkl.algos.alternating import alternate
from rlkl.algos.base import Outcome, PolicyOptimizer, Recompute
from rlkl.algos.critic import CriticFit
from rlkl.envs.observations import VECTOR
from rlkl.models.flat_parameters import in_shared_memory
from rlkl.models.policy import Inputs
from rlkl.rollouts.batch import Batch
from rlkl.utils.cpu import has_another_core
from rlkl.utils.errors import ConfigError
from rlkl.utils.signals import ignore_stop_signals
from rlkl.utils.streams import tell
from rlkl.utils.validation import one_line

PROBES, PERIOD = 3, 50
"""Of each `PERIOD` updates, the first are a trial: `PROBES` of each mode, in turns."""

WORTHWHILE = 0.002
"""Shortest fit in seconds for which parallel updates are tried."""


class Updates:
    """Updates the actor and fits the critic, sequentially or in parallel on two cores.

    The results are identical. Which is faster depends on the load of the machine, so it is measured
    repeatedly. A batch has at most `max_rows`.

    Raises:
        ConfigError: `critic.worker=always` is not possible.
    """

    def __init__(
        self, policy_optimizer: PolicyOptimizer, critic_fit: CriticFit, max_rows: int
    ) -> None:
        self.policy_optimizer = policy_optimizer
        self.critic_fit = critic_fit
        self._max_rows = max_rows
        self._worker: CriticWorker | None = None
        self._count = 0
        self._sequential, self._parallel, self._fits = (
            deque[float](maxlen=PROBES) for _ in range(3)
        )
        self._mode = critic_fit.config.worker
        can_fork = critic_fit.engine.can_fork and hasattr(os, "fork")
        if self._mode == "always" and not can_fork:
            raise ConfigError(
                "critic.worker=always: it needs a Unix and the NumPy engine (see policy.engine); "
                "use critic.worker=auto"
            )
        if not (can_fork and has_another_core()) and self._mode == "auto":
            self._mode = "never"

    def update(
        self, batch: Batch, progress: float, recompute: Recompute | None = None
    ) -> tuple[Outcome, Outcome]:
        """Update both networks from a batch that was made before; return both outcomes.

        With `recompute` the epochs of both alternate; see `alternate`.
        """
        if recompute is not None:
            return alternate(self.policy_optimizer, self.critic_fit, batch, progress, recompute)
        start = time.perf_counter()
        worker = self._worker_for(batch) if self._is_parallel() else None
        if worker is not None:
            worker.start(batch, progress)
            of_policy = self.policy_optimizer.update(batch, progress)
            of_critic = worker.finish()
            self._parallel.append(time.perf_counter() - start)
        else:
            of_policy = self.policy_optimizer.update(batch, progress)
            fit_start = time.perf_counter()
            of_critic = self.critic_fit.update(batch, progress)
            end = time.perf_counter()
            self._fits.append(end - fit_start)
            self._sequential.append(end - start)
        self._count += 1
        return of_policy, of_critic

    def _worker_for(self, batch: Batch) -> "CriticWorker | None":
        """Return the worker; None if it cannot be started, unless `critic.worker=always`."""
        try:
            self._worker = self._worker or CriticWorker(self.critic_fit, batch, self._max_rows)
        except OSError as error:
            text = f"the critic's worker process cannot be started: {one_line(error)}"
            if self._mode == "always":
                raise ChildProcessError(f"{text}; use critic.worker=auto") from error
            tell(f"{text}; the critic is fitted after the actor instead")
            self._mode = "never"
        return self._worker

    def _is_parallel(self) -> bool:
        number = self._count % PERIOD
        if self._mode != "auto" or not self._fits:
            return self._mode == "always"
        if median(self._fits) < WORTHWHILE:
            return False
        if number < 2 * PROBES:
            return number % 2 == 1
        if len(self._parallel) < PROBES:
            return True
        return median(self._parallel) < median(self._sequential)

    def close(self) -> None:
        """End the worker, if there is one."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None


class CriticWorker:
    """A forked process that fits the critic on request.

    The critic's parameters, Adam's moments and a copy of the batch are in shared memory, and the
    generator's state is sent there and back. So the results are bit-for-bit identical to those of
    `CriticFit.update`. The process ends when the pipe to the trainer closes. The batch is an
    example, for the shapes.
    """

    def __init__(self, fit: CriticFit, batch: Batch, max_rows: int) -> None:
        self._fit = fit
        self._buffers = [
            in_shared_memory(tensor.new_empty((max_rows, *tensor.shape[1:])))
            for tensor in _tensors(batch)
        ]
        self._pipe, worker_pipe = Pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._pipe.close()
                self._serve(worker_pipe)
            finally:
                os._exit(0)  # without the trainer's exit handlers
        worker_pipe.close()

    def start(self, batch: Batch, progress: float) -> None:
        """Start fitting a batch; the arguments are those of `CriticFit.update`."""
        for buffer, tensor in zip(self._buffers, _tensors(batch), strict=True):
            buffer[: len(batch)] = tensor
        state = self._fit.generator.get_state().numpy()
        with _report_death():
            self._pipe.send((len(batch), progress, state))

    def finish(self) -> Outcome:
        """Wait for the fit; return what `CriticFit.update` returns."""
        with _report_death():
            answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        outcome: Outcome
        outcome, self._fit.adam.learning_rate, state = answer
        self._fit.generator.set_state(torch.from_numpy(state))
        return outcome

    def end(self) -> None:
        """End the process."""
        self._pipe.close()
        os.kill(self._pid, signal.SIGKILL)  # it may still be fitting
        os.waitpid(self._pid, 0)

    def _serve(self, pipe: Connection) -> None:
        ignore_stop_signals()  # Ctrl-C reaches all processes; the trainer ends its iteration first
        fit, nothing = self._fit, torch.empty(0)
        while True:
            try:
                size, progress, state = pipe.recv()
            except (EOFError, ConnectionError):
                return
            vectors, returns, old_values = (buffer[:size] for buffer in self._buffers)
            inputs = Inputs({VECTOR: vectors})
            batch = Batch(inputs, nothing, nothing, returns, nothing, nothing, old_values)
            try:
                fit.generator.set_state(torch.from_numpy(state))
                outcome = fit.update(batch, progress)
                state = fit.generator.get_state().numpy()
                pipe.send((outcome, fit.adam.learning_rate, state))
            except Exception as error:
                pipe.send(error)


@contextmanager
def _report_death() -> Iterator[None]:
    """Raise ChildProcessError if the worker died."""
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise ChildProcessError(
            "the critic's worker process died (killed, or out of memory?); use critic.worker=never"
        ) from error


def _tensors(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return the critic's inputs, targets and old values."""
    return batch.inputs.observations[VECTOR], batch.returns, batch.old_values
