"""`rlkl tune`: run a study, and report its best trial."""

import shlex
import sys
from contextlib import chdir
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rlkl.cli.compose_tuning import Tuning, configure, experiment_yaml, load_tuning
from rlkl.cli.schema import options
from rlkl.cli.text import check_no_flags, help_page
from rlkl.tools.tuning.page import PAGE, write_page
from rlkl.tools.tuning.report import write_report
from rlkl.tools.tuning.study import Study, Trial, best_of
from rlkl.training.config import leaves
from rlkl.training.learner import Learner
from rlkl.training.loggers import as_yaml
from rlkl.training.run_folder import check_folder
from rlkl.utils.atomic_files import FolderLock, remove_partials, write_durably
from rlkl.utils.cpu import usable_cores
from rlkl.utils.errors import ConfigError
from rlkl.utils.lines import paragraph
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.signals import stop_signal
from rlkl.utils.streams import tell
from rlkl.utils.untrusted_files import read_yaml
from rlkl.utils.validation import check_installed

EXAMPLES = {
    "rlkl tune space=ppo_clip env=cartpole": "a search space that comes with rlkl",
    "rlkl tune algo=trpo 'algo.max_kl=tag(log,interval(1e-3,1e-1))' gamma=0.98,0.99": "your own",
    "rlkl tune space=ppo_clip env=cartpole trials=60": "extend the study to 60 trials",
    "rlkl tune space=mine.yaml env=hopper seeds=3": "your own search space in a file",
}

KEYS = {
    "trials=30": "trials of the whole study, including earlier calls",
    "seeds=2": "runs of each trial, with seeds from seed= on; its value is their mean",
    "space=NAME": "a search space from the list above, or a YAML file with lines of KEY: VALUES",
    "sampler=tpe": "tpe samples where good trials were; random samples anywhere",
    "pruner=median": "stops trials below the median of the others; none disables this",
    "startup_trials=8": "number of random trials; pruning starts once as many are complete",
    "reports=20": "points at which a trial's return is reported and compared",
    "parallel=N": "trials at a time, by default one per core",
    "study=DIR": "folder of the study, instead of runs/tuning/<env>/<algo>",
}

VALUES = {
    "KEY=a,b,c": "one of these; also options of groups, such as policy=mlp,mlp_large",
    "KEY=interval(a,b)": "a number in between",
    "KEY=int(interval(a,b))": "a whole number in between",
    "KEY=tag(log,interval(a,b))": "the same, on a log scale",
    "KEY=range(a,b,step)": "whole numbers in steps, b excluded",
    "KEY=VALUE": "the same in every trial",
}

SETTINGS = "study.yaml"
BEST = "best"


def help_text() -> str:
    """Return the help text."""
    contents = {
        "Examples": EXAMPLES,
        "Search spaces": options("tune"),
        "Values of keys of `rlkl train`": VALUES,
        "Keys": KEYS,
    }
    purpose = "KEY is a key of `rlkl train`, or one of the keys listed last."
    return help_page("tune [KEY=VALUE ...]", purpose, contents)


def main(arguments: list[str]) -> int:
    """Run the command; return the exit code."""
    check_no_flags("tune", arguments)
    tuning = load_tuning(arguments)
    folder = check_folder("study", str(tuning.folder))
    started = _settings(folder)
    if tuning.tune.parallel is None:
        cores = max(1, usable_cores() // tuning.config.threads)
        parallel = started["search.parallel"] if started else cores
        tuning = replace(tuning, tune=replace(tuning.tune, parallel=parallel))
    if started:
        _check_same(tuning, folder, started)
    with chdir(Path.cwd()):  # an environment may change it
        Learner(tuning.config).close()
    for package in ("optuna", "matplotlib"):
        check_installed(package, "tune", "rlkl tune")

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"study={folder} cannot be made: {error.strerror}") from error
    lock = FolderLock(folder)
    try:
        remove_partials(folder)
        write_durably(folder / SETTINGS, as_yaml(tuning.description).encode())
        trial_config = partial(configure, tuning.fixed)
        study = Study(
            folder, tuning.tune, tuning.space, tuning.config.seed, trial_config, tuning.first
        )
        return _run_study(study, tuning, folder, shlex.join(["rlkl", "tune", *arguments]))
    finally:
        lock.release()


