"""Splits one seed into independent named streams of random numbers."""

import hashlib

import numpy as np
import torch


class RandomStreams:
    """Random numbers that depend only on the seed, an int of at least 0, and the stream's name.

    Streams do not affect each other.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def integers(self, name: str, count: int) -> list[int]:
        """Return the first `count` integers of the stream `name`, each below 2³¹."""
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        state = np.random.SeedSequence([self.seed, key]).generate_state(count, np.uint32)
        return [int(number >> 1) for number in state]

    def torch(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a new torch generator for the stream `name`."""
        return torch.Generator(device).manual_seed(self.integers(name, 1)[0])
