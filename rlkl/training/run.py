"""A run's folder while it goes on: loggers, checkpoints, signals, and the summary at the end."""

import math
import os
import platform
import shlex
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
from rlkl.rollouts.rollout import Episode, Rollout
from rlkl.training.checkpoint import BEST, LAST, as_bytes, numbered
from rlkl.training.evaluation import Evaluation, EvaluationStoppedError
from rlkl.training.learner import Learner
from rlkl.training.loggers import CSVLogger, Logger, TensorBoardLogger, write_json
from rlkl.training.nonfinite_guard import copied
from rlkl.training.progress import make_progress, print_summary
from rlkl.utils.atomic_files import Whereabouts, write_durably
from rlkl.utils.signals import stop_signal
from rlkl.utils.streams import tell
from rlkl.version import __version__

QUIET_STEPS = 5_000
"""Steps of each sub-environment without an episode's end that are worth a warning."""


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
            f"{kept[0]} is whole; once that is fixed, continue with: "
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
        eval_return: mean return of the evaluation after training, over the episodes that ended.
        eval_unended: how many of its episodes did not end within `eval_max_episode_steps`.
        eval_seconds: of all evaluations.
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
    eval_unended: int | None = None
    eval_seconds: float = 0.0


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
        self._evaluation: Evaluation | None = None
        before = before or {"wall_seconds": 0.0, "best": -math.inf}
        self._wall_before: float = before["wall_seconds"]
        self._evaluation_before: float = before.get("evaluation_seconds", 0.0)
        self._best: float = before["best"]
        self._best_policy: dict[str, Any] | None = before.get("best_policy")
        self._best_is_written = False
        self._unlogged: dict[str, Any] | None = before.get("unlogged")
        self._exact = exact and before.get("exact", True)
        self._quiet_since = learner.env_steps
        self._is_warned = self._is_told_of_limit = self._is_unevaluated = False
        self._versions, self._git_revision = _versions(), _git_revision()
        self._start, self._evaluation_seconds = time.perf_counter(), 0.0
        self._whole = True
        # The state that an inexact run begins with is one to resume from.
        is_kept = bool(kl_so_far or self._unlogged) and exact
        self._kept_at = learner.iterations if is_kept else -1
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
            is_short = learner.env_steps < learner.config.total_env_steps
            stopped = interrupted or is_short or self._is_unevaluated
            status = "failed" if failure else "stopped" if stopped else "finished"
            failure = _first(failure, lambda: self._close(status))
            reason = "interrupted twice" if interrupted else "interrupted" if stopped else ""
            if failure is not None:
                status, reason = "failed", f"{type(failure).__name__}: {failure}"
            summary = self._summary(status, reason, wall_seconds)
            failure = self._moved(_first(failure, lambda: self._write(summary)))
        if learner.config.logger.progress != "none":
            print_summary(asdict(summary), self.shown)
        if failure is not None and not isinstance(failure, Exception):
            # As it is, SystemExit would end the process with whatever code a callback chose.
            text = f"{type(failure).__name__}: {failure}: a logger or a callback ended the run"
            raise RuntimeError(text) from failure
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
        with writing(self.run_dir):  # the file may hold that of rows that are dropped
            self._write_best()

    def _iterate(self, stop: threading.Event) -> None:
        learner, config = self.learner, self.learner.config
        total, interval = config.total_env_steps, learner.checkpoint_interval
        display = make_progress(config.logger.progress, learner.title, total, learner.env_steps)
        with display:
            if self._unlogged is not None:
                episodes = [Episode(*episode) for episode in self._unlogged["episodes"]]
                self._end_iteration(episodes, self._unlogged["metrics"], {}, stop)
            elif learner.env_steps >= total:  # all that was missing is the end
                self._evaluate(stop)
            while learner.env_steps < total and not stop.is_set():
                self._whole = False
                rollout, metrics, histograms = learner.iterate()
                display.show(learner.env_steps, metrics)
                self._warn_of_endless_episodes(rollout)
                if not config.eval_interval:
                    self._note_best(learner.return_mean)
                self._end_iteration(rollout.episodes, metrics, histograms, stop)
                if learner.iterations % interval == 0 and self._unlogged is None:
                    self._keep()

    def _end_iteration(
        self,
        episodes: Sequence[Episode],
        metrics: Metrics,
        histograms: dict[str, torch.Tensor],
        stop: threading.Event,
    ) -> None:
        """Evaluate if it is time, and log the iteration.

        An evaluation that fails costs no row. One that is stopped after training leaves the row in
        the checkpoint; a resumed run evaluates and logs it.
        """
        learner, config = self.learner, self.learner.config
        is_last = learner.env_steps >= config.total_env_steps
        is_due = config.eval_interval > 0 and learner.iterations % config.eval_interval == 0
        if is_last and config.eval_episodes:
            self._unlogged = {"episodes": [tuple(e) for e in episodes], "metrics": dict(metrics)}
            self._whole = True
            self._keep_last()
        try:
            value = self._evaluate(stop) if is_last or is_due else math.nan
        except BaseException:
            if self._unlogged is None or not stop.is_set():
                self._log(episodes, metrics, histograms)
            raise
        if value is None and self._unlogged is not None:
            return
        metrics["return/eval"] = math.nan if value is None else value
        self._log(episodes, metrics, histograms)

    def _evaluate(self, stop: threading.Event) -> float | None:
        """Return the mean return of an evaluation: NaN if none is asked for, None if stopped."""
        learner, config = self.learner, self.learner.config
        if not config.eval_episodes:
            return math.nan
        is_last = learner.env_steps >= config.total_env_steps
        start = time.perf_counter()
        try:
            evaluation = learner.evaluate(stop.is_set)
        except EvaluationStoppedError:
            self._is_unevaluated = is_last
            return None
        finally:
            self._evaluation_seconds += time.perf_counter() - start
        warning = evaluation.warning(config.eval_max_episode_steps, "eval_max_episode_steps")
        if warning and (is_last or not self._is_told_of_limit):
            self._is_told_of_limit = True
            tell(warning)
        if is_last:
            self._evaluation = evaluation
        if config.eval_interval:
            self._note_best(evaluation.mean_return)
        return evaluation.mean_return

    def _note_best(self, value: float) -> None:
        """Hold a copy of the policy if it is the best so far; the next checkpoint writes it."""
        if value > self._best:
            self._best = value
            self._best_policy = copied(self.learner.policy_state())
            self._best_is_written = False

    def _warn_of_endless_episodes(self, rollout: Rollout) -> None:
        """Say once that no episode has ended for long: there is no return to learn from."""
        learner = self.learner
        if rollout.episodes:
            self._quiet_since = learner.env_steps
        each = (learner.env_steps - self._quiet_since) // learner.config.env.num_envs
        is_long = each > max(QUIET_STEPS, 2 * max(learner.recent_lengths, default=0))
        is_end = not learner.episodes and learner.env_steps >= learner.config.total_env_steps
        if (is_long or is_end) and not self._is_warned:
            self._is_warned = True
            tell(
                f"no episode has ended in the last {each:,} steps of each sub-environment, so "
                "there is no new training return; if episodes may never end, give them a limit, "
                "such as env.kwargs.max_episode_steps=1000"
            )

    def _log(
        self, episodes: Sequence[Episode], metrics: Metrics, histograms: dict[str, torch.Tensor]
    ) -> None:
        with writing(self.run_dir):
            for logger in self._loggers:
                logger.log_episodes(episodes)
                logger.log(self.learner.env_steps, metrics, histograms)
        self._whole = True
        if self._unlogged is not None:  # the checkpoint that holds the row is out of date
            self._unlogged, self._kept_at = None, -1

    def _keep(self) -> None:
        """Keep the state as the rule wants it; the environments may be recreated here."""
        learner = self.learner
        if learner.begins_anew and learner.iterations:
            learner.begin_anew()
        with writing(self.run_dir):
            if self._csv is not None:  # a checkpoint never knows of rows that may be lost
                self._csv.sync()
            content = as_bytes(self._state(resumable=True))
            write_durably(self.checkpoints / f"step_{learner.env_steps}.pt", content)
            write_durably(self.checkpoints / LAST, content)
            for path in numbered(self.checkpoints)[learner.config.checkpoint.keep :]:
                path.unlink()
            self._write_best()
        self._kept_at = learner.iterations

    def _keep_last(self) -> None:
        """Keep the state at the end; from within an iteration the policy is of use, and no more."""
        if self._kept_at == self.learner.iterations:
            return
        with writing(self.run_dir):
            if self._csv is not None:
                self._csv.sync()
            # Environments are recreated only at checkpoints of the rule.
            resumable = self._whole and not self.learner.begins_anew
            content = as_bytes(self._state(resumable=resumable))
            write_durably(self.checkpoints / LAST, content)
            self._write_best()
        self._kept_at = self.learner.iterations

    def _write_best(self) -> None:
        """Write the best policy, unless its file has it; every state has it too.

        So a run that is resumed has the best of the rows that are kept, whatever the file holds.
        """
        if self._best_policy is not None and not self._best_is_written:
            content = self._state(resumable=False) | self._best_policy
            content["run"] = content["run"] | {"best_policy": None}
            write_durably(self.checkpoints / BEST, as_bytes(content))
            self._best_is_written = True

    def _state(self, *, resumable: bool) -> dict[str, Any]:
        return self.learner.state_dict() | {
            "run": {
                "wall_seconds": self.wall_seconds,
                "evaluation_seconds": self._evaluation_before + self._evaluation_seconds,
                "best": self._best,
                "best_policy": self._best_policy,
                "unlogged": self._unlogged,
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
        advice = f"; continue with: rlkl resume {shlex.quote(str(now))}" * (now is not None)
        return FolderError(f"{self.run_dir} was {moved} while the run was writing to it{advice}")

    def _summary(self, status: str, reason: str, wall_seconds: float) -> Summary:
        learner, evaluation = self.learner, self._evaluation
        any_episode = bool(learner.recent_returns)
        return Summary(
            status=status,
            reason=reason,
            env_steps=learner.env_steps,
            iterations=learner.iterations,
            episodes=learner.episodes,
            return_mean=learner.return_mean if any_episode else None,
            return_best=learner.return_best if any_episode else None,
            eval_return=_number(evaluation.mean_return) if evaluation else None,
            wall_seconds=wall_seconds,
            env_steps_per_second=learner.env_steps / wall_seconds if wall_seconds else None,
            seed=learner.config.seed,
            algo=learner.config.algo.name,
            env_id=learner.config.env.id,
            versions=self._versions,
            git_revision=self._git_revision,
            hardware=_hardware(learner.config.device),
            exact=self._exact,
            eval_unended=len(evaluation.unended) if evaluation else None,
            eval_seconds=self._evaluation_before + self._evaluation_seconds,
        )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _git_revision() -> str | None:
    root = Path(__file__).parents[2]
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
    except KeyboardInterrupt:
        raise
    except BaseException as error:
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
