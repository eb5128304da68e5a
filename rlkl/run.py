"""A run's folder while it goes on: loggers, checkpoints, signals, and the summary at the end."""

import math
import os
import platform
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from rlkl.algos.base import Metrics
from rlkl.checkpoint import BEST, LAST, as_bytes, numbered, save_checkpoint
from rlkl.durable import Whereabouts, write_durably
from rlkl.learner import Learner
from rlkl.loggers import CSVLogger, Logger, TensorBoardLogger, write_json
from rlkl.progress import make_progress, print_summary
from rlkl.rollout import Rollout
from rlkl.version import __version__


class FolderError(Exception):
    """A run's folder cannot be written to; the message is one line and says what is kept."""


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """Turn what the disk refuses within into one line that says what stands.

    Args:
        run_dir: the run's folder.

    Raises:
        FolderError: something could not be written.
    """
    try:
        yield
    except OSError as error:
        kept = numbered(run_dir / "checkpoints")
        stands = (
            f"{kept[0]} is whole; once that is mended, go on with: "
            f"rlkl resume {shlex.quote(str(run_dir))}"
            if kept
            else "it has no checkpoint yet"
        )
        reason = error.strerror or str(error)
        raise FolderError(f"{run_dir} cannot be written to: {reason}; {stands}") from error


@dataclass
class Summary:
    """What a run came to: the content of `summary.json`.

    Attributes:
        status: `finished`, `stopped` (by the user) or `failed`.
        reason: why it stopped or failed, else empty.
        env_steps: made.
        iterations: made.
        episodes: finished while training.
        return_mean: training return, last 100 episodes; None before the first.
        return_best: the best such mean at the end of an iteration.
        eval_return: mean return of the evaluation after training.
        wall_seconds: of training, from its first environment step; evaluation is not counted.
        env_steps_per_second: over that time.
        seed, algo, env_id: what was run.
        versions: of rlkl and of what it stands on.
        git_revision: of rlkl's own checkout, if it is one.
        hardware: what it ran on at its end: `cpu`, how many `cpus`, and `gpu` if it used one.
        exact: whether it has the bits of a run that was never stopped; false for one that was
            resumed with `exact=False`.
    """

    status: str
    reason: str
    env_steps: int
    iterations: int
    episodes: int
    return_mean: float | None
    return_best: float | None
    eval_return: float | None
    wall_seconds: float
    env_steps_per_second: float | None
    seed: int
    algo: str
    env_id: str
    versions: dict[str, str]
    git_revision: str | None
    hardware: dict[str, str | int]
    exact: bool = True


