"""rlkl: train policies by PPO, TRPO and related algorithms, and measure their KL divergences."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlkl.version import __version__

if TYPE_CHECKING:
    from rlkl import public_names
    from rlkl.loading import load_policy
    from rlkl.public_names import *

    __all__ = ["__version__", "load_policy"]
    __all__ += public_names.__all__


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: packaged policies need no training code."""
    if name == "load_policy":
        return import_module("rlkl.loading").load_policy
    if name.startswith("__") and name != "__all__":
        raise AttributeError(name)
    public = import_module("rlkl.public_names")
    names = {key: getattr(public, key) for key in public.__all__}
    names["__all__"] = ["__version__", "load_policy", *names]
    globals().update(names)
    if name not in globals():
        raise AttributeError(f"module 'rlkl' has no attribute {name!r}")
    return globals()[name]
