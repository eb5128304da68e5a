"""Training from a config to a trained policy, begun or resumed."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rlkl.envs.ids import check_module
from rlkl.training.checkpoint import BEST, load_checkpoint, newest, taking_from
from rlkl.training.config import TrainConfig, another_run, changes, saved_config
from rlkl.training.kept_rows import kept_rows
from rlkl.training.learner import Learner
from rlkl.training.loggers import Logger, as_yaml, check_folder, make_run_dir
from rlkl.training.run import Run, Summary, writing
from rlkl.training.run_status import (
    Standing,
    check_own_files,
    clean_up,
    is_finished,
    read_config,
    read_summary,
    set_aside,
    standing,
)
from rlkl.utils.atomic_files import FolderLock, make_locked, unused, write_durably
from rlkl.utils.found_files import MissingFileError, read_yaml, reading
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.streams import steady_stdout, tell
from rlkl.utils.validation import ConfigError
from rlkl.version import __version__

__all__ = ["Summary", "TrainConfig", "Trainer", "complete", "resume", "train"]


MOST_NOTE = 1000
"""Characters of a line that `resume` prints of a folder."""


class Trainer(Learner):
    """A learner with a folder to write to. Nothing is written before `train`.

    Args:
        config: what to run.

    Raises:
        ConfigError: the environment, the device or the algorithm cannot be used.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._begun_in = _working_directory()  # before an environment can change it
        super().__init__(config)

    def train(self, also: Sequence[Logger] = ()) -> Summary:
        """Run to the end of the budget, and write the run's folder.

        Ctrl-C (SIGINT) and SIGTERM end the run after the iteration under way, with status
        `stopped`; a second one ends it at once. So does SIGHUP, of a terminal that is closed, but
        no second one ends it, and none where it is ignored. A display that fails ends nothing.

        Args:
            also: loggers that are told of everything, behind those of the config.

        Returns:
            What the run came to; an exception is raised again after `summary.json` tells of it.
        """
        config = self.config
        try:
            as_yaml(asdict(self.resolved_config))  # what no file can hold, before there is a folder
            shown = make_run_dir(
                config.run_dir, config.env.id, config.algo.name, config.seed, self._begun_in
            )
            run_dir = self._begun_in / shown
            with writing(run_dir):
                lock = FolderLock(run_dir)
        except BaseException:
            self.close()
            raise
        try:
            return self._begin(run_dir, also, shown)
        finally:
            lock.release()

    def _begin(self, run_dir: Path, also: Sequence[Logger], shown: Path) -> Summary:
        text = as_yaml(asdict(self.resolved_config))
        with writing(run_dir):
            write_durably(run_dir / "config.yaml", text.encode())
        if self.policy.caution:
            tell(self.policy.caution)
        return Run(self, run_dir, also, shown=shown).go()


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return Path()


def train(config: TrainConfig) -> Summary:
    """Train a policy: `Trainer(config).train()`."""
    return Trainer(config).train()


def resume(
    run_dir: str | Path,
    change: Callable[[TrainConfig], TrainConfig] | None = None,
    also: Sequence[Logger] = (),
    *,
    exact: bool = True,
) -> Summary:
    """Go on with a run that was stopped, in its folder, to the bits of one that never was.

    Args:
        run_dir: the run's folder.
        change: of its config; what a run cannot change on its way is refused.
        also: loggers that are told of everything, behind those of the config.
        exact: false continues from `last.pt` even where environments cannot be restored, and
            recreates them there. It keeps the readable rows of a damaged CSV file.
            `summary.json` and `resumed.yaml` say so.

    Returns:
        What the run came to, what was before included.

    Raises:
        ConfigError: there is nothing to go on from or nothing left to do, a change is refused, or
            another process is at it.
        FolderError: the folder cannot be written to.
    """
    shown = Path(run_dir)
    with reading(shown):
        is_there = shown.is_dir()
    if not is_there:
        raise ConfigError(f"{shown}: there is no such folder of a run")
    run_dir = _working_directory() / shown  # wherever an environment changes it to
    with reading(run_dir):
        check_own_files(run_dir)
        _newest(run_dir, exact=exact)  # a folder that is no run's gets no lock
    with writing(run_dir):
        lock = FolderLock(run_dir)
    try:
        with writing(run_dir):
            clean_up(run_dir)
        return _go_on(run_dir, change, also, shown, exact=exact)
    finally:
        lock.release()


def complete(
    config: TrainConfig,
    claimed: Callable[[Path], None] = lambda run_dir: None,
    also: Sequence[Logger] = (),
) -> Summary:
    """Bring a run to its end from where it stands, and do nothing if that is its end.

    A run whose folder is not there is begun. One that broke off is resumed; if it never came to a
    checkpoint, it begins anew, and what it left lies in `before-1`.

    Args:
        config: what to run, with a `run_dir`.
        claimed: told the folder as soon as it is this process's own.
        also: loggers that are told of everything, behind those of the config.

    Returns:
        What the run came to, now or earlier.

    Raises:
        ConfigError: the folder holds something else or the run of another config, or another
            process is at it (`FolderTakenError`).
    """
    shown = check_folder("run_dir", config.run_dir or "")
    run_dir = _working_directory() / shown
    with writing(run_dir):
        if standing(run_dir, config) is Standing.MISSING:
            make_locked(run_dir)
        check_own_files(run_dir)
        lock = FolderLock(run_dir)
    try:
        claimed(run_dir)
        with writing(run_dir):
            clean_up(run_dir)
        where = standing(run_dir, config)  # nobody else moves it now
        summary = read_summary(run_dir)
        if where is Standing.FINISHED and summary is not None:
            return Summary(**summary)
        if where is Standing.UNFINISHED and any((run_dir / "checkpoints").glob("*.pt")):
            return _go_on(run_dir, None, also, shown)
        trainer = Trainer(config)
        set_aside(run_dir)
        return trainer._begin(run_dir, also, shown)
    finally:
        lock.release()


