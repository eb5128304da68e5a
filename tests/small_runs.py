"""Configs of small runs, for tests of what a run starts from."""

from pathlib import Path
from typing import Any

import rlkl


def small_config(path: Path, algo: Any = "ppo_clip", **settings: Any) -> rlkl.TrainConfig:
    """Return the config of a run of two CartPoles and tiny networks in a folder."""
    common: dict[str, Any] = {
        "env": rlkl.EnvConfig("CartPole-v1", num_envs=2),
        "policy": rlkl.PolicyConfig([8], [8]),
        "total_env_steps": 128,
        "rollout_steps": 32,
        "eval_episodes": 0,
        "logger": rlkl.LoggerConfig(progress="none", tensorboard=False),
        "run_dir": str(path),
    }
    return rlkl.TrainConfig(algo=algo, **common | settings)
