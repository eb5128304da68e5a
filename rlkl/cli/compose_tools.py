"""Composes the settings of `rlkl bench`, `rlkl show` and `rlkl compare`."""

from dataclasses import fields, replace
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from rlkl.cli.command_line import CommandLine, for_hydra, parse
from rlkl.cli.compose import load
from rlkl.cli.hints import explain_unknown_key
from rlkl.cli.hydra_errors import one_line_errors
from rlkl.cli.schema import (
    CONFIG_DIR,
    FREE_KEY,
    GROUPS,
    known_keys,
    options,
    structured,
    typed_keys,
)
from rlkl.tools.bench.work import BenchConfig
from rlkl.tools.compare.settings import CompareConfig
from rlkl.tools.experiments import EXPERIMENTS
from rlkl.tools.experiments.base import Experiment, ExperimentConfig, TrainingExperimentConfig
from rlkl.tools.experiments.starts import StartConfig
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_choice, nearest

OF_RUN_FOLDERS = (
    "run_dir", "eval_episodes", "eval_max_episode_steps", "eval_interval", "logger",
)  # fmt: skip
"""Keys of `rlkl train`, or their first parts, that change nothing in an experiment."""


def load_works(overrides: list[str]) -> list[BenchConfig]:
    """Compose and validate the workloads of a benchmark.

    Args:
        overrides: keys of `BenchConfig`, for all workloads; `work` is a name, several, or `all`.
    """
    works, names, others = options("bench"), ["ppo_cartpole"], []
    keys = dict(typed_keys(OmegaConf.structured(BenchConfig)))
    for text in overrides:
        override = _parse_own(text, BenchConfig)
        value = _one_value(override)
        if override.key_or_group == "work":
            given = value if isinstance(value, list) else [value]
            names = list(works) if value == "all" else [str(name) for name in given or [""]]
            for name in names:
                check_choice("work", name, works)
        else:
            others.append(for_hydra(text, keys))
    with one_line_errors():
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            composed = [compose(f"bench/{name}", [*others, f"work={name}"]) for name in names]
        configs = [OmegaConf.to_object(config) for config in composed]
    return [config for config in configs if isinstance(config, BenchConfig)]


def load_comparison(overrides: list[str]) -> CompareConfig:
    """Validate the settings of a comparison."""
    settings = structured(CompareConfig)
    for text in overrides:
        set_key(settings, _parse_own(text, CompareConfig, "; see rlkl compare --help"))
    with one_line_errors():
        config = OmegaConf.to_object(settings)
    assert isinstance(config, CompareConfig)
    return config


def load_experiment(name: str, overrides: list[str]) -> ExperimentConfig:
    """Compose and validate the settings of an experiment.

    Args:
        name: one of `EXPERIMENTS`.
        overrides: of the experiment's own keys and, if it trains, of the keys of `rlkl train`.
    """
    experiment = EXPERIMENTS[name]
    own_keys = [field.name for field in fields(experiment.config) if field.name != "train"]
    settings = structured(experiment.config)
    for_training = {}
    for text in overrides:
        override = parse(text)
        key = override.key_or_group
        if key in own_keys:
            set_key(settings, override)
        else:
            _check_training_key(text, key, own_keys, experiment)
            for_training[key] = text
    with one_line_errors():
        config = OmegaConf.to_object(settings)
    assert isinstance(config, ExperimentConfig)
    if isinstance(config, StartConfig) and config.checkpoint is not None and for_training:
        text = next(iter(for_training.values()))
        raise ConfigError(f"{text}: the run in checkpoint={config.checkpoint} has its own settings")
    if isinstance(config, TrainingExperimentConfig):
        chosen = {parse(text).key_or_group: text for text in experiment.overrides or ()}
        line = CommandLine(list((chosen | for_training).values()))
        config = replace(config, train=load(line.normalized()))
    return config


def _check_training_key(text: str, key: str, own_keys: list[str], experiment: Experiment) -> None:
    """Raise unless an override is one of `rlkl train` that changes something in an experiment."""
    trains = experiment.overrides is not None
    known = [*own_keys, *(known_keys() if trains else ()), *(GROUPS if trains else ())]
    if key not in known and not (trains and key.startswith(FREE_KEY)):
        problem = explain_unknown_key(key, known, f"; expected one of {', '.join(own_keys)}")
        raise ConfigError(f"{text}: {problem}; see rlkl show --help")
    if {key, key.partition(".")[0]} & set(OF_RUN_FOLDERS):
        raise ConfigError(f"{text}: experiments log nothing; output=DIR is where they write")


def _parse_own(text: str, config: type[Any], more: str = "") -> Override:
    """Parse an override of a command's own settings."""
    override = parse(text)
    key, keys = override.key_or_group, [field.name for field in fields(config)]
    if key not in keys:
        hint = nearest(key, keys) or f"; expected one of {', '.join(keys)}"
        raise ConfigError(f"{text}: there is no key {key!r}{hint}{more}")
    return override


def _one_value(override: Override) -> Any:
    if override.is_sweep_override() or override.is_delete():
        raise ConfigError(
            f"{override.input_line}: expected key=value; write several values as [a,b]"
        )
    return override.value()


def set_key(settings: DictConfig, override: Override) -> None:
    """Set a key of a command's own settings to the one value of an override."""
    _one_value(override)
    value = parse(for_hydra(str(override.input_line), dict(typed_keys(settings)))).value()
    with one_line_errors():
        OmegaConf.update(settings, override.key_or_group, value)
