"""`rlkl train`: checks every job first, then hands them to Hydra."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from rlkl.cli.compose import (
    CONFIG_DIR,
    GROUPS,
    CommandLine,
    check_package,
    known_keys,
    load,
    one_line_errors,
    options,
    register_schemas,
    to_train_config,
)
from rlkl.cli.grid import run_grid, say_unused_settings
from rlkl.cli.grid_line import LAUNCHER, read_line
from rlkl.cli.hints import suggest_key
from rlkl.cli.text import rows
from rlkl.training.trainer import Trainer
from rlkl.utils.validation import ConfigError, nearest

EXAMPLES = {
    "rlkl train": "PPO-clip on CartPole-v1",
    "rlkl train algo=trpo env=pendulum algo.max_kl=0.02 seed=3": "other choices and values",
    "rlkl train -m algo=ppo_clip,ppo_kl,trpo 'seed=range(5)'": "a grid; again: what is missing",
}

FLAGS = {
    "--multirun, -m": "run every combination of comma-separated values and range(...), at once",
    "--cfg job": "print the config instead of running it",
    "--config-dir DIR": "look for configs in DIR as well",
    "--hydra-help": "more flags of Hydra",
}


def help_text(config_dirs: list[Path]) -> str:
    """Return what can be set: examples, the choices of each group, keys worth knowing."""
    lines = ["usage: rlkl train [KEY=VALUE ...] [FLAG ...]", "", "Examples", *rows(EXAMPLES), ""]
    lines += ["Groups, chosen as GROUP=OPTION"]
    for group in GROUPS:
        lines += [f"  {group}", *rows(options(group, config_dirs), indent="    ")]
    keys = {
        "env.id=ID": "any registered environment; my_package:MyEnv-v0 imports my_package",
        "env.num_envs=8": "sub-environments stepped together",
        "env.backend=auto": "native, sync, shared, async, ale or envpool; auto is ale for Atari, "
        "native where there is one and num_envs is at least 6, else sync",
        "env.frame_stack=4": "last observations shown together",
        "env.kwargs.KEY=VALUE": "arguments of the environment's constructor",
        "total_env_steps=100000": "the training budget",
        "rollout_steps=128": "steps of each environment between updates",
        "gamma=0.99 gae_lambda=0.95": "discounting, and the trace of advantage estimation",
        "normalize_observations=true": "by running moments",
        "scale_rewards=true": "by the running deviation of the discounted return",
        "algo.KEY=VALUE": "hyperparameters of the algorithm: learning_rate, num_epochs, ...",
        "critic.KEY=VALUE": "hyperparameters of the critic's regression",
        "policy.KEY=VALUE": "networks, memory, and the distribution of Box actions",
        "max_bad_updates=3": "updates in a row that may be taken back for numbers not finite",
        "eval_interval=10": "evaluate every so many iterations",
        "run_dir=DIR": "the run's folder, instead of runs/<env>/<algo>/<date-time>-seed<seed>",
        "grid=NAME": "with -m: the grid's folder is runs/grids/NAME",
        "hydra/launcher=NAME": f"with -m: who runs the jobs: {', '.join(options(LAUNCHER))}",
        "hydra.launcher.n_jobs=4": "with -m: jobs at a time",
    }
    lines += ["", "Keys worth knowing (--cfg job shows them all)", *rows(keys)]
    lines += ["", "Flags", *rows(FLAGS)]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Train; return the exit code."""
    parsed = parse(arguments)
    config_dirs = [Path(parsed.config_dir)] if parsed.config_dir is not None else []
    if parsed.help:
        print(help_text(config_dirs))
        return 0
    register_schemas()
    for text in parsed.overrides:
        if text.startswith(("hydra.mode=", *(() if parsed.multirun else ("grid=",)))):
            raise ConfigError(f"{text}: grids are run by --multirun, or -m")
    grid = read_line(parsed.overrides) if parsed.multirun else None
    if grid is not None and not (parsed.cfg or parsed.info or parsed.hydra_help):
        return run_grid(grid, config_dirs, arguments)
    overrides = parsed.overrides if grid is None else grid.jobs.overrides
    line = CommandLine(overrides)
    for job in line.jobs(multirun=parsed.multirun, config_dirs=config_dirs):
        config = load(job, config_dirs)
    outcome = Outcome(partial(say_unused_settings, [(job, config)]))
    flags = [text for text in arguments if text not in parsed.overrides]
    sys.argv = ["rlkl train", *flags, *line.normalized()]
    run = hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else it prints its errors itself, on many lines
    with one_line_errors():
        run(outcome.run)()
    return outcome.report()


UNSUPPORTED = ("config_name", "config_path", "experimental_rerun", "shell_completion")
"""Flags of Hydra that would go around rlkl's own config."""


def parse(arguments: list[str]) -> Namespace:
    """Return Hydra's flags, and the overrides.

    Raises:
        ConfigError: a flag that does not exist, or one that does not go with the others.
    """
    parser = get_args_parser()

    def fail(message: str) -> NoReturn:
        raise ConfigError(f"{message}; see rlkl train --help")

    setattr(parser, "error", fail)  # noqa: B010  its own prints usage, on many lines
    arguments = ["--help" if text in ("-help", "help") else text for text in arguments]
    parsed, unknown = parser.parse_known_intermixed_args(arguments)
    for name in UNSUPPORTED:
        if getattr(parsed, name):
            unknown.append(f"--{name.replace('_', '-')}")
    if unknown:
        fail(f"{unknown[0]}: there is no such flag{suggest_flag(unknown[0], parser)}")
    if parsed.run and parsed.multirun:
        fail("--run and --multirun: expected one of them")
    for name in ("resolve", "package"):
        if getattr(parsed, name) and not parsed.cfg:
            fail(f"--{name}: expected together with --cfg")
    if parsed.package is not None:
        check_package(parsed.package)
    if parsed.config_dir is not None and not Path(parsed.config_dir).is_dir():
        fail(f"--config-dir {parsed.config_dir!r}: expected a folder")
    return parsed


def suggest_flag(typed: str, parser: ArgumentParser) -> str:
    """Return ` (did you mean ...?)` for a flag that there is not: another flag, or a key."""
    name, _, value = typed.lstrip("-").partition("=")
    if name in (*known_keys(), *GROUPS):
        return f" (did you mean {name}={value or 'VALUE'}?)"
    flags = [text for action in parser._actions for text in action.option_strings]
    return suggest_key(name, known_keys()) or nearest(typed.partition("=")[0], flags)


class Outcome:
    """Runs the job that Hydra hands over, and remembers how it ended.

    No exception passes through Hydra, which would print it its own way.

    Args:
        before: is called once all parts of the run were made, before it begins.
    """

    def __init__(self, before: Callable[[], None]) -> None:
        self.before = before
        self.stopped = False
        self.error: Exception | None = None

    def run(self, composed: DictConfig) -> None:
        """Run the job."""
        try:
            trainer = Trainer(to_train_config(composed))
            self.before()
            summary = trainer.train()
            self.stopped = summary.status == "stopped"
        except Exception as error:
            self.error = error

    def report(self) -> int:
        """Return the exit code.

        Raises:
            Exception: the one that the job ended with.
        """
        if self.error is not None:
            raise self.error
        return 130 if self.stopped else 0
