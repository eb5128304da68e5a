"""Composes the settings of `rlkl bench`, `rlkl show` and `rlkl compare`."""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from rlkl.cli.command_line import for_hydra, parse
from rlkl.cli.compose import load
from rlkl.cli.hints import explain_unknown_key
from rlkl.cli.hydra_errors import one_line_errors
from rlkl.cli.schema import (
    CONFIG_DIR,
    FREE_KEYS,
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

Settings = TypeVar("Settings")


def read_settings(kind: type[Settings], overrides: Iterable[Override]) -> Settings:
    """Return settings of a command: a dataclass, with one value of each override."""
    settings = structured(kind)
    keys = dict(typed_keys(settings))
    for override in overrides:
        _one_value(override)
        value = parse(for_hydra(str(override.input_line), keys)).value()
        with one_line_errors():
            OmegaConf.update(settings, override.key_or_group, value)
    with one_line_errors():
        config = OmegaConf.to_object(settings)
    assert isinstance(config, kind)
    return config


def load_works(overrides: list[str]) -> list[BenchConfig]:
    """Return the works of a benchmark.

    The keys are those of `BenchConfig`, for all works; `work` is a name, several, `all` of
    those on the CPU, or `gpu` for those on a GPU.
    """
    works, names, others = options("bench"), ["ppo_cartpole"], []
    groups = {"all": [name for name in works if not name.startswith("gpu_")]}
    groups["gpu"] = [name for name in works if name not in groups["all"]]
    keys = dict(typed_keys(OmegaConf.structured(BenchConfig)))
    for text in overrides:
        override = _parse_own(text, BenchConfig)
        value = _one_value(override)
        if override.key_or_group == "work":
            given = value if isinstance(value, list) else [value]
            for name in given or [""]:
                check_choice("work", str(name), [*works, *groups])
            names = [one for name in given for one in groups.get(name, [name])]
        else:
            others.append(for_hydra(text, keys))
    with one_line_errors():
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            composed = [compose(f"bench/{name}", [*others, f"work={name}"]) for name in names]
        configs = [OmegaConf.to_object(config) for config in composed]
    return [config for config in configs if isinstance(config, BenchConfig)]


def load_comparison(overrides: list[str]) -> CompareConfig:
    """Validate the settings of a comparison."""
    more = "; see rlkl compare --help"
    return read_settings(CompareConfig, [_parse_own(t, CompareConfig, more) for t in overrides])


def load_experiment(name: str, overrides: list[str]) -> ExperimentConfig:
    """Return the settings of an experiment, with its own keys and, if it trains, `rlkl train`'s."""
    experiment = EXPERIMENTS[name]
    own_keys = [field.name for field in fields(experiment.config) if field.name != "train"]
    own, for_training = [], {}
    for text in overrides:
        override = parse(text)
        key = override.key_or_group
        if key in own_keys:
            own.append(override)
        else:
            _check_training_key(text, key, own_keys, experiment)
            for_training[key] = text
    config = read_settings(experiment.config, own)
    if isinstance(config, StartConfig) and config.checkpoint is not None and for_training:
        text = next(iter(for_training.values()))
        raise ConfigError(f"{text}: the run in checkpoint={config.checkpoint} has its own settings")
    if isinstance(config, TrainingExperimentConfig):
        chosen = {parse(text).key_or_group: text for text in experiment.overrides or ()}
        train = load([for_hydra(text) for text in (chosen | for_training).values()])
        config = replace(config, train=train)
    return config


def _check_training_key(text: str, key: str, own_keys: list[str], experiment: Experiment) -> None:
    """Raise unless an override is one of `rlkl train` that changes something in an experiment."""
    trains = experiment.overrides is not None
    known = [*own_keys, *known_keys(), *GROUPS] if trains else own_keys
    if key not in known and not (trains and key.startswith(FREE_KEYS)):
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
