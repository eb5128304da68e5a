"""Bad commands, and parts of the one error line that each must print."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bad_settings as settings
from bad_commands import FLAGS, OTHERS
from bad_configs import CODE, HOSTILE, OWN, OWN_CONFIGS, OWN_OF_HYDRA
from made_runs import save_checkpoint


@dataclass(frozen=True)
class Bad:
    """A command that must be rejected.

    Attributes:
        kind: of mistake.
        arguments: of `rlkl`.
        says: parts of the error line.
    """

    kind: str
    arguments: tuple[str, ...]
    says: tuple[str, ...]

    @property
    def name(self) -> str:
        """Short name for reports of pytest."""
        typed = " ".join(self.arguments)
        return f"{self.kind}: {typed if len(typed) < 70 else f'{typed[:67]}...'}"


def prepare(folder: Path) -> None:
    """Create the files, checkpoints and configs that some of the commands name."""
    (folder / "a_file").write_text("not a folder\n")
    (folder / "empty").mkdir()
    (folder / "damaged" / "checkpoints").mkdir(parents=True)
    (folder / "damaged" / "checkpoints" / "last.pt").write_bytes(b"no checkpoint")
    for name, state in STATES.items():
        save_checkpoint(folder / name / "checkpoints" / "last.pt", state)
    own = folder / "own" / "experiment"
    own.mkdir(parents=True)
    for name, content in OWN_CONFIGS.items():
        (own / f"{name}.yaml").write_text(f"# @package _global_\n{content}\n", encoding="utf-8")
    for name, content in OWN_OF_HYDRA.items():
        path = folder / "own" / "hydra" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


STATES: dict[str, dict[str, Any]] = {
    "foreign": {"policy": {}},
    "half": {"config": {}, "policy_description": {}, "resumable": True, "env_steps": 8},
    "newer": {"format": 99},
    "older": {"format": 1},
}
"""Readable checkpoints that belong to no run, or to another version."""


def _cases() -> list[Bad]:
    cases: list[Bad] = []

    def add(kind: str, arguments: tuple[str, ...], *says: str) -> None:
        cases.append(Bad(kind, arguments, says))

    for key, chosen in settings.POSITIVE.items():
        for value in ("0", "-1", *settings.BAD_FLOATS):
            add("range", ("train", *chosen, f"{key}={value}"), f"{key}=", "expected a number")
    for key, values in settings.WITHIN.items():
        for value in (*values, *settings.BAD_FLOATS):
            add("range", ("train", f"{key}={value}"), f"{key}=", "expected a number")
    for key, chosen in settings.COUNTS.items():
        for value in ("0", *settings.BAD_INTEGERS):
            add("range", ("train", *chosen, f"{key}={value}"), key, _expected(value))
    for key, chosen in settings.NOT_NEGATIVE.items():
        for value in settings.BAD_INTEGERS:
            add("range", ("train", *chosen, f"{key}={value}"), key, _expected(value))
    for *chosen, text in settings.OUTSIDE:
        add("range", ("train", *chosen, text), text, "expected a number")
    tables: tuple[tuple[str, tuple[str, ...], Mapping[Any, Any]], ...] = (
        ("type", ("train",), settings.TYPES),
        ("unknown name", ("train",), settings.UNKNOWN),
        ("conflict", ("train",), settings.CONFLICTS),
        ("absurd size", ("train",), settings.ABSURD),
        ("hostile text", ("train",), HOSTILE),
        ("sweep", ("train", "--multirun"), settings.SWEEPS),
        ("environment", ("train",), settings.ENVIRONMENTS),
        ("run folder", ("train",), settings.RUN_FOLDERS),
        ("flag", (), FLAGS),
        ("config file", ("train", "--config-dir", "own"), OWN),
        ("code", ("train",), CODE),
        ("other command", (), OTHERS),
    )
    for kind, command, table in tables:
        for arguments, says in table.items():
            add(kind, (*command, *_as_tuple(arguments)), *_as_tuple(says))
    return list({case.arguments: case for case in cases}.values())


def _as_tuple(parts: str | tuple[str, ...]) -> tuple[str, ...]:
    return (parts,) if isinstance(parts, str) else parts


def _expected(integer: str) -> str:
    return "at least" if integer.lstrip("-").isdecimal() else "expected a whole number"


CASES = _cases()
