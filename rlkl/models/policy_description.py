"""The description of a policy as plain data, from which it is made again."""

from dataclasses import asdict
from itertools import pairwise
from math import prod
from typing import Any

from torch import Tensor

from rlkl.envs.spaces import describe_space
from rlkl.models.policy import Policy

MOST_NUMBERS = 2**24  # limit for an observation or an action


def describe_policy(policy: Policy) -> dict[str, Any]:
    """Return what `load_policy` needs besides the weights, as plain numbers, lists and strings."""
    return {
        "config": asdict(policy.config),
        "observation_space": describe_space(policy.encoder.space),
        "observation_keys": list(policy.encoder.keys),
        "action_space": describe_space(policy.decoder.space),
    }


def check_described(description: dict[str, Any], weights: Any, vector_size: int = 0) -> None:
    """Check a description against the stored weights, before spaces and networks are made from it.

    Args:
        description: from `describe_policy`.
        weights: containers of the policy's tensors.
        vector_size: size of the vector that one of the networks reads, once it is known.

    Raises:
        ValueError: the networks have more weights than are stored, or a space is too large.
    """
    observation = _numbers(description["observation_space"])
    least = max(_numbers(description["action_space"]), 1 if observation else 0)
    config = description["config"]
    # The sizes of registered networks are up to their code.
    is_whole, has_encoder, has_head = (
        bool(config.get(key)) for key in ("actor_critic", "encoder", "actor_head")
    )
    least = 0 if is_whole or has_head else least
    widths = [config.get("memory_size", 1)] if config.get("memory", "none") != "none" else []
    least = max(least, *(width**2 for width in widths), 0)
    for key, is_unused in {
        "encoder_hidden_sizes": has_encoder or is_whole,
        "actor_hidden_sizes": has_head or is_whole,
        "critic_hidden_sizes": is_whole,
    }.items():
        layers = [] if is_unused else config.get(key, [])
        widths += layers
        least = max(least, sum(a * b for a, b in pairwise([1, *layers])))
    if not has_encoder and not is_whole:
        least = max(least, vector_size * min(widths, default=1))
    stored = _stored(weights)
    if least > stored:
        raise ValueError(f"its policy has at least {least:,} weights, but {stored:,} are stored")


def _numbers(space: dict[str, Any]) -> int:
    """Return how many numbers a space has, from its description by `describe_space`."""
    numbers = 0
    if "dict" in space:
        numbers = sum(map(_numbers, space["dict"].values()))
    elif "tuple" in space:
        numbers = sum(map(_numbers, space["tuple"]))
    elif "discrete" in space:
        numbers = space["discrete"]
    elif "multi_discrete" in space:
        numbers = sum(map(int, _flat(space["multi_discrete"])))
    elif "box" in space or "multi_binary" in space:
        numbers = prod(_flat(space.get("box", space.get("multi_binary"))))
    if not 0 <= numbers <= MOST_NUMBERS:
        raise ValueError(f"a space of {numbers:,} numbers; expected at most {MOST_NUMBERS:,}")
    return numbers


def _flat(node: Any) -> list[Any]:
    return [leaf for part in node for leaf in _flat(part)] if isinstance(node, list) else [node]


def _stored(node: Any) -> int:
    """Return how many numbers the tensors in nested containers have."""
    if isinstance(node, dict):
        return sum(map(_stored, node.values()))
    return node.numel() if isinstance(node, Tensor) else 0
