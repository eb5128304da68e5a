"""`rlkl tune`: checks the whole command line, then tries, and tells the best."""

import shlex
import sys
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import yaml

from rlkl.cli.compose import options, register_schemas
from rlkl.cli.compose_tuning import Tuning, experiment_yaml, load_tuning
from rlkl.cli.text import rows
from rlkl.tools.tuning.report import write_report
from rlkl.tools.tuning.study import Study, Trial, best_of
from rlkl.training.learner import Learner
from rlkl.training.loggers import as_yaml, check_folder
from rlkl.utils.atomic_files import FolderLock, remove_partials, write_durably
from rlkl.utils.cpu import usable_cores
from rlkl.utils.found_files import read_yaml
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.signals import stop_signal
from rlkl.utils.streams import tell
from rlkl.utils.validation import ConfigError, check_installed

EXAMPLES = {
    "rlkl tune space=ppo_clip env=cartpole": "a space that comes with rlkl",
    "rlkl tune algo=trpo 'algo.max_kl=tag(log,interval(1e-3,1e-1))' gamma=0.98,0.99": "your own",
    "rlkl tune space=ppo_clip env=cartpole trials=60": "called again, the study goes on",
    "rlkl tune space=mine.yaml env=hopper seeds=3": "a space of your own in a file",
}

KEYS = {
    "trials=30": "of the whole study, those of earlier calls included",
    "seeds=2": "runs of each trial, from seed= on; a trial is as good as their mean",
    "space=NAME": "one of the above, or a YAML file with lines of KEY: VALUES",
    "sampler=tpe": "tpe draws where good trials were; random draws anywhere",
    "pruner=median": "ends a trial below the median of the others; none ends none",
    "startup_trials=8": "drawn at random, and none pruned before so many are complete",
    "reports=20": "times that a trial is looked at",
    "parallel=N": "trials at a time, by default as many as there are cores",
    "study=DIR": "where the study is kept, instead of runs/tuning/<env>/<algo>",
}

VALUES = {
    "KEY=a,b,c": "one of these; groups too, such as policy=mlp,mlp_large",
    "KEY=interval(a,b)": "a number in between",
    "KEY=int(interval(a,b))": "a whole number in between",
    "KEY=tag(log,interval(a,b))": "small and large ones as likely",
    "KEY=range(a,b,step)": "whole numbers in steps, b left out",
    "KEY=VALUE": "the same in every trial",
}

SETTINGS = "study.yaml"
BEST = "best"


def help_text() -> str:
    """Return what can be set: examples, spaces, values, keys."""
    lines = ["usage: rlkl tune [KEY=VALUE ...]", ""]
    lines += ["KEY is one of `rlkl train` or of the last list."]
    contents = {
        "Examples": EXAMPLES,
        "Spaces": options("tune"),
        "Values of keys of `rlkl train`": VALUES,
        "Keys": KEYS,
    }
    for heading, content in contents.items():
        lines += ["", heading, *rows(content)]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Tune; return the exit code."""
    if not arguments or {"--help", "-h"} & set(arguments):
        print(help_text())
        return 0
    for text in arguments:
        if text.startswith("-"):
            raise ConfigError(f"{text}: there is no such flag; see rlkl tune --help")
    register_schemas()
    tuning = load_tuning(arguments)
    folder = check_folder("study", str(tuning.folder))
    tuning = _with_parallel(tuning, folder)
    _check_same(tuning, folder)
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
        study = Study(
            folder, tuning.tune, tuning.space, tuning.config.seed, tuning.configure, tuning.first
        )
        return _go(study, tuning, folder, shlex.join(["rlkl", "tune", *arguments]))
    finally:
        lock.release()


def _with_parallel(tuning: Tuning, folder: Path) -> Tuning:
    """Return the same with as many trials at a time as the study began with, or there are cores."""
    if tuning.tune.parallel is not None:
        return tuning
    path = folder / SETTINGS
    if path.is_file():
        there = _settings(path)
        parallel = there.get("search parallel", 1)
        if not isinstance(parallel, int):
            raise ConfigError(f"{path} cannot be read: search.parallel={parallel} is no number")
    else:
        parallel = max(1, usable_cores() // tuning.config.threads)
    return replace(tuning, tune=replace(tuning.tune, parallel=parallel))


def _check_same(tuning: Tuning, folder: Path) -> None:
    """Raise if a folder holds something else than a study of the same settings."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"study={folder} is a file; name another folder")
    path = folder / SETTINGS
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"study={folder} exists and holds no study; name another folder")
        return
    there = {"search parallel": 1, **_settings(path)}
    wanted = dict(_leaves(yaml.safe_load(as_yaml(tuning.description))))
    for key in [*there, *wanted]:
        if there.get(key) != wanted.get(key):
            raise ConfigError(
                f"study={folder} is one of other settings: there {key} is {there.get(key)}, here "
                f"{wanted.get(key)}; name another folder, or go on with the same settings"
            )


