"""One seed, split into independent named streams of random numbers."""

import hashlib

import numpy as np
import torch


class RandomStreams:
    """Generators that depend on one seed and a name, and on nothing else.

    A stream is the same whatever other streams exist and in whatever order they are asked for, so
    an algorithm that draws more numbers than another does not change what the environments, the
    initial weights or the critic's minibatches are.

    Args:
        seed: a whole number, at least 0.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def integers(self, name: str, count: int) -> list[int]:
        """Return `count` whole numbers below 2³¹ that belong to the stream `name`."""
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        state = np.random.SeedSequence([self.seed, key]).generate_state(count, np.uint32)
        return [int(number >> 1) for number in state]

    def torch(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a new torch generator for the stream `name`."""
        return torch.Generator(device).manual_seed(self.integers(name, 1)[0])
