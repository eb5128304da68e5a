"""Run a learner to the end: loggers, checkpoints, signals, and the summary in the run's folder."""

import math
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlkl.rollouts.rollout import Episode
from rlkl.training.checkpoint import BEST, LAST, as_bytes, numbered
from rlkl.training.evaluation import Evaluation, EvaluationStoppedError
from rlkl.training.learner import Learner
from rlkl.training.loggers import CSVLogger, Logger, TensorBoardLogger, write_json
from rlkl.training.nonfinite_guard import BadUpdate, BadUpdatesError, copied
from rlkl.training.progress import make_progress, print_summary
from rlkl.training.report import Report
from rlkl.training.run_folder import FolderError, writing
from rlkl.training.summary import Summary, git_revision, hardware, versions
from rlkl.utils.atomic_files import FolderTracker, write_durably
from rlkl.utils.signals import stop_signal
from rlkl.utils.streams import tell

QUIET_STEPS = 5_000
"""Steps of each sub-environment without the end of an episode that cause a warning."""


class Run:
    """Iterates a learner to the end of its budget, and writes the run's folder.

    Args:
        also: more loggers, called after those of the config.
        before: entry `run` of the checkpoint, in a resumed run.
        kl_so_far: KL(π_old ‖ π_θ) of each iteration so far, in nats.
        exact: whether the results will equal an uninterrupted run's.
        shown: the folder as the user typed it.
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
        self.learner, self.run_dir, self.shown = learner, run_dir, shown or run_dir
        self._folder_tracker = FolderTracker(run_dir)
        self.checkpoints = run_dir / "checkpoints"
        self._evaluation: Evaluation | None = None
        before = before or {"wall_seconds": 0.0, "best": -math.inf}
        self._wall_before: float = before["wall_seconds"]
        self._evaluation_before: float = before.get("evaluation_seconds", 0.0)
        self._best: float = before["best"]
        self._best_policy: dict[str, Any] | None = before.get("best_policy")
        self._best_is_written, self._whole = False, True
        self._unlogged: dict[str, Any] | None = before.get("unlogged")
        self._exact = exact and before.get("exact", True)
        self._quiet_since = learner.env_steps
        self._is_warned = self._is_told_of_limit = self._is_unevaluated = False
        self._versions, self._git_revision = versions(), git_revision()
        self._start, self._evaluation_seconds = time.perf_counter(), 0.0
        # An inexact run writes a new checkpoint at its start.
        self._kept_at = learner.iterations if exact and (kl_so_far or self._unlogged) else -1
        self._csv: CSVLogger | None = None
        self._loggers: list[Logger] = []
        self._also, self._kl_so_far = also, kl_so_far

    @property
    def wall_seconds(self) -> float:
        """Time of training so far, including the time before a resume."""
        return self._wall_before + time.perf_counter() - self._start - self._evaluation_seconds

    def go(self) -> Summary:
        """Run to the end of the budget or until a signal; write and return the summary.

        Exceptions, such as `FolderError`, are raised again after `summary.json` is written.
        """
        learner, interrupted, failure = self.learner, False, None
        with stop_signal() as stop, closing(self._folder_tracker):
            try:
                self._open()
                self._iterate(stop)
            except KeyboardInterrupt:
                interrupted = True
            except BaseException as error:  # raised again at the end
                failure = error
            wall_seconds = self.wall_seconds
            failure = _first_failure(failure, self._keep_last)
            is_short = learner.env_steps < learner.config.total_env_steps
            stopped = interrupted or is_short or self._is_unevaluated
            status = "failed" if failure else "stopped" if stopped else "finished"
            failure = _first_failure(failure, lambda: self._close(status))
            reason = "interrupted twice" if interrupted else "interrupted" if stopped else ""
            if failure is not None:
                status, reason = "failed", f"{type(failure).__name__}: {failure}"
            summary = self._summary(status, reason, wall_seconds)
            failure = self._moved(_first_failure(failure, lambda: self._write(summary)))
        if learner.config.logger.progress != "none":
            print_summary(asdict(summary), self.shown)
        if isinstance(failure, Exception):
            raise failure
        if failure is not None:  # a SystemExit would end the process with a callback's exit code
            text = f"{type(failure).__name__}: {failure}: a logger or a callback ended the run"
            raise RuntimeError(text) from failure
        return summary

    def _open(self) -> None:
        learner, config = self.learner, self.learner.resolved_config
        with writing(self.run_dir):
            self.checkpoints.mkdir(exist_ok=True)
            self._csv = CSVLogger(self.run_dir)
            self._loggers.append(self._csv)
            if config.logger.tensorboard:
                kl = self._kl_so_far
                self._loggers.append(TensorBoardLogger(self.run_dir, config, learner.env_steps, kl))
        self._loggers += self._also
        if self._kept_at < 0:
            self._keep()
        with writing(self.run_dir):  # the file may be from dropped rows
            self._write_best()

    def _iterate(self, stop: threading.Event) -> None:
        learner, config = self.learner, self.learner.config
        total, start = config.total_env_steps, learner.env_steps
        interval = learner.checkpoint_interval
        with make_progress(config.logger.progress, learner.title, total, start) as display:
            if self._unlogged is not None:
                episodes = [Episode(*episode) for episode in self._unlogged["episodes"]]
                report = Report(learner.env_steps, self._unlogged["metrics"], {}, episodes)
                self._end_iteration(report, stop)
            elif learner.env_steps >= total:  # only the final evaluation is missing
                self._evaluate(stop)
            while learner.env_steps < total and not stop.is_set():
                self._whole = False
                try:
                    report = learner.iterate()
                except BadUpdatesError as error:
                    self._keep_bad_update(error.bad_update)
                    raise
                if report.bad_update is not None:
                    self._keep_bad_update(report.bad_update)
                display.show(report)
                self._warn_of_endless_episodes(report)
                if not config.eval_interval:
                    self._note_best(learner.tracker.return_mean)
                self._end_iteration(report, stop)
                if learner.iterations % interval == 0 and self._unlogged is None:
                    self._keep()

    def _keep_bad_update(self, bad: BadUpdate) -> None:
        """Write the batch of a reverted update, and report it."""
        path = self.run_dir / "bad_updates" / f"iteration_{bad.iteration}.pt"
        with writing(self.run_dir):
            path.parent.mkdir(exist_ok=True)
            write_durably(path, bad.as_bytes())
        tell(f"iteration {bad.iteration}: update reverted (not finite: {bad.culprit}); see {path}")

    def _end_iteration(self, report: Report, stop: threading.Event) -> None:
        """Evaluate if it is due, and log the iteration, even if the evaluation fails."""
        learner, config = self.learner, self.learner.config
        is_last = learner.env_steps >= config.total_env_steps
        is_due = config.eval_interval > 0 and learner.iterations % config.eval_interval == 0
        if is_last and config.eval_episodes:
            episodes = [tuple(episode) for episode in report.episodes]
            self._unlogged = {"episodes": episodes, "metrics": dict(report.scalars)}
            self._whole = True
            self._keep_last()
        try:
            value = self._evaluate(stop) if is_last or is_due else math.nan
        except BaseException:
            if self._unlogged is None or not stop.is_set():
                self._log(report)
            raise
        if value is None and self._unlogged is not None:  # a resumed run evaluates and logs it
            return
        report.scalars["return/eval"] = math.nan if value is None else value
        self._log(report)

    def _evaluate(self, stop: threading.Event) -> float | None:
        """Return the mean return of an evaluation: NaN without episodes, None if stopped."""
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
        """Copy the policy if it is the best so far; the next checkpoint writes it."""
        if value > self._best:
            self._best, self._best_is_written = value, False
            self._best_policy = copied(self.learner.policy_state())

    def _warn_of_endless_episodes(self, report: Report) -> None:
        """Warn once if no episode has ended for a long time."""
        learner = self.learner
        if report.episodes:
            self._quiet_since = learner.env_steps
        each = (learner.env_steps - self._quiet_since) // learner.config.env.num_envs
        is_long = each > max(QUIET_STEPS, 2 * learner.tracker.longest)
        is_end = not learner.tracker.count and learner.env_steps >= learner.config.total_env_steps
        if (is_long or is_end) and not self._is_warned:
            self._is_warned = True
            tell(
                f"no episode has ended in the last {each:,} steps of each sub-environment, so "
                "there is no training return; if episodes may never end, set a limit, such as "
                "env.kwargs.max_episode_steps=1000"
            )

    def _log(self, report: Report) -> None:
        with writing(self.run_dir):
            for logger in self._loggers:
                logger.log(report)
        self._whole = True
        if self._unlogged is not None:  # the checkpoint with this row is out of date
            self._unlogged, self._kept_at = None, -1

    def _keep(self) -> None:
        """Write a regular checkpoint; recreate environments that cannot be restored."""
        learner = self.learner
        if learner.resets_at_checkpoints and learner.iterations:
            learner.recreate_environments()
        with writing(self.run_dir):
            if self._csv is not None:  # before the checkpoint, which stores the number of rows
                self._csv.sync()
            content = as_bytes(self._state(resumable=True))
            write_durably(self.checkpoints / f"step_{learner.env_steps}.pt", content)
            write_durably(self.checkpoints / LAST, content)
            for path in numbered(self.checkpoints)[learner.config.checkpoint.keep :]:
                path.unlink()
            self._write_best()
        self._kept_at = learner.iterations

    def _keep_last(self) -> None:
        """Write `last.pt` at the end; after a failed iteration it is only good for its policy."""
        if self._kept_at == self.learner.iterations:
            return
        with writing(self.run_dir):
            if self._csv is not None:
                self._csv.sync()
            # Environments are recreated only at regular checkpoints.
            resumable = self._whole and not self.learner.resets_at_checkpoints
            write_durably(self.checkpoints / LAST, as_bytes(self._state(resumable=resumable)))
            self._write_best()
        self._kept_at = self.learner.iterations

    def _write_best(self) -> None:
        """Write `best.pt` if it is out of date; a resumed run reads the copy in its checkpoint."""
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
            with writing(self.run_dir), ExitStack() as every:  # closes all, even if one fails
                for logger in reversed(self._loggers):
                    every.callback(logger.close, status)
        finally:
            self.learner.close()

    def _write(self, summary: Summary) -> None:
        run_dir = self._folder_tracker.current_path() or self.run_dir
        with writing(run_dir):
            write_json(run_dir / "summary.json", asdict(summary))

    def _moved(self, failure: BaseException | None) -> BaseException | None:
        """Return the failure, or its cause if the folder was moved or deleted."""
        now = self._folder_tracker.current_path()
        if now == self.run_dir or not isinstance(failure, FolderError):
            return failure
        moved = f"moved to {now}" if now else "moved or deleted"
        advice = f"; continue with: rlkl resume {shlex.quote(str(now))}" * (now is not None)
        return FolderError(f"{self.run_dir} was {moved} while the run was writing to it{advice}")

    def _summary(self, status: str, reason: str, wall_seconds: float) -> Summary:
        learner, tracker, evaluation = self.learner, self.learner.tracker, self._evaluation
        eval_return = evaluation.mean_return if evaluation else math.nan
        return Summary(
            status=status,
            reason=reason,
            env_steps=learner.env_steps,
            iterations=learner.iterations,
            episodes=tracker.count,
            return_mean=tracker.return_mean if tracker.count else None,
            return_best=tracker.return_best if tracker.count else None,
            eval_return=None if math.isnan(eval_return) else eval_return,
            wall_seconds=wall_seconds,
            env_steps_per_second=learner.env_steps / wall_seconds if wall_seconds else None,
            seed=learner.config.seed,
            algo=learner.config.algo.name,
            env_id=learner.config.env.id,
            versions=self._versions,
            git_revision=self._git_revision,
            hardware=hardware(learner.config.device),
            exact=self._exact,
            eval_unended=len(evaluation.unended) if evaluation else None,
            eval_seconds=self._evaluation_before + self._evaluation_seconds,
        )


def _first_failure(failure: BaseException | None, step: Callable[[], None]) -> BaseException | None:
    """Run one of the last steps of a run, and return the first failure so far."""
    try:
        step()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return failure or error
    return failure