def _settings(path: Path) -> dict[str, object]:
    try:
        return dict(_leaves(read_yaml(path)))
    except ConfigError as error:
        raise ConfigError(f"{error}; put it back, or name another study") from error


def _leaves(node: object, prefix: str = "") -> list[tuple[str, object]]:
    if not isinstance(node, dict):
        return [(prefix, node)]
    return [
        leaf for key, child in node.items() for leaf in _leaves(child, f"{prefix} {key}".strip())
    ]


def _go(study: Study, tuning: Tuning, folder: Path, command: str) -> int:
    config, before = tuning.config, len(study.trials)
    print(
        f"{config.algo.name} on {config.env.id}: {tuning.tune.trials} trials of "
        f"{tuning.tune.seeds} × {config.total_env_steps:,} environment steps, "
        f"{tuning.tune.parallel} at a time, in {folder}"
        + f"; {before} of them are there"
        * bool(before),
        flush=True,
    )

    def show(trial: Trial, best: Trial | None) -> None:
        value = for_terminal(trial.reason) if trial.state == "failed" else f"{trial.value:.4g}"
        at = f" at {max(trial.course):,} steps" if trial.state == "pruned" else ""
        values = " ".join(f"{key}={value}" for key, value in trial.values.items())
        so_far = "" if best is None else f" (best {best.value:.4g}, trial {best.number})"
        print(
            f"[{trial.number}/{tuning.tune.trials}] {trial.state}{at}: {value}{so_far}  {values}",
            file=sys.stderr,
            flush=True,
        )

    with stop_signal() as stop:
        study.go(stop, show)
    trials, best = study.trials, best_of(study.trials)
    train = f"rlkl train --config-dir {shlex.quote(str(folder))} experiment={BEST}"
    use = []
    if best is not None:
        write_best(tuning, best, folder / "experiment" / f"{BEST}.yaml")
        seeds = f"'seed=range({config.seed + 100},{config.seed + 105})'"
        use = [f"    {train}", "With five seeds that it was not chosen by:"]
        use.append(f"    {train.replace('train', 'train -m', 1)} {seeds}")
    if trials:
        write_report(study, folder, command, use)
        print(f"report: {folder / 'report.md'}")
    if len(trials) < tuning.tune.trials:
        print(f"stopped after {len(trials)} trials; the same command goes on: {command}")
        return 130
    if best is None:
        tell("no trial was completed; report.md says why each failed")
        return 1
    print(f"best: trial {best.number} with {best.value:.4g}")
    print(f"train it: {train}")
    return 0


def write_best(tuning: Tuning, best: Trial, path: Path) -> None:
    """Write the best config as an experiment that `rlkl train --config-dir` finds."""
    comment = (
        f"The best of `rlkl tune`: trial {best.number}, training return {best.value:.4g} over "
        f"{tuning.tune.seeds} seed{'s' * (tuning.tune.seeds > 1)}."
    )
    path.parent.mkdir(exist_ok=True)
    write_durably(path, experiment_yaml(tuning.overrides(best.values), comment).encode())
