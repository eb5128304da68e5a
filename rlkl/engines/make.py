"""Chooses the engine of a policy when a run is built."""

from rlkl.engines.base import Engine
from rlkl.engines.torch import TorchEngine
from rlkl.models.policy import Policy
from rlkl.utils.errors import ConfigError

try:
    from rlkl.engines.numpy import engine as numpy_engine
except ModuleNotFoundError:  # rlkl works without this package, only slower
    numpy_engine = None  # type: ignore[assignment]


def make_engine(policy: Policy, needs_torch: str = "") -> Engine:
    """Return the engine of `policy.engine`; `auto` selects NumPy where possible.

    Args:
        policy: whose networks it evaluates.
        needs_torch: why the NumPy engine cannot be used; empty if it can.

    Raises:
        ConfigError: `policy.engine=numpy`, but that engine cannot evaluate the networks.
    """
    wanted = policy.config.engine
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
