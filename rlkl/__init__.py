"""rlkl: train policies by PPO, TRPO and related algorithms, and measure their KL divergences."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlkl.version import __version__ as __version__

if TYPE_CHECKING:
    from rlkl.api import *


def __getattr__(name: str) -> Any:
    """Import the public names when one is first used: importing torch takes seconds."""
    if name == "__all__" or not name.startswith("__"):
        api = import_module("rlkl.api")
        for public in (*api.__all__, "__all__"):
            globals().setdefault(public, getattr(api, public))
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module 'rlkl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
