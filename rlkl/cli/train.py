"""`rlkl train`: checks every job first, then runs one job or a grid."""

import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from rlkl.cli import IS_RANK
from rlkl.cli.command_line import expand, for_hydra
from rlkl.cli.compose import load, to_train_config, with_env_settings
from rlkl.cli.grid import run_grid, say_env_settings
from rlkl.cli.grid_line import LAUNCHER, read_line
from rlkl.cli.hints import counterpart, similar_keys
from rlkl.cli.hydra_errors import one_line_errors
from rlkl.cli.schema import CONFIG_DIR, GROUPS, OF_AN_EXPERIMENT, known_keys, options
from rlkl.cli.text import help_page, rows, sections
from rlkl.training.config import TrainConfig
from rlkl.training.trainer import Summary, Trainer, complete
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import nearest

EXAMPLES = {
    "rlkl train": "PPO-clip on CartPole-v1",
    "rlkl train algo=trpo env=pendulum algo.max_kl=0.02 seed=3": "another algorithm and task",
    "rlkl train -m algo=ppo_clip,ppo_kl,trpo 'seed=range(5)'": "a grid; run it again to continue",
    "torchrun --nproc-per-node=2 -m rlkl train": "one run by two processes",
}

FLAGS = {
    "--multirun, -m": "run a grid: every combination of values separated by commas, or range(...)",
    "--cfg job": "print the config and run nothing",
    "--config-dir DIR": "also look for configs in DIR",
    "--hydra-help": "Hydra's own flags",
}

UNSUPPORTED = ("config_name", "config_path", "experimental_rerun", "shell_completion")
"""Hydra flags that would bypass rlkl's config."""


def help_text(config_dirs: list[Path]) -> str:
    """Return the help text."""
    lines = [help_page("train [KEY=VALUE ...] [FLAG ...]", "", {"Examples": EXAMPLES})]
    lines += ["", "Groups, chosen as GROUP=OPTION"]
    for group in GROUPS:
        if group not in OF_AN_EXPERIMENT:
            lines += [f"  {group}", *rows(options(group, config_dirs), indent="    ")]
    keys = {
        "env.id=ID": "any registered environment, with the settings of env= for it; "
        "my_package:MyEnv-v0 imports my_package; my_package.envs:make_env calls a function",
        "env.wrappers=[NAME]": "Gymnasium's wrappers; with arguments: [{NAME:{KEY:VALUE}}]",
        "env.num_envs=8": "sub-environments stepped together",
        "env.backend=auto": "native, sync, shared, async, ale, envpool or tensor (on the device); "
        "auto is ale for Atari, native where there is one and num_envs is at least 6, "
        "else sync or, where it is faster, shared",
        "env.frame_stack=4": "number of stacked observations",
        "env.kwargs.KEY=VALUE": "arguments of the environment's constructor",
        "total_env_steps=100000": "the training budget",
        "rollout_steps=128": "steps of each sub-environment between updates",
        "gamma=0.99 gae_lambda=0.95": "discount factor, and λ of the advantage estimates",
        "normalize_observations=true": "by running mean and variance",
        "scale_rewards=true": "by the running standard deviation of the discounted return",
        "algo.KEY=VALUE": "hyperparameters of the algorithm: learning_rate, num_epochs, ...",
        "critic.KEY=VALUE": "hyperparameters of the critic's fit",
        "policy.KEY=VALUE": "networks, memory, and the distribution of Box actions",
        "max_bad_updates=3": "updates in a row with NaN or infinite numbers that end the run",
        "eval_interval=10": "iterations from one evaluation to the next",
        "init_from=RUN_DIR": "start with the policy and the critic of another run",
        "reference=RUN_DIR reference.kl_coefficient=0.1": "stay near the policy of another run",
        "run_dir=DIR": "the run's folder, instead of runs/<env>/<algo>/<date-time>-seed<seed>",
        "grid=NAME": "with -m: the grid's folder is runs/grids/NAME",
        "hydra/launcher=NAME": f"with -m: where jobs run: {', '.join(options(LAUNCHER))}",
        "hydra.launcher.n_jobs=4": "with -m: jobs at a time",
    }
    return "\n".join(lines + sections({"Common keys (--cfg job shows all)": keys, "Flags": FLAGS}))


