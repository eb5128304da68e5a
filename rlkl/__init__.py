"""rlkl: train policies by PPO, TRPO and related algorithms, and measure their KL divergences."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlkl.version import __version__ as __version__

if TYPE_CHECKING:
    from rlkl.api import *


def __getattr__(name: str) -> Any:
    """Import the public names when one is first used: importing torch takes seconds."""
    if name == "load_policy":  # a packaged policy needs no training code
        return import_module("rlkl.loading").load_policy
    if name == "__all__" or not name.startswith("__"):
        api = vars(import_module("rlkl.api"))
        names = [public for public in api if not public.startswith("__")]
        for public in names:
            globals().setdefault(public, api[public])
        globals()["__all__"] = sorted([*names, "__version__"])
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module 'rlkl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
