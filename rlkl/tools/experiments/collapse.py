"""Experiment `collapse`: one update of a trained policy by each algorithm and step size."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rlkl.algos.base import AlgoConfig
from rlkl.algos.npg import NPGConfig
from rlkl.algos.ppo_clip import PPOClipConfig
from rlkl.algos.ppo_kl import PPOKLFixedConfig
from rlkl.algos.trpo import TRPOConfig
from rlkl.algos.vanilla_pg import LogLikelihood, VanillaPGConfig
from rlkl.rollouts.batch import Batch
from rlkl.tools.experiments import starts
from rlkl.tools.experiments.base import Tell
from rlkl.tools.experiments.drawing import ALGORITHM_LINES, BLACK, Figure, label
from rlkl.tools.rows import Row, Rows, column, distinct, grouped
from rlkl.training.diagnostics import compare_with_old
from rlkl.training.learner import Learner
from rlkl.utils.field_types import limited


@dataclass(frozen=True)
class CollapseConfig(starts.StartConfig):
    """Settings besides those of `StartConfig`.

    Attributes:
        episodes: number of episodes whose mean return is measured, with sampled actions.
        sizes_per_decade: step sizes per power of ten.
    """

    seeds: int = 3
    batches: int = 4
    episodes: int = limited(20, at_least=1, at_most=1000)
    sizes_per_decade: int = limited(2, at_least=1, at_most=10)


class Sweep(NamedTuple):
    """Step sizes of one optimizer."""

    config: AlgoConfig | None  # None for a plain gradient step, θ + size · ∇J
    knob: str  # the hyperparameter that is the step size
    least: float
    most: float
    default: float

    def sizes(self, per_decade: int) -> list[float]:
        """Return step sizes, spaced evenly in their logarithm."""
        count = round(per_decade * math.log10(self.most / self.least)) + 1
        return [float(f"{x:.6g}") for x in np.geomspace(self.least, self.most, count)]


SWEEPS = {
    "plain gradient": Sweep(None, "step size", 1e-2, 1e3, 1.0),
    "vanilla_pg": Sweep(VanillaPGConfig(), "learning_rate", 1e-4, 1.0, 1e-2),
    "ppo_clip": Sweep(PPOClipConfig(), "learning_rate", 7e-6, 7e-2, 7e-4),
    "ppo_kl_fixed": Sweep(PPOKLFixedConfig(), "learning_rate", 7e-6, 7e-2, 7e-4),
    "npg": Sweep(NPGConfig(), "max_kl", 1e-4, 10.0, 0.01),
    "trpo": Sweep(TRPOConfig(), "max_kl", 1e-4, 10.0, 0.01),
}


def step(learner: Learner, batch: Batch, sweep: Sweep, size: float, number: int) -> None:
    """Update the actor once, with a new optimizer and this step size."""
    if sweep.config is None:
        engine, objective = learner.engine, LogLikelihood()
        engine.policy_gradient(objective, engine.rows(batch.standardized(), objective))
        starts.actor(learner).sub_(learner.policy.actor_parameters.gradient, alpha=size)
        return
    settings: dict[str, Any] = {sweep.knob: size}
    optimizer = starts.new_optimizer(learner, replace(sweep.config, **settings), number)
    optimizer.update(batch, progress=0.0)


def updates(learner: Learner, config: CollapseConfig, tell: Tell) -> Iterator[Row]:
    """Yield a row for each batch, optimizer and step size; `start` is the return before it."""
    start = starts.actor(learner).clone()
    before = starts.sampled_return(learner, config.episodes)
    for number, batch in enumerate(starts.batches(learner, config.batches)):
        row: Row = {"seed": learner.config.seed, "batch": number, "start": before}
        for name, sweep in SWEEPS.items():
            for size in sweep.sizes(config.sizes_per_decade):
                step(learner, batch, sweep, size, number)
                metrics, _ = compare_with_old(learner.engine, batch, AlgoConfig().ratio_bounds)
                yield row | {
                    "optimizer": name,
                    "knob": sweep.knob,
                    "size": size,
                    "kl_mean": metrics["kl/old_new"],
                    "kl_max": metrics["kl/max"],
                    "ratio_max": metrics["ratio/max"],
                    "return": starts.sampled_return(learner, config.episodes),
                }
                starts.actor(learner).copy_(start)
        tell(f"batch {number + 1} of {config.batches}")


calculate = partial(starts.from_each_policy, updates)


def harmless(row: Row) -> bool:
    """Return whether the return dropped by at most 5%."""
    start = float(row["start"])
    return float(row["return"]) >= start - 0.05 * abs(start)


def tabulate(rows: Rows) -> Rows:
    """Return each optimizer's default step size, the largest harmless one, and the next one."""
    table: Rows = []
    for name, of_optimizer in grouped(rows, "optimizer").items():
        by_size = grouped(of_optimizer, "size")
        sizes = list(by_size)
        are_harmless = [all(map(harmless, of_size)) for of_size in by_size.values()]
        harm = [*are_harmless, False].index(False)
        default = min(sizes, key=lambda size: abs(math.log(size / SWEEPS[name].default)))
        row: Row = {"optimizer": name, "knob": SWEEPS[name].knob, "default": default}
        row["default: KL"] = _mean(by_size[default], "kl_mean")
        for at, of_size, of_kl in ((harm - 1, "harmless to", "at KL"), (harm, "harm at", "of KL")):
            inside = 0 <= at < len(sizes)
            row[of_size] = sizes[at] if inside else ""
            row[of_kl] = _mean(by_size[sizes[at]], "kl_mean") if inside else ""
        row["return"] = _mean(by_size[sizes[harm]], "return") if harm < len(sizes) else ""
        table.append(row)
    return table


def _mean(rows: Rows, key: str) -> float:
    return float(np.mean(column(rows, key)))


def draw(figure: Figure, rows: Rows) -> None:
    """Draw the return after each update against its KL, and the KL against the step size."""
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    for name, found in grouped(rows, "optimizer").items():
        line = ALGORITHM_LINES[name]
        style: dict[str, Any] = line.style | {"marker": line.marker, "markersize": 5}
        x, y = column(found, "kl_mean"), column(found, "return")
        left.plot(x, y, **style | {"linewidth": 0}, alpha=0.6, label=name)
        by_size = grouped(found, "size")
        times = [size / SWEEPS[name].default for size in by_size]
        means = [_mean(of_size, "kl_mean") for of_size in by_size.values()]
        right.plot(times, means, **style, label=f"{name}: {SWEEPS[name].knob}")
    for start in distinct(rows, "start"):
        left.axhline(start, color=BLACK, linewidth=0.8)
    left.legend(frameon=False, loc="lower left")
    right.legend(frameon=False, loc="upper left", fontsize=9)
    label(
        left,
        "An update of some tenths of a nat can ruin the policy, by any algorithm",
        "KL(old ‖ new) of the update, mean over states, nats",
        "return after the update, mean of its episodes",
        xscale="log",
        xlim=(1e-3, 200),
    )
    label(
        right,
        "What a step size says about KL differs between optimizers",
        "step size / its default",
        "KL(old ‖ new), mean over states and batches, nats",
        xscale="log",
        yscale="log",
        ylim=(1e-6, None),
    )
