"""The state of an object as a dict of some of its attributes, from which it continues exactly."""

from numbers import Real
from typing import Any, ClassVar

from torch import Generator, Tensor


class Stateful:
    """An object whose state is that of the attributes that `saved` names.

    They are tensors, which are loaded in place, numbers, generators, or objects with a state.
    """

    saved: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is needed to continue exactly."""
        state: dict[str, Any] = {}
        for name in self.saved:
            part = getattr(self, name)
            if isinstance(part, Generator):
                state[name] = part.get_state()
            else:
                state[name] = part if isinstance(part, Tensor | Real) else part.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        for name in self.saved:
            part = getattr(self, name)
            if isinstance(part, Tensor):
                part.copy_(state[name])
            elif isinstance(part, Real):
                setattr(self, name, float(state[name]))
            elif isinstance(part, Generator):
                part.set_state(state[name])
            else:
                part.load_state_dict(state[name])
