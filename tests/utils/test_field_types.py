"""Config fields are converted to their types, or rejected by their key."""

from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import rlkl
from rlkl.utils.field_types import plain_data


class Kind(Enum):
    FAST = "fast"


def make_config(**given: Any) -> rlkl.TrainConfig:
    logger = rlkl.LoggerConfig(tensorboard=False, progress="none")
    base: dict[str, Any] = {"total_env_steps": 256, "eval_episodes": 0, "logger": logger}
    return rlkl.TrainConfig(**base | given)


def test_numpy_numbers_and_paths_are_converted(tmp_path: Path) -> None:
    config = make_config(
        seed=np.arange(3)[1],
        total_env_steps=256.0,
        gamma=np.float32(0.5),
        anneal=np.bool_(True),
        run_dir=tmp_path / "run",
        algo=rlkl.PPOClipConfig(learning_rate=np.logspace(-3, -2, 2)[0]),
        policy=rlkl.PolicyConfig(actor_hidden_sizes=np.array([8, 8]), critic_hidden_sizes=(8,)),
    )
    assert [type(config.seed), type(config.total_env_steps), type(config.anneal)] == [
        int,
        int,
        bool,
    ]
    assert (config.gamma, config.algo.learning_rate) == (0.5, 1e-3)
    assert config.policy.actor_hidden_sizes == [8, 8]
    rlkl.train(config)
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (saved["seed"], saved["run_dir"]) == (1, str(tmp_path / "run"))
    assert saved["policy"]["critic_hidden_sizes"] == [8]


def test_names_are_accepted_for_sections() -> None:
    config = make_config(env="Acrobot-v1", algo="trpo")
    assert (config.env, config.algo) == (rlkl.EnvConfig("Acrobot-v1"), rlkl.TRPOConfig())


def test_environment_arguments_become_plain_data() -> None:
    place = (1, np.float64(0.5))
    given = {"size": np.int64(3), "place": place, "path": Path("a"), "kind": Kind.FAST}
    kwargs = rlkl.EnvConfig(kwargs=given).kwargs
    assert kwargs == {"size": 3, "place": (1, 0.5), "path": "a", "kind": "fast"}
    assert plain_data(kwargs) == kwargs | {"place": [1, 0.5]}


def test_unsavable_value_is_rejected_before_creating_folders(tmp_path: Path) -> None:
    env = rlkl.EnvConfig("CartPole-v1", kwargs={"sutton_barto_reward": True, "render_mode": None})
    trainer = rlkl.Trainer(make_config(env=env, run_dir=tmp_path / "run"))
    trainer.learner.config.env.kwargs["box"] = [print]
    with pytest.raises(rlkl.ConfigError, match=r"^env\.kwargs\.box is of type builtin_function"):
        trainer.train()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("cls", "given", "message"),
    [
        (rlkl.EnvConfig, {"num_envs": 2.5}, "env.num_envs=2.5: expected a whole number"),
        (rlkl.EnvConfig, {"num_envs": True}, "env.num_envs=True: expected a whole number"),
        (rlkl.EnvConfig, {"num_envs": "8"}, "env.num_envs='8': expected a whole number"),
        (rlkl.EnvConfig, {"id": 3}, "env.id=3: expected an id, a callable"),
        (rlkl.EnvConfig, {"kwargs": [1]}, r"env.kwargs=\[1\]: expected a dict"),
        (rlkl.EnvConfig, {"observation_keys": "a"}, "env.observation_keys=a: expected a list"),
        (rlkl.PolicyConfig, {"actor_hidden_sizes": [64, 2.5]}, "expected a list of whole numbers"),
        (rlkl.PPOClipConfig, {"num_epochs": 1.5}, "algo.num_epochs=1.5: expected a whole number"),
        (rlkl.PPOClipConfig, {"learning_rate": "1e-3"}, "learning_rate='1e-3': expected a number"),
        (rlkl.CriticConfig, {"value_clip": "none"}, "critic.value_clip='none': expected a number"),
        (rlkl.LoggerConfig, {"tensorboard": 1}, "logger.tensorboard=1: expected true or false"),
        (rlkl.CheckpointConfig, {"interval": 1.5}, "checkpoint.interval=1.5: expected a whole"),
        (rlkl.TrainConfig, {"seed": None}, "seed=None: expected a whole number"),
        (rlkl.TrainConfig, {"run_dir": 5}, "run_dir=5: expected a string"),
        (rlkl.TrainConfig, {"env": 5}, "env=5: expected EnvConfig or an environment's id"),
        (rlkl.TrainConfig, {"algo": "ppo_clp"}, "algo=ppo_clp: expected one of .*did you mean"),
        (rlkl.TrainConfig, {"policy": "gru"}, "policy='gru': expected PolicyConfig"),
    ],
)
def test_wrong_type_is_rejected_by_key(cls: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(rlkl.ConfigError, match=message):
        cls(**given)
