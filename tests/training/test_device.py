"""A run on a device that is not the CPU is that of the CPU, whatever is acted on and with what."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from engines_available import needs_numpy_engine
from fake_device import DeviceTensor, fake_device, uploads
from learning_loop import CORE, config_of
from worlds import ACTION_SETTINGS, ACTIONS

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.algos.base import FirstOrderConfig
from rlkl.algos.critic import CriticConfig
from rlkl.envs.make import EnvConfig
from rlkl.models.policy import PolicyConfig
from rlkl.training.checkpoint import CheckpointConfig, as_bytes, load_checkpoint
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.training.loggers import LoggerConfig
from rlkl.training.report import TAGS
from rlkl.utils.errors import ConfigError

IMAGE = gym.spaces.Box(0, 255, (5, 5), np.uint8)
VECTOR = gym.spaces.Box(-1, 1, (3,), np.float32)


class Anything(gym.Env[Any, Any]):
    """Shows random numbers, rewards at random, and cuts every other episode off after 3 steps."""

    def __init__(self, action: str, *, image: bool = False) -> None:
        self.observation_space = IMAGE if image else VECTOR
        self.action_space, self.masked = ACTIONS[action], action == "masked"

    def _look(self) -> tuple[Any, dict[str, Any]]:
        mask = np.array([1, self.np_random.integers(2), 0, 1], np.int8)
        low, high = (
            float(self.observation_space.low.min()),
            float(self.observation_space.high.max()),
        )
        shown = self.np_random.uniform(low, high, self.observation_space.shape)
        kind = self.observation_space.dtype
        return shown.astype(kind), {"action_mask": mask} if self.masked else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._look()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.t += 1
        observation, info = self._look()
        ended = self.t == 3
        terminated = ended and bool(self.np_random.integers(2))
        return observation, self.np_random.normal(), terminated, ended and not terminated, info


gym.register("Anything-v0", entry_point=Anything)

VARYING = {tag for tag in TAGS if tag.startswith("time/")} | {"trust_region/cg_residual"}
"""Numbers that are time, or hardly more than rounding."""

NETWORKS: dict[str, dict[str, Any]] = {
    "vector": {},
    "image": {"image_features": 4},
    "gru": {"memory": "gru", "memory_size": 4, "sequence_length": 4},
    "lstm of images, shared": {
        "image_features": 4, "memory": "lstm", "memory_size": 4, "share_encoder": True,
    },
}  # fmt: skip


def config(name: str, action: str, network: str, **settings: Any) -> TrainConfig:
    image = "image" in network
    policy = PolicyConfig(
        actor_hidden_sizes=[8],
        critic_hidden_sizes=[8],
        engine=settings.pop("engine", "torch"),
        **NETWORKS[network] | ACTION_SETTINGS.get(action, {}),
    )
    return TrainConfig(
        algo=config_of(name, num_epochs=2, num_minibatches=2, entropy_coefficient=0.01),
        env=EnvConfig("Anything-v0", num_envs=2, kwargs={"action": action, "image": image}),
        policy=policy,
        critic=CriticConfig(num_epochs=2, num_minibatches=2, value_clip=0.2),
        logger=LoggerConfig(progress="none", tensorboard=False),
        rollout_steps=8,
        total_env_steps=48,
        eval_episodes=2,
        normalize_observations=not image,
        scale_rewards=True,
        **settings,
    )


def course(learner: Learner) -> list[float]:
    """Return what two iterations and an evaluation come to."""
    numbers = []
    for _ in range(2):
        report = learner.iterate()
        metrics, histograms = report.scalars, report.histograms
        numbers += [value for tag, value in metrics.items() if tag not in VARYING]
        numbers += [value for values in histograms.values() for value in values.cpu().tolist()]
    learner.close()
    return [*numbers, learner.evaluate().mean_return]


def cases() -> list[Any]:
    """Return algorithms, actions and networks: all pairs of the core, a third of the others."""
    found = []
    for (a, name), (b, action) in product(enumerate(ALGORITHMS), enumerate(ACTIONS)):
        network = list(NETWORKS)[(a + b) % 3]
        marks = () if (a + b) % 6 == 0 else pytest.mark.slow
        if (a + 2 * b) % 3 == 0 or name in CORE:
            found.append(pytest.param(name, action, network, marks=marks))
    shared = "lstm of images, shared"
    first_order = [n for n, a in ALGORITHMS.items() if issubclass(a.config, FirstOrderConfig)]
    slow = pytest.mark.slow
    return found + [
        pytest.param(name, "box", shared, marks=slow if number else ())
        for number, name in enumerate(first_order)
    ]


@pytest.mark.parametrize(("name", "action", "network"), cases())
def test_another_device_computes_the_same(name: str, action: str, network: str) -> None:
    expected = course(Learner(config(name, action, network)))
    with fake_device() as device:
        learner = Learner(config(name, action, network, device=device, engine="auto"))
        assert learner.engine.name == "torch"
        assert isinstance(learner.policy.actor_parameters.vector, DeviceTensor)
        found = course(learner)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5, nan_ok=True)


def test_run_on_another_device_resumes(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings: dict[str, Any] = {"checkpoint": CheckpointConfig(interval=1), "anneal": False}
    with fake_device() as device:
        chosen = config("ppo_kl", "box", "vector", device=device, **settings)
        rlkl.train(replace(chosen, run_dir=str(whole)))
        rlkl.train(replace(chosen, run_dir=str(cut), total_env_steps=32))
        rlkl.resume(cut, lambda before: replace(before, total_env_steps=48))
    states = [load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (whole, cut)]
    for part in ("policy", "policy_optimizer", "critic_fit"):
        first, second = (as_bytes({part: state[part]}) for state in states)
        assert first == second
    action = rlkl.load_policy(cut).act(np.zeros(3, np.float32))
    assert ACTIONS["box"].contains(action)


def test_bad_update_on_another_device_is_reverted() -> None:
    with fake_device() as device:
        learner = Learner(config("vanilla_pg", "box", "vector", device=device))
        vector = learner.policy.actor_parameters.vector
        before = vector.detach().cpu().clone()
        for parameter in learner.policy_optimizer.adam.parameters.tensors:
            parameter.register_hook(lambda gradient: gradient * math.nan)
        bad = learner.iterate().bad_update
        learner.close()
        assert torch.equal(vector.detach().cpu(), before)
        assert bad is not None
        assert bad.culprit == "policy gradient"
        assert len(bad.as_bytes()) > 1000


@needs_numpy_engine
def test_analytic_gradients_are_refused_on_another_device() -> None:
    with fake_device() as device, pytest.raises(ConfigError, match="a network on cuda"):
        Learner(config("ppo_clip", "box", "vector", device=device, engine="numpy"))


@pytest.mark.parametrize("action", ["discrete", "masked"])
def test_images_travel_once_per_rollout(action: str) -> None:
    with fake_device() as device:
        learner = Learner(config("ppo_clip", action, "image", device=device))
        for _ in range(2):
            uploads.clear()
            learner.iterate()
            images = [copy for copy in uploads if copy.shape[1:] == (1, 5, 5)]
            steps, whole = images[:8], images[8:]
            assert [len(copy) for copy in steps] == [2] * 8  # each step of 2 sub-environments
            assert [len(copy) >= 9 * 2 for copy in whole] == [True]
            assert {copy.dtype for copy in images} == {torch.uint8}
        learner.close()
