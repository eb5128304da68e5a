"""What saved configs mean that are older than some of today's keys."""

from collections.abc import Mapping
from typing import Any

BEFORE: dict[str, dict[str, Any]] = {"policy": {"scale_actions": False}}
"""Part of a config to keys, and what every run did before there was the key.

A key whose default is what runs did before needs no entry.
"""


def as_meant(part: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part of a saved config with the keys that it is too old to have.

    Args:
        part: of the config, such as `policy`.
        saved: as it was read.
    """
    meant = BEFORE.get(part, {}) | dict(saved)
    if part == "policy" and "scale_actions" not in saved and meant.get("image_encoder") == "auto":
        meant["image_encoder"] = "nature_or_small"  # what `auto` was as long
    return meant


def config_as_meant(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a whole saved config likewise."""
    return {
        key: as_meant(key, part) if isinstance(part, Mapping) else part
        for key, part in saved.items()
    }
