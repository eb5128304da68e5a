"""Composes, checks and validates the `TrainConfig` that overrides describe."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from rlkl.cli.command_line import parse
from rlkl.cli.hints import explain_unknown_key, suggest_option
from rlkl.cli.hydra_errors import one_line_errors
from rlkl.cli.hydra_safety import check_hydra
from rlkl.cli.schema import (
    CONFIG_DIR,
    FREE_KEYS,
    GROUPS,
    STACKED,
    env_settings,
    known_keys,
    options,
    register_schemas,
    search_path,
    structured,
)
from rlkl.envs.make import choose_backend
from rlkl.models.own_networks import import_networks
from rlkl.training.config import TrainConfig, leaves
from rlkl.utils.errors import ConfigError


def load(overrides: list[str], config_dirs: Iterable[Path] = ()) -> TrainConfig:
    """Return the config of one job, from overrides as Hydra accepts them. Nothing is created."""
    config_dirs = list(config_dirs)
    for text in overrides:
        _check_key(parse(text), config_dirs)
    overrides = with_env_settings(overrides, config_dirs)
    config = _composed(overrides, config_dirs)
    _check_ablations(overrides, config_dirs, config)
    return config


def _composed(overrides: list[str], config_dirs: list[Path]) -> TrainConfig:
    register_schemas()
    added = search_path(config_dirs)
    plain = [text for text in overrides if not parse(text).key_or_group.startswith("hydra.")]
    with one_line_errors():
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = from_files = compose("train", [*overrides, added], return_hydra_config=True)
            if len(plain) < len(overrides):
                from_files = compose("train", [*plain, added], return_hydra_config=True)
        check_hydra(config.hydra, from_files.hydra)
        with open_dict(config):
            del config["hydra"]
        return to_train_config(config)


def to_train_config(composed: DictConfig) -> TrainConfig:
    """Turn a composed config into dataclasses, which raise `ConfigError` if a value is invalid."""
    config = OmegaConf.to_object(composed)
    assert isinstance(config, TrainConfig)
    choose_backend(config.env)
    import_networks(config.policy)
    return config


def overridden(
    config: TrainConfig, overrides: list[str], what: str = "a resumed run"
) -> TrainConfig:
    """Return the config of a run, such as a resumed one, with overrides `key=value` applied."""
    settings = structured(TrainConfig)
    settings.algo = structured(type(config.algo))
    with one_line_errors():
        settings.merge_with(asdict(config))
        for text in overrides:
            override = parse(text)
            key = override.key_or_group
            if key in GROUPS or override.is_sweep_override() or override.is_delete():
                raise ConfigError(
                    f"{text}: {what} takes keys with one value each, such as "
                    "logger.progress=none, and no groups"
                )
            _check_key(override, [])
            OmegaConf.update(settings, key, override.value(), force_add=key.startswith(FREE_KEYS))
        changed = OmegaConf.to_object(settings)
    assert isinstance(changed, TrainConfig)
    return changed


def _check_key(override: Override, config_dirs: list[Path]) -> None:
    key, text = override.key_or_group, override.input_line
    if key == "hydra.run.dir":
        raise ConfigError(f"{text}: Hydra writes nothing; run_dir=DIR sets the run's folder")
    if key == "hydra.searchpath":
        raise ConfigError(f"{text}: name a folder of configs by --config-dir DIR")
    if key.startswith(("hydra.", "hydra/", *FREE_KEYS)):
        return
    if override.is_delete():
        raise ConfigError(f"{text}: nothing can be removed from the config; set another value")
    if key in GROUPS:
        choices, value = options(key, config_dirs), override.value()
        ids = {option: settings["env.id"] for option, settings in env_settings().items()}
        for name in as_list(value) if key in STACKED else [value]:
            if not isinstance(name, str) or name not in choices:
                raise ConfigError(
                    f"{text}: {key} has no option {name!r}; expected one of "
                    f"{', '.join(choices)}{suggest_option(key, str(name), choices, ids)}"
                )
    elif key not in known_keys():
        below = sorted(k for k in known_keys() if k.startswith(f"{key.partition('.')[0]}."))
        expected = f"expected one of {', '.join(below)}" if below else "see rlkl train --help"
        problem = explain_unknown_key(key, {*known_keys(), *GROUPS}, f"; {expected}")
        raise ConfigError(f"{text}: {problem}")


def as_list(value: Any) -> list[Any]:
    """Return the options that an override of a stacked group chooses."""
    return value if isinstance(value, list) else [value] if value is not None else []


def _check_ablations(overrides: list[str], config_dirs: list[Path], config: TrainConfig) -> None:
    """Raise if an ablation turns off what is off already: the two runs would be the same."""
    for text in overrides:
        override = parse(text)
        if override.key_or_group != "ablation":
            continue
        names = [name for name in as_list(override.value()) if name != "none"]
        others = [other for other in overrides if other is not text]
        for name in names:
            rest = f"ablation=[{','.join(n for n in names if n != name)}]"
            if _composed([*others, rest], config_dirs) == config:
                raise ConfigError(
                    f"{text}: {name} changes nothing here: it is off already or set by another "
                    "override; experiment=code_level_details has every detail on"
                )


FAMILIES = {"ALE/": "pong", "MiniGrid-": "minigrid_empty"}
"""Options of the group `env` by the start of the ids whose settings they have too."""


def with_env_settings(overrides: list[str], config_dirs: Iterable[Path] = ()) -> list[str]:
    """Return overrides with `env=OPTION` for an `env.id` that is typed without `env=`."""
    option = _followed_option(typed_values(overrides), config_dirs)
    return [*overrides, f"env={option}"] if option else overrides


def typed_values(overrides: Iterable[str]) -> dict[str, Any]:
    """Return the last value of each key or group in the overrides."""
    return {override.key_or_group: override.value() for override in map(parse, overrides)}


def _followed_option(typed: dict[str, Any], config_dirs: Iterable[Path] = ()) -> str:
    """Return the option with the settings for a typed `env.id`; empty if there is none."""
    env_id, backend = typed.get("env.id"), typed.get("env.backend")
    folders = [folder / "experiment" for folder in (CONFIG_DIR, *config_dirs)]
    files = [
        folder / f"{name}.yaml" for name in as_list(typed.get("experiment")) for folder in folders
    ]
    chooses_env = any("override /env:" in path.read_text() for path in files if path.exists())
    if not isinstance(env_id, str) or "env" in typed or chooses_env:
        return ""
    wanted = "tensor" if backend == "tensor" else None
    for name, settings in env_settings().items():
        if settings["env.id"] == env_id and settings.get("env.backend") == wanted:
            return name
    return next((name for start, name in FAMILIES.items() if env_id.startswith(start)), "")


def note_on_settings(overrides: Iterable[str], config: TrainConfig) -> str:
    """Return a line on the settings of an `env` option that `env.id=` takes, or leaves unused."""
    typed, of_options = typed_values(overrides), env_settings()
    used, defaults = dict(leaves(asdict(config))), dict(leaves(asdict(TrainConfig())))
    env_id, backend = config.env.id, config.env.backend
    if option := _followed_option(typed):
        taken = {
            key: value
            for key, value in of_options[option].items()
            if key not in typed and used.get(key) == value != defaults.get(key)
        }
        start = f"env.id={env_id} takes the settings of env={option}: "
        return f"{start}{_as_typed(taken)}" if taken else ""
    if "env.id" not in typed or of_options.get(str(typed.get("env")), {}).get("env.id") == env_id:
        return ""
    for name, settings in of_options.items():
        is_for_run = (settings["env.id"], settings.get("env.backend", backend)) == (env_id, backend)
        left = {key: value for key, value in settings.items() if key not in typed}
        unused = _as_typed({key: value for key, value in left.items() if used.get(key) != value})
        if is_for_run and unused:
            return (
                f"env.id={env_id} chooses the environment only; "
                f"env={name} has settings for it: {unused}"
            )
    return ""


def _as_typed(settings: dict[str, Any]) -> str:
    texts = (f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in settings.items())
    return " ".join(text.replace(" ", "") for text in texts)
