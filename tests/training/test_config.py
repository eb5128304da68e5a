"""The config of a run: what is refused, and which changes a resumed run may make."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from test_resume import config

import rlkl
from rlkl.training.config import another_run, changes, differences, leaves, saved_config
from rlkl.utils.field_types import plain_data


def test_anneal_false_needs_a_linear_schedule() -> None:
    algo = rlkl.TRPOConfig(max_kl_schedule="constant")
    with pytest.raises(rlkl.ConfigError, match=r"algo\.max_kl_schedule, critic\.learn"):
        rlkl.TrainConfig(algo=algo, anneal=False)
    critic = rlkl.CriticConfig(learning_rate_schedule="linear")
    rlkl.TrainConfig(algo=algo, critic=critic, anneal=False)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.inf, math.nan])
def test_clip_rewards_must_be_positive(clip: float) -> None:
    with pytest.raises(rlkl.ConfigError, match="clip_rewards"):
        rlkl.TrainConfig(clip_rewards=clip)


@pytest.mark.parametrize("algo", ["trpo", "npg"])
def test_natural_gradient_refuses_a_shared_encoder(algo: str) -> None:
    policy = rlkl.PolicyConfig(share_encoder=True, memory="gru")
    message = rf"policy\.share_encoder=true is not possible with algo={algo}"
    with pytest.raises(rlkl.ConfigError, match=message):
        rlkl.TrainConfig(algo, policy=policy)


def test_eval_interval_needs_episodes() -> None:
    with pytest.raises(rlkl.ConfigError, match="nothing to evaluate with eval_episodes=0"):
        rlkl.TrainConfig(eval_interval=1, eval_episodes=0)
    with pytest.raises(rlkl.ConfigError, match="at least 0"):
        rlkl.TrainConfig(eval_interval=-1)


def test_saved_config_may_lack_newer_keys(tmp_path: Path) -> None:
    wanted = config(tmp_path / "run")
    saved = plain_data(asdict(wanted))
    del saved["eval_max_episode_steps"]
    assert differences(saved, wanted) == {}
    assert list(differences(saved, replace(wanted, eval_max_episode_steps=9))) == [
        "eval_max_episode_steps"
    ]
    saved["env"]["kwargs"] = {"a": 1}
    assert list(differences(saved, wanted)) == ["env.kwargs.a"]


def test_part_of_the_wrong_type_is_refused() -> None:
    assert rlkl.TrainConfig("trpo", "Pendulum-v1").env == rlkl.EnvConfig("Pendulum-v1")  # type: ignore[arg-type]
    with pytest.raises(rlkl.ConfigError, match=r"^env=3: expected EnvConfig or an environment's"):
        rlkl.TrainConfig(env=3)  # type: ignore[arg-type]


def test_minibatches_must_divide_the_batch() -> None:
    algo = rlkl.PPOClipConfig(num_minibatches=7)
    with pytest.raises(rlkl.ConfigError, match=r"algo\.num_minibatches=7 does not divide .* of 96"):
        rlkl.TrainConfig(algo, rlkl.EnvConfig(num_envs=3), rollout_steps=32)


def test_changes_of_a_resumed_run() -> None:
    before = rlkl.TrainConfig()
    after = replace(before, gamma=0.5, logger=rlkl.LoggerConfig(progress="none"))
    assert changes(before, after) == {
        "gamma": (0.99, 0.5),
        "logger.progress": ("auto", "none"),
    }
    with pytest.raises(rlkl.ConfigError, match=r"^seed=4: a resumed run keeps seed=0"):
        changes(before, replace(before, seed=4))


def test_checkpoint_of_another_run_is_recognized() -> None:
    config = rlkl.TrainConfig()
    saved = plain_data(asdict(config))
    assert another_run(saved, asdict(replace(config, gamma=0.5, run_dir="elsewhere"))) == ""
    other = another_run(saved, asdict(replace(config, seed=4)))
    assert other == "seed=4, and config.yaml has seed=0"


def test_config_of_a_checkpoint_is_restored() -> None:
    config = rlkl.TrainConfig("trpo", gamma=0.5)  # type: ignore[arg-type]
    assert saved_config(asdict(config)) == config
    with pytest.raises(rlkl.ConfigError, match=r"another version of rlkl \(.*'gama'\)"):
        saved_config(asdict(config) | {"gama": 0.5})


def test_leaves_have_dotted_keys() -> None:
    assert list(leaves({"a": {"b": {}, "c": [1]}, "d": None})) == [
        ("a.b", {}), ("a.c", [1]), ("d", None),
    ]  # fmt: skip
