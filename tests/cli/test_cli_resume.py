"""`rlkl resume` on the command line: its arguments and exit codes."""

from types import SimpleNamespace
from typing import Any

import pytest

from rlkl.cli import resume
from rlkl.training.config import TrainConfig
from rlkl.utils.errors import ConfigError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the command asked to be resumed."""
    calls: list[tuple[Any, ...]] = []

    def record(run_dir: str, change: Any, *, exact: bool, env: Any) -> SimpleNamespace:
        calls.append((run_dir, change(TrainConfig()), exact))
        return SimpleNamespace(status="stopped" if run_dir == "again" else "finished")

    monkeypatch.setattr(resume, "resume", record)
    return calls


def test_settings_change_and_exactness_is_separate(asked: list[tuple[Any, ...]]) -> None:
    assert resume.main(["run", "total_env_steps=2e5", "exact=False"]) == 0
    assert resume.main(["run", "exact=true"]) == 0
    assert asked == [
        ("run", TrainConfig(total_env_steps=200_000), False),
        ("run", TrainConfig(), True),
    ]


def test_stopped_run_has_its_exit_code(asked: list[tuple[Any, ...]]) -> None:
    assert resume.main(["again"]) == 130


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["gamma=0.5"], "gamma=0.5: expected the run's folder first"),
        (["run", "exact=maybe"], "exact=maybe: expected exact=true or exact=false"),
        (["run", "algo=trpo"], "algo=trpo: a resumed run takes keys with one value each"),
    ],
)
def test_invalid_arguments_are_explained(
    arguments: list[str], problem: str, asked: list[tuple[Any, ...]]
) -> None:
    with pytest.raises(ConfigError, match=problem):
        resume.main(arguments)
    assert asked == []