def _go_on(
    run_dir: Path,
    change: Callable[[TrainConfig], TrainConfig] | None,
    also: Sequence[Logger],
    shown: Path,
    *,
    exact: bool = True,
) -> Summary:
    path, state, notes = _newest(run_dir, exact=exact)
    with taking_from(path):
        before = saved_config(state["config"])
    config = before if change is None else change(before)
    changed = changes(before, config)
    notes += _check_unfinished(run_dir, config)
    with taking_from(path):
        rows = kept_rows(run_dir, state, exact=exact)
        stays_exact = bool(state["resumable"]) and not rows.notes
    told = check_module(config.env.id, run_dir)
    if told and config.logger.progress != "none":
        tell(told)  # before it is imported
    trainer = Trainer(config)
    try:
        with taking_from(path):
            trainer.load_state_dict(state)
        with writing(run_dir):  # everything was looked at
            rows.write()
            notes += rows.notes
            notes += _record(run_dir, path, trainer.env_steps, changed, exact=stays_exact)
            notes += _set_best_aside(run_dir, trainer.env_steps) if changed else []
    except BaseException:
        trainer.close()
        raise
    if config.logger.progress != "none":
        notes.append(f"resumed from {path}, at {trainer.env_steps:,} environment steps")
        notes += [f"{key}: {new}, before {old}" for key, (old, new) in changed.items()]
        shown_notes = "\n".join(for_terminal(note, MOST_NOTE) for note in notes)
        print(shown_notes, file=steady_stdout(), flush=True)
    return Run(trainer, run_dir, also, state["run"], rows.kl, exact=stays_exact, shown=shown).go()


def _newest(run_dir: Path, *, exact: bool = True) -> tuple[Path, dict[str, Any], list[str]]:
    """Return the newest checkpoint that is of the run in `config.yaml`, its state, and notes."""
    try:
        saved, notes = read_config(run_dir), []
    except ConfigError as error:
        saved, notes = None, [f"{error}; what the checkpoint says is taken"]

    def other_run(state: dict[str, Any]) -> str:
        return "" if saved is None else another_run(saved, state["config"])

    path, state, passed = newest(run_dir / "checkpoints", other_run, exact=exact)
    return path, state, notes + passed


def _check_unfinished(run_dir: Path, config: TrainConfig) -> list[str]:
    """Return a line about a run that ended without a summary.

    Raises:
        ConfigError: it is finished.
    """
    summary = read_summary(run_dir)
    if summary is None:
        return [
            f"{run_dir} has no summary.json: its process was killed, ran out of memory, or its "
            "environment ended it (os._exit)"
        ]
    if is_finished(summary, config.total_env_steps):
        raise ConfigError(
            f"{run_dir} is finished, with {summary['env_steps']} environment steps; "
            f"to train on, give more: total_env_steps={2 * summary['env_steps']}"
        )
    return []


def _set_best_aside(run_dir: Path, env_steps: int) -> list[str]:
    """Keep the best policy of rows that are dropped under another name; return a line if so."""
    path = run_dir / "checkpoints" / BEST
    try:
        ahead = int(load_checkpoint(path)["env_steps"]) > env_steps
    except (ConfigError, LookupError, TypeError, ValueError):
        return []
    if not ahead:
        return []
    aside = unused(path, "abandoned")
    path.rename(aside)
    return [f"{aside} keeps the best policy of the steps that are repeated with other settings"]


def _record(
    run_dir: Path,
    path: Path,
    env_steps: int,
    changed: dict[str, tuple[Any, Any]],
    *,
    exact: bool,
) -> list[str]:
    """Add to `resumed.yaml` how the run went on; `config.yaml` stays as it began.

    Returns:
        What was wrong with the file, which is set aside then.
    """
    file = run_dir / "resumed.yaml"
    entries, notes = [], []
    try:
        entries = read_yaml(file)
        if not isinstance(entries, list):
            raise ConfigError(f"{file} is not the list that rlkl writes")
    except MissingFileError:
        pass
    except ConfigError as error:
        aside = unused(file, "damaged")
        file.rename(aside)
        entries, notes = [], [f"{error}; it is now {aside.name}, and a new one begins"]
    entries.append(
        {
            "env_steps": env_steps,
            "checkpoint": path.name,
            "time": datetime.now().isoformat(timespec="seconds"),
            "rlkl": __version__,
            "exact": exact,
            "changed": {key: {"before": old, "now": new} for key, (old, new) in changed.items()},
        }
    )
    text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)
    write_durably(file, text.encode())
    return notes
