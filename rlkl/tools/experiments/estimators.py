"""Experiment `estimators`: bias and spread of k1, k2 and k3 as the true KL grows."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial.polynomial import polypow
from torch import Tensor

from rlkl.numerics.distributions import Categorical, DiagonalGaussian, Distribution
from rlkl.numerics.divergence_formulas import kl_estimates
from rlkl.tools.experiments.base import ExperimentConfig, Tell
from rlkl.tools.experiments.drawing import BLACK, COLORS, Figure, Line, label
from rlkl.tools.rows import Row, Rows, column, distinct, select
from rlkl.utils.field_types import limited
from rlkl.utils.seeding import RandomStreams
from rlkl.utils.validation import check_range

ESTIMATORS = {
    "k1": Line(COLORS["vermilion"], "--", "o"),
    "k2": Line(COLORS["green"], "-.", "^"),
    "k3": Line(COLORS["blue"], "-", "s"),
}
"""How their curves are drawn."""

_LOGITS = torch.tensor([[0.0, 0.5, 1.0, 2.0]], dtype=torch.float64)
_DIRECTION = torch.tensor([[1.0, -1.0, 0.5, -0.5]], dtype=torch.float64)


class Pair(NamedTuple):
    """Two policies, and exact mean and standard deviation of one sample of k1, k2 and k3."""

    old: Distribution
    new: Distribution
    means: tuple[float, ...]
    stds: tuple[float, ...]


@dataclass(frozen=True)
class EstimatorsConfig(ExperimentConfig):
    """Settings.

    Attributes:
        kl_min, kl_max: range of the true KL, in nats.
        points: number of values of the true KL, spaced evenly in its logarithm.
        samples: samples at each value, drawn to check the exact moments.
        seed: of the samples.
    """

    kl_min: float = limited(1e-3, above=0)
    kl_max: float = 2.0
    points: int = limited(25, at_least=2, at_most=10_000)
    samples: int = limited(100_000, at_least=2, at_most=10**8)
    seed: int = limited(0, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("kl_max", self.kl_max, above=self.kl_min, at_most=10)


def gaussian_pair(shift: float, std: float) -> Pair:
    """Return N(0, 1) and N(shift, std²).

    log r = c + b ε + ½ a ε² with ε ~ N(0, 1), a = 1 - 1/std², b = shift/std² and
    c = -log std - ½ shift²/std². The moments of log r are those of a polynomial in ε; those of r
    follow from E[r] = 1, E[r log r] = KL(new ‖ old) and E[r²] = e^{2c} (1 - 2a)^{-½}
    exp(2b²/(1 - 2a)), which is infinite for a ≥ ½, that is for std² ≥ 2.
    """
    a, b = 1 - std**-2, shift / std**2
    c = -math.log(std) - 0.5 * (shift / std) ** 2
    # The mean of a polynomial in ε is the product of its coefficients with E[ε^n].
    normal = np.array([1.0, 0, 1, 0, 3, 0, 15, 0, 105])
    powers = [polypow([c, b, a / 2], power) for power in (1, 2, 4)]
    first, second, fourth = (float(power @ normal[: len(power)]) for power in powers)
    variance = second - first**2
    squared_ratio = math.inf
    if a < 0.5:
        squared_ratio = math.exp(2 * c + 2 * b**2 / (1 - 2 * a)) / math.sqrt(1 - 2 * a)
    reverse = 0.5 * (std**2 - 1 - 2 * math.log(std) + shift**2)
    # Var[r - log r], with Cov[r, log r] = E[r log r] - E[log r].
    of_k3 = max(squared_ratio - 1 + variance - 2 * (reverse - first), 0.0)
    return Pair(
        DiagonalGaussian(torch.zeros(1, 2, dtype=torch.float64)),
        DiagonalGaussian(torch.tensor([[shift, math.log(std)]], dtype=torch.float64)),
        (-first, second / 2, -first),
        (math.sqrt(variance), math.sqrt(fourth - second**2) / 2, math.sqrt(of_k3)),
    )


def categorical_pair(distance: float) -> Pair:
    """Return two policies over four actions with logits at this distance."""
    old, new = Categorical(_LOGITS), Categorical(_LOGITS + distance * _DIRECTION)
    probabilities = old.log_probabilities.exp()[0]
    values = torch.stack(kl_estimates((new.log_probabilities - old.log_probabilities)[0]))
    means = values @ probabilities
    variances = (values - means.unsqueeze(-1)).square() @ probabilities
    return Pair(old, new, tuple(means.tolist()), tuple(variances.sqrt().tolist()))


FAMILIES: dict[str, Callable[[float], Pair]] = {
    "Gaussian, mean moves": lambda x: gaussian_pair(x, 1.0),
    "Gaussian, σ grows": lambda x: gaussian_pair(0.0, math.exp(x)),
    "Gaussian, σ shrinks": lambda x: gaussian_pair(0.0, math.exp(-x)),
    "four actions": categorical_pair,
}
"""Functions from a distance ≥ 0 between the policies to the pair."""


def at_kl(family: Callable[[float], Pair], kl: float) -> Pair:
    """Return the pair of a family whose KL(old ‖ new) is `kl` nats, by bisection."""
    near, far = 0.0, 20.0
    for _ in range(60):
        middle = (near + far) / 2
        pair = family(middle)
        near, far = (near, middle) if pair.old.kl(pair.new).item() > kl else (middle, far)
    return family(near)


def sampled(pair: Pair, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the means of k1, k2 and k3 over samples of π_old and their standard errors, `[3]`."""
    old, new = (policy.at(policy.parameters.expand(samples, -1)) for policy in pair[:2])
    actions = old.sample(generator)
    values = torch.stack(kl_estimates(new.log_prob(actions) - old.log_prob(actions)))
    return values.mean(-1), values.std(-1) / math.sqrt(samples)


