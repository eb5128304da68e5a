"""Experiment `collapse`: one update of a good policy, by every algorithm, at growing step sizes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlkl.algos import make_policy_optimizer
from rlkl.algos.base import AlgoConfig, standardized
from rlkl.algos.npg import NPGConfig
from rlkl.algos.ppo_clip import PPOClipConfig
from rlkl.algos.ppo_kl import PPOKLFixedConfig
from rlkl.algos.trpo import TRPOConfig
from rlkl.algos.vanilla_pg import VanillaPGConfig
from rlkl.numerics.losses import policy_gradient
from rlkl.numerics.trust_region import flat_gradient
from rlkl.rollouts.rollout import Batch
from rlkl.tools.experiments.base import (
    Experiment,
    Row,
    Rows,
    Tell,
    column,
    distinct,
    select,
)
from rlkl.tools.experiments.drawing import ALGORITHM_LINES, BLACK, label
from rlkl.tools.experiments.starts import (
    StartConfig,
    actor,
    batches,
    sampled_return,
    starting_policies,
)
from rlkl.training.diagnostics import report
from rlkl.training.trainer import Trainer
from rlkl.utils.validation import check_range

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class CollapseConfig(StartConfig):
    """Settings.

    Attributes:
        checkpoint, seeds, batches: see `StartConfig`.
        episodes: that tell the return after an update, with sampled actions.
        sizes_per_decade: step sizes that are tried between one power of ten and the next.
    """

    seeds: int = 3
    batches: int = 4
    episodes: int = 20
    sizes_per_decade: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("episodes", self.episodes, at_least=1, at_most=1000)
        check_range("sizes_per_decade", self.sizes_per_decade, at_least=1, at_most=10)


class Ladder(NamedTuple):
    """Step sizes of one optimizer.

    Attributes:
        config: its defaults; None for a plain gradient step, θ + size · ∇J.
        knob: which hyperparameter is the step size.
        least: step size.
        most: step size.
        default: step size.
    """

    config: AlgoConfig | None
    knob: str
    least: float
    most: float
    default: float

    def sizes(self, per_decade: int) -> list[float]:
        """Return step sizes, evenly in their logarithm."""
        count = round(per_decade * math.log10(self.most / self.least)) + 1
        return [float(f"{x:.6g}") for x in np.geomspace(self.least, self.most, count)]


LADDERS = {
    "plain gradient": Ladder(None, "step size", 1e-2, 1e3, 1.0),
    "vanilla_pg": Ladder(VanillaPGConfig(), "learning_rate", 1e-4, 1.0, 1e-2),
    "ppo_clip": Ladder(PPOClipConfig(), "learning_rate", 7e-6, 7e-2, 7e-4),
    "ppo_kl_fixed": Ladder(PPOKLFixedConfig(), "learning_rate", 7e-6, 7e-2, 7e-4),
    "npg": Ladder(NPGConfig(), "max_kl", 1e-4, 10.0, 0.01),
    "trpo": Ladder(TRPOConfig(), "max_kl", 1e-4, 10.0, 0.01),
}


def step(trainer: Trainer, batch: Batch, ladder: Ladder, size: float, number: int) -> None:
    """Move the actor by one update from where it stands.

    Args:
        trainer: whose policy collected the batch.
        batch: to learn from.
        ladder: the optimizer, made anew: nothing is left of other updates.
        size: of the step.
        number: of the batch; it names the stream of minibatches.
    """
    policy = trainer.policy
    if ladder.config is None:
        new = policy.distribution(batch.inputs)
        advantages = standardized(batch).advantages
        objective = policy_gradient(new.log_prob(batch.actions), advantages)
        actor(trainer).add_(flat_gradient(objective, policy.actor_parameters.tensors), alpha=size)
        return
    settings: dict[str, Any] = {ladder.knob: size}
    generator = trainer.streams.torch(f"minibatches {number}", policy.device)
    optimizer = make_policy_optimizer(replace(ladder.config, **settings), policy, generator)
    optimizer.update(batch, progress=0.0)


def updates(trainer: Trainer, config: CollapseConfig, tell: Tell) -> Iterator[dict[str, Any]]:
    """Yield a row for each batch, optimizer and step size; `start` is the return before."""
    start = actor(trainer).clone()
    stay = sampled_return(trainer, config.episodes)
    for number, batch in enumerate(batches(trainer, config.batches)):
        row: dict[str, Any] = {"seed": trainer.config.seed, "batch": number, "start": stay}
        for name, ladder in LADDERS.items():
            for size in ladder.sizes(config.sizes_per_decade):
                step(trainer, batch, ladder, size, number)
                metrics, _ = report(trainer.policy, batch, AlgoConfig().ratio_bounds)
                yield row | {
                    "optimizer": name,
                    "knob": ladder.knob,
                    "size": size,
                    "kl_mean": metrics["kl/old_new"],
                    "kl_max": metrics["kl/max"],
                    "ratio_max": metrics["ratio/max"],
                    "return": sampled_return(trainer, config.episodes),
                }
                actor(trainer).copy_(start)
        tell(f"batch {number + 1} of {config.batches}")


def calculate(config: CollapseConfig, tell: Tell) -> Rows:
    """Train or restore policies, then make all updates from each of them."""
    return [
        row for trainer in starting_policies(config, tell) for row in updates(trainer, config, tell)
    ]


def keeps(row: Row) -> bool:
    """Return whether an update left the return within 5% of what it was."""
    start = float(row["start"])
    return float(row["return"]) >= start - 0.05 * abs(start)


def tabulate(rows: Rows) -> Rows:
    """Return each optimizer's default step, its largest harmless one, and the next."""
    table: Rows = []
    for name in distinct(rows, "optimizer"):
        of_optimizer = select(rows, optimizer=name)
        sizes = distinct(of_optimizer, "size")
        harmless = 0
        while harmless < len(sizes) and all(map(keeps, select(of_optimizer, size=sizes[harmless]))):
            harmless += 1
        default = min(sizes, key=lambda size: abs(math.log(size / LADDERS[name].default)))
        row: Row = {"optimizer": name, "knob": LADDERS[name].knob, "default": default}
        row["default: KL"] = _mean(of_optimizer, default, "kl_mean")
        for at, of_size, of_kl in (
            (harmless - 1, "harmless to", "at KL"),
            (harmless, "harm at", "of KL"),
        ):
            inside = 0 <= at < len(sizes)
            row[of_size] = sizes[at] if inside else ""
            row[of_kl] = _mean(of_optimizer, sizes[at], "kl_mean") if inside else ""
        more = harmless < len(sizes)
        row["return"] = _mean(of_optimizer, sizes[harmless], "return") if more else ""
        table.append(row)
    return table


