"""Flags and help of the commands that take a run's folder, and the loading of that run."""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from rlkl.cli.text import paragraph, rows
from rlkl.envs.ids import check_module
from rlkl.training.checkpoint import CHECKPOINTS, folder_of
from rlkl.training.trained_policy import TrainedRun, load_run
from rlkl.utils.errors import ConfigError
from rlkl.utils.streams import tell
from rlkl.utils.validation import check_choice, check_range, nearest


@dataclass(frozen=True)
class Flag:
    """A flag with a value.

    Attributes:
        name: as typed, such as `--seed`.
        value: its placeholder in the help.
        read: converts the typed text; raises `ConfigError`.
    """

    name: str
    value: str
    help: str
    read: Callable[[str], Any] = str
    default: Any = None

    @property
    def key(self) -> str:
        """The attribute of the parsed command line that holds its value."""
        return self.name.lstrip("-").replace("-", "_")


def whole_number(name: str, at_least: int, at_most: int | None = None) -> Callable[[str], int]:
    """Return a reader of whole numbers, for `Flag.read`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ConfigError(f"{name} {text}: expected a whole number") from None
        check_range(name, number, at_least=at_least, at_most=at_most)
        return number

    return read


def choice(name: str, choices: tuple[str, ...]) -> Callable[[str], str]:
    """Return a reader of one of several values, for `Flag.read`."""

    def read(text: str) -> str:
        check_choice(name, text, choices)
        return text

    return read


def new_file(name: str, *suffixes: str) -> Callable[[str], Path]:
    """Return a reader of paths for a new file with one of the suffixes, for `Flag.read`."""

    def read(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() not in suffixes:
            raise ConfigError(
                f"{name} {text}: expected a name that ends in {' or '.join(suffixes)}"
            )
        if os.path.lexists(path):
            raise ConfigError(f"{name} {text}: it exists already; choose another name")
        if not path.parent.is_dir():
            raise ConfigError(f"{name} {text}: there is no folder {path.parent}; create it first")
        return path

    return read


ACTIONS = ("deterministic", "sampled")
"""The most probable action of each state (for a Gaussian its mean), or a sampled one."""

MAX_STEPS = Flag(
    "--max-steps", "N", "limit of an episode (default: the run's eval_max_episode_steps)",
    whole_number("--max-steps", 1),
)  # fmt: skip

CHECKPOINT = Flag(
    "--checkpoint", "NAME",
    "last (the default) or best (by training return, or by eval_interval)",
    choice("--checkpoint", CHECKPOINTS), CHECKPOINTS[0],
)  # fmt: skip


@dataclass(frozen=True)
class RunCommand:
    """A command `rlkl NAME RUN_DIR [FLAG ...]`.

    Attributes:
        purpose: a sentence or two for the help.
        examples: command lines, and what each does.
    """

    name: str
    purpose: str
    examples: dict[str, str]
    flags: tuple[Flag, ...]

    def help_text(self) -> str:
        """Return the help: purpose, examples, flags."""
        lines = [f"usage: rlkl {self.name} RUN_DIR [FLAG ...]", "", *paragraph(self.purpose)]
        flags = {f"{flag.name} {flag.value}": flag.help for flag in self.flags}
        for heading, content in {"Examples": self.examples, "Flags": flags}.items():
            lines += ["", heading, *rows(content)]
        return "\n".join(lines)

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Return the folder as `run_dir`, and the value of each flag.

        Raises:
            ConfigError: a flag does not exist or has a wrong value, or not one folder is given.
        """
        parser = _Parser(prog=f"rlkl {self.name}", add_help=False, allow_abbrev=False)
        parser.add_argument("run_dir", nargs="*")
        for flag in self.flags:
            parser.add_argument(flag.name)
        parsed, unknown = parser.parse_known_args(arguments)
        for text in unknown:
            name = text.partition("=")[0]
            hint = nearest(name, [flag.name for flag in self.flags])
            raise ConfigError(f"{name}: there is no such flag{hint}; see rlkl {self.name} --help")
        if len(parsed.run_dir) != 1:
            given = " ".join(parsed.run_dir) or "nothing"
            raise ConfigError(
                f"expected the folder of one run, such as "
                f"runs/CartPole-v1/ppo_clip/DATE-seed0, and flags; got {given}; "
                f"see rlkl {self.name} --help"
            )
        (parsed.run_dir,) = parsed.run_dir
        for flag in self.flags:
            text = getattr(parsed, flag.key)
            setattr(parsed, flag.key, flag.default if text is None else flag.read(text))
        return parsed


def open_run(given: argparse.Namespace, *, with_environment: bool = True) -> TrainedRun:
    """Load the run that the command line names, and use as many threads as it did.

    Small networks are several times slower with torch's default of a thread per core.

    Args:
        given: the parsed command line.
        with_environment: whether its environment will be created; if that imports a module, the
            module is printed.

    Raises:
        ConfigError: the checkpoint is missing or unreadable, or the environment's module lies in
            the run's folder.
    """
    run = load_run(given.run_dir, given.checkpoint)
    if with_environment and (note := check_module(run.env.id, folder_of(given.run_dir))):
        tell(note)
    torch.set_num_threads(run.threads)
    threadpool_limits(run.threads, "blas")  # NumPy's products
    limit = getattr(given, MAX_STEPS.key, None)
    return run if limit is None else replace(run, max_episode_steps=limit)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")
