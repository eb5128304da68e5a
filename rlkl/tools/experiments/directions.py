"""Experiment `directions`: the Gaussian nearest to two peaks depends on the KL's direction."""

import math
from typing import Any

import torch
from torch import Tensor

from rlkl.numerics.distributions import DiagonalGaussian
from rlkl.tools.experiments.base import ExperimentConfig, Tell
from rlkl.tools.experiments.drawing import BLACK, COLORS, Axes, Figure, label
from rlkl.tools.rows import Row, Rows, column, distinct, grouped, select

PEAKS = (-3.0, 3.0)
"""The target is ½ N(-3, 1) + ½ N(3, 1)."""

STARTS = ((-6.0, 1.0), (-1.0, 3.0), (0.0, 1.0), (0.5, 5.0), (5.0, 1.0))
"""μ and σ at which the descents start."""

STEPS, STEP_SIZE = 400, 0.05
"""Of each descent; larger steps can lead to ever wider Gaussians."""

FORWARD, REVERSE = "KL(target ‖ fit)", "KL(fit ‖ target)"
_GRID = torch.linspace(-30, 30, 1501, dtype=torch.float64)
_SPACING = float(_GRID[1] - _GRID[0])


def target_log_density(x: Tensor) -> Tensor:
    """Return the logarithm of ½ N(-3, 1) + ½ N(3, 1) at points `[X]`, `[X]`."""
    peaks = torch.tensor([[peak, 0.0] for peak in PEAKS], dtype=x.dtype)
    return gaussian_log_density(x, peaks).logsumexp(0) - math.log(len(PEAKS))


def gaussian_log_density(x: Tensor, parameters: Tensor) -> Tensor:
    """Return the logarithms of N Gaussians (μ, log σ) `[N, 2]` at points `[X]`, `[N, X]`."""
    return DiagonalGaussian(parameters.unsqueeze(1)).log_prob(x.unsqueeze(-1))


def kl(direction: str, parameters: Tensor) -> Tensor:
    """Return the KL in nats between the target and N fits (μ, log σ) `[N, 2]`, `[N]`.

    `FORWARD` is ∫ t log(t/q), `REVERSE` ∫ q log(q/t), by the trapezoid rule on 1501 points.
    """
    fit, target = gaussian_log_density(_GRID, parameters), target_log_density(_GRID)
    p, q = (target, fit) if direction == FORWARD else (fit, target)
    return (p.exp() * (p - q)).sum(-1) * _SPACING


def descend(direction: str) -> Rows:
    """Return the paths of natural-gradient descent, a row for each start and step.

    (μ, log σ) ← (μ, log σ) - α F⁻¹ ∇KL, where a Gaussian has F = diag(1/σ², 2).
    """
    rows: Rows = []
    parameters = torch.tensor([(mean, math.log(std)) for mean, std in STARTS], dtype=torch.float64)
    for step in range(STEPS + 1):
        values = kl(direction, parameters.requires_grad_())
        gradients = torch.autograd.grad(values.sum(), parameters)[0]
        parameters = parameters.detach()
        means, stds = parameters[:, 0], parameters[:, 1].exp()
        for start, mean, std, value in zip(STARTS, means, stds, values.detach(), strict=True):
            row: Row = {"kind": "descent", "direction": direction, "start": str(start)}
            row |= {"step": step, "mean": float(mean), "std": float(std), "kl": float(value)}
            rows.append(row)
        inverse_fisher = torch.stack((stds.square(), torch.full_like(stds, 0.5)), -1)
        parameters = parameters - STEP_SIZE * inverse_fisher * gradients
    return rows


