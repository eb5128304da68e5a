"""Make vector environments whose results are tensors, or arrays with DLPack."""

from typing import Any

import gymnasium as gym
import torch

from rlkl.envs.checks import quiet
from rlkl.envs.jax_env import from_gymnasium
from rlkl.envs.torch_tasks import TorchAcrobot, TorchCartPole, TorchPendulum, TorchVectorEnv
from rlkl.utils.errors import ConfigError

TORCH_TASKS: dict[str, type[TorchVectorEnv]] = {
    "CartPole-v1": TorchCartPole,
    "Pendulum-v1": TorchPendulum,
    "Acrobot-v1": TorchAcrobot,
}
"""rlkl's own versions of Gymnasium's environments, by id."""


def make_tensor_envs(
    env_id: str, num_envs: int, kwargs: dict[str, Any], device: torch.device | str
) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Make N sub-environments: rlkl's own if there is one of this id, else the id's vector form.

    Args:
        env_id: registered.
        num_envs: N.
        kwargs: of the constructor.
        device: of rlkl's own; others choose theirs.

    Raises:
        ConfigError: the device has no float64.
    """
    if torch.device(device).type == "mps":
        raise ConfigError(
            "env.backend=tensor needs float64, which device=mps does not have; use device=cpu"
        )
    if env_id in TORCH_TASKS:
        return TORCH_TASKS[env_id](num_envs, device, **kwargs)
    # Gymnasium warns of its own Pendulum in JAX, which declares no autoreset mode;
    # `TensorEnvironment` checks the mode of what is used.
    with quiet():
        envs = gym.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point", **kwargs)
    return from_gymnasium(envs) if hasattr(envs, "func_env") else envs
