"""A run's state on the disk, and the trained policy read back from it."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from rlkl.envs import admit
from rlkl.normalization import ObservationNormalizer
from rlkl.policy import Policy, PolicyConfig
from rlkl.validation import ConfigError

FORMAT = 1
"""Grows with every change that older code cannot read."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state so that the file is whole at every moment.

    Args:
        path: its folder is made if need be.
        state: tensors, numbers, strings, and lists and dicts of them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({"format": FORMAT} | state, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state; nothing in the file is run as code.

    Raises:
        ConfigError: there is no such file, it is damaged, or it is of a newer format.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        written = int(state["format"])
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such checkpoint") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path} is not a checkpoint that can be read: {reason}") from error
    if written > FORMAT:
        raise ConfigError(
            f"{path} has format {written}, newer than {FORMAT} of this rlkl; upgrade rlkl"
        )
    return state


class TrainedPolicy:
    """A policy that acts on raw observations, as it did at the end of its run.

    Args:
        policy: acts.
        action_space: of the environment.
        normalizer: of observations, if training normalised them.
    """

    def __init__(
        self,
        policy: Policy,
        action_space: gym.spaces.Discrete | gym.spaces.Box,
        normalizer: ObservationNormalizer | None,
    ) -> None:
        self.policy = policy
        self.action_space = action_space
        self.normalizer = normalizer

    @torch.no_grad()
    def act(
        self, observations: NDArray[np.floating[Any]], generator: Generator | None = None
    ) -> NDArray[Any]:
        """Return actions that the environment takes.

        Args:
            observations: raw, one `[D]` or several `[B, D]`.
            generator: source of sampled actions; None takes the most probable action.

        Returns:
            One action or B of them.
        """
        batch = np.atleast_2d(np.asarray(observations, np.float32))
        seen = batch if self.normalizer is None else self.normalizer(batch)
        distribution = self.policy.distribution(self.policy.tensor(seen))
        chosen = distribution.mode() if generator is None else distribution.sample(generator)
        actions = admit(self.action_space, chosen.cpu().numpy())
        return actions if np.ndim(observations) > 1 else actions[0]


def describe_policy(
    config: dict[str, Any],
    observation_size: int,
    action_space: gym.spaces.Discrete | gym.spaces.Box,
) -> dict[str, Any]:
    """Return what `load_policy` needs beside the weights, as plain numbers, lists and strings."""
    if isinstance(action_space, gym.spaces.Discrete):
        space: dict[str, Any] = {"n": int(action_space.n), "start": int(action_space.start)}
    else:
        space = {
            "low": action_space.low.tolist(),
            "high": action_space.high.tolist(),
            "dtype": str(action_space.dtype),
        }
    return {"config": config, "observation_size": observation_size, "action_space": space}


def load_policy(run_dir: str | Path) -> TrainedPolicy:
    """Read the policy of a run's folder.

    Raises:
        ConfigError: the folder has no checkpoint that can be read.
    """
    state = load_checkpoint(Path(run_dir) / "checkpoints" / "last.pt")
    description = state["policy_description"]
    space = description["action_space"]
    action_space: gym.spaces.Discrete | gym.spaces.Box
    if "n" in space:
        action_space = gym.spaces.Discrete(space["n"], start=space["start"])
    else:
        dtype = np.dtype(space["dtype"])
        action_space = gym.spaces.Box(
            np.array(space["low"], dtype), np.array(space["high"], dtype), dtype=dtype.type
        )
    size = description["observation_size"]
    policy = Policy(PolicyConfig(**description["config"]), size, action_space, torch.Generator())
    policy.load_state_dict(state["policy"])
    normalizer = None
    if state["normalizer"] is not None:
        normalizer = ObservationNormalizer((size,))
        normalizer.load_state_dict(state["normalizer"])
    return TrainedPolicy(policy, action_space, normalizer)
