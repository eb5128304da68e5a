"""Experiment `clip`: how far PPO-clip moves the policy in many epochs on one batch."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from rlkl.algos.base import MinibatchConfig
from rlkl.algos.ppo_clip import PPOClipConfig
from rlkl.algos.ppo_kl import PPOKLFixedConfig
from rlkl.algos.trpo import TRPOConfig
from rlkl.rollouts.batch import Batch
from rlkl.tools.experiments import starts
from rlkl.tools.experiments.base import Tell
from rlkl.tools.experiments.drawing import ALGORITHM_LINES, BLACK, Figure, label
from rlkl.tools.rows import Row, Rows, column, distinct, grouped, select
from rlkl.training.diagnostics import compare_with_old
from rlkl.training.learner import Learner
from rlkl.utils.field_types import limited

OPTIMIZERS: dict[str, MinibatchConfig] = {
    "ppo_clip": PPOClipConfig(),
    "ppo_kl_fixed": PPOKLFixedConfig(),
    "no limit": PPOKLFixedConfig(kl_coefficient=0.0),
}
"""Optimizers that make several epochs; `no limit` is the surrogate E[r · A] without a penalty."""


@dataclass(frozen=True)
class ClipConfig(starts.StartConfig):
    """Settings besides those of `StartConfig`.

    Attributes:
        epochs: of an update.
        learning_rates: of Adam; every batch is used with each.
    """

    epochs: int = limited(80, at_least=1, at_most=10_000)
    learning_rates: list[float] = limited([7e-4, 2e-2], above=0)


def epochs(
    learner: Learner, batch: Batch, config: MinibatchConfig, count: int, number: int
) -> Iterator[Row]:
    """Yield the epoch and `distances` before an update and after each of its `count` epochs.

    An update of n epochs equals n updates of one epoch on the same batch: Adam and the stream of
    minibatches continue, and π_old is part of the batch. Only β would adapt, and it is fixed here.
    """
    optimizer = starts.new_optimizer(learner, replace(config, num_epochs=1), number)
    for epoch in range(count + 1):
        if epoch:
            optimizer.update(batch, progress=0.0)
        yield {"epoch": epoch} | distances(learner, batch)


DISTANCES = {
    "kl_mean": "kl/old_new",
    "kl_max": "kl/max",
    "ratio_max": "ratio/max",
    "ratio_min": "ratio/min",
    "clip_fraction": "ratio/clip_fraction",
}
"""Column and name in the report of each distance."""


def distances(learner: Learner, batch: Batch) -> dict[str, float]:
    """Return KL and ratios between the policy and the one that collected the batch."""
    metrics, _ = compare_with_old(learner.engine, batch, PPOClipConfig().ratio_bounds)
    return {key: metrics[tag] for key, tag in DISTANCES.items()}


def updates(learner: Learner, config: ClipConfig, tell: Tell) -> Iterator[Row]:
    """Yield a row for each batch, learning rate, optimizer and epoch.

    TRPO makes one step without a learning rate: one row per batch, with a rate of 0.
    """
    start, seed = starts.actor(learner).clone(), learner.config.seed
    for number, batch in enumerate(starts.batches(learner, config.batches)):
        known = {"seed": seed, "batch": number}
        for rate, (name, optimizer) in itertools.product(config.learning_rates, OPTIMIZERS.items()):
            settings = replace(optimizer, learning_rate=rate)
            for row in epochs(learner, batch, settings, config.epochs, number):
                yield known | {"optimizer": name, "learning_rate": rate} | row
            starts.actor(learner).copy_(start)
        starts.new_optimizer(learner, TRPOConfig(), number).update(batch, progress=0.0)
        one = {"optimizer": "trpo", "learning_rate": 0.0, "epoch": 1}
        yield known | one | distances(learner, batch)
        starts.actor(learner).copy_(start)
        tell(f"batch {number + 1} of {config.batches}")


calculate = partial(starts.from_each_policy, updates)


def tabulate(rows: Rows) -> Rows:
    """Return the medians over all updates after 1, 10 and all epochs.

    `kl_least` and `kl_most` are the range over starting policies of the median over batches.
    """
    table: Rows = []
    for (rate, name), found in grouped(rows, "learning_rate", "optimizer").items():
        last = int(max(column(found, "epoch")))
        for epoch in sorted({1, min(10, last), last}):
            at = select(found, epoch=epoch)
            row: Row = {"optimizer": name, "learning_rate": rate or "", "epoch": epoch}
            row |= {key: _median(at, key) for key in DISTANCES}
            each = [_median(of_policy, "kl_mean") for of_policy in grouped(at, "seed").values()]
            table.append(row | {"kl_least": min(each), "kl_most": max(each)})
    return table


def _median(rows: Rows, key: str) -> float:
    return float(np.median(column(rows, key)))


PANELS = {
    "ratio_max": "largest ratio r of the batch",
    "kl_mean": "KL(old ‖ new), mean over states, nats",
    "kl_max": "largest KL(old ‖ new) of a state, nats",
}


def draw(figure: Figure, rows: Rows) -> None:
    """Draw ratios and KL over the epochs, a row per learning rate; thin lines are updates."""
    rates = [rate for rate in distinct(rows, "learning_rate") if rate]
    panels = figure.subplots(len(rates), len(PANELS), squeeze=False, sharex=True, sharey="col")
    high = PPOClipConfig().ratio_bounds[1]
    for rate, of_rate in zip(rates, panels, strict=True):
        for axes, (key, name_of_axis) in zip(of_rate, PANELS.items(), strict=True):
            for name in OPTIMIZERS:
                line = ALGORITHM_LINES[name]
                by_epoch = grouped(select(rows, learning_rate=rate, optimizer=name), "epoch")
                table = np.array([column(found, key) for found in by_epoch.values()])
                axes.plot(list(by_epoch), table, **line.style, linewidth=0.5, alpha=0.5)
                center = np.median(table, 1)
                axes.plot(list(by_epoch), center, **line.style, linewidth=2.2, label=name)
            one_step = _median(select(rows, optimizer="trpo"), key)
            line = ALGORITHM_LINES["trpo"]
            axes.axhline(one_step, color=line.color, linewidth=2, label="trpo, its one step")
            label(axes, f"learning rate {rate:g}", "", name_of_axis, yscale="log")
        of_rate[0].axhline(high, color=BLACK, linewidth=0.8)
        of_rate[0].text(max(column(rows, "epoch")), high, "1 + ε", va="top", ha="right")
    for axes in panels[-1]:
        axes.set_xlabel("epochs over the same batch")
    panels[0, 0].set_ylim(0.7, 1e5)
    for axes in panels[0, 1:]:
        axes.set_ylim(1e-3, None)
    panels[0, 0].legend(frameon=False, loc="upper left", fontsize=9)
    figure.suptitle(
        "The clip bounds neither ratio nor KL. It almost does at a small learning rate; "
        "at a large one some policies return only with a penalty",
        fontsize=12,
    )
