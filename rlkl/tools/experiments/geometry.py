"""Experiment `geometry`: steps of equal length in the parameters have different KLs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlkl.numerics.distributions import Categorical, DiagonalGaussian, Distribution
from rlkl.tools.experiments.base import ExperimentConfig, Tell
from rlkl.tools.experiments.drawing import BLACK, COLORS, Axes, Figure, label
from rlkl.tools.rows import Row, Rows, column, distinct, select
from rlkl.utils.field_types import limited

GAUSSIAN_CENTERS = ((-2.6, 0.4), (-1.1, 1.0), (1.2, 2.0))
"""μ and σ. KL depends only on differences of means; these keep the curves apart."""

SOFTMAX_CENTERS = ((1 / 3, 1 / 3, 1 / 3), (0.70, 0.15, 0.15), (0.04, 0.92, 0.04))
"""Probabilities of three actions."""

_PLANE = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], dtype=torch.float64)
_PLANE /= torch.linalg.vector_norm(_PLANE, dim=1, keepdim=True)
"""Two orthonormal directions of logits; the policy is constant along the third, (1, 1, 1)."""

Family = Callable[[Tensor], Distribution]
"""From N points `[N, 2]` of a parameter plane to N distributions."""


@dataclass(frozen=True)
class GeometryConfig(ExperimentConfig):
    """Settings.

    Attributes:
        kl: δ of the curves of equal KL, in nats.
        points: number of points per curve.
    """

    kl: float = limited(0.05, above=0, at_most=1)
    points: int = limited(180, at_least=4, at_most=10_000)


def gaussian(points: Tensor) -> DiagonalGaussian:
    """Return Gaussians with (μ, σ), `[N, 2]`."""
    return DiagonalGaussian(torch.stack((points[:, 0], points[:, 1].log()), -1))


def softmax(points: Tensor) -> Categorical:
    """Return policies over three actions; their logits are given as plane coordinates `[N, 2]`."""
    return Categorical(points @ _PLANE)


FAMILIES: dict[str, Family] = {"gaussian": gaussian, "softmax": softmax}


def kl_from(family: Family, center: Tensor, points: Tensor) -> Tensor:
    """Return KL(center ‖ point) of each point `[N, 2]` in nats, `[N]`."""
    return family(center.expand_as(points)).kl(family(points))


def fisher_matrix(family: Family, center: Tensor) -> Tensor:
    """Return F `[2, 2]`, the Hessian of KL(center ‖ θ) at θ = center (Kullback 1959)."""

    def kl(point: Tensor) -> Tensor:
        return kl_from(family, center, point.unsqueeze(0)).squeeze()

    hessian: Tensor = torch.autograd.functional.hessian(kl, center)  # type: ignore[no-untyped-call]
    return hessian


def level_set(
    family: Family, center: Tensor, kl: float, directions: Tensor, limits: Tensor
) -> Tensor:
    """Return the points where KL(center ‖ point) is `kl`, one in each direction, by bisection.

    At the `limits`, distances `[N]`, KL exceeds `kl` or the parameters become invalid.
    """
    near, far = torch.zeros_like(limits), limits
    for _ in range(100):
        middle = (near + far) / 2
        too_far = kl_from(family, center, center + middle.unsqueeze(-1) * directions) > kl
        near, far = torch.where(too_far, near, middle), torch.where(too_far, middle, far)
    return center + near.unsqueeze(-1) * directions


def calculate(config: GeometryConfig, tell: Tell) -> Rows:
    """Return the curves of equal distance, equal KL and equal ½ dᵀFd around each centre.

    The distance is √(2δ): if the mean of a Gaussian with σ = 1 moves this far, KL is δ.
    """
    angles = torch.linspace(0, 2 * math.pi, config.points + 1, dtype=torch.float64)
    directions = torch.stack((angles.cos(), angles.sin()), -1)
    rows = []
    for mean, std in GAUSSIAN_CENTERS:
        center = torch.tensor([mean, std], dtype=torch.float64)
        # σ must stay positive; in the other directions KL exceeds 1 before the limit.
        limits = torch.where(directions[:, 1] < 0, -std / directions[:, 1], math.inf)
        limits = limits.clamp(max=20 * std)
        rows += _curves("gaussian", f"σ = {std:g}", center, config.kl, directions, limits)
    for probabilities in SOFTMAX_CENTERS:
        logits = torch.tensor(probabilities, dtype=torch.float64).log()
        name = "p = ({:.2f}, {:.2f}, {:.2f})".format(*probabilities)
        limits = torch.full_like(angles, 1e3)
        rows += _curves("softmax", name, _PLANE @ logits, config.kl, directions, limits)
    return rows


def _curves(
    panel: str, name: str, center: Tensor, kl: float, directions: Tensor, limits: Tensor
) -> Rows:
    family = FAMILIES[panel]
    fisher = fisher_matrix(family, center)
    curvature = torch.einsum("ni,ij,nj->n", directions, fisher, directions)
    curves = {
        "equal distance": center + math.sqrt(2 * kl) * directions,
        "equal KL": level_set(family, center, kl, directions, limits),
        "equal ½ dᵀFd": center + (2 * kl / curvature).sqrt().unsqueeze(-1) * directions,
    }
    rows: Rows = []
    for curve, points in curves.items():
        kls = kl_from(family, center, points).tolist()
        distances = torch.linalg.vector_norm(points - center, dim=-1).tolist()
        for point, of_point, distance in zip(points, kls, distances, strict=True):
            x, y = _place(panel, point)
            row: Row = {"panel": panel, "center": name, "curve": curve, "x": x, "y": y}
            rows.append(row | {"kl": of_point, "distance": distance})
    return rows


def _place(panel: str, point: Tensor) -> tuple[float, float]:
    """Return the coordinates of the figure: (μ, σ), or a point in an equilateral triangle."""
    if panel == "gaussian":
        return float(point[0]), float(point[1])
    _, second, third = softmax(point.unsqueeze(0)).log_probabilities[0].exp().tolist()
    return second + third / 2, third * math.sqrt(3) / 2


def tabulate(rows: Rows) -> Rows:
    """Return for each centre the ranges of KL and distance along the curves."""
    table: Rows = []
    for name in distinct(rows, "center"):
        row: Row = {"policy": name}
        for curve, key, word in (
            ("equal distance", "kl", "KL"),
            ("equal KL", "distance", "distance"),
            ("equal ½ dᵀFd", "kl", "KL"),
        ):
            values = column(select(rows, center=name, curve=curve), key)
            row[f"{word} at {curve}"] = f"{min(values):.3g} to {max(values):.3g}"
        table.append(row)
    return table


STYLES: dict[str, dict[str, Any]] = {
    "equal distance": {"color": COLORS["orange"], "linestyle": ":", "linewidth": 2.0},
    "equal KL": {"color": COLORS["blue"], "linestyle": "-", "linewidth": 2.0},
    "equal ½ dᵀFd": {"color": COLORS["green"], "linestyle": "--", "linewidth": 1.3},
}


def draw(figure: Figure, rows: Rows) -> None:
    """Draw the (μ, σ) plane and the triangle of three probabilities."""
    left, right = figure.subplots(1, 2, width_ratios=(1.45, 1))
    for axes, panel in ((left, "gaussian"), (right, "softmax")):
        of_panel = select(rows, panel=panel)
        for number, name in enumerate(distinct(of_panel, "center")):
            for curve, style in STYLES.items():
                points = select(of_panel, center=name, curve=curve)
                in_legend = curve if number == 0 else None
                axes.plot(column(points, "x"), column(points, "y"), **style, label=in_legend)
    for mean, std in GAUSSIAN_CENTERS:
        left.plot(mean, std, "+", color=BLACK)
    label(
        left,
        f"Gaussian: the same circle has KL up to {_most_kl(rows, 'σ = 2'):.2f} nats at σ = 2,\n"
        f"up to {_most_kl(rows, 'σ = 0.4'):.1f} at σ = 0.4",
        "mean μ, units of the action",
        "standard deviation σ, units of the action",
    )
    left.set(aspect="equal", ylim=(0, None))
    left.legend(frameon=False, loc="upper left")
    _triangle(right)
    even, sure = (distinct(select(rows, panel="softmax"), "center")[i] for i in (0, 2))
    right.set_title(
        "Softmax: the same circle of logits has KL\n"
        f"up to {_most_kl(rows, even):.3f} nats where all are equal,\n"
        f"up to {_most_kl(rows, sure):.3f} where one is nearly sure",
        fontsize=11,
        pad=16,
    )


def _most_kl(rows: Rows, name: str) -> float:
    return max(column(select(rows, center=name, curve="equal distance"), "kl"))


def _triangle(axes: Axes) -> None:
    height = math.sqrt(3) / 2
    axes.plot([0, 1, 0.5, 0], [0, 0, height, 0], color=BLACK, linewidth=1)
    for probabilities in SOFTMAX_CENTERS:
        axes.plot(probabilities[1] + probabilities[2] / 2, probabilities[2] * height, "+k")
    for x, y, text, side in (
        (0, -0.03, "action 1 for sure", "left"),
        (1, -0.03, "action 2 for sure", "right"),
        (0.5, height + 0.02, "action 3 for sure", "center"),
    ):
        low = "top" if y < 0 else "bottom"
        axes.text(x, y, text, ha=side, va=low, fontsize=9)
    axes.set_aspect("equal")
    axes.set_axis_off()
