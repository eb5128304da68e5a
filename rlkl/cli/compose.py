"""From command-line overrides to a validated `TrainConfig`; what is wrong, in one line."""

import itertools
import math
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, IntegerNode, ListConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rlkl.algos import ALGORITHMS
from rlkl.cli.hints import suggest_key, suggest_option
from rlkl.cli.hydra_safety import check_hydra
from rlkl.envs.make import choose_backend
from rlkl.tools.bench.work import BenchConfig
from rlkl.tools.compare.settings import CompareConfig
from rlkl.tools.experiments import EXPERIMENTS
from rlkl.tools.experiments.base import Experiment, ExperimentConfig, TrainingExperimentConfig
from rlkl.tools.experiments.starts import StartConfig
from rlkl.training.config import TrainConfig, leaves
from rlkl.utils.validation import ConfigError, check_choice, nearest

_PACKAGE = Path(__file__).parents[1]
CONFIG_DIR = (
    _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
)
"""Inside the package once it is installed, beside it in a checkout."""

GROUPS = ("algo", "env", "policy", "critic", "logger", "experiment", "table1", "ablation")
STACKED = ("experiment", "ablation")
"""Groups of which any number of options may be chosen, as a list; of the others, exactly one."""
MOST_JOBS = 10_000
MOST_WHOLE = 10**15
"""Floats up to it are exact, so one that is whole is the number that was meant."""

FREE_KEY = "env.kwargs."
"""Below it any key may be given: it goes to the environment's constructor."""


@cache
def register_schemas() -> None:
    """Make the dataclasses known to Hydra, as the types and defaults of the config."""
    store = ConfigStore.instance()
    root = _schema(TrainConfig)
    root.algo = MISSING  # the group fills it; the default's type would admit no other
    store.store(group="schema", name="train", node=root, package="_global_")
    for name, algorithm in ALGORITHMS.items():
        store.store(group="schema/algo", name=name, node=_schema(algorithm.config))
    store.store(group="schema", name="bench", node=_schema(BenchConfig), package="_global_")


def _schema(dataclass_type: type[Any]) -> DictConfig:
    """Return a config with a dataclass's types; overrides may change it, frozen or not."""
    schema: DictConfig = OmegaConf.structured(dataclass_type)

    def unlock(node: DictConfig) -> None:
        OmegaConf.set_readonly(node, None)
        for key in node:
            child = node._get_node(key)
            if isinstance(child, DictConfig):
                unlock(child)

    unlock(schema)
    return schema


def options(group: str, config_dirs: Iterable[Path] = ()) -> dict[str, str]:
    """Return the choices of a group and what each is, from the first comment of its file."""
    found = {}
    for directory in (CONFIG_DIR, *config_dirs):
        for path in sorted((directory / group).glob("*.yaml")):
            comments = [
                line.lstrip("# ").rstrip()
                for line in path.read_text().splitlines()
                if line.startswith("#") and "@package" not in line
            ]
            found[path.stem] = comments[0] if comments else ""
    return found


@cache
def env_settings() -> dict[str, dict[str, Any]]:
    """Return the settings of each option of the group `env`, by their keys."""
    found = {}
    for name in options("env"):
        content = yaml.safe_load((CONFIG_DIR / "env" / f"{name}.yaml").read_text())
        found[name] = dict(leaves(content))
    return found


def env_ids() -> dict[str, str]:
    """Return the id of each option of the group `env`."""
    return {name: settings["env.id"] for name, settings in env_settings().items()}


def unused_settings(overrides: Iterable[str], config: TrainConfig) -> str:
    """Return a line about the settings that an option of `env` has for an `env.id` typed alone.

    Args:
        overrides: of the job.
        config: what they make.
    """
    typed = {override.key_or_group: override.value() for override in map(_parse, overrides)}
    mine = dict(leaves(asdict(config)))
    for name, settings in env_settings().items():
        if "env.id" not in typed or settings["env.id"] != config.env.id or typed.get("env") == name:
            continue
        others = {
            key: value
            for key, value in settings.items()
            if key not in typed and mine.get(key) != value
        }
        if others:
            told = " ".join(f"{key}={_as_typed(value)}" for key, value in others.items())
            return (
                f"env.id={config.env.id} chooses the environment alone; "
                f"env={name} has settings for it: {told}"
            )
    return ""


def _as_typed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


