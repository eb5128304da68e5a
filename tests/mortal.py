"""An environment that fails after some steps unless a file `repaired` exists."""

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete


class Mortal(gym.Env[Any, Any]):
    """Has episodes of ten steps, and fails.

    Args:
        after: the step that fails; 0 for none.
        ending: `error` for an exception, `killed` to kill the process.
    """

    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)

    def __init__(self, after: int = 0, ending: str = "error") -> None:
        self.after, self.ending, self.steps = after, ending, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.random(2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == self.after and not Path("repaired").exists():
            if self.ending == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the motor burnt out")
        seen = self.np_random.random(2).astype(np.float32)
        return seen, float(action), self.steps % 10 == 0, False, {}


gym.register("Mortal-v0", entry_point=Mortal)
