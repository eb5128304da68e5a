"""New runs that start from another run's policy, critic and statistics."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium.spaces import Box, Dict, Discrete
from made_batches import policy_of
from small_runs import small_config

import rlkl
from rlkl.envs.observations import ObservationEncoder
from rlkl.envs.spaces import describe_space
from rlkl.models.policy import Policy
from rlkl.training.checkpoint import as_bytes, load_checkpoint
from rlkl.training.learner import Learner
from rlkl.training.start import _policy_differences, observation_differences, start
from rlkl.training.trained_policy import describe_policy
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


OTHER: dict[str, Any] = {
    "activation": "relu", "memory": "gru", "share_encoder": True,
    "box_distribution": "tanh_gaussian", "scale_actions": False, "state_dependent_std": True,
    "pixel_scale": 1.0,
    "actor_layer_norm": True, "critic_layer_norm": True, "actor_observation_keys": ["a"],
    "critic_observation_keys": ["a"], "encoder": "mine", "actor_head": "mine",
    "actor_critic": "mine",
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER)
def test_every_setting_of_meaning_is_compared(key: str) -> None:
    policy = policy_of("gaussian")
    description = describe_policy(policy)
    state = {"policy_description": description, "policy": policy.state_dict()}
    assert list(_policy_differences(state, policy)) == []
    before = description["config"][key]
    description["config"][key] = OTHER[key]
    assert list(_policy_differences(state, policy)) == [(f"policy.{key}", OTHER[key], before)]


@pytest.mark.parametrize("whose", ["saved", "new"])
def test_part_that_one_policy_lacks_is_named(whose: str) -> None:
    policies = [policy_of("gaussian"), policy_of("gaussian", state_dependent_std=True)]
    saved, policy = policies if whose == "new" else policies[::-1]
    state = {"policy_description": describe_policy(policy), "policy": saved.state_dict()}
    found = {what: (there, here) for what, there, here in _policy_differences(state, policy)}
    expected = ("missing", [2]) if whose == "saved" else ([2], "missing")
    assert found["the shape of head.log_std of the actor"] == expected


def described(observations: gym.Space[Any], actions: gym.Space[Any]) -> dict[str, Any]:
    return {
        "observation_space": describe_space(observations), "observation_keys": [],
        "action_space": describe_space(actions),
    }  # fmt: skip


PARTS: dict[str, Any] = {"a": Box(-1, 1, (2,)), "b": Box(-1, 1, (2,))}


@pytest.mark.parametrize(
    ("theirs", "actions", "what"),
    [
        (Dict(a=Box(-1, 1, (3,)), b=Box(-1, 1, (1,))), Discrete(2), "vector"),
        (Dict(PARTS, c=Box(0, 255, (8, 8, 1), np.uint8)), Discrete(2), "images"),
        (Dict(a=Box(-1, 1, (2,)), b=Discrete(2)), Discrete(2), "what of it is normalized"),
        (Dict(PARTS), Discrete(3), "the action space"),
    ],
)
def test_other_spaces_are_told_apart(theirs: Any, actions: Any, what: str) -> None:
    ours = ObservationEncoder(Dict(a=Box(-9, 9, (2,)), b=Box(-1, 1, (2,))))
    policy = Policy(rlkl.PolicyConfig([4], [4]), ours, Discrete(2), torch.Generator())
    same = described(Dict(PARTS), Discrete(2))
    assert list(observation_differences(same, policy)) == []
    ((name, *_),) = observation_differences(described(theirs, actions), policy)
    assert what in name


def test_refused_start_closes_its_environments(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Learner] = []

    def close(learner: Learner) -> None:
        closed.append(learner)

    monkeypatch.setattr(Learner, "close", close)
    with pytest.raises(ConfigError, match="normalize_observations is true there"):
        start(small_config(tmp_path / "new", init_from=str(first)))
    (learner,) = closed
    learner.envs.close()


@pytest.mark.parametrize("key", ["init_from", "reference"])
def test_description_without_its_weights_is_refused(key: str, first: Path, tmp_path: Path) -> None:
    state = load_checkpoint(first / "checkpoints" / "last.pt")
    state["policy_description"]["config"]["actor_hidden_sizes"] = [60_000, 60_000]
    (tmp_path / "huge.pt").write_bytes(as_bytes(state))
    wanted = settings(first) | {key: str(tmp_path / "huge.pt")}
    with pytest.raises(ConfigError, match=r"at least 3,600,060,000 weights, but \d+ are stored"):
        start(small_config(tmp_path / "new", **wanted))


def test_run_without_origin_is_as_before(tmp_path: Path) -> None:
    wanted = small_config(tmp_path / "run")
    assert asdict(wanted)["init_from"] is None
    one, other = start(wanted), Learner(wanted)
    vectors = [learner.policy.actor_parameters.vector.detach().numpy() for learner in (one, other)]
    np.testing.assert_array_equal(*vectors)
    one.close()
    other.close()