@dataclass(frozen=True)
class CommandLine:
    """Overrides as typed.

    Attributes:
        overrides: Hydra's override syntax; `env.kwargs.x=1` needs no `+`.
    """

    overrides: list[str]

    def normalized(self) -> list[str]:
        """Return the overrides as Hydra takes them.

        Raises:
            ConfigError: one that cannot be parsed.
        """
        return [_for_hydra(text, _whole_number_keys()) for text in self.overrides]

    def parsed(self) -> list[Override]:
        """Return the overrides as Hydra understands them.

        Raises:
            ConfigError: one that cannot be parsed.
        """
        return [_parse(text) for text in self.overrides]

    def jobs(self, *, multirun: bool, config_dirs: Iterable[Path] = ()) -> Iterator[list[str]]:
        """Yield the overrides of each job: one, or every combination of a sweep.

        Args:
            multirun: whether a sweep may be asked for.
            config_dirs: searched beside rlkl's own configs for the options that a `glob` names.

        Raises:
            ConfigError: an override that cannot be parsed, or a sweep without `--multirun`.
        """
        choices: list[list[str]] = []
        for text in self.overrides:
            override = _parse(text)
            if override.is_sweep_override():
                if not multirun:
                    raise ConfigError(
                        f"{text}: several values for one key make a sweep; add --multirun"
                    )
                if not override.is_discrete_sweep():
                    raise ConfigError(
                        f"{text}: an interval cannot be swept; list values or use range(...)"
                    )
                key = override.get_key_element()
                values = _swept(override, config_dirs)
                if not values:
                    raise ConfigError(f"{text}: a sweep of no values; expected at least one")
                whole = _whole_number_keys()
                choices.append([_for_hydra(f"{key}={value}", whole) for value in values])
            else:
                choices.append([_for_hydra(text, _whole_number_keys())])
            if math.prod(map(len, choices)) > MOST_JOBS:
                raise ConfigError(
                    f"{text}: a sweep of too many jobs; expected at most {MOST_JOBS} jobs"
                )
        for combination in itertools.product(*choices):
            yield list(combination)


def _for_hydra(text: str, whole_number_keys: Collection[str]) -> str:
    """Return an override as Hydra takes it.

    Keys below `env.kwargs` are added, `None` is `null`, and `1e4` is 10000 where a whole number is
    expected.
    """
    override = _parse(text)
    key, equals, typed = text.partition("=")
    if typed == "None":
        typed = "null"
    elif override.key_or_group in whole_number_keys:
        value = override.value()
        whole = _whole(value)
        typed = typed if whole is value else str(whole).replace(" ", "")
    free = (FREE_KEY, FREE_KEY.rstrip(".") + "=")
    return ("++" if text.startswith(free) else "") + key + equals + typed


def _whole(value: Any) -> Any:
    """Return the whole number that a float is, or a list of them; anything else as it is."""
    if isinstance(value, list) and value:
        numbers = [_whole(number) for number in value]
        return numbers if all(type(number) is int for number in numbers) else value
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= MOST_WHOLE
    return int(value) if is_whole else value


def _swept(override: Override, config_dirs: Iterable[Path]) -> list[str]:
    """Return the values of a sweep, or one more than there may be jobs."""
    text, key = override.input_line, override.key_or_group
    value: Any = override.value()
    parts = value.list if isinstance(value, ChoiceSweep) else [value]
    if not any(isinstance(part, Glob) for part in parts):
        with one_line_errors(text or ""):
            return list(itertools.islice(override.sweep_string_iterator(), MOST_JOBS + 1))
    if key not in GROUPS:
        raise ConfigError(
            f"{text}: glob(...) chooses among the options of {', '.join(GROUPS)}; "
            "list values or use range(...)"
        )
    known = list(options(key, config_dirs))
    found: dict[str, None] = {}
    for part in parts:
        names = part.filter(known) if isinstance(part, Glob) else [str(part)]
        if not names:
            raise ConfigError(
                f"{text}: {key} has no such option; expected some of {', '.join(known)}"
            )
        found |= dict.fromkeys(names)
    return list(found)


def load(overrides: list[str], config_dirs: Iterable[Path] = ()) -> TrainConfig:
    """Compose, type-check and validate the config of one job. Nothing is created.

    Args:
        overrides: as Hydra takes them.
        config_dirs: searched beside rlkl's own configs.

    Raises:
        ConfigError: with one line that says what is wrong and how to mend it.
    """
    config_dirs = list(config_dirs)
    for text in overrides:
        _check_key(_parse(text), config_dirs)
    config = _composed(overrides, config_dirs)
    _check_ablations(overrides, config_dirs, config)
    return config