def main(arguments: list[str]) -> int:
    """Train; return the exit code."""
    parsed = parse(arguments)
    config_dirs = [Path(parsed.config_dir)] if parsed.config_dir is not None else []
    if parsed.help:
        print(help_text(config_dirs))
        return 0
    for text in parsed.overrides:
        if text.startswith(("hydra.mode=", *(() if parsed.multirun else ("grid=",)))):
            raise ConfigError(f"{text}: grids are run by --multirun, or -m")
    grid = read_line(parsed.overrides) if parsed.multirun else None
    if grid is not None and IS_RANK:
        raise ConfigError("torchrun and -m: each run of a grid has one process; use one of them")
    if grid is not None and not (parsed.cfg or parsed.info or parsed.hydra_help):
        return run_grid(grid, config_dirs, arguments)
    overrides = parsed.overrides if grid is None else grid.jobs
    for job in expand(overrides, multirun=parsed.multirun, config_dirs=config_dirs):
        load(job, config_dirs)
    outcome: list[Any] = []

    def run(composed: DictConfig) -> None:
        try:
            outcome.append(train_or_restart(to_train_config(composed), job))
        except Exception as error:  # Hydra would print it on many lines
            outcome.append(error)

    if grid is None:
        overrides = [*overrides, *with_env_settings(job, config_dirs)[len(job) :]]
    flags = [text for text in arguments if text not in parsed.overrides]
    sys.argv = ["rlkl train", *flags, *map(for_hydra, overrides)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its errors itself
    with one_line_errors():
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")(run)()
    for result in outcome:
        if isinstance(result, Exception):
            raise result
    return 130 if any(result.status == "stopped" for result in outcome) else 0


def train_or_restart(config: TrainConfig, job: list[str]) -> Summary:
    """Train; resume the run if torchrun has restarted the processes."""
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) and config.run_dir is None:
        raise ConfigError(
            "torchrun --max-restarts: a restart must find the run; expected run_dir=DIR"
        )
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        return complete(config)
    trainer = Trainer(config)
    if trainer.learner.ranks.is_first:
        say_env_settings([(job, config)])
    return trainer.train()


def parse(arguments: list[str]) -> Namespace:
    """Return Hydra's flags, and the overrides."""
    parser = get_args_parser()

    def fail(message: str) -> NoReturn:
        raise ConfigError(f"{message}; see rlkl train --help")

    setattr(parser, "error", fail)  # noqa: B010  the original prints usage, on many lines
    arguments = ["--help" if text in ("-help", "help") else text for text in arguments]
    parsed, unknown = parser.parse_known_intermixed_args(arguments)
    unknown += [f"--{name.replace('_', '-')}" for name in UNSUPPORTED if getattr(parsed, name)]
    if unknown:
        fail(f"{unknown[0]}: {explain_unknown_flag(unknown[0], parser)}")
    if parsed.run and parsed.multirun:
        fail("--run and --multirun: expected one of them")
    for name in ("resolve", "package"):
        if getattr(parsed, name) and not parsed.cfg:
            fail(f"--{name}: expected together with --cfg")
    package = parsed.package
    if package is not None and not any(f"{key}.".startswith(f"{package}.") for key in known_keys()):
        fail(f"--package={package}: expected a part of the config, such as algo")
    if parsed.config_dir is not None and not Path(parsed.config_dir).is_dir():
        fail(f"--config-dir {parsed.config_dir!r}: expected a folder")
    return parsed


def explain_unknown_flag(typed: str, parser: ArgumentParser) -> str:
    """Return what a message says about a flag that does not exist, and may be meant as a key."""
    name, _, value = typed.lstrip("-").partition("=")
    keys, key = known_keys(), name.replace("-", "_")
    if key in (*keys, *GROUPS):
        return f"there is no such flag (did you mean {key}={value or 'VALUE'}?)"
    flags = [text for action in parser._actions for text in action.option_strings]
    hint = similar_keys(key, keys) or nearest(typed.partition("=")[0], flags)
    return counterpart(key, keys) or f"there is no such flag{hint}"
