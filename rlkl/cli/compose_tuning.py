"""The command line of `rlkl tune`: search settings, search space, and configs of its values."""

import itertools
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import OmegaConf

from rlkl.cli.command_line import for_hydra, parse
from rlkl.cli.compose import as_list, load, overridden, typed_values, with_env_settings
from rlkl.cli.compose_tools import read_settings
from rlkl.cli.hydra_errors import one_line_errors
from rlkl.cli.schema import CONFIG_DIR, FREE_KEY, GROUPS, STACKED, options
from rlkl.tools.tuning.space import Choice, Dimension, Interval, Space
from rlkl.tools.tuning.study import TuneConfig
from rlkl.training.config import TrainConfig, leaves
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_choice

UNTUNABLE = {
    "seed": "a seed is no hyperparameter; seeds=N trains each trial with several",
    "env": "returns of another task cannot be compared",
    "total_env_steps": "more steps train longer, not better; set the budget of every trial",
    "run_dir": "trials write no run folders; study=DIR sets the study's folder",
    "logger": "trials write no logs; study=DIR sets the study's folder",
    "checkpoint": "trials write no checkpoints; a resumed study trains interrupted trials again",
    "eval_episodes": "trials are compared by their training return",
    "eval_max_episode_steps": "trials are not evaluated",
    "eval_interval": "trials are compared by their training return",
    "device": "it changes the speed of a trial, not its return",
    "threads": "it changes the speed of a trial, not its return",
}
FIXABLE = ("seed", "env", "total_env_steps", "device", "threads")
"""Untunable keys that can be set for all trials."""
TASK = ("env.id", FREE_KEY.rstrip("."))  # environment keys that change the task
MAX_CHECKED = 64  # combinations of the other keys' values with which a value is checked


@dataclass(frozen=True)
class Tuning:
    """A parsed command line."""

    tune: TuneConfig
    space: Space
    fixed: list[str]  # overrides of every trial
    config: TrainConfig  # of one valid trial
    first: dict[str, Any] | None  # the space's values in the user's config, if it contains them

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        if self.tune.study is not None:
            return Path(self.tune.study)
        env = self.config.env.id.replace("/", "_").replace(":", "_")
        return Path("runs", "tuning", env, self.config.algo.name)

    def overrides(self, values: dict[str, str]) -> list[str]:
        """Return the overrides of `rlkl train` for a trial's values."""
        return [*self.fixed, *(for_hydra(f"{key}={value}") for key, value in values.items())]

    @property
    def description(self) -> dict[str, Any]:
        """The settings that all trials of a study share."""
        tune = asdict(self.tune)
        del tune["trials"], tune["study"]
        space = {key: str(dimension) for key, dimension in self.space.items()}
        return {"search": tune, "space": space, "config": asdict(self.config)}


def configure(fixed: list[str], values: dict[str, str]) -> TrainConfig:
    """Return the config of a trial; raise `ConfigError` if its values are incompatible."""
    groups = [f"{key}={value}" for key, value in values.items() if key in GROUPS]
    rest = [f"{key}={value}" for key, value in values.items() if key not in GROUPS]
    return overridden(_loaded((*fixed, *groups)), rest)


@cache
def _loaded(overrides: tuple[str, ...]) -> TrainConfig:
    """Compose once for all trials, because it takes longer than setting keys."""
    return load(list(overrides))


def load_tuning(arguments: list[str]) -> Tuning:
    """Parse and check the command line of `rlkl tune`.

    It has keys of `TuneConfig`, `space=`, and overrides of `rlkl train`; those with several values
    are the search space.
    """
    texts = list(arguments)
    for text in arguments:
        if parse(text).key_or_group == "space":
            texts.remove(text)
            texts = [*_space_file(text), *texts]
    tune, others = read_settings(TuneConfig, texts)
    typed = {override.key_or_group: override for override in map(parse, others)}  # the last counts
    space, fixed = {}, []
    for key, override in typed.items():
        _check_tunable(key, override)
        if override.is_sweep_override():
            space[key] = _dimension(override)
        else:
            fixed.append(for_hydra(str(override.input_line)))
    if not space:
        raise ConfigError(
            "there is nothing to tune; expected space=NAME, or keys with several values, such as "
            "'algo.learning_rate=tag(log,interval(1e-5,1e-2))' algo.num_epochs=3,10"
        )
    config = _check_values(fixed, space)
    return Tuning(tune, space, fixed, config, _untuned_values(fixed, space))


