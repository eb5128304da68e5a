"""`rlkl bench` on the command line: its help, and the versions that a report names."""

import platform
from dataclasses import fields

from rlkl.cli.bench import KEYS, _versions, help_text
from rlkl.tools.bench.work import BenchConfig, Case
from rlkl.version import __version__


def test_help_names_every_setting_once() -> None:
    *_, rest = help_text().split("\n  and ")
    described = {key.partition("=")[0] for key in KEYS}
    others = {name.strip() for name in rest.replace("\n", " ").split(",")}
    assert described | others == {field.name for field in fields(BenchConfig)}
    assert not described & others


def test_versions_are_of_packages_that_take_part() -> None:
    versions = _versions([Case("rlkl", 8, "ppo_clip")])
    assert (versions["rlkl"], versions["python"]) == (__version__, platform.python_version())
    assert list(versions) == ["rlkl", "python", "torch", "gymnasium"]
