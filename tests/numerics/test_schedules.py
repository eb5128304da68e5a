"""Start and end of schedules."""

import csv
import dataclasses
import functools
from pathlib import Path

import pytest

import rlkl
from rlkl.numerics import schedules
from rlkl.numerics.schedules import SCHEDULES, register_schedule, scheduled
from rlkl.utils.errors import ConfigError


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_start_at_the_value(schedule: str) -> None:
    assert scheduled(0.3, schedule, 0.0) == 0.3


def test_linear_schedule_ends_at_zero() -> None:
    assert scheduled(0.3, "linear", 0.5) == 0.15
    assert scheduled(0.3, "linear", 1.0) == 0.0
    assert scheduled(0.3, "constant", 1.0) == 0.3


def test_warmup_rises_from_one_percent() -> None:
    assert scheduled(0.3, "constant", 0.0, 0.1) == pytest.approx(0.003)
    assert scheduled(0.3, "constant", 0.05, 0.1) == pytest.approx(0.1515)
    assert scheduled(0.3, "constant", 0.1, 0.1) == 0.3
    assert scheduled(0.3, "linear", 0.1, 0.2) == pytest.approx(0.13635)
    assert scheduled(0.3, "linear", 0.5, 0.2) == 0.15


def halved(progress: float) -> float:
    """A factor of 1 in the first half, and 0.5 in the second."""
    return 1.0 if progress < 0.5 else 0.5


def failing(progress: float) -> float:
    return 1 / progress


def negative(progress: float) -> float:
    return -progress


def test_own_function_gives_the_factor() -> None:
    assert register_schedule(halved) == "halved"
    assert scheduled(0.3, "halved", 0.49) == 0.3
    assert scheduled(0.3, "halved", 0.5) == 0.15
    assert scheduled(0.3, "halved", 0.5, 0.75) == pytest.approx(0.15 * (0.01 + 0.99 * 2 / 3))


def test_own_function_that_fails_is_named() -> None:
    for function in (failing, negative):
        register_schedule(function)
    with pytest.raises(ConfigError, match=r"^schedule failing failed at 0: ZeroDivisionError: "):
        scheduled(1.0, "failing", 0.0)
    with pytest.raises(ConfigError, match=r"^schedule negative returned -1 at 1; expected a fac"):
        scheduled(1.0, "negative", 1.0)
    with pytest.raises(ConfigError, match=r"rlkl\.register_schedule\(unheard_of\)"):
        scheduled(1.0, "unheard_of", 1.0)


def test_nameless_functions_are_refused() -> None:
    for function in (lambda progress: progress, functools.partial(halved)):
        with pytest.raises(ConfigError, match="expected a function with a name of its own"):
            register_schedule(function)


def test_configs_hold_names_of_functions(tmp_path: Path) -> None:
    algo = rlkl.PPOKLFixedConfig(
        learning_rate=0.1, learning_rate_schedule=halved, kl_coefficient_schedule=cubed
    )
    critic = rlkl.CriticConfig(learning_rate_schedule=halved)
    assert (algo.learning_rate_schedule, critic.learning_rate_schedule) == ("halved", "halved")
    config = rlkl.TrainConfig(
        algo=algo,
        critic=critic,
        env=rlkl.EnvConfig(num_envs=2, backend="sync"),
        rollout_steps=16,
        total_env_steps=128,
        eval_episodes=0,
        logger=rlkl.LoggerConfig(tensorboard=False, progress="none"),
        run_dir=str(tmp_path / "run"),
    )
    rlkl.train(config)
    assert "learning_rate_schedule: halved\n" in (tmp_path / "run" / "config.yaml").read_text()
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["optim/lr"]) for row in rows] == [0.1, 0.1, 0.05, 0.05]
    # Progress is 0, 1/4, 1/2, 3/4.
    assert [float(row["kl/coefficient"]) for row in rows] == [1, 27 / 64, 1 / 8, 1 / 64]
    schedules._registered.pop("cubed")
    longer = {"total_env_steps": 160}
    with pytest.raises(ConfigError, match=r"algo.kl_coefficient_schedule=cubed.*register_schedule"):
        rlkl.resume(tmp_path / "run", lambda old: dataclasses.replace(old, **longer))
    rlkl.register_schedule(cubed)
    summary = rlkl.resume(tmp_path / "run", lambda old: dataclasses.replace(old, **longer))
    assert (summary.status, summary.env_steps) == ("finished", 160)


def cubed(progress: float) -> float:
    return (1 - progress) ** 3