def _mean(rows: Rows, size: float, key: str) -> float:
    return float(np.mean(column(select(rows, size=size), key)))


def draw(figure: "Figure", rows: Rows) -> None:
    """Draw the return behind each update against its KL, and the KL against the step size."""
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    for name in distinct(rows, "optimizer"):
        line, found = ALGORITHM_LINES[name], select(rows, optimizer=name)
        style: dict[str, Any] = {"color": line.color, "marker": line.marker}
        x, y = column(found, "kl_mean"), column(found, "return")
        left.plot(x, y, **style, markersize=5, linewidth=0, alpha=0.6, label=name)
        sizes = distinct(found, "size")
        times = [size / LADDERS[name].default for size in sizes]
        means = [_mean(found, size, "kl_mean") for size in sizes]
        knob = f"{name}: {LADDERS[name].knob}"
        right.plot(times, means, **style, linestyle=line.dashes, markersize=5, label=knob)
    for start in distinct(rows, "start"):
        left.axhline(start, color=BLACK, linewidth=0.8)
    left.set_xscale("log")
    left.set_xlim(1e-3, 200)
    left.legend(frameon=False, loc="lower left")
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_ylim(1e-6, None)
    right.legend(frameon=False, loc="upper left", fontsize=9)
    label(
        left,
        "An update of some tenths of a nat can ruin the policy, by any algorithm",
        "KL(old ‖ new) of the update, mean over states, nats",
        "return after the update, mean of its episodes",
    )
    label(
        right,
        "What a step size says about KL differs between optimizers",
        "step size / its default",
        "KL(old ‖ new), mean over states and batches, nats",
    )


EXPERIMENT = Experiment(
    "what one update of a good policy does to its return, at growing step sizes",
    CollapseConfig,
    calculate,
    tabulate,
    draw,
    (13.0, 5.0),
    (),
)
