#!/usr/bin/env python3
"""Print a fingerprint of short runs, to see whether a change of the code keeps every bit.

    python scripts/fingerprint.py > before.txt     # on the old revision
    python scripts/fingerprint.py | diff before.txt -

Each line is a run's name and a hash of its networks, the optimizers' state and `metrics.csv`
without times; `resumed` is the same run, continued from its last checkpoint. The numbers hold for
one machine and one version of torch. `--without=TAG,TAG` leaves out columns that a change may move
by rounding; other arguments are words that the names of the runs must hold.
"""

import csv
import hashlib
import sys
import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

import rlkl

STEPS = 768


class Allowed(gym.Env[Any, Any]):
    """Three actions of which one is masked at each step; the reward is the action's number."""

    observation_space: gym.Space[Any] = Box(-1, 1, (2,))
    action_space = Discrete(3)

    def __init__(self, **options: Any) -> None:
        self.t = 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**options)
        self.t = 0
        return self._shown()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        observation, info = self._shown()
        return observation, float(action), self.t == 10, False, info

    def _shown(self) -> tuple[Any, dict[str, Any]]:
        mask = np.ones(3, np.int8)
        mask[self.t % 3] = 0
        return np.array([np.sin(self.t), np.cos(self.t)], np.float32), {"action_mask": mask}


class Picture(Allowed):
    """The same without a mask; the step's number is the brightness of an image."""

    observation_space: gym.Space[Any] = Box(0, 255, (12, 12, 1), np.uint8)

    def _shown(self) -> tuple[Any, dict[str, Any]]:
        return np.full((12, 12, 1), 20 * self.t, np.uint8), {}


gym.register("Allowed-v0", Allowed)
gym.register("Picture-v0", Picture)

POLICIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "categorical": ({"id": "CartPole-v1"}, {}),
    "gaussian": ({"id": "Pendulum-v1"}, {}),
    "state_std": ({"id": "Pendulum-v1"}, {"state_dependent_std": True}),
    "tanh": ({"id": "Pendulum-v1"}, {"box_distribution": "tanh_gaussian"}),
    "masked": ({"id": "Allowed-v0"}, {}),
    "gru": ({"id": "rlkl.tasks:rlkl/Recall-v0"}, {"memory": "gru", "sequence_length": 8}),
    "image": ({"id": "Picture-v0"}, {"image_features": 16}),
}
WITHOUT_NUMPY = {"gru", "image"}

VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "early stop of minibatches": (
        "ppo_clip", "gaussian", {"target_kl": 0.003, "target_kl_scope": "minibatch"}
    ),
    "early stop of epochs": ("ppo_clip", "categorical", {"target_kl": 0.002}),
    "entropy": ("ppo_kl", "gaussian", {"entropy_coefficient": 0.01}),
    "entropy of a squash": ("ppo_clip", "tanh", {"entropy_coefficient": 0.01}),
    "standardized minibatches": ("ppo_clip", "masked", {"advantage_standardization": "minibatch"}),
    "part of the states": ("trpo", "gaussian", {"fisher_fraction": 0.5}),
    "part of the sequences": ("npg", "gru", {"fisher_fraction": 0.5}),
}  # fmt: skip


def _add(digest: Any, name: str, value: Any) -> None:
    """Hash a value of a checkpoint with the path to it."""
    if isinstance(value, torch.Tensor):
        digest.update(f"{name}{tuple(value.shape)}".encode() + value.numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            _add(digest, f"{name}.{key}", value[key])
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            _add(digest, f"{name}.{number}", part)
    else:
        digest.update(f"{name}={value!r}".encode())


def fingerprint(run_dir: Path, without: Collection[str]) -> str:
    """Return a hash of what a run has learned and what it has reported."""
    digest = hashlib.sha256()
    state = torch.load(run_dir / "checkpoints" / "last.pt", weights_only=True)
    for part in ("policy", "policy_optimizer", "critic_fit", "normalizer", "reward_scaler"):
        _add(digest, part, state[part])
    with (run_dir / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for tag in sorted(row):
                if not tag.startswith("time/") and tag not in without:
                    digest.update(f"{tag}={row[tag]};".encode())
    return digest.hexdigest()[:16]


def print_run(name: str, config: rlkl.TrainConfig, folder: Path, without: Collection[str]) -> None:
    """Train, print, continue for as long again, and print."""
    run_dir = folder / name.replace(" ", "_").replace("/", "_")
    rlkl.train(replace(config, run_dir=str(run_dir)))
    print(f"{name}: {fingerprint(run_dir, without)}")
    rlkl.resume(run_dir, lambda before: replace(before, total_env_steps=2 * STEPS))
    print(f"{name} resumed: {fingerprint(run_dir, without)}", flush=True)


def config_of(algo: str, policy: str, engine: str, **options: Any) -> rlkl.TrainConfig:
    """Return a short run of an algorithm and a kind of policy."""
    env, networks = POLICIES[policy]
    return rlkl.TrainConfig(
        algo=rlkl.ALGORITHMS[algo].config(**options),
        env=rlkl.EnvConfig(**env, num_envs=4),
        policy=rlkl.PolicyConfig(
            **networks, actor_hidden_sizes=[16, 16], critic_hidden_sizes=[16], **ENGINES[engine]
        ),
        critic=rlkl.CriticConfig(num_epochs=2, value_clip=0.2 if engine == "auto" else None),
        rollout_steps=32,
        total_env_steps=STEPS,
        threads=1,
        eval_episodes=1,
        seed=3,
        logger=rlkl.LoggerConfig(tensorboard=False, progress="none"),
    )


ENGINES: dict[str, dict[str, Any]] = {"auto": {}, "torch": {"engine": "torch"}}


def main() -> int:
    """Print the lines of all runs, or of those whose name holds an argument."""
    runs = {
        f"{algo} {policy} {engine}": config_of(algo, policy, engine)
        for algo in rlkl.ALGORITHMS
        for policy in POLICIES
        for engine in ENGINES
        if engine == "torch" or policy not in WITHOUT_NUMPY
    }
    runs |= {
        f"{name} {engine}": config_of(algo, policy, engine, **options)
        for name, (algo, policy, options) in VARIANTS.items()
        for engine in ENGINES
    }
    runs["shared encoder"] = replace(
        config_of("ppo_clip", "image", "auto"),
        policy=rlkl.PolicyConfig(image_features=16, share_encoder=True),
    )
    words = [word for word in sys.argv[1:] if not word.startswith("--without=")]
    without = {tag for word in sys.argv[1:] if word not in words for tag in word[10:].split(",")}
    with tempfile.TemporaryDirectory() as folder:
        for name, config in runs.items():
            if all(word in name for word in words):
                print_run(name, config, Path(folder), without)
    return 0


if __name__ == "__main__":
    sys.exit(main())
