"""Run a learner to the end: loggers, checkpoints, signals, and the summary in the run's folder."""

import math
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import torch

from rlkl.rollouts.rollout import Episode
from rlkl.training.callbacks import Callback, Callbacks
from rlkl.training.checkpoint_writer import CheckpointWriter, RunRecord, recreate_environments
from rlkl.training.evaluation import Evaluation, EvaluationStoppedError
from rlkl.training.learner import Learner
from rlkl.training.loggers import Logger, open_csv, write_json
from rlkl.training.nonfinite_guard import BadUpdate, BadUpdatesError
from rlkl.training.progress import make_progress, print_summary
from rlkl.training.report import Report
from rlkl.training.resource_checks import DeviceMemoryError
from rlkl.training.run_folder import FolderError, writing
from rlkl.training.summary import Summary, hardware
from rlkl.training.trackers import open_tracker
from rlkl.utils.atomic_files import FolderTracker, write_durably
from rlkl.utils.errors import RankError
from rlkl.utils.signals import stop_signal
from rlkl.utils.streams import tell

QUIET_STEPS = 5_000
"""Steps of each sub-environment without the end of an episode that cause a warning."""


class Run:
    """Iterates a learner to the end of its budget, and writes the run's folder.

    Args:
        before: entry `run` of the checkpoint, in a resumed run.
        exact: whether the results will equal an uninterrupted run's.
        shown: the folder as the user typed it.
        callbacks: called in this order.
    """

    def __init__(
        self,
        learner: Learner,
        run_dir: Path,
        shown: Path,
        before: dict[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
        *,
        exact: bool = True,
    ) -> None:
        self.learner, self.run_dir, self.shown = learner, run_dir, shown
        before = before or {}
        self.record = RunRecord(before, exact=exact)
        self.callbacks = Callbacks(callbacks, before.get("callbacks"))
        self.checkpoints = CheckpointWriter(learner, run_dir, self.record, self.callbacks)
        if exact and learner.iterations:  # an inexact run writes a checkpoint at its start
            self.checkpoints.saved_iteration = learner.iterations
        self._folder_tracker = FolderTracker(run_dir)
        self._loggers: list[Logger] = []
        self._final_evaluation: Evaluation | None = None
        self._final_evaluation_stopped = False
        self._last_episode_end = learner.env_steps
        self._warned_of_endless_episodes = self._warned_of_limit = False
        self._is_iterating = False  # on several ranks: whether the others are in an iteration too

    def go(self, more_loggers: Sequence[Logger] = (), kl_so_far: Sequence[float] = ()) -> Summary:
        """Run to the end of the budget or until a signal; write and return the summary.

        Exceptions, such as `FolderError`, are raised again after `summary.json` is written.

        Args:
            more_loggers: called after those of the config.
            kl_so_far: KL(π_old ‖ π_θ) of each iteration so far, in nats.
        """
        learner, interrupted, failure = self.learner, False, None
        with stop_signal(once=learner.ranks.size == 1) as stop, closing(self._folder_tracker):
            try:
                self._open(more_loggers, kl_so_far)
                self._iterate(stop)
            except KeyboardInterrupt:
                interrupted = True
            except BaseException as error:  # raised again at the end
                failure = error
                self._release_others()
            wall_seconds = self.record.wall_seconds
            failure = _first_failure(failure, self.checkpoints.save_last)
            stopped = interrupted or not self._is_over or self._final_evaluation_stopped
            status = "failed" if failure else "stopped" if stopped else "finished"
            reason = "interrupted" if stopped else self.record.stop_reason
            reason = "interrupted twice" if interrupted else reason

            def summarized() -> Summary:
                if failure is not None:
                    text = f"{type(failure).__name__}: {failure}"
                    return self._summary("failed", text, wall_seconds)
                return self._summary(status, reason, wall_seconds)

            ended = summarized()
            failure = _first_failure(failure, lambda: self.callbacks.end(learner, ended))
            status = "failed" if failure else status
            failure = _first_failure(failure, lambda: self._close(status))
            summary = summarized()
            failure = self._moved(_first_failure(failure, lambda: self._write(summary)))
            if not self._is_iterating:  # else the others failed too, or see this process end
                with suppress(RankError):
                    learner.ranks.gather(summary)
            # Before the handlers are restored: torchrun ends the ranks that are left with SIGTERM.
            if learner.config.logger.progress != "none":
                print_summary(summary.content(), self.shown)
        if isinstance(failure, Exception):
            raise failure
        if failure is not None:  # a SystemExit would end the process with a callback's exit code
            text = f"{type(failure).__name__}: {failure}: a logger or a callback ended the run"
            raise RuntimeError(text) from failure
        return summary

    def _open(self, more_loggers: Sequence[Logger], kl_so_far: Sequence[float]) -> None:
        learner, config = self.learner, self.learner.resolved_config
        with writing(self.run_dir):
            self.checkpoints.folder.mkdir(exist_ok=True)
            csv = open_csv(self.run_dir, config.logger, self.callbacks.tags)
            self.checkpoints.csv = csv
            self._loggers.append(csv)
            if config.logger.tensorboard:  # imported here because it takes a second
                from rlkl.training.tensorboard import TensorBoardLogger  # noqa: PLC0415

                self._loggers.append(
                    TensorBoardLogger(self.run_dir, config, learner.env_steps, kl_so_far)
                )
        if (tracker := open_tracker(self.run_dir, config, self.record.tracker)) is not None:
            self._loggers.append(tracker)
            self.record.tracker = f"{tracker.name}:{tracker.run_id}"
        self._loggers += more_loggers
        self.callbacks.begin(learner, self.run_dir)
        if self.checkpoints.saved_iteration < 0:
            self.checkpoints.save()
        self.checkpoints.save_best()  # the file may be from dropped rows

    def _iterate(self, stop: threading.Event) -> None:
        learner, config = self.learner, self.learner.config
        total, start = config.total_env_steps, learner.env_steps
        interval = learner.checkpoint_interval
        with make_progress(config.logger.progress, learner.title, total, start) as display:
            if unlogged := self.record.unlogged:
                episodes = [Episode(*episode) for episode in unlogged["episodes"]]
                report = Report(learner.env_steps, unlogged["metrics"], {}, episodes)
                self._end_iteration(report, stop)
            elif self._is_over:  # only the final evaluation is missing
                self._evaluate(Report(learner.env_steps, {}, {}), stop)
            while learner.env_steps < total:
                if learner.ranks.any(stop.is_set() or bool(self.record.stop_reason)):
                    break
                self.checkpoints.is_between_iterations, self._is_iterating = False, True
                try:
                    report = learner.iterate()
                except BadUpdatesError as error:
                    self._write_bad_update(error.bad_update)
                    raise
                except torch.OutOfMemoryError as error:
                    parameters = learner.policy.num_parameters
                    raise DeviceMemoryError(error, config, parameters) from error
                self._is_iterating = False
                if report.bad_update is not None:
                    self._write_bad_update(report.bad_update)
                display.show(report)
                self._warn(report)
                if not config.eval_interval:
                    self.checkpoints.note_best(learner.tracker.return_mean)
                self._after_update(report)
                self._end_iteration(report, stop)
                if learner.iterations % interval == 0:
                    if self.record.unlogged is None:
                        self.checkpoints.save()
                    else:
                        recreate_environments(learner)

    @property
    def _is_over(self) -> bool:
        """Whether the budget is used, or a callback has ended the run."""
        is_used = self.learner.env_steps >= self.learner.config.total_env_steps
        return is_used or bool(self.record.stop_reason)

    def _after_update(self, report: Report) -> None:
        """Call the callbacks; log the iteration even if one fails."""
        try:
            self.callbacks.all("on_update", self.learner, report)
        except BaseException:
            self._log(report)
            raise
        self.record.stop_reason = self.record.stop_reason or self.callbacks.stop_reason

    def _release_others(self) -> None:
        """Let the other ranks stop, if they wait for this one's stop flag."""
        if not self._is_iterating and self.learner.env_steps < self.learner.config.total_env_steps:
            with suppress(RankError):
                self.learner.ranks.any(True)

    def _write_bad_update(self, bad: BadUpdate) -> None:
        """Write the batch of a reverted update, and report it."""
        path = self.run_dir / "bad_updates" / f"iteration_{bad.iteration}.pt"
        with writing(self.run_dir):
            path.parent.mkdir(exist_ok=True)
            write_durably(path, bad.as_bytes())
        tell(f"iteration {bad.iteration}: update reverted (not finite: {bad.culprit}); see {path}")

    def _end_iteration(self, report: Report, stop: threading.Event) -> None:
        """Evaluate if it is due, and log the iteration, even if the evaluation fails."""
        learner, config, record = self.learner, self.learner.config, self.record
        is_last = self._is_over
        is_due = config.eval_interval > 0 and learner.iterations % config.eval_interval == 0
        if is_last and config.eval_episodes:
            episodes = [tuple(episode) for episode in report.episodes]
            record.unlogged = {"episodes": episodes, "metrics": dict(report.scalars)}
            self.checkpoints.is_between_iterations = True
            self.checkpoints.save_last()
        try:
            was_stopped = (is_last or is_due) and self._evaluate(report, stop)
        except BaseException:
            if record.unlogged is None or not stop.is_set():
                self._log(report)
            raise
        if not was_stopped or record.unlogged is None:  # else a resumed run evaluates and logs it
            self._log(report)

    def _evaluate(self, report: Report, stop: threading.Event) -> bool:
        """Evaluate, and add the mean return to the report; return whether the user stopped it."""
        learner, config = self.learner, self.learner.config
        if not config.eval_episodes:
            return False
        is_last = self._is_over
        start = time.perf_counter()
        try:
            evaluation = learner.evaluate(stop.is_set)
        except EvaluationStoppedError:
            self._final_evaluation_stopped = is_last
            return True
        finally:
            self.record.add_evaluation(time.perf_counter() - start)
        warning = evaluation.warning(config.eval_max_episode_steps, "eval_max_episode_steps")
        if warning and (is_last or not self._warned_of_limit):
            self._warned_of_limit = True
            tell(warning)
        if config.eval_interval:
            self.checkpoints.note_best(evaluation.mean_return)
        report.scalars["return/eval"] = evaluation.mean_return
        self.callbacks.all("on_evaluation", learner, report, evaluation)
        self.record.stop_reason = self.record.stop_reason or self.callbacks.stop_reason
        if self._is_over:
            self._final_evaluation = evaluation
        return False

    def _warn(self, report: Report) -> None:
        """Warn once if no episode has ended for a long time, or if infos lack a key."""
        learner = self.learner
        if report.episodes:
            self._last_episode_end = learner.env_steps
            if missing := learner.infos.warning(learner.config.env.id):
                tell(missing)
        steps = (learner.env_steps - self._last_episode_end) // learner.config.env.num_envs
        is_long = steps > max(QUIET_STEPS, 2 * learner.tracker.longest)
        is_end = not learner.tracker.count and learner.env_steps >= learner.config.total_env_steps
        if (is_long or is_end) and not self._warned_of_endless_episodes:
            self._warned_of_endless_episodes = True
            tell(
                f"no episode has ended in the last {steps:,} steps of each sub-environment, so "
                "there is no training return; if episodes may never end, set a limit, such as "
                "env.kwargs.max_episode_steps=1000"
            )

    def _log(self, report: Report) -> None:
        with writing(self.run_dir):
            for logger in self._loggers:
                logger.log(report)
        self.checkpoints.is_between_iterations = True
        if self.record.unlogged is not None:  # the checkpoint with this row is outdated
            self.record.unlogged, self.checkpoints.saved_iteration = None, -1

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
            write_json(run_dir / "summary.json", summary.content())

    def _moved(self, failure: BaseException | None) -> BaseException | None:
        """Return the failure, or its cause if the folder was moved or deleted."""
        now = self._folder_tracker.current_path()
        if now == self.run_dir or not isinstance(failure, FolderError):
            return failure
        moved = f"moved to {now}" if now else "moved or deleted"
        advice = f"; continue with: rlkl resume {shlex.quote(str(now))}" * (now is not None)
        return FolderError(f"{self.run_dir} was {moved} while the run was writing to it{advice}")

    def _summary(self, status: str, reason: str, wall_seconds: float) -> Summary:
        learner, tracker, evaluation = self.learner, self.learner.tracker, self._final_evaluation
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
            **self.checkpoints.origin,
            hardware=hardware(learner.config.device),
            exact=self.record.exact,
            eval_unended=len(evaluation.unended) if evaluation else None,
            eval_seconds=self.record.evaluation_seconds,
            run_dir=self.run_dir,
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
