"""Action distributions: what a policy's network puts out, and all that is asked of it."""

import math
from typing import Protocol, Self

import torch
from torch import Generator, Tensor

from rlkl import divergences


class Distribution(Protocol):
    """A batch of action distributions, held as one flat tensor of parameters.

    The parameters alone make the distribution anew, so π_old is kept as data: `type(d)(parameters)`
    of stored rows gives the old distributions of those rows. One row is one state.

    Attributes:
        parameters: `[B, P]`, what the network put out.
    """

    parameters: Tensor

    def __init__(self, parameters: Tensor) -> None: ...

    def sample(self, generator: Generator) -> Tensor:
        """Draw one action for each state."""
        ...

    def mode(self) -> Tensor:
        """Return the most probable action of each state."""
        ...

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π(a|s) in nats, summed over action dimensions, `[B]`."""
        ...

    def entropy(self) -> Tensor:
        """Return the entropy in nats, summed over action dimensions, `[B]`."""
        ...

    def kl(self, other: Self) -> Tensor:
        """Return KL(self ‖ other) in nats, summed over action dimensions, `[B]`."""
        ...

    def jensen_shannon(self, other: Self) -> Tensor | None:
        """Return the Jensen-Shannon divergence in nats, `[B]`; None without a closed form."""
        ...


class Categorical:
    """One of A actions, with probabilities softmax(logits).

    Args:
        parameters: logits, `[B, A]`; -inf gives an action the probability 0.
    """

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters
        self.log_probabilities = parameters.log_softmax(-1)

    def sample(self, generator: Generator) -> Tensor:
        """Draw actions `[B]` by the exponential race: argmax_a p(a)/e(a) with e(a) ~ Exp(1)."""
        race = torch.empty_like(self.log_probabilities).exponential_(generator=generator)
        return (self.log_probabilities.exp() / race).argmax(-1)

    def mode(self) -> Tensor:
        """Return the most probable actions, `[B]`."""
        return self.parameters.argmax(-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π(a|s) in nats for actions `[B]` (int64), `[B]`."""
        return self.log_probabilities.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return H = -Σ_a π(a|s) · log π(a|s) in nats, `[B]`."""
        return divergences.categorical_entropy(self.log_probabilities)

    def kl(self, other: Self) -> Tensor:
        """Return KL(self ‖ other) in nats, `[B]`."""
        return divergences.categorical_kl(self.log_probabilities, other.log_probabilities)

    def jensen_shannon(self, other: Self) -> Tensor:
        """Return the Jensen-Shannon divergence in nats, `[B]`."""
        return divergences.categorical_jensen_shannon(
            self.log_probabilities, other.log_probabilities
        )


class DiagonalGaussian:
    """D independent Gaussians, unbounded.

    Args:
        parameters: means, then logarithms of the standard deviations, `[B, 2D]`.
    """

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters
        self.mean, self.log_std = parameters.chunk(2, -1)

    def sample(self, generator: Generator) -> Tensor:
        """Draw actions μ + σ · ε with ε ~ N(0, 1), `[B, D]`."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return torch.addcmul(self.mean, self.log_std.exp(), noise)

    def mode(self) -> Tensor:
        """Return the means, `[B, D]`."""
        return self.mean

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π(a|s) = -Σ_d [½ ((a-μ)/σ)² + log σ + ½ log 2π] in nats, `[B]`."""
        standardized = (actions - self.mean) * (-self.log_std).exp()
        constant = 0.5 * math.log(2 * math.pi) * self.mean.shape[-1]
        return -(0.5 * standardized.square() + self.log_std).sum(-1) - constant

    def entropy(self) -> Tensor:
        """Return H = Σ_d [log σ + ½ log 2πe] in nats, `[B]`."""
        constant = 0.5 * math.log(2 * math.pi * math.e) * self.mean.shape[-1]
        return self.log_std.sum(-1) + constant

    def kl(self, other: Self) -> Tensor:
        """Return KL(self ‖ other) in nats, summed over the dimensions, `[B]`."""
        return divergences.diagonal_gaussian_kl(self.mean, self.log_std, other.mean, other.log_std)

    def jensen_shannon(self, other: Self) -> None:
        """Return None: the mixture of two Gaussians has no closed form."""
        return
