"""Write the checkpoints of a run."""

import math
import time
from pathlib import Path
from typing import Any

from rlkl.training.callbacks import Callbacks
from rlkl.training.checkpoint import BEST, LAST, as_bytes, numbered
from rlkl.training.learner import Learner
from rlkl.training.loggers import CSVLogger
from rlkl.training.nonfinite_guard import copied
from rlkl.training.run_folder import writing
from rlkl.training.summary import git_revision, versions
from rlkl.utils.atomic_files import write_durably


class RunRecord:
    """What a checkpoint stores of a run besides the learner's state, as its entry `run`.

    Args:
        before: that entry, in a resumed run.
        exact: whether the results will equal an uninterrupted run's.

    Attributes:
        evaluation_seconds: time of all evaluations.
        best: the best return so far.
        best_policy: the policy with that return, as of `Learner.policy_state`.
        unlogged: scalars and episodes of the last iteration, until its evaluation is finished.
        stop_reason: why a callback ended the run; empty if none did.
        tracker: name and run of the tracker, as `wandb:ID`; empty without one.
    """

    def __init__(self, before: dict[str, Any], *, exact: bool) -> None:
        self._start: float = time.perf_counter() - before.get("wall_seconds", 0.0)
        self.evaluation_seconds: float = before.get("evaluation_seconds", 0.0)
        self.best: float = before.get("best", -math.inf)
        self.best_policy: dict[str, Any] | None = before.get("best_policy")
        self.unlogged: dict[str, Any] | None = before.get("unlogged")
        self.exact = exact and before.get("exact", True)
        self.stop_reason: str = before.get("stop_reason", "")
        self.tracker: str = before.get("tracker", "")

    @property
    def wall_seconds(self) -> float:
        """Time of training so far, without evaluations."""
        return time.perf_counter() - self._start

    def add_evaluation(self, seconds: float) -> None:
        """Count time as evaluation, not as training."""
        self.evaluation_seconds += seconds
        self._start += seconds

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of a checkpoint."""
        public = {key: value for key, value in vars(self).items() if not key.startswith("_")}
        return public | {"wall_seconds": self.wall_seconds}


def recreate_environments(learner: Learner) -> None:
    """Recreate environments that cannot be restored, as every rank does at a checkpoint."""
    is_last = learner.env_steps >= learner.config.total_env_steps
    if learner.resets_at_checkpoints and learner.iterations and not is_last:
        learner.recreate_environments()


class CheckpointWriter:
    """Writes the checkpoints of a run: `step_<N>.pt`, `last.pt` and `best.pt`.

    Attributes:
        csv: flushed before each checkpoint; None until it is open.
        saved_iteration: iteration of the newest checkpoint; -1 if there is none, or it is outdated.
        is_between_iterations: whether the last iteration is complete and logged.
        origin: versions and git revision at the start of the run.
    """

    def __init__(
        self, learner: Learner, run_dir: Path, record: RunRecord, callbacks: Callbacks
    ) -> None:
        self.learner, self.run_dir, self.record = learner, run_dir, record
        self.callbacks = callbacks
        self.folder = run_dir / "checkpoints"
        self.csv: CSVLogger | None = None
        self.saved_iteration = -1
        self.is_between_iterations = True
        self.origin: dict[str, Any] = {"versions": versions(), "git_revision": git_revision()}
        self._best_is_written = False

    def note_best(self, value: float) -> None:
        """Copy the policy if it is the best so far; the next checkpoint writes it."""
        if value > self.record.best:
            self.record.best, self._best_is_written = value, False
            self.record.best_policy = copied(self.learner.policy_state())

    def save(self) -> None:
        """Write a regular checkpoint; recreate environments that cannot be restored."""
        recreate_environments(self.learner)
        self._write([f"step_{self.learner.env_steps}.pt", LAST], resumable=True)

    def save_last(self) -> None:
        """Write `last.pt` at the end; after a failed iteration it is only good for its policy."""
        if self.saved_iteration != self.learner.iterations:
            # Environments are recreated only at regular checkpoints.
            resumable = self.is_between_iterations and not self.learner.resets_at_checkpoints
            self._write([LAST], resumable=resumable)

    def _write(self, names: list[str], *, resumable: bool) -> None:
        with writing(self.run_dir):
            if self.csv is not None:  # before the checkpoint, which stores the number of rows
                self.csv.sync()
            content = as_bytes(self._state(resumable=resumable))
            for name in names:
                write_durably(self.folder / name, content)
            for path in numbered(self.folder)[self.learner.config.checkpoint.keep :]:
                path.unlink()
        self.save_best()
        self.saved_iteration = self.learner.iterations

    def save_best(self) -> None:
        """Write `best.pt` if it is outdated; a resumed run has the policy from its checkpoint."""
        if self.record.best_policy is not None and not self._best_is_written:
            content = self._state(resumable=False) | self.record.best_policy
            content["run"] = content["run"] | {"best_policy": None}
            with writing(self.run_dir):
                write_durably(self.folder / BEST, as_bytes(content))
            self._best_is_written = True

    def _state(self, *, resumable: bool) -> dict[str, Any]:
        files = self.csv.digests() if self.csv is not None else {}
        state = self.learner.state_dict()
        # The state of environments is lost when a worker process of theirs dies.
        is_lost = state["collector"]["under_way"] is None
        resumable = resumable and (self.learner.resets_at_checkpoints or not is_lost)
        run = self.record.as_dict() | {"files": files}
        if states := self.callbacks.state_dict():
            run["callbacks"] = states
        return state | {
            "run": run,
            "resumable": resumable,
            "whole": self.is_between_iterations,
            **self.origin,
        }