class Run:
    """Iterates a learner to the end of its budget, and keeps what it reports.

    Args:
        learner: new, or as a checkpoint left it.
        run_dir: exists, and belongs to this process.
        also: loggers that are told of everything, behind those of the config.
        before: `run` of the checkpoint that is resumed from.
        kl_so_far: KL(π_old ‖ π_θ) of each iteration up to there, in nats.
        exact: whether it is resumed with the bits of a run that was never stopped.
        shown: the folder as it is typed.
    """

    def __init__(
        self,
        learner: Learner,
        run_dir: Path,
        also: Sequence[Logger] = (),
        before: dict[str, Any] | None = None,
        kl_so_far: Sequence[float] = (),
        *,
        exact: bool = True,
        shown: Path | None = None,
    ) -> None:
        self.learner = learner
        self.run_dir = run_dir
        self.shown = shown or run_dir
        self._whereabouts = Whereabouts(run_dir)
        self.checkpoints = run_dir / "checkpoints"
        self.eval_return: float | None = None
        before = before or {"wall_seconds": 0.0, "best": -math.inf}
        self._wall_before: float = before["wall_seconds"]
        self._best: float = before["best"]
        self._exact = exact and before.get("exact", True)
        self._versions, self._git_revision = _versions(), _git_revision()
        self._start, self._evaluation_seconds = time.perf_counter(), 0.0
        self._whole = True
        # The state that an inexact run begins with is one to resume from.
        self._kept_at = learner.iterations if kl_so_far and exact else -1
        self._csv: CSVLogger | None = None
        self._loggers: list[Logger] = []
        self._also, self._kl_so_far = also, kl_so_far

    @property
    def wall_seconds(self) -> float:
        """Of training so far, that before the run was resumed included."""
        return self._wall_before + time.perf_counter() - self._start - self._evaluation_seconds

    def go(self) -> Summary:
        """Run to the end of the budget, or until a signal.

        Returns:
            What the run came to; an exception is raised again after `summary.json` tells of it.

        Raises:
            FolderError: the folder cannot be written to.
        """
        learner = self.learner
        interrupted, failure = False, None
        with stop_signal() as stop, closing(self._whereabouts):
            try:
                self._open()
                self._iterate(stop)
            except KeyboardInterrupt:
                interrupted = True
            except BaseException as error:  # it is raised at the end
                failure = error
            wall_seconds = self.wall_seconds
            failure = _first(failure, self._keep_last)
            stopped = interrupted or learner.env_steps < learner.config.total_env_steps
            status = "failed" if failure else "stopped" if stopped else "finished"
            failure = _first(failure, lambda: self._close(status))
            reason = "interrupted twice" if interrupted else "interrupted" if stopped else ""
            if failure is not None:
                status, reason = "failed", f"{type(failure).__name__}: {failure}"
            summary = self._summary(status, reason, wall_seconds)
            failure = self._moved(_first(failure, lambda: self._write(summary)))
        if learner.config.logger.progress != "none":
            print_summary(asdict(summary), self.shown)
        if failure is not None:
            raise failure
        return summary

    def _open(self) -> None:
        learner, config = self.learner, self.learner.resolved_config
        with writing(self.run_dir):
            self.checkpoints.mkdir(exist_ok=True)
            learner.safeguard.folder = self.run_dir / "bad_updates"
            self._csv = CSVLogger(self.run_dir)
            self._loggers.append(self._csv)
            if config.logger.tensorboard:
                self._loggers.append(
                    TensorBoardLogger(self.run_dir, config, learner.env_steps, self._kl_so_far)
                )
        self._loggers += self._also
        if self._kept_at < 0:
            self._keep()

    def _iterate(self, stop: threading.Event) -> None:
        learner, config = self.learner, self.learner.config
        total, interval = config.total_env_steps, learner.checkpoint_interval
        display = make_progress(config.logger.progress, learner.title, total, learner.env_steps)
        with display:
            if learner.env_steps >= total:  # all that was missing is the end
                self._evaluate()
            while learner.env_steps < total and not stop.is_set():
                self._whole = False
                rollout, metrics, histograms = learner.iterate()
                display.show(learner.env_steps, metrics)
                try:
                    if learner.env_steps >= total or self._evaluation_is_due():
                        metrics["return/eval"] = self._evaluate()
                finally:  # an evaluation that fails costs no row
                    self._log(rollout, metrics, histograms)
                    self._whole = True
                if learner.iterations % interval == 0:
                    self._keep()

    def _evaluation_is_due(self) -> bool:
        interval = self.learner.config.eval_interval
        return interval > 0 and self.learner.iterations % interval == 0

    def _evaluate(self) -> float:
        """Evaluate, unless that is not asked for, and keep the policy if it is the best so far."""
        learner, start = self.learner, time.perf_counter()
        if not learner.config.eval_episodes:
            return math.nan
        mean_return = learner.evaluate()
        if learner.env_steps >= learner.config.total_env_steps:
            self.eval_return = mean_return
        if learner.config.eval_interval and mean_return > self._best:
            self._best = mean_return
            with writing(self.run_dir):
                state = self._state(resumable=not learner.begins_anew)
                save_checkpoint(self.checkpoints / BEST, state)
        self._evaluation_seconds += time.perf_counter() - start
        return mean_return

    def _log(self, rollout: Rollout, metrics: Metrics, histograms: dict[str, torch.Tensor]) -> None:
        with writing(self.run_dir):
            for logger in self._loggers:
                logger.log_episodes(rollout.episodes)
                logger.log(self.learner.env_steps, metrics, histograms)

    def _keep(self) -> None:
        """Keep the state as the rule wants it; the environments may begin anew here."""
        learner = self.learner
        if learner.begins_anew and learner.iterations:
            learner.begin_anew()
        with writing(self.run_dir):
            if self._csv is not None:  # a checkpoint never knows of rows that may be lost
                self._csv.sync()
            # With evaluations underway the best is theirs to tell.
            is_best = not learner.config.eval_interval and learner.return_mean > self._best
            if is_best:
                self._best = learner.return_mean
            content = as_bytes(self._state(resumable=True))
            if is_best:  # first, since the states that follow say that it is there
                write_durably(self.checkpoints / BEST, content)
            write_durably(self.checkpoints / f"step_{learner.env_steps}.pt", content)
            write_durably(self.checkpoints / LAST, content)
            for path in numbered(self.checkpoints)[learner.config.checkpoint.keep :]:
                path.unlink()
        self._kept_at = learner.iterations

    def _keep_last(self) -> None:
        """Keep the state at the end; from within an iteration the policy is of use, and no more."""
        if self._kept_at == self.learner.iterations:
            return
        with writing(self.run_dir):
            if self._csv is not None:
                self._csv.sync()
            # Elsewhere than at a checkpoint of the rule, environments do not begin anew.
            resumable = self._whole and not self.learner.begins_anew
            content = as_bytes(self._state(resumable=resumable))
            write_durably(self.checkpoints / LAST, content)

    def _state(self, *, resumable: bool) -> dict[str, Any]:
        return self.learner.state_dict() | {
            "run": {
                "wall_seconds": self.wall_seconds,
                "best": self._best,
                "files": self._csv.digests() if self._csv is not None else {},
                "exact": self._exact,
            },
            "resumable": resumable,
            "whole": self._whole,
            "versions": self._versions,
            "git_revision": self._git_revision,
        }

    def _close(self, status: str) -> None:
        try:
            with writing(self.run_dir), ExitStack() as every:  # even if one of them fails
                for logger in reversed(self._loggers):
                    every.callback(logger.close, status)
        finally:
            self.learner.close()

    def _write(self, summary: Summary) -> None:
        run_dir = self._whereabouts.now() or self.run_dir
        with writing(run_dir):
            write_json(run_dir / "summary.json", asdict(summary))

    def _moved(self, failure: BaseException | None) -> BaseException | None:
        """Return what failed, or where the folder is if that failed because it is elsewhere."""
        now = self._whereabouts.now()
        if now == self.run_dir or not isinstance(failure, FolderError):
            return failure
        moved = f"moved to {now}" if now else "moved or deleted"
        advice = f"; go on with: rlkl resume {shlex.quote(str(now))}" * (now is not None)
        return FolderError(f"{self.run_dir} was {moved} while the run was writing to it{advice}")

    def _summary(self, status: str, reason: str, wall_seconds: float) -> Summary:
        learner = self.learner
        any_episode = bool(learner.recent_returns)
        return Summary(
            status=status,
            reason=reason,
            env_steps=learner.env_steps,
            iterations=learner.iterations,
            episodes=learner.episodes,
            return_mean=learner.return_mean if any_episode else None,
            return_best=learner.return_best if any_episode else None,
            eval_return=self.eval_return,
            wall_seconds=wall_seconds,
            env_steps_per_second=learner.env_steps / wall_seconds if wall_seconds else None,
            seed=learner.config.seed,
            algo=learner.config.algo.name,
            env_id=learner.config.env.id,
            versions=self._versions,
            git_revision=self._git_revision,
            hardware=_hardware(learner.config.device),
            exact=self._exact,
        )


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into an event, and leave the next to Python."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    before: dict[int, Any] = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }

    def note(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(number, before[number])

    try:
        for number in before:
            signal.signal(number, note)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _git_revision() -> str | None:
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _first(failure: BaseException | None, end: Callable[[], None]) -> BaseException | None:
    """Do one of the things that end a run, and return what failed first, if anything did."""
    try:
        end()
    except Exception as error:
        return failure or error
    return failure


def _hardware(device: str) -> dict[str, str | int]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    found: dict[str, str | int] = {"cpu": next(names, platform.processor() or platform.machine())}
    found["cpus"] = os.cpu_count() or 1
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _versions() -> dict[str, str]:
    return {
        "rlkl": __version__,
        "python": platform.python_version(),
        **{package.__name__: str(package.__version__) for package in (torch, gymnasium, np)},
    }