def _settings(folder: Path) -> dict[str, Any]:
    """Return the settings with which a folder's study started; empty if it has none yet."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"study={folder} is a file; name another folder")
    path = folder / SETTINGS
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"study={folder} exists and holds no study; name another folder")
        return {}
    try:
        saved = read_yaml(path)
    except ConfigError as error:
        raise ConfigError(f"{error}; restore it, or name another study") from error
    return {"search.parallel": 1} | _flat(saved if isinstance(saved, dict) else {})


def _check_same(tuning: Tuning, folder: Path, saved: dict[str, Any]) -> None:
    """Raise if a study was started with other settings."""
    wanted = _flat(yaml.safe_load(as_yaml(tuning.description)))
    for key in [*saved, *wanted]:
        old, new = saved.get(key), wanted.get(key)
        if old != new:
            raise ConfigError(
                f"study={folder} was started with other settings: {key.replace('.', ' ', 1)} was "
                f"{old}, now it is {new}; name another folder, or use the same settings"
            )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in leaves(settings) if value != {}}


def _run_study(study: Study, tuning: Tuning, folder: Path, command: str) -> int:
    config, before = tuning.config, len(study.trials)
    title = f"{config.algo.name} on {config.env.id}"
    done = f"; {before} already done" * bool(before)
    start = (
        f"{title}: {tuning.tune.trials} trials of "
        f"{tuning.tune.seeds} × {config.total_env_steps:,} environment steps, "
        f"{tuning.tune.parallel} at a time, in {folder}{done}"
    )
    print("\n".join(paragraph(start, others="  ")), flush=True)

    def show(trial: Trial, best: Trial | None) -> None:
        value = for_terminal(trial.reason) if trial.state == "failed" else f"{trial.value:.4g}"
        at = f" at {max(trial.curve):,} steps" if trial.state == "pruned" else ""
        values = " ".join(f"{key}={value}" for key, value in trial.values.items())
        so_far = "" if best is None else f" (best {best.value:.4g}, trial {best.number})"
        line = f"[{trial.number}/{tuning.tune.trials}] {trial.state}{at}: {value}{so_far}  {values}"
        print("\n".join(paragraph(line, others="    ")), file=sys.stderr, flush=True)
        write_page(study, folder, f"Tuning {title}", command)

    with stop_signal() as stop:
        study.run(stop.is_set, show)
    trials, best = study.trials, best_of(study.trials)
    train = f"rlkl train --config-dir {shlex.quote(str(folder))} experiment={BEST}"
    use = []
    if best is not None:
        write_best(tuning, best, folder / "experiment" / f"{BEST}.yaml")
        seeds = f"'seed=range({config.seed + 100},{config.seed + 105})'"
        use = [f"    {train}", "With five other seeds:"]
        use.append(f"    {train.replace('train', 'train -m', 1)} {seeds}")
    if trials:
        write_report(study, folder, command, use)
        write_page(study, folder, f"Tuning {title}", command, use)
        print(f"report: {folder / PAGE}, and as Markdown: {folder / 'report.md'}")
    if len(trials) < tuning.tune.trials:
        print(f"stopped after {len(trials)} trials; to continue, run it again: {command}")
        return 130
    if best is None:
        tell("no trial was completed; the reasons are in report.md")
        return 1
    print(f"best: trial {best.number} with {best.value:.4g}")
    print(f"train it: {train}")
    return 0


def write_best(tuning: Tuning, best: Trial, path: Path) -> None:
    """Write the best config as an experiment that `rlkl train --config-dir` finds."""
    comment = (
        f"The best trial of `rlkl tune`: trial {best.number}, training return {best.value:.4g} "
        f"over {tuning.tune.seeds} seed{'s' * (tuning.tune.seeds > 1)}."
    )
    path.parent.mkdir(exist_ok=True)
    write_durably(path, experiment_yaml(tuning.overrides(best.values), comment).encode())
