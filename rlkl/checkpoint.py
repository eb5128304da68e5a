"""A run's state on the disk, and the trained policy read back from it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from rlkl.normalization import ObservationNormalizer
from rlkl.policy import Policy, PolicyConfig
from rlkl.spaces import (
    ACTION_MASK,
    ObservationEncoder,
    describe_space,
    described_space,
    mask_rows,
    normalized,
)
from rlkl.validation import ConfigError

FORMAT = 2
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
    if written < FORMAT:
        raise ConfigError(
            f"{path} has format {written}, older than {FORMAT}: this rlkl cannot read it; use the "
            "version that wrote it (summary.json says which)"
        )
    if written > FORMAT:
        raise ConfigError(
            f"{path} has format {written}, newer than {FORMAT} of this rlkl; upgrade rlkl"
        )
    return state


class TrainedPolicy:
    """A policy that acts on raw observations, as it did at the end of its run.

    Args:
        policy: acts.
        normalizer: of observations, if training normalised them.
    """

    def __init__(self, policy: Policy, normalizer: ObservationNormalizer | None) -> None:
        self.policy = policy
        self.normalizer = normalizer
        self._states: Tensor | None = None

    def reset(self) -> None:
        """Forget the past: call it at the beginning of each episode if the policy has a memory."""
        self._states = None

    @torch.no_grad()
    def act(
        self,
        observation: Any,
        generator: Generator | None = None,
        action_mask: Any | None = None,
    ) -> Any:
        """Return an action that the environment takes.

        Args:
            observation: raw, as the environment shows it.
            generator: source of sampled actions; None takes the most probable action.
            action_mask: which actions are allowed, as the environment gives it.
        """
        policy = self.policy
        encoded = policy.encoder.stack([observation], "the observation")
        if action_mask is not None:
            space, none = policy.decoder.space, np.zeros(1, np.bool_)
            encoded[ACTION_MASK] = mask_rows(space, [action_mask], none, "the observation")
        seen = policy.tensors(normalized(encoded, self.normalizer))
        states = policy.initial_state(1) if self._states is None else self._states
        distribution, self._states = policy.step(seen, states)
        chosen = distribution.mode() if generator is None else distribution.sample(generator)
        return policy.decoder(chosen.cpu().numpy())[0]


def describe_policy(policy: Policy) -> dict[str, Any]:
    """Return what `load_policy` needs beside the weights, as plain numbers, lists and strings."""
    return {
        "config": asdict(policy.config),
        "observation_space": describe_space(policy.encoder.space),
        "observation_keys": list(policy.encoder.keys),
        "action_space": describe_space(policy.decoder.space),
    }


def load_policy(run_dir: str | Path) -> TrainedPolicy:
    """Read the policy of a run's folder.

    Raises:
        ConfigError: the folder has no checkpoint that can be read.
    """
    state = load_checkpoint(Path(run_dir) / "checkpoints" / "last.pt")
    description = state["policy_description"]
    encoder = ObservationEncoder(
        described_space(description["observation_space"]), description["observation_keys"]
    )
    config = PolicyConfig(**description["config"])
    action_space = described_space(description["action_space"])
    policy = Policy(config, encoder, action_space, torch.Generator())
    policy.load_state_dict(state["policy"])
    normalizer = None
    if state["normalizer"] is not None:
        normalizer = ObservationNormalizer((encoder.vector_size,), is_measured=encoder.is_measured)
        normalizer.load_state_dict(state["normalizer"])
    return TrainedPolicy(policy, normalizer)
