"""The beta distribution of actions with two bounds."""

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from rlkl.numerics.distributions import Distribution

__all__ = ["Beta"]

CANDIDATES = 6
"""Gamma samples that are tried for each draw; all are rejected once in 7·10⁷ times or less."""

LARGEST = 1 - 2.0**-23
"""Largest |u| of a sample: the last float32 numbers before the bounds, where the density is 0."""


class Beta(Distribution):
    """D independent numbers u = 2 x - 1 in (-1, 1), where x has a beta distribution.

    α = 1 + softplus(first outputs) and β = 1 + softplus(last outputs), so the density has one peak
    and is finite (Chou 2017). Everything is computed in float64 and returned in the parameters'
    dtype: differences of log Γ lose digits.

    Args:
        parameters: the outputs for α, then those for β, `[B, 2D]`.
    """

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters
        self.alpha, self.beta = (1 + F.softplus(parameters.double())).chunk(2, -1)

    def noise(self, shape: tuple[int, ...], generator: Generator) -> Tensor:
        """Sample z ~ N(0, 1) and e ~ Exp(1) for each candidate, `[*shape, D, 2, K, 2]`."""
        noise = self.parameters.new_empty((2, *shape, self.alpha.shape[-1], 2, CANDIDATES))
        noise[0].normal_(generator=generator)
        noise[1].exponential_(generator=generator)
        return noise.movedim(0, -1)

    def draw(self, noise: Tensor) -> Tensor:
        """Return u = (g - h) / (g + h) for g ~ Γ(α) and h ~ Γ(β), `[B, D]`.

        Gamma samples are those of Marsaglia & Tsang 2000, from the first accepted candidate.
        """
        z, e = noise.double().unbind(-1)
        d = torch.stack((self.alpha, self.beta), -1).unsqueeze(-1) - 1 / 3
        v = (1 + z / (9 * d).sqrt()).pow(3)
        positive = v.clamp(min=1e-30)
        accepted = (v > 0) & (-e < 0.5 * z.square() + d * (1 - v + positive.log()))
        first = accepted.to(torch.int8).argmax(-1, keepdim=True)
        g, h = (d * positive.gather(-1, first)).squeeze(-1).unbind(-1)
        return ((g - h) / (g + h)).clamp(-LARGEST, LARGEST).to(self.parameters.dtype)

    def mode(self) -> Tensor:
        """Return the means of u, (α - β) / (α + β), `[B, D]`: a flat density has no clear peak."""
        return ((self.alpha - self.beta) / (self.alpha + self.beta)).to(self.parameters.dtype)

    def _summed(self, terms: Tensor) -> Tensor:
        return terms.sum(-1).to(self.parameters.dtype)

    def _log_normalizer(self) -> Tensor:
        """Return log B(α, β) = log Γ(α) + log Γ(β) - log Γ(α + β), `[B, D]`."""
        alpha, beta = self.alpha, self.beta
        return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return Σ_d [(α-1) log x + (β-1) log(1-x) - log B(α, β) - log 2], x = (u + 1)/2, `[B]`."""
        u = actions.double()
        log_x, log_rest = torch.log1p(u) - math.log(2), torch.log1p(-u) - math.log(2)
        powers = (self.alpha - 1) * log_x + (self.beta - 1) * log_rest
        return self._summed(powers - self._log_normalizer() - math.log(2))

    def entropy(self) -> Tensor:
        """Return H(u) in nats, `[B]`, a closed form.

        Σ_d [log B(α, β) - (α-1) ψ(α) - (β-1) ψ(β) + (α+β-2) ψ(α+β) + log 2], ψ = (log Γ)'.
        """
        alpha, beta = self.alpha, self.beta
        terms = (alpha + beta - 2) * torch.digamma(alpha + beta)
        terms = terms - (alpha - 1) * torch.digamma(alpha) - (beta - 1) * torch.digamma(beta)
        return self._summed(terms + self._log_normalizer() + math.log(2))

    def kl(self, other: Self) -> Tensor:
        """Return KL(self ‖ other) in nats, `[B]`, exactly 0 for equal parameters.

        Σ_d [log B(α', β') - log B(α, β) + (α-α') ψ(α) + (β-β') ψ(β) + (α'-α+β'-β) ψ(α+β)].
        """
        of_alpha, of_beta = self.alpha - other.alpha, self.beta - other.beta
        terms = other._log_normalizer() - self._log_normalizer()
        terms = terms + of_alpha * torch.digamma(self.alpha) + of_beta * torch.digamma(self.beta)
        return self._summed(terms - (of_alpha + of_beta) * torch.digamma(self.alpha + self.beta))
