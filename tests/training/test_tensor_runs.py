"""Runs on environments of tensors: every algorithm, another device, resume and evaluation."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_device import DeviceTensor, fake_device
from learning_loop import config_of

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.algos.critic import CriticConfig
from rlkl.envs.make import EnvConfig
from rlkl.models.policy import PolicyConfig
from rlkl.training.checkpoint import CheckpointConfig, as_bytes, load_checkpoint
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.training.loggers import LoggerConfig
from rlkl.training.report import TAGS
from rlkl.utils.errors import ConfigError

VARYING = {tag for tag in TAGS if tag.startswith("time/")} | {"trust_region/cg_residual"}


def config(name: str, env_id: str = "CartPole-v1", **settings: Any) -> TrainConfig:
    policy = {"actor_hidden_sizes": [8], "critic_hidden_sizes": [8]} | settings.pop("policy", {})
    return TrainConfig(
        algo=config_of(name, num_epochs=2, num_minibatches=2),
        env=EnvConfig(env_id, 6, "tensor", kwargs={"max_episode_steps": 11}),
        policy=PolicyConfig(**policy),
        critic=CriticConfig(num_epochs=2, num_minibatches=2),
        logger=LoggerConfig(progress="none", tensorboard=False),
        rollout_steps=8,
        total_env_steps=192,
        eval_episodes=2,
        **{"normalize_observations": True, "scale_rewards": True} | settings,
    )


def course(learner: Learner) -> list[float]:
    """Return what two iterations and an evaluation come to."""
    numbers = []
    for _ in range(2):
        report = learner.iterate()
        numbers += [value for tag, value in report.scalars.items() if tag not in VARYING]
    learner.close()
    return [*numbers, learner.evaluate().mean_return]


CASES = [
    *(pytest.param(name, "CartPole-v1", {}, marks=pytest.mark.slow) for name in ALGORITHMS),
    ("ppo_kl", "Pendulum-v1", {}),
    ("trpo", "Pendulum-v1", {"memory": "gru", "memory_size": 4}),
    ("ppo_clip", "Acrobot-v1", {"memory": "lstm", "memory_size": 4}),
]


@pytest.mark.parametrize(("name", "env_id", "policy"), CASES)
def test_another_device_computes_the_same(name: str, env_id: str, policy: dict[str, Any]) -> None:
    expected = course(Learner(config(name, env_id, policy=policy)))
    assert sum(map(math.isfinite, expected)) > 20
    with fake_device() as device:
        learner = Learner(config(name, env_id, policy=policy, device=device))
        rollout = learner.collector.collect()
        assert all(isinstance(rows, DeviceTensor) for rows in rollout.observations.values())
        assert isinstance(rollout.rewards, DeviceTensor)
        learner.close()
        found = course(Learner(config(name, env_id, policy=policy, device=device)))
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("name", ["ppo_clip", "trpo"])
def test_resumed_run_has_the_same_bits(name: str, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    chosen = config(name, checkpoint=CheckpointConfig(interval=1), anneal=False)
    rlkl.train(replace(chosen, run_dir=str(whole)))
    rlkl.train(replace(chosen, run_dir=str(cut), total_env_steps=96))
    rlkl.resume(cut, lambda before: replace(before, total_env_steps=192))
    states = [load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (whole, cut)]
    for part in ("policy", "policy_optimizer", "critic_fit", "collector", "normalizer"):
        first, second = (as_bytes({part: state[part]}) for state in states)
        assert first == second
    assert states[0]["collector"]["under_way"] is not None
    action = rlkl.load_policy(cut).act(np.zeros(4, np.float32))
    assert action in (0, 1)


def test_run_on_another_device_resumes(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with fake_device() as device:
        chosen = config("ppo_kl", device=device, checkpoint=CheckpointConfig(interval=1))
        chosen = replace(chosen, anneal=False)
        rlkl.train(replace(chosen, run_dir=str(whole)))
        rlkl.train(replace(chosen, run_dir=str(cut), total_env_steps=96))
        rlkl.resume(cut, lambda before: replace(before, total_env_steps=192))
    states = [load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (whole, cut)]
    first, second = (as_bytes({"policy": state["policy"]}) for state in states)
    assert first == second


def test_same_seed_gives_the_same_bits() -> None:
    first, second = (Learner(config("ppo_clip")) for _ in range(2))
    for learner in (first, second):
        learner.iterate()
        learner.close()
    vectors = [learner.policy.actor_parameters.vector for learner in (first, second)]
    assert torch.equal(*vectors)


def test_title_names_backend_and_engine() -> None:
    learner = Learner(config("ppo_clip"))
    learner.close()
    assert learner.title == (
        "ppo_clip on CartPole-v1 × 6 (tensor), cpu, torch engine "
        "(environments of tensors need torch)"
    )


def test_numpy_engine_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"policy\.engine=numpy: environments of tensors need torch"
    ):
        Learner(config("ppo_clip", policy={"engine": "numpy"}))


def test_bad_update_is_reverted_with_its_rewards() -> None:
    learner = Learner(config("vanilla_pg"))
    before = learner.policy.actor_parameters.vector.detach().clone()
    for parameter in learner.policy_optimizer.adam.parameters.tensors:
        parameter.register_hook(lambda gradient: gradient * math.nan)
    bad = learner.iterate().bad_update
    learner.close()
    assert torch.equal(learner.policy.actor_parameters.vector, before)
    assert bad is not None
    assert bad.content["rewards"].shape == (8, 6)
    assert len(bad.as_bytes()) > 1000
