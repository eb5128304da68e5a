"""From command-line overrides to a validated `TrainConfig`; what is wrong, in one line."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rlkl.algos import ALGORITHMS
from rlkl.bench.work import BenchConfig
from rlkl.envs import choose_backend
from rlkl.lab import EXPERIMENTS
from rlkl.lab.base import Experiment, ExperimentConfig, TrainingExperimentConfig
from rlkl.lab.starts import StartConfig
from rlkl.training_config import TrainConfig
from rlkl.validation import ConfigError, check_choice, nearest

_PACKAGE = Path(__file__).parent
CONFIG_DIR = (
    _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
)
"""Inside the package once it is installed, beside it in a checkout."""

GROUPS = ("algo", "env", "policy", "critic", "logger", "experiment")
FREE_KEY = "env.kwargs."
"""Below it any key may be given: it goes to the environment's constructor."""


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


@dataclass(frozen=True)
class CommandLine:
    """Overrides as typed.

    Attributes:
        overrides: Hydra's override syntax; `env.kwargs.x=1` needs no `+`.
    """

    overrides: list[str]

    def normalized(self) -> list[str]:
        """Return the overrides as Hydra takes them."""
        return [f"++{text}" if text.startswith(FREE_KEY) else text for text in self.overrides]

    def jobs(self, *, multirun: bool) -> Iterator[list[str]]:
        """Yield the overrides of each job: one, or every combination of a sweep.

        Raises:
            ConfigError: an override that cannot be parsed, or a sweep without `--multirun`.
        """
        choices: list[list[str]] = []
        for text in self.normalized():
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
                choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
            else:
                choices.append([text])
        for combination in itertools.product(*choices):
            yield list(combination)


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
    search_path = ",".join(f"file://{path.resolve()}" for path in config_dirs)
    extra = [f"hydra.searchpath=[{search_path}]"] if config_dirs else []
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            composed = compose("train", [*overrides, *extra])
        return to_train_config(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from error


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
                raise ConfigError(f"{text}: a run that is resumed takes key=value alone")
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
            others.append(text)
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            composed = [compose(f"bench/{name}", [*others, f"work={name}"]) for name in names]
        configs = [OmegaConf.to_object(config) for config in composed]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from error
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
        if override.is_sweep_override() or override.is_delete():
            raise ConfigError(f"{text}: expected key=value; write several values as [a,b]")
        try:
            OmegaConf.update(settings, key, override.value())
        except OmegaConfBaseException as error:
            raise ConfigError(_explain(error)) from error
    config = OmegaConf.to_object(settings)
    assert isinstance(config, ExperimentConfig)
    if isinstance(config, StartConfig) and config.checkpoint is not None and given:
        text = next(iter(given.values()))
        raise ConfigError(f"{text}: the run in checkpoint={config.checkpoint} has its own settings")
    if isinstance(config, TrainingExperimentConfig):
        chosen = {_parse(text).key_or_group: text for text in experiment.overrides or ()} | given
        config = replace(config, train=load(CommandLine(list(chosen.values())).normalized()))
    return config


def _check_key_of_training(
    text: str, key: str, own_keys: list[str], experiment: Experiment
) -> None:
    """Raise unless an override is one of `rlkl train` that changes something in an experiment."""
    known = own_keys if experiment.overrides is None else [*own_keys, *_keys(), *GROUPS]
    if key not in known and not (experiment.overrides is not None and key.startswith(FREE_KEY)):
        listed = nearest(key, known) or f"; expected one of {', '.join(own_keys)}"
        raise ConfigError(f"{text}: there is no key {key!r}{listed}; see rlkl show --help")
    if key in ("run_dir", "eval_episodes") or key.partition(".")[0] == "logger":
        raise ConfigError(f"{text}: experiments log nothing; output=DIR is where they write")


def _parse(text: str) -> Override:
    try:
        parsed: Override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(
            f"{text}: not an override; expected key=value (quote values with spaces or commas): "
            f"{_first_line(error)}"
        ) from error
    return parsed


def _check_key(override: Override, config_dirs: list[Path]) -> None:
    key, text = override.key_or_group, override.input_line
    if key.startswith(("hydra.", "hydra/", FREE_KEY)):
        return
    if override.is_delete():
        raise ConfigError(f"{text}: nothing can be taken out of the config; set another value")
    if key in GROUPS:
        choices = options(key, config_dirs)
        value = override.value()
        # Experiments may be stacked; every other group has exactly one option.
        names = [value]
        if key == "experiment":
            names = value if isinstance(value, list) else [value] if value is not None else []
        for name in names:
            if not isinstance(name, str) or name not in choices:
                raise ConfigError(
                    f"{text}: {key} has no option {name!r}; expected one of "
                    f"{', '.join(choices)}{nearest(str(name), choices)}"
                )
        return
    keys = set(_keys())
    if key not in keys:
        below = sorted(k for k in keys if k.startswith(f"{key.partition('.')[0]}."))
        hint = nearest(key, below or keys | set(GROUPS))
        listed = f"; expected one of {', '.join(below)}" if below else "; see rlkl train --help"
        raise ConfigError(f"{text}: there is no key {key!r}{hint or listed}")


def _keys() -> Iterator[str]:
    """Every key that a config can have, those of all algorithms included."""
    schema = OmegaConf.structured(TrainConfig)
    yield from _paths(OmegaConf.to_container(schema), "")
    yield "env.kwargs"
    for algorithm in ALGORITHMS.values():
        yield from _paths(OmegaConf.to_container(OmegaConf.structured(algorithm.config)), "algo.")


def _paths(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _explain(error: BaseException) -> str:
    """Return one line from an error of Hydra or OmegaConf and its cause."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key, line = getattr(cause, "full_key", None), _first_line(cause)
    owner = getattr(cause, "object_type", None)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and is_dataclass(owner):
        names = ", ".join(field.name for field in fields(owner))
        return f"{key}: {getattr(owner, 'name', 'the config')} has no such key; it has {names}"
    if "is not a ListConfig" in line:
        line = "expected a list, such as [64,64]"
    elif "is not Optional" in line:
        line = "expected a value; null is not one"
    return f"{key}: {line}" if key and key not in line else line


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
