"""Experiment `fine_tuning`: every run starts from one policy, and a penalty holds it."""

from dataclasses import replace

import pytest
from experiment_configs import TINY, silent

from rlkl.algos.ppo_clip import PPOClipConfig
from rlkl.envs.make import EnvConfig
from rlkl.tools.experiments import fine_tuning
from rlkl.tools.rows import Rows, column, distinct, select
from rlkl.utils.errors import ConfigError


@pytest.mark.slow
def test_penalty_keeps_policy_near_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tuning, "EPISODES", 2)
    env = EnvConfig("rlkl/PoleCartPole-v1", 2, kwargs={"length": 5.0})
    train = replace(TINY, env=env, algo=PPOClipConfig(learning_rate=5e-3), total_env_steps=128)
    config = fine_tuning.FineTuningConfig(
        train=train, first_env_steps=256, kl_coefficients=[0.0, 100.0], seeds=1
    )
    rows = fine_tuning.calculate(config, silent)
    assert distinct(rows, "variant") == ["before", "β = 0", "β = 100"]
    free, held = select(rows, variant="β = 0"), select(rows, variant="β = 100")
    assert max(column(free, "kl")) > 0.01
    assert max(column(held, "kl")) < 0.001
    assert rows[0]["old"] != rows[0]["new"]  # the same policy on both tasks


def test_task_must_differ_from_the_first() -> None:
    with pytest.raises(ConfigError, match=r"env\.kwargs={}: fine_tuning needs a changed task"):
        fine_tuning.FineTuningConfig(train=TINY)


def test_table_has_the_end_of_each_seed() -> None:
    rows: Rows = [
        {"variant": name, "seed": seed, "env_steps": steps, "return": 1.0, "kl": kl, "new": new,
         "old": 10.0 * new}
        for name, seed, steps, kl, new in [
            ("before", 0, 0, 0.0, 1.0), ("β = 1", 0, 10, 9.0, 9.0), ("β = 1", 0, 20, 0.5, 2.0),
            ("β = 1", 1, 20, 0.1, 3.0),
        ]
    ]  # fmt: skip
    before, penalized = fine_tuning.tabulate(rows)
    assert before["changed task"] == "1"
    assert (penalized["changed task"], penalized["first task"]) == ("2, 3", "20, 30")
    assert penalized["KL to the start"] == pytest.approx(0.3)
