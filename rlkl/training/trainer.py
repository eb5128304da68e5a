"""Train, resume and complete runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlkl.envs.ids import check_module, substitute
from rlkl.models.own_networks import import_networks
from rlkl.models.policy import Policy
from rlkl.training.builtin_callbacks import callbacks_of
from rlkl.training.callbacks import Callback, check_callbacks
from rlkl.training.checkpoint import newest, taking_from
from rlkl.training.config import TrainConfig, another_run, changes, saved_config
from rlkl.training.device_speed import device_warning
from rlkl.training.follower import Order, Send, follow, leading, obey, receive
from rlkl.training.learner import Learner
from rlkl.training.loggers import Logger, as_yaml
from rlkl.training.resuming import (
    changes_end,
    check_unfinished,
    record_resume,
    recover_rows,
    rename_newer_best,
)
from rlkl.training.run import Run
from rlkl.training.run_folder import (
    RunStatus,
    check_folder,
    check_own_files,
    clean_up,
    make_run_dir,
    move_old_files,
    read_config,
    read_summary,
    run_status,
    writing,
)
from rlkl.training.start import closing_on_error, start
from rlkl.training.summary import Summary
from rlkl.training.trackers import check_tracker
from rlkl.utils.atomic_files import FolderLock, make_locked_folder, write_durably
from rlkl.utils.errors import ConfigError
from rlkl.utils.ranks import join_ranks
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.streams import failsafe_stdout, tell
from rlkl.utils.untrusted_files import reading

__all__ = ["Summary", "TrainConfig", "Trainer", "complete", "resume", "train"]

MOST_NOTE = 1000  # maximum length of a note that `resume` prints


class Trainer:
    """Trains a learner and writes a run folder. Nothing is written before `train`.

    Args:
        config: of the run.
        callbacks: called at the events of the run, after those of the config.
        loggers: get every report, after those of the config.

    Attributes:
        learner: the parts of the run.
        callbacks: those of the config and those given.
        loggers: those given.

    Raises:
        ConfigError: the environment, the device, the algorithm or a callback cannot be used.
    """

    def __init__(
        self,
        config: TrainConfig,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] = (),
    ) -> None:
        self._started_in = _working_directory()  # now, since an environment may change it
        self.callbacks, self.loggers = _all_callbacks(config, callbacks), list(loggers)
        import_networks(config.policy)
        self.learner = start(config)

    @property
    def policy(self) -> Policy:
        """The policy in training."""
        return self.learner.policy

    def close(self) -> None:
        """Close the environments; needed only without `train`."""
        self.learner.close()

    def train(self, loggers: Sequence[Logger] = ()) -> Summary:
        """Run to the end of the budget, and write the run's folder.

        Ctrl-C (SIGINT) and SIGTERM end the run after the current iteration, with status `stopped`;
        a second signal ends it immediately. SIGHUP (the terminal was closed) also ends the run
        after the iteration, unless it is ignored. Errors of the progress display do not end it.

        Args:
            loggers: more of them, called last.

        Returns:
            The summary. Exceptions are raised again after `summary.json` is written.
        """
        config, ranks = self.learner.config, self.learner.ranks
        with closing_on_error(self.learner):
            if not ranks.is_first:
                receive(ranks)
                return follow(self.learner)
            with leading(ranks) as send:
                as_yaml(asdict(self.learner.resolved_config))  # raises before a folder is made
                shown = make_run_dir(
                    config.run_dir, config.env.id, config.algo.name, config.seed, self._started_in
                )
                run_dir = self._started_in / shown
                with _locked(run_dir):
                    send(Order(config))
                    return self._start(run_dir, loggers, shown)

    def _start(self, run_dir: Path, loggers: Sequence[Logger], shown: Path) -> Summary:
        text = as_yaml(asdict(self.learner.resolved_config))
        with writing(run_dir):
            write_durably(run_dir / "config.yaml", text.encode())
        for warning in filter(None, (self.policy.caution, device_warning(self.learner))):
            tell(warning)
        run = Run(self.learner, run_dir, shown, callbacks=self.callbacks)
        return run.go([*self.loggers, *loggers])


def _all_callbacks(config: TrainConfig, given: Sequence[Callback]) -> list[Callback]:
    """Return those of the config, and those given, after a check; rank 0 will call them."""
    check_tracker(config.logger)
    check_callbacks(given)
    return [*callbacks_of(config), *given]


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except OSError:  # the folder was removed
        return Path()


def train(
    config: TrainConfig, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = ()
) -> Summary:
    """Train a policy: `Trainer(config, callbacks, loggers).train()`."""
    return Trainer(config, callbacks, loggers).train()


def resume(
    run_dir: str | Path,
    change: Callable[[TrainConfig], TrainConfig] | None = None,
    loggers: Sequence[Logger] = (),
    *,
    callbacks: Sequence[Callback] = (),
    exact: bool = True,
    env: Any = None,
) -> Summary:
    """Resume a stopped run in its folder, bit-for-bit identical to an uninterrupted run.

    Args:
        run_dir: the run's folder.
        change: returns a changed config; some keys cannot change.
        loggers: get every report, after those of the config.
        callbacks: called after those of the config; the same as before the run was stopped, for
            an identical result.
        exact: false continues from `last.pt` even if environments cannot be restored, and
            recreates them there. It keeps the readable rows of a damaged CSV file.
            `summary.json` and `resumed.yaml` record `exact: false`.
        env: the callable of the run's environments (or its `module:function`, or an environment),
            which a run's folder cannot call by itself; for a registered id it is not needed.

    Returns:
        The summary of the complete run.

    Raises:
        ConfigError: there is no checkpoint to resume from, the run is finished, a change is
            refused, or another process is training in the folder.
        FolderError: the folder cannot be written to.
    """
    ranks, shown = join_ranks(), Path(run_dir)
    if not ranks.is_first:
        return obey(ranks, env)
    with leading(ranks) as send:
        with reading(shown):
            is_there = shown.is_dir()
        if not is_there:
            raise ConfigError(f"{shown}: there is no such folder")
        run_dir = _working_directory() / shown  # absolute: an environment may change the directory
        with reading(run_dir):
            check_own_files(run_dir)
            _newest(run_dir, exact=exact)  # raises before a lock is written to another folder
        with _locked(run_dir):
            given = (callbacks, loggers)
            return _resume(run_dir, change, given, shown, send, exact=exact, env=env)


def complete(
    config: TrainConfig, claimed: Callable[[Path], None] = lambda run_dir: None
) -> Summary:
    """Start, resume or skip a run, depending on the status of its folder.

    An unfinished run is resumed. If it has no checkpoint, it starts again, and its old files are
    moved to `before-1`.

    Args:
        config: of the run, with a `run_dir`.
        claimed: called with the folder as soon as this process has locked it.

    Returns:
        The summary, also of a run that was finished before.

    Raises:
        ConfigError: the folder contains something else or the run of another config, or another
            process is training in it (`FolderTakenError`).
    """
    import_networks(config.policy)
    ranks = join_ranks()
    if not ranks.is_first:
        return obey(ranks)
    with leading(ranks) as send:
        shown = check_folder("run_dir", config.run_dir or "")
        run_dir = _working_directory() / shown
        with writing(run_dir):
            if run_status(run_dir, config) is RunStatus.MISSING:
                make_locked_folder(run_dir)
            check_own_files(run_dir)
        with _locked(run_dir):
            claimed(run_dir)
            status = run_status(run_dir, config)  # again, now that the folder is locked
            content = read_summary(run_dir)
            if status is RunStatus.FINISHED and content is not None:
                summary = Summary(**content, run_dir=run_dir)
                send(summary)
                return summary
            if status is RunStatus.UNFINISHED and any((run_dir / "checkpoints").glob("*.pt")):
                return _resume(run_dir, None, ((), ()), shown, send, env=config.env.id)
            send(Order(config))
            trainer = Trainer(config)
            move_old_files(run_dir)
            return trainer._start(run_dir, (), shown)


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """Lock the folder of a run, and remove the partial files of a killed run."""
    with writing(run_dir):
        lock = FolderLock(run_dir)
    try:
        with writing(run_dir):
            clean_up(run_dir)
        yield
    finally:
        lock.release()


def _resume(
    run_dir: Path,
    change: Callable[[TrainConfig], TrainConfig] | None,
    given: tuple[Sequence[Callback], Sequence[Logger]],
    shown: Path,
    send: Send,
    *,
    exact: bool = True,
    env: Any = None,
) -> Summary:
    path, state, notes = _newest(run_dir, exact=exact)
    with taking_from(path):
        saved = saved_config(state["config"])
    config = saved if change is None else change(saved)
    changed = changes(saved, config)
    notes += check_unfinished(run_dir, config, changed)
    callbacks = _all_callbacks(config, given[0])
    with taking_from(path):
        rows = recover_rows(run_dir, state, exact=exact)
        stays_exact = bool(state["resumable"]) and not rows.notes
    if env is not None:
        substitute(config.env.id, env)
    warning = check_module(config.env.id, run_dir, is_confirmed=env is not None)
    if warning and config.logger.progress != "none":
        tell(warning)  # before the module is imported
    send(Order(config, state, stays_exact))
    learner = Learner(config)
    with closing_on_error(learner):
        with taking_from(path):
            learner.load_state_dict(state)
        with writing(run_dir):  # all checks have passed
            rows.write()
            notes += rows.notes
            notes += record_resume(run_dir, path, learner.env_steps, changed, exact=stays_exact)
            notes += rename_newer_best(run_dir, learner.env_steps) if changed else []
    if config.logger.progress != "none":
        notes.append(f"resumed from {path}, at {learner.env_steps:,} environment steps")
        notes += [f"{key}: {new}, was {old}" for key, (old, new) in changed.items()]
        for note in notes:
            print(for_terminal(note, MOST_NOTE), file=failsafe_stdout(), flush=True)
    before = state["run"] | ({"stop_reason": ""} if changes_end(changed) else {})
    run = Run(learner, run_dir, shown, before, callbacks, exact=stays_exact)
    return run.go(given[1], rows.kl)


def _newest(run_dir: Path, *, exact: bool) -> tuple[Path, dict[str, Any], list[str]]:
    """Return the newest checkpoint of the run in `config.yaml`, its state, and notes."""
    try:
        saved, notes = read_config(run_dir), []
    except ConfigError as error:
        saved, notes = None, [f"{error}; using the config in the checkpoint"]

    def other_run(state: dict[str, Any]) -> str:
        return "" if saved is None else another_run(saved, state["config"])

    path, state, more_notes = newest(run_dir / "checkpoints", other_run, exact=exact)
    return path, state, notes + more_notes
