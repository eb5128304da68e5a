"""Chooses the engine of a policy when a run is built."""

from rlkl.engines.base import Engine
from rlkl.engines.ranked import RankedEngine
from rlkl.engines.torch import TorchEngine
from rlkl.models.policy import Policy
from rlkl.utils.errors import ConfigError
from rlkl.utils.ranks import ALONE, Ranks

try:
    from rlkl.engines.numpy import engine as numpy_engine
except ModuleNotFoundError:  # rlkl works without this package, only slower
    numpy_engine = None  # type: ignore[assignment]


def make_engine(policy: Policy, ranks: Ranks = ALONE, needs_torch: str = "") -> Engine:
    """Return the engine of `policy.engine`; `auto` selects NumPy where possible.

    Several ranks share the work of torch's engine. `needs_torch` says why the NumPy engine cannot
    be used; empty if it can.

    Raises:
        ConfigError: `policy.engine=numpy`, but that engine cannot evaluate the networks, or there
            are several ranks.
    """
    wanted = policy.config.engine
    if ranks.size > 1:
        if wanted == "numpy":
            raise ConfigError(
                f"policy.engine=numpy: {ranks.size} ranks share the torch engine's work; use "
                "policy.engine=auto, or one process"
            )
        return RankedEngine(policy, ranks)
    if wanted == "torch":
        return TorchEngine(policy)
    if needs_torch:
        reason = needs_torch
    elif numpy_engine is None:
        reason = "the NumPy engine is not installed"
    elif part := numpy_engine.unsupported(policy):
        reason = f"the NumPy engine cannot evaluate {part}"
    else:
        return numpy_engine.NumpyEngine(policy)
    if wanted == "numpy":
        raise ConfigError(f"policy.engine=numpy: {reason}; use policy.engine=auto")
    return TorchEngine(policy, reason)