def calculate(config: EstimatorsConfig, tell: Tell) -> Rows:
    """Return bias and standard deviation for each family, true KL and estimator."""
    generator = RandomStreams(config.seed).torch("samples")
    logs = torch.linspace(math.log(config.kl_min), math.log(config.kl_max), config.points)
    rows: Rows = []
    for name, family in FAMILIES.items():
        for kl in logs.double().exp().tolist():
            pair = at_kl(family, kl)
            means, errors = sampled(pair, config.samples, generator)
            for i, estimator in enumerate(ESTIMATORS):
                row: Row = {"family": name, "kl": kl, "estimator": estimator}
                row |= {"bias": pair.means[i] - kl, "std": pair.stds[i]}
                row |= {"sampled_bias": float(means[i]) - kl, "standard_error": float(errors[i])}
                rows.append(row)
        tell(name)
    return rows


def tabulate(rows: Rows) -> Rows:
    """Return relative bias and deviation at the true KLs nearest to 0.01, 0.1 and 0.5 nats."""
    table: Rows = []
    values = distinct(rows, "kl")
    for kl in dict.fromkeys(min(values, key=lambda v: abs(v - kl)) for kl in (0.01, 0.1, 0.5)):
        for family in distinct(rows, "family"):
            row: Row = {"family": family, "true KL": kl}
            for found in select(rows, family=family, kl=kl):
                row[f"{found['estimator']} bias/KL"] = float(found["bias"]) / kl
                row[f"{found['estimator']} std/KL"] = float(found["std"]) / kl
            table.append(row)
    return table


def draw(figure: Figure, rows: Rows) -> None:
    """Draw relative bias above and relative deviation below, a column per family."""
    families = distinct(rows, "family")
    panels = figure.subplots(2, len(families), sharex=True, sharey="row", squeeze=False)
    for family, (above, below) in zip(families, panels.T, strict=True):
        for estimator, line in ESTIMATORS.items():
            found = select(rows, family=family, estimator=estimator)
            kl = np.array(column(found, "kl"))
            keys = ("bias", "std", "sampled_bias", "standard_error")
            bias, std, seen, error = (column(found, key) / kl for key in keys)
            above.plot(kl, bias, **line.style, linewidth=2, label=estimator)
            above.errorbar(
                kl[::4], seen[::4], error[::4], fmt=line.marker, color=line.color, markersize=4,
                markerfacecolor="white", elinewidth=1,
            )  # fmt: skip
            below.plot(kl, std, **line.style, linewidth=2, label=estimator)
            infinite = kl[np.isinf(std)]
            if infinite.size:
                below.axvspan(infinite[0], kl[-1], color=line.color, alpha=0.12, linewidth=0)
                below.text(infinite[0], 30, f" {estimator}: infinite\n variance", fontsize=9)
        label(above, family, "", "", xscale="log", ylim=(-0.5, 1.0))
        label(below, "", "true KL(old ‖ new), nats", "", yscale="log", ylim=(0.3, 100))
        above.axhline(0, color=BLACK, linewidth=0.8)
    panels[0, 0].set_ylabel("bias / true KL")
    panels[1, 0].set_ylabel("standard deviation\nof one sample / true KL")
    panels[0, 0].legend(frameon=False, loc="upper left")
    figure.suptitle(
        "k1 and k3 have no bias, and at small KL k3 spreads far less; but once σ has grown by √2, "
        "its variance is infinite",
        fontsize=12,
    )
