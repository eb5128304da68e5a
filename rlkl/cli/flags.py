"""Flags and help of the commands that take a run's folder, and the loading of that run."""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from threadpoolctl import threadpool_limits

from rlkl.cli.text import help_page
from rlkl.envs.ids import check_place, import_named
from rlkl.training.checkpoint import CHECKPOINTS, folder_of
from rlkl.training.trained_policy import TrainedRun, load_changed_run, load_run
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_choice, check_range, nearest


@dataclass(frozen=True)
class Flag:
    """A flag with a value."""

    name: str  # as typed, such as `--seed`
    value: str  # its placeholder in the help
    help: str
    # Converts the typed text, given the name for messages.
    read: Callable[[str, str], Any] = lambda name, text: text
    default: Any = None


def whole_number(name: str, text: str, *, at_least: int = 0, at_most: int | None = None) -> int:
    """Read a whole number."""
    try:
        number = int(text)
    except ValueError:
        raise ConfigError(f"{name} {text}: expected a whole number") from None
    check_range(name, number, at_least=at_least, at_most=at_most)
    return number


def choice(name: str, text: str, *, choices: tuple[str, ...]) -> str:
    """Read one of several values."""
    check_choice(name, text, choices)
    return text


def new_file(name: str, text: str, *, suffixes: tuple[str, ...]) -> Path:
    """Read the path of a new file with one of the suffixes."""
    path = Path(text)
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{name} {text}: expected a name that ends in {' or '.join(suffixes)}")
    if os.path.lexists(path):
        raise ConfigError(f"{name} {text}: it exists already; choose another name")
    if not path.parent.is_dir():
        raise ConfigError(f"{name} {text}: there is no folder {path.parent}; create it first")
    return path


MAX_STEPS = Flag(
    "--max-steps", "N", "limit of an episode (default: the run's eval_max_episode_steps)",
    partial(whole_number, at_least=1),
)  # fmt: skip

CHECKPOINT = Flag(
    "--checkpoint", "NAME",
    "last (the default) or best (by training return, or by eval_interval)",
    partial(choice, choices=CHECKPOINTS), CHECKPOINTS[0],
)  # fmt: skip


MODULE = Flag(
    "--module", "NAME", "import the Python module that registers the policy's own networks"
)


ALIASES = {
    "num_envs": "env.num_envs",
    "max_steps": "eval_max_episode_steps",
    "max_episode_steps": "eval_max_episode_steps",
}

KEYS_FOR_ALL = ("env.kwargs.KEY", "eval_max_episode_steps")

HELP_OF_KEYS = {
    "env.id": "another environment; a run's own module:function is called only if you name it here",
    "env.num_envs": "sub-environments stepped together (default: as in training)",
    "env.backend": "how they are stepped (default: as in training)",
    "env.wrappers": "other wrappers, as for rlkl train",
    "env.kwargs.KEY": "arguments of the environment's constructor, added to those of the run",
    "eval_max_episode_steps": "the same as --max-steps",
}


def env_changes(settings: list[str], keys: tuple[str, ...]) -> dict[str, Any]:
    """Return changes of a run's environment: fields of EnvConfig, and the limit."""
    from rlkl.cli.command_line import parse  # noqa: PLC0415 (Hydra takes a moment)

    changes: dict[str, Any] = {}
    for text in settings:
        override = parse(text)
        typed, value = override.key_or_group, cast(Any, override.value())
        key = ALIASES.get(typed, typed)
        if override.is_sweep_override() or override.is_delete():
            raise ConfigError(f"{text}: expected one value")
        if key.startswith("env.kwargs."):
            changes.setdefault("kwargs", {})[key.removeprefix("env.kwargs.")] = value
        elif key == "eval_max_episode_steps":
            check_range(typed, value, at_least=1)
            changes["max_episode_steps"] = int(value)
        elif key in keys:
            changes[key.removeprefix("env.")] = value
        else:
            known = [*keys, *KEYS_FOR_ALL]
            raise ConfigError(f"{text}: expected one of {', '.join(known)}{nearest(typed, known)}")
    return changes


@dataclass(frozen=True)
class RunCommand:
    """A command `rlkl NAME RUN_DIR [KEY=VALUE ...] [FLAG ...]`."""

    name: str
    purpose: str
    examples: dict[str, str]  # command lines, and what each does
    own_flags: tuple[Flag, ...]
    keys: tuple[str, ...] = ()  # that may be changed; with any of them, also env.kwargs.*

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Its own flags, and those of every such command."""
        return (*self.own_flags, CHECKPOINT, MODULE)

    def help_text(self) -> str:
        """Return the help text."""
        settings = " [KEY=VALUE ...]" * bool(self.keys)
        flags = {f"{flag.name} {flag.value}": flag.help for flag in self.flags}
        parts = {"Examples": self.examples, "Flags": flags}
        if self.keys:
            parts["Keys"] = {key: HELP_OF_KEYS[key] for key in (*self.keys, *KEYS_FOR_ALL)}
        return help_page(f"{self.name} RUN_DIR{settings} [FLAG ...]", self.purpose, parts)

    def run(self, act: Callable[[argparse.Namespace], None], arguments: list[str]) -> int:
        """Act on what was given; return the exit code."""
        act(self.parse(arguments))
        return 0

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Return the folder as `run_dir`, and the value of each flag."""
        parser = _Parser(prog=f"rlkl {self.name}", add_help=False, allow_abbrev=False)
        parser.add_argument("run_dir", nargs="*")
        keys = {flag: parser.add_argument(flag.name).dest for flag in self.flags}
        parsed, unknown = parser.parse_known_intermixed_args(arguments)
        if unknown:
            name = unknown[0].partition("=")[0]
            hint = nearest(name, [flag.name for flag in self.flags])
            raise ConfigError(f"{name}: there is no such flag{hint}; see rlkl {self.name} --help")
        folder, settings = parsed.run_dir[:1], parsed.run_dir[1:]
        takes_settings = self.keys and all("=" in text for text in settings)
        if not folder or (settings and not takes_settings):
            given = " ".join(parsed.run_dir) or "nothing"
            raise ConfigError(
                f"expected the folder of one run, such as "
                f"runs/CartPole-v1/ppo_clip/DATE-seed0, and flags; got {given}; "
                f"see rlkl {self.name} --help"
            )
        parsed.run_dir = folder[0]
        parsed.changes = env_changes(settings, self.keys) if settings else {}
        for flag, key in keys.items():
            text = getattr(parsed, key)
            setattr(parsed, key, flag.default if text is None else flag.read(flag.name, text))
        return parsed


def open_run(given: argparse.Namespace, *, with_environment: bool = True) -> TrainedRun:
    """Load the run that the command line names, and use as many threads as it did.

    If its environment will be created, the module that this imports is printed. A module in the
    run's own folder is an error.
    """
    if given.module is not None:
        import_for_run(given.module, f"--module {given.module}", folder_of(given.run_dir))
    if with_environment:
        changes = {"max_episode_steps": getattr(given, "max_steps", None)}
        run = load_changed_run(given.run_dir, given.checkpoint, **changes | given.changes)
    else:
        run = load_run(given.run_dir, given.checkpoint)
    torch.set_num_threads(run.threads)
    threadpool_limits(run.threads, "blas")  # NumPy's products
    return run


def import_for_run(module: str, setting: str, run_dir: Path) -> None:
    """Import a module that the user named for a run; one in the run's own folder is an error."""
    check_place(module, setting, run_dir)
    import_named(module, setting)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")
