"""Untrusted files are read within bounds, or rejected in one line."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlkl.utils.errors import ConfigError
from rlkl.utils.untrusted_files import MAX_BYTES, MissingFileError, read_json, read_yaml


def make_unreadable(kind: str, path: Path) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(MAX_BYTES + 1)
    elif kind == "latin":
        path.write_bytes(b"a: \xe9\n")


NOT_REGULAR = ("fifo", "folder", "socket", "device")


@pytest.mark.parametrize("read", [read_yaml, read_json])
@pytest.mark.parametrize("kind", [*NOT_REGULAR, "loop", "large", "latin", "missing"])
def test_only_small_regular_files_are_read(
    kind: str, read: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # socket names must be short
    path = Path("file")
    make_unreadable(kind, path)
    with pytest.raises(ConfigError, match=r"^file(:| cannot be read: )") as raised:
        read(path)
    assert isinstance(raised.value, MissingFileError) == (kind == "missing")
    assert ("larger than 1,048,576 bytes" in str(raised.value)) == (kind == "large")
    assert ("expected a regular file" in str(raised.value)) == (kind in NOT_REGULAR)
    assert "\n" not in str(raised.value)


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)
HOSTILE = {
    "nested aliases": (ALIASES, "more than 20,000 entries"),
    "nested merges": (MERGES, "more than 20,000 entries"),
    "an alias of itself": ("a: &a [*a]\n", "contains itself"),
    "an undefined alias": ("a: *b\n", "is undefined"),
    "very deep": ("[" * 5000, "nested more than 50 deep"),
    "many values": ("- 1\n" * 30_000, "more than 20,000 entries"),
    "a very long value": (f"env: {'x' * 200_000}\n", "has more than 100,000 characters"),
    "a number of 5,000 digits": (f"seed: {'9' * 5000}\n", "cannot be read"),
    "an invalid date": ("a: 2026-99-99\n", "cannot be read"),
    "half a surrogate pair": ('a: "\\ud800"\n', "surrogates not allowed"),
    "code": ("a: !!python/object/apply:os.system [ls]\n", "line 1: could not determine"),
    "a list as a key": ("? [1]\n: 2\n", "line 1: found unhashable key"),
    "a syntax error": ("a: [1\nb: 2\n", "line 2: "),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_yaml_is_rejected_in_one_line(kind: str, tmp_path: Path) -> None:
    text, message = HOSTILE[kind]
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_yaml(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_ordinary_yaml_with_aliases_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    sizes = [64, 64]
    path.write_text(yaml.safe_dump({"actor": sizes, "critic": sizes, "rate": 3e-4, "name": "ü"}))
    assert "*id001" in path.read_text()
    expected = {"actor": [64, 64], "critic": [64, 64], "rate": 0.0003, "name": "ü"}
    assert read_yaml(path) == expected


def test_hostile_json_is_rejected_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    for text in ("[" * 100_000, f'{{"seed": {"9" * 5000}}}', "{", ""):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"^\S+summary\.json cannot be read: [^\n]+$"):
            read_json(path)
    path.write_text('{"seed": 3}')
    assert read_json(path) == {"seed": 3}