def _composed(overrides: list[str], config_dirs: list[Path]) -> TrainConfig:
    search_path = ",".join(f"file://{path.resolve()}" for path in config_dirs)
    extra = [f"hydra.searchpath=[{search_path}]"] if config_dirs else []
    for_files = [text for text in overrides if not _parse(text).key_or_group.startswith("hydra.")]

    def composed(overrides: list[str]) -> DictConfig:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return compose("train", [*overrides, *extra], return_hydra_config=True)

    with one_line_errors():
        config = composed(overrides)
        of_files = config if len(for_files) == len(overrides) else composed(for_files)
        check_hydra(config.hydra, of_files.hydra)
        with open_dict(config):
            del config["hydra"]
        return to_train_config(config)


def _check_ablations(overrides: list[str], config_dirs: list[Path], config: TrainConfig) -> None:
    """Raise if an ablation takes away what was not there: the two runs would be the same."""
    for text in overrides:
        override = _parse(text)
        if override.key_or_group != "ablation":
            continue
        names = [name for name in _names(override.value()) if name != "none"]
        others = [other for other in overrides if other is not text]
        for name in names:
            rest = f"ablation=[{','.join(n for n in names if n != name)}]"
            if _composed([*others, rest], config_dirs) == config:
                raise ConfigError(
                    f"{text}: {name} changes nothing here, for it is off already or set by another "
                    "override; experiment=code_level_details has every detail on"
                )


def to_train_config(composed: DictConfig) -> TrainConfig:
    """Turn a composed config into the dataclasses, which validate themselves.

    Raises:
        ConfigError: a value out of range, or an environment that does not exist.
    """
    config = OmegaConf.to_object(composed)
    assert isinstance(config, TrainConfig)
    choose_backend(config.env)
    return config


def overridden(config: TrainConfig, overrides: list[str]) -> TrainConfig:
    """Return the config of a run that is resumed, with the values that overrides give to its keys.

    Args:
        config: of the run so far.
        overrides: `key=value` alone.

    Raises:
        ConfigError: with one line that says what is wrong and how to mend it.
    """
    settings = _schema(TrainConfig)
    settings.algo = _schema(type(config.algo))
    try:
        settings.merge_with(asdict(config))
        for text in overrides:
            override = _parse(text)
            key = override.key_or_group
            if key in GROUPS or override.is_sweep_override() or override.is_delete():
                raise ConfigError(
                    f"{text}: a run that is resumed takes keys with one value each, such as "
                    "logger.progress=none, and no groups"
                )
            if not key.startswith(FREE_KEY):
                _check_key(override, [])
            OmegaConf.update(settings, key, override.value(), force_add=key.startswith(FREE_KEY))
        changed = OmegaConf.to_object(settings)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from error
    assert isinstance(changed, TrainConfig)
    return changed


def load_works(overrides: list[str]) -> list[BenchConfig]:
    """Compose, type-check and validate the works that the benchmark is to measure.

    Args:
        overrides: keys of `BenchConfig`, for every work alike; `work` is a name, several, or `all`.

    Raises:
        ConfigError: with one line that says what is wrong and how to mend it.
    """
    works, names, others = options("bench"), ["ppo_cartpole"], []
    keys = [field.name for field in fields(BenchConfig)]
    whole = _whole_keys_of(OmegaConf.structured(BenchConfig), "")
    for text in overrides:
        override = _parse(text)
        key, value = override.key_or_group, override.value()
        if key not in keys:
            hint = nearest(key, keys) or f"; expected one of {', '.join(keys)}"
            raise ConfigError(f"{text}: there is no key {key!r}{hint}")
        if override.is_sweep_override() or override.is_delete():
            raise ConfigError(f"{text}: expected key=value; write several values as [a,b]")
        if key == "work":
            given = value if isinstance(value, list) else [value]
            names = list(works) if value == "all" else [str(name) for name in given or [""]]
            for name in names:
                check_choice("work", name, works)
        else:
            others.append(_for_hydra(text, whole))
    with one_line_errors():
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            composed = [compose(f"bench/{name}", [*others, f"work={name}"]) for name in names]
        configs = [OmegaConf.to_object(config) for config in composed]
    return [config for config in configs if isinstance(config, BenchConfig)]


