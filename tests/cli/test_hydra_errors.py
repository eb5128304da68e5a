"""Errors of Hydra, OmegaConf and YAML become one line that names the key or the file."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from rlkl.cli.hydra_errors import first_line, one_line_errors
from rlkl.utils.errors import ConfigError


@dataclass
class Settings:
    name = "these settings"
    count: int = 1
    rate: float = 0.5
    sizes: list[int] = field(default_factory=list)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("count", "many", "count=many: expected a whole number"),
        ("rate", "high", "rate=high: expected a number"),
        ("sizes", 3, r"sizes: expected a list, such as \[64,64\]"),
        ("count", None, "count: expected a value; null is not one"),
        ("cuont", 3, "cuont: these settings has no such key; it has count, rate, sizes"),
    ],
)
def test_wrong_values_are_explained(key: str, value: object, message: str) -> None:
    settings = OmegaConf.structured(Settings)
    with pytest.raises(ConfigError, match=f"^{message}$"), one_line_errors():
        OmegaConf.update(settings, key, value)


def test_broken_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("a: 1\nb: [\n")
    with (
        pytest.raises(ConfigError, match=r"^space=x: .*broken\.yaml, line 3: "),
        one_line_errors("space=x"),
        path.open() as file,
    ):
        yaml.safe_load(file)
    problem = r"none\.yaml: No such file.*; expected a path"
    with pytest.raises(ConfigError, match=problem), one_line_errors():
        (tmp_path / "none.yaml").open()


def test_own_errors_pass_unchanged() -> None:
    with pytest.raises(ConfigError, match=r"^as it is$"), one_line_errors("before"):
        raise ConfigError("as it is")


def test_heading_is_joined_with_the_next_line() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError("the reason:\n  two\nthree")) == "the reason: two"
    assert first_line(ValueError()) == "ValueError"
