"""New runs that start from another run's policy, critic and statistics."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_runs import small_config

import rlkl
from rlkl.training.checkpoint import load_checkpoint
from rlkl.training.learner import Learner
from rlkl.training.start import start
from rlkl.utils.errors import ConfigError

NORMALIZED: dict[str, Any] = {"normalize_observations": True, "scale_rewards": True}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "first"
    rlkl.train(small_config(path, **NORMALIZED, critic=rlkl.CriticConfig(normalize_values=True)))
    return path


def settings(first: Path) -> dict[str, Any]:
    critic = rlkl.CriticConfig(normalize_values=True)
    return NORMALIZED | {"critic": critic, "init_from": str(first)}


def test_new_run_starts_with_everything_learned(first: Path, tmp_path: Path) -> None:
    env = rlkl.EnvConfig("CartPole-v1", num_envs=3, kwargs={"sutton_barto_reward": True})
    wanted = small_config(tmp_path / "new", "trpo", env=env, seed=5, **settings(first))
    learner, state = start(wanted), load_checkpoint(first / "checkpoints" / "last.pt")
    saved = learner.policy_state()
    for whose in ("actor", "critic"):
        for name, tensor in state["policy"][whose].items():
            assert torch.equal(tensor, saved["policy"][whose][name])
    assert saved["normalizer"] == state["normalizer"]
    assert saved["reward_scaler"]["mean"] == state["reward_scaler"]["mean"]
    assert saved["reward_scaler"]["returns"] == [0, 0, 0]
    assert learner.critic_fit.state_dict()["returns"] == state["critic_fit"]["returns"]
    assert learner.env_steps == 0 and learner.critic_fit.adam.num_steps == 0
    learner.close()


def test_config_records_origin_and_resume_does_not_need_it(first: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    (gone / "last.pt").write_bytes((first / "checkpoints" / "last.pt").read_bytes())
    new = tmp_path / "new"
    rlkl.train(small_config(new, **settings(gone / "last.pt")))
    assert yaml.safe_load((new / "config.yaml").read_text())["init_from"] == str(gone / "last.pt")
    (gone / "last.pt").unlink()
    summary = rlkl.resume(new, lambda saved: replace(saved, total_env_steps=256))
    assert summary.env_steps == 256
    with pytest.raises(ConfigError, match="init_from=None: a resumed run keeps"):
        rlkl.resume(new, lambda saved: replace(saved, init_from=None))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"normalize_observations": False}, "normalize_observations is true there, and false here"),
        ({"scale_rewards": False}, "scale_rewards is true there, and false here"),
        ({"critic": rlkl.CriticConfig()}, "critic.normalize_values is true there"),
        ({"policy": rlkl.PolicyConfig([8], [9])}, "of the critic is [8, 4] there, and [9, 4]"),
        ({"policy": rlkl.PolicyConfig(activation="relu")}, "policy.activation is tanh there"),
        ({"env": rlkl.EnvConfig("Acrobot-v1", 2)}, "(0, 4)} there, and {'': (0, 6)} here"),
        ({"env": rlkl.EnvConfig("MountainCar-v0", 2)}, "the observation's vector"),
        ({"init_from": "nowhere"}, "nowhere: there is no such folder"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_first(
    first: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        rlkl.Trainer(small_config(tmp_path / "new", **settings(first) | change))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_run_without_origin_is_as_before(tmp_path: Path) -> None:
    wanted = small_config(tmp_path / "run")
    assert asdict(wanted)["init_from"] is None
    one, other = start(wanted), Learner(wanted)
    vectors = [learner.policy.actor_parameters.vector.detach().numpy() for learner in (one, other)]
    np.testing.assert_array_equal(*vectors)
    one.close()
    other.close()