def _space_file(text: str) -> list[str]:
    """Return the overrides in the file of a search space."""
    name = str(parse(text).value())
    path = Path(name)
    if path.suffix != ".yaml":
        check_choice("space", name, options("tune"))
        path = CONFIG_DIR / "tune" / f"{name}.yaml"
    with one_line_errors(text), path.open(encoding="utf-8") as file:
        content = yaml.safe_load(file)
    if not isinstance(content, dict) or any(isinstance(v, dict | list) for v in content.values()):
        raise ConfigError(
            f"{text}: expected lines of KEY: VALUE, with values as on the command line"
        )
    return [f"{key}={'null' if value is None else value}" for key, value in content.items()]


def _check_tunable(key: str, override: Override) -> None:
    for name, reason in UNTUNABLE.items():
        is_part = key == name or (key.startswith(f"{name}.") and name != "env")
        is_task = name == "env" and (key in TASK or key.startswith(FREE_KEY))
        if (is_part or is_task) and (override.is_sweep_override() or name not in FIXABLE):
            raise ConfigError(f"{override.input_line}: {reason}")
    if key.startswith(("hydra.", "hydra/")) or override.is_delete():
        raise ConfigError(f"{override.input_line}: expected a key of rlkl train")
    if key in STACKED and override.is_sweep_override():
        raise ConfigError(f"{override.input_line}: {key} cannot be tuned; tune the keys it sets")


def _dimension(override: Override) -> Dimension:
    text, value = override.input_line, override.value()
    try:
        if isinstance(value, IntervalSweep):
            if unknown := value.tags - {"log"}:
                raise ConfigError(f"there is no tag {', '.join(unknown)}; expected tag(log,...)")
            low: Any = value.start
            high: Any = value.end
            whole = isinstance(low, int) and isinstance(high, int)
            return Interval(low, high, "log" in value.tags, int(whole))
        if isinstance(value, RangeSweep) and isinstance(value.step, int):
            numbers = list(value.range())
            if all(isinstance(number, int) for number in numbers) and value.step > 0:
                return Interval(numbers[0], numbers[-1], step=value.step)
        if not override.is_discrete_sweep():
            raise ConfigError("expected values, choice(...), range(...) or interval(...)")
        with one_line_errors():
            swept = [f"{override.key_or_group}={v}" for v in override.sweep_string_iterator()]
            values = (for_hydra(text).partition("=")[2] for text in swept)
            return Choice(tuple(dict.fromkeys(values)))
    except (ConfigError, IndexError) as error:
        raise ConfigError(f"{text}: {error}") from error


def _check_values(fixed: list[str], space: Space) -> TrainConfig:
    """Check each bound and choice with values of the other keys; return the first valid config."""
    configs = []
    for key, dimension in space.items():
        for value in dimension.corners:
            corners = ((value,) if k == key else other.corners for k, other in space.items())
            error: ConfigError | None = None
            for combination in itertools.islice(itertools.product(*corners), MAX_CHECKED):
                try:
                    configs.append(configure(fixed, dict(zip(space, combination, strict=True))))
                except ConfigError as current:
                    error = error or current
                else:
                    break
            else:
                hint = "; int(interval(a,b)) gives whole numbers" * ("whole number" in str(error))
                raise ConfigError(f"{key}={value} cannot be tried: {error}{hint}")
    return configs[0]


def _untuned_values(fixed: list[str], space: Space) -> dict[str, Any] | None:
    """Return the values of the space's keys without tuning; None if one is outside the space."""
    try:
        config = dict(leaves(asdict(load(fixed))))
    except ConfigError:
        return None  # the config is valid only with values of the space
    found: dict[str, Any] = {}
    for key, dimension in space.items():
        value: Any = config.get(key)
        if isinstance(dimension, Interval):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not dimension.low <= value <= dimension.high:
                return None
            if dimension.step and (value - dimension.low) % dimension.step:
                return None
            found[key] = value
        else:
            equal = [v for v in dimension.values if parse(f"{key}={v}").value() == value]
            if key in GROUPS or not equal:
                return None
            found[key] = equal[0]
    return found


def experiment_yaml(overrides: list[str], comment: str) -> str:
    """Return an experiment file that is equivalent to overrides of `rlkl train`."""
    stacked: list[Any] = []
    chosen: list[Any] = []
    content = OmegaConf.create({})
    for key, value in typed_values(with_env_settings(overrides)).items():
        if key == "experiment":  # the file's own group
            stacked += as_list(value)
        elif key in STACKED:
            stacked += [f"/{key}/{name}" for name in as_list(value)]
        elif key in GROUPS:
            chosen.append({f"override /{key}": value})
        else:
            OmegaConf.update(content, key, value, force_add=True)
    parts: dict[str, Any] = {"defaults": stacked + chosen} if stacked or chosen else {}
    parts |= OmegaConf.to_container(content)  # type: ignore[arg-type]
    text = yaml.safe_dump(parts, sort_keys=False, allow_unicode=True) if parts else ""
    return f"# @package _global_\n# {comment}\n{text}"