def landscape(direction: str) -> Rows:
    """Return the KL over a grid of (μ, σ)."""
    grid = torch.cartesian_prod(torch.linspace(0.4, 5.6, 40), torch.linspace(-7, 7, 57)).double()
    values = kl(direction, torch.stack((grid[:, 1], grid[:, 0].log()), -1)).tolist()
    row: Row = {"kind": "landscape", "direction": direction, "start": "", "step": 0}
    return [
        row | {"mean": mean, "std": std, "kl": value}
        for (std, mean), value in zip(grid.tolist(), values, strict=True)
    ]


def calculate(config: ExperimentConfig, tell: Tell) -> Rows:
    """Return all descents and the landscape of each direction."""
    rows = []
    for direction in (FORWARD, REVERSE):
        rows += descend(direction) + landscape(direction)
    return rows


def ends(rows: Rows) -> Rows:
    """Return the last row of each descent."""
    descents = select(rows, kind="descent")
    return select(descents, step=max(column(descents, "step")))


def tabulate(rows: Rows) -> Rows:
    """Return where each descent ended."""
    keys = ("direction", "start", "mean", "std", "kl")
    return [{key: row[key] for key in keys} for row in ends(rows)]


def draw(figure: Figure, rows: Rows) -> None:
    """Draw the densities of target and fits, and the descents on both landscapes."""
    panels = figure.subplots(1, 3, width_ratios=(1.1, 1, 1))
    x = torch.linspace(-8, 8, 401, dtype=torch.float64)
    panels[0].fill_between(
        x.tolist(), target_log_density(x).exp().tolist(), color="#DDDDDD", label="target"
    )
    fits: dict[str, Row] = {}  # several descents end at the same fit
    for row in ends(rows):
        name = f"{row['direction']}: ({row['mean']:.2f}, {row['std']:.2f})"
        fits.setdefault(name.replace("(-0.00", "(0.00"), row)
    for name, row in fits.items():
        mean, std = float(row["mean"]), float(row["std"])
        fit = torch.tensor([[mean, math.log(std)]], dtype=x.dtype)
        density = gaussian_log_density(x, fit)[0].exp()
        forward, between = row["direction"] == FORWARD, abs(mean) < 0.1
        color = COLORS["blue" if forward else "purple" if between else "vermilion"]
        dashes = "-" if forward else ":" if between else "--" if mean > 0 else "-."
        panels[0].plot(x.tolist(), density.tolist(), dashes, color=color, linewidth=2, label=name)
    title = "Forward spans both peaks,\nreverse takes one"
    label(panels[0], title, "x", "density", ylim=(0, 0.62))
    panels[0].legend(frameon=False, fontsize=8, loc="upper center")
    titles = {
        FORWARD: "Forward: one minimum,\nwhatever the start",
        REVERSE: "Reverse: three minima, the one between\nthe peaks the worst",
    }
    for axes, (direction, title) in zip(panels[1:], titles.items(), strict=True):
        _draw_descents(axes, select(rows, direction=direction))
        label(axes, title, "mean μ of the fit", "standard deviation σ of the fit")


def _draw_descents(axes: Axes, rows: Rows) -> None:
    ground = select(rows, kind="landscape")
    means, stds = distinct(ground, "mean"), distinct(ground, "std")
    values: Any = torch.tensor(column(ground, "kl")).reshape(len(stds), len(means)).numpy()
    levels = [0.47, 0.5, 0.6, 0.7, 0.75, 0.85, 1, 1.5, 2, 3, 5, 8]
    lines = axes.contour(means, stds, values, levels, colors="#AAAAAA", linewidths=0.7)
    axes.clabel(lines, fontsize=6)
    for path in grouped(select(rows, kind="descent"), "start").values():
        x, y = column(path, "mean"), column(path, "std")
        axes.plot(x, y, "-", color=COLORS["blue"], linewidth=1.2)
        axes.plot(x[0], y[0], "o", color=COLORS["blue"], markersize=5)
        axes.plot(x[-1], y[-1], "*", color=BLACK, markersize=10, zorder=3)
    axes.set(xlim=(-7, 7), ylim=(0.4, 5.6))