def load_experiment(name: str, overrides: list[str]) -> ExperimentConfig:
    """Compose, type-check and validate the settings of an experiment.

    Args:
        name: one of `EXPERIMENTS`.
        overrides: of the experiment's own keys and, if it trains, of those of `rlkl train`.

    Raises:
        ConfigError: with one line that says what is wrong and how to mend it.
    """
    experiment = EXPERIMENTS[name]
    own_keys = [field.name for field in fields(experiment.config) if field.name != "train"]
    settings = _schema(experiment.config)
    given = {}
    for text in overrides:
        override = _parse(text)
        key = override.key_or_group
        if key not in own_keys:
            _check_key_of_training(text, key, own_keys, experiment)
            given[key] = text
            continue
        set_key(settings, override)
    with one_line_errors():
        config = OmegaConf.to_object(settings)
    assert isinstance(config, ExperimentConfig)
    if isinstance(config, StartConfig) and config.checkpoint is not None and given:
        text = next(iter(given.values()))
        raise ConfigError(f"{text}: the run in checkpoint={config.checkpoint} has its own settings")
    if isinstance(config, TrainingExperimentConfig):
        chosen = {_parse(text).key_or_group: text for text in experiment.overrides or ()} | given
        config = replace(config, train=load(CommandLine(list(chosen.values())).normalized()))
    return config


def set_key(settings: DictConfig, override: Override) -> None:
    """Give a setting of a command's own the one value that was typed."""
    if override.is_sweep_override() or override.is_delete():
        raise ConfigError(
            f"{override.input_line}: expected key=value; write several values as [a,b]"
        )
    text, key = str(override.input_line), override.key_or_group
    meant = _parse(_for_hydra(text, _whole_keys_of(settings, "")))
    with one_line_errors():
        OmegaConf.update(settings, key, meant.value())


def load_comparison(overrides: list[str]) -> CompareConfig:
    """Type-check and validate the settings of a comparison.

    Args:
        overrides: of `CompareConfig`.

    Raises:
        ConfigError: with one line that says what is wrong and how to mend it.
    """
    keys = [field.name for field in fields(CompareConfig)]
    settings = _schema(CompareConfig)
    for text in overrides:
        override = _parse(text)
        key = override.key_or_group
        if key not in keys:
            hint = nearest(key, keys) or f"; expected one of {', '.join(keys)}"
            raise ConfigError(f"{text}: there is no key {key!r}{hint}; see rlkl compare --help")
        set_key(settings, override)
    with one_line_errors():
        config = OmegaConf.to_object(settings)
    assert isinstance(config, CompareConfig)
    return config


def _check_key_of_training(
    text: str, key: str, own_keys: list[str], experiment: Experiment
) -> None:
    """Raise unless an override is one of `rlkl train` that changes something in an experiment."""
    known = own_keys if experiment.overrides is None else [*own_keys, *known_keys(), *GROUPS]
    if key not in known and not (experiment.overrides is not None and key.startswith(FREE_KEY)):
        listed = suggest_key(key, known) or f"; expected one of {', '.join(own_keys)}"
        raise ConfigError(f"{text}: there is no key {key!r}{listed}; see rlkl show --help")
    if (
        key in ("run_dir", "eval_episodes", "eval_max_episode_steps", "eval_interval")
        or key.partition(".")[0] == "logger"
    ):
        raise ConfigError(f"{text}: experiments log nothing; output=DIR is where they write")


@contextmanager
def one_line_errors(what: str = "") -> Iterator[None]:
    """Turn errors of Hydra and OmegaConf within into a `ConfigError` of one line.

    Args:
        what: goes in front of the line, where they do not say what they are about.
    """
    try:
        yield
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException, *WRONG_VALUES) as error:
        raise ConfigError(f"{what}: {_explain(error)}" if what else _explain(error)) from error


WRONG_VALUES = (TypeError, ValueError, OverflowError, RecursionError, yaml.YAMLError, OSError)
"""What Hydra and OmegaConf let through of what goes wrong while they read a value or a file."""


def check_package(package: str) -> None:
    """Raise unless `package` is a key of the config, or a part that has keys.

    Raises:
        ConfigError: it is neither.
    """
    if not any(f"{key}.".startswith(f"{package}.") for key in known_keys()):
        raise ConfigError(f"--package={package}: expected a part of the config, such as algo")


def _parse(text: str) -> Override:
    if "=" not in text and not text.startswith("~"):
        raise ConfigError(f"{text}: not an override; {_what_was_meant(text)}")
    try:
        parsed: Override = OverridesParser.create().parse_override(text)
    except (HydraException, ValueError) as error:
        key, reason = text.partition("=")[0], _first_line(error).partition(" expecting ")[0]
        raise ConfigError(
            f"{text}: not an override; expected key=value, where a list is [1,2] and a text with "
            f"special characters has two kinds of quotes, \"{key}='TEXT'\": {reason}"
        ) from error
    number = parsed.value()
    if isinstance(number, int) and abs(number) > sys.float_info.max:
        raise ConfigError(f"{text}: expected a number within ±{sys.float_info.max:.1e}")
    return parsed


