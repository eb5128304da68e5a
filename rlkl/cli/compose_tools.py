"""Composes the settings of `rlkl bench`, `rlkl show` and `rlkl compare`."""

from collections.abc import Collection
from dataclasses import fields, replace
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
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
    register_schemas,
    structured,
    typed_keys,
)
from rlkl.tools.bench.work import BenchConfig
from rlkl.tools.compare.settings import CompareConfig
from rlkl.tools.experiments import EXPERIMENTS
from rlkl.tools.experiments.base import ExperimentConfig, TrainingExperimentConfig
from rlkl.tools.experiments.starts import StartConfig
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_choice, nearest

OF_RUN_FOLDERS = (
    "run_dir", "eval_episodes", "eval_max_episode_steps", "eval_interval", "logger",
)  # fmt: skip
"""Keys of `rlkl train`, or their first parts, that change nothing in an experiment."""

Settings = TypeVar("Settings")


def read_settings(kind: type[Settings], overrides: list[str]) -> tuple[Settings, list[str]]:
    """Return the settings of a command, a dataclass, and the overrides of keys it does not have."""
    settings, others = structured(kind), []
    keys = dict(typed_keys(settings))
    for text in overrides:
        key = parse(text).key_or_group
        if key not in keys or "." in key:  # an experiment's `train.KEY` is typed as `KEY`
            others.append(text)
            continue
        _one_value(text)
        with one_line_errors():
            OmegaConf.update(settings, key, parse(for_hydra(text, keys)).value())
    with one_line_errors():
        config = OmegaConf.to_object(settings)
    assert isinstance(config, kind)
    return config, others


def load_works(overrides: list[str]) -> list[BenchConfig]:
    """Return the works of a benchmark.

    The keys are those of `BenchConfig`, for all works; `work` is a name, several, `all` of
    those on the CPU, or `gpu` for those on a GPU.
    """
    works, names, others = options("bench"), ["ppo_cartpole"], []
    groups = {"all": [name for name in works if not name.startswith("gpu_")]}
    groups["gpu"] = [name for name in works if name not in groups["all"]]
    keys = dict(typed_keys(OmegaConf.structured(BenchConfig)))
    _check_keys(overrides, keys)
    for text in overrides:
        value = _one_value(text)
        if parse(text).key_or_group == "work":
            given = value if isinstance(value, list) else [value]
            for name in given or [""]:
                check_choice("work", str(name), [*works, *groups])
            names = [one for name in given for one in groups.get(name, [name])]
        else:
            others.append(for_hydra(text, keys))
    register_schemas()
    with one_line_errors():
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            composed = [compose(f"bench/{name}", [*others, f"work={name}"]) for name in names]
        configs = [OmegaConf.to_object(config) for config in composed]
    return [config for config in configs if isinstance(config, BenchConfig)]


def load_comparison(overrides: list[str]) -> CompareConfig:
    """Validate the settings of a comparison."""
    keys = [field.name for field in fields(CompareConfig)]
    _check_keys(overrides, keys, "; see rlkl compare --help")
    return read_settings(CompareConfig, overrides)[0]


def load_experiment(name: str, overrides: list[str]) -> ExperimentConfig:
    """Return the settings of an experiment, with its own keys and, if it trains, `rlkl train`'s."""
    experiment = EXPERIMENTS[name]
    config, others = read_settings(experiment.config, overrides)
    for_training = {parse(text).key_or_group: text for text in others}
    own_keys = [field.name for field in fields(config) if field.name != "train"]
    trains = experiment.overrides is not None
    known = [*own_keys, *known_keys(), *GROUPS] if trains else own_keys
    for key, text in for_training.items():
        if key not in known and not (trains and key.startswith(FREE_KEYS)):
            problem = explain_unknown_key(key, known, f"; expected one of {', '.join(own_keys)}")
            raise ConfigError(f"{text}: {problem}; see rlkl show --help")
        if {key, key.partition(".")[0]} & set(OF_RUN_FOLDERS):
            raise ConfigError(f"{text}: experiments log nothing; output=DIR is where they write")
    if isinstance(config, StartConfig) and config.checkpoint is not None and for_training:
        text = next(iter(for_training.values()))
        raise ConfigError(f"{text}: the run in checkpoint={config.checkpoint} has its own settings")
    if isinstance(config, TrainingExperimentConfig):
        chosen = {parse(text).key_or_group: text for text in experiment.overrides or ()}
        train = load([for_hydra(text) for text in (chosen | for_training).values()])
        config = replace(config, train=train)
    return config


def _check_keys(overrides: list[str], keys: Collection[str], more: str = "") -> None:
    """Raise unless each override is for one of the keys of a command."""
    for text in overrides:
        key = parse(text).key_or_group
        if key not in keys:
            hint = nearest(key, keys) or f"; expected one of {', '.join(keys)}"
            raise ConfigError(f"{text}: there is no key {key!r}{hint}{more}")


def _one_value(text: str) -> Any:
    override = parse(text)
    if override.is_sweep_override() or override.is_delete():
        raise ConfigError(f"{text}: expected key=value; write several values as [a,b]")
    return override.value()
