"""`rlkl compare` on the command line: folders and settings are told apart."""

from pathlib import Path

import pytest

from rlkl.cli.compare import parse
from rlkl.utils.errors import ConfigError


def test_existing_path_is_a_folder_despite_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed=3").mkdir()
    arguments = ["runs/*", "seed=3", "seed=4", "runs/gamma=0.9", "steps=9"]
    assert parse(arguments) == (["runs/*", "seed=3", "runs/gamma=0.9"], ["seed=4", "steps=9"])


def test_settings_alone_are_not_enough() -> None:
    with pytest.raises(ConfigError, match="expected folders of runs"):
        parse(["steps=9"])