def _what_was_meant(text: str) -> str:
    """Return what to type instead of an argument without an equals sign."""
    group = next((group for group in GROUPS if text.lower() in options(group)), None)
    if group is not None:
        return f"did you mean {group}={text.lower()}?"
    if re.fullmatch(r"[\w/:.]+-v\d+", text):
        return f"did you mean env.id={text}?"
    return "expected key=value, without spaces around the equals sign; see rlkl train --help"


def _check_key(override: Override, config_dirs: list[Path]) -> None:
    key, text = override.key_or_group, override.input_line
    if key == "hydra.run.dir":
        raise ConfigError(f"{text}: Hydra writes nothing here; run_dir=DIR names the run's folder")
    if key == "hydra.searchpath":
        raise ConfigError(f"{text}: name a folder of configs by --config-dir DIR")
    if key.startswith(("hydra.", "hydra/", FREE_KEY)):
        return
    if override.is_delete():
        raise ConfigError(f"{text}: nothing can be taken out of the config; set another value")
    if key in GROUPS:
        choices = options(key, config_dirs)
        value = override.value()
        names = _names(value) if key in STACKED else [value]
        for name in names:
            if not isinstance(name, str) or name not in choices:
                raise ConfigError(
                    f"{text}: {key} has no option {name!r}; expected one of "
                    f"{', '.join(choices)}{suggest_option(key, str(name), choices, env_ids())}"
                )
        return
    keys = known_keys()
    if key not in keys:
        below = sorted(k for k in keys if k.startswith(f"{key.partition('.')[0]}."))
        hint = suggest_key(key, keys | set(GROUPS))
        listed = f"; expected one of {', '.join(below)}" if below else "; see rlkl train --help"
        raise ConfigError(f"{text}: there is no key {key!r}{hint or listed}")


def _names(value: Any) -> list[Any]:
    """Return the options that an override of a group that stacks chooses."""
    return value if isinstance(value, list) else [value] if value is not None else []


@cache
def known_keys() -> frozenset[str]:
    """Every key that a config can have, those of all algorithms included."""
    schema = OmegaConf.structured(TrainConfig)
    keys = [*_paths(OmegaConf.to_container(schema), ""), "env.kwargs"]
    for algorithm in ALGORITHMS.values():
        keys += _paths(OmegaConf.to_container(OmegaConf.structured(algorithm.config)), "algo.")
    return frozenset(keys)


@cache
def _whole_number_keys() -> frozenset[str]:
    """The keys of a config that hold a whole number, or a list of them."""
    found = _whole_keys_of(OmegaConf.structured(TrainConfig), "")
    for algorithm in ALGORITHMS.values():
        found |= _whole_keys_of(OmegaConf.structured(algorithm.config), "algo.")
    return frozenset(found)


def _whole_keys_of(node: DictConfig, prefix: str) -> set[str]:
    found = set()
    for key in map(str, node):
        child = node._get_node(key)
        if isinstance(child, DictConfig) and child._metadata.object_type is not dict:
            found |= _whole_keys_of(child, f"{prefix}{key}.")
        elif isinstance(child, IntegerNode) or (
            isinstance(child, ListConfig) and child._metadata.element_type is int
        ):
            found.add(f"{prefix}{key}")
    return found


def _paths(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _explain(error: BaseException) -> str:
    """Return one line from an error of Hydra or OmegaConf and its cause."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; expected what can be read or made there"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key, line = getattr(cause, "full_key", None), _first_line(cause)
    if key is None and (told := re.search(r"full_key: (\S+)", str(cause))):
        key = told[1]
    owner = getattr(cause, "object_type", None)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and is_dataclass(owner):
        names = ", ".join(field.name for field in fields(owner))
        return f"{key}: {getattr(owner, 'name', 'the config')} has no such key; it has {names}"
    if wrong := re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", line):
        whole = "whole " * (wrong[2] == "Integer")
        return f"{key}={wrong[1]}: expected a {whole}number"
    if "is not a ListConfig" in line:
        line = "expected a list, such as [64,64]"
    elif "is not Optional" in line:
        line = "expected a value; null is not one"
    return f"{key}: {line}" if key and key not in line else line


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # Hydra first says where it was, and behind a colon what was wrong.
    return " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])
