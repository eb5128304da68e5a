"""Short trainings for the tests of experiments."""

from dataclasses import replace

from rlkl.envs.make import EnvConfig
from rlkl.training.config import TrainConfig

TINY = TrainConfig(env=EnvConfig(num_envs=2), rollout_steps=32, total_env_steps=64)
PENDULUM = replace(TINY, env=EnvConfig("Pendulum-v1", num_envs=2), normalize_observations=True)


def silent(text: str) -> None:
    """Print nothing."""
