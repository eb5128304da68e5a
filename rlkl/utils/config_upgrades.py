"""Upgrades saved configs of older versions, which lack some of today's keys."""

from collections.abc import Mapping
from typing import Any

_OLD_BEHAVIOUR: dict[str, dict[str, Any]] = {"policy": {"scale_actions": False}}
"""For each section, keys that were added later and the value that reproduces older runs.

Keys whose default reproduces older runs need no entry.
"""

_ENGINES = {"by_hand": "numpy", "autograd": "torch"}
"""Values of the former key `policy.differentiation`, as values of `policy.engine`."""


def upgrade_section(section: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section of a saved config, such as `policy`, with keys that it is too old for."""
    upgraded = _OLD_BEHAVIOUR.get(section, {}) | dict(saved)
    if section == "policy" and "differentiation" in upgraded:
        upgraded["engine"] = _ENGINES.get(upgraded.pop("differentiation"), "auto")
    is_old = section == "policy" and "scale_actions" not in saved
    if is_old and upgraded.get("image_encoder") == "auto":
        upgraded["image_encoder"] = "nature_or_small"  # the meaning of `auto` at that time
    return upgraded


def upgrade_config(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a whole saved config with keys that it is too old for."""
    return {
        key: upgrade_section(key, value) if isinstance(value, Mapping) else value
        for key, value in saved.items()
    }
