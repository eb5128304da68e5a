"""Experiment `beta`: PPO-KL with an adaptive β for several targets, and with a fixed β."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from itertools import product

import numpy as np

from rlkl.algos.ppo_kl import PPOKLConfig, PPOKLFixedConfig
from rlkl.tools.experiments.base import Tell, TrainingExperimentConfig
from rlkl.tools.experiments.drawing import Figure, draw_training
from rlkl.tools.experiments.starts import iterations
from rlkl.tools.rows import Row, Rows, column, grouped
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import limited


@dataclass(frozen=True)
class BetaConfig(TrainingExperimentConfig):
    """Settings.

    Attributes:
        targets: of the adaptive β, in nats.
        kl_coefficients: values of the fixed β.
        seeds: runs of each variant; the first has `train.seed`, the others the seeds after it.
    """

    train: TrainConfig = field(default_factory=lambda: TrainConfig(algo=PPOKLConfig()))
    targets: list[float] = limited([0.003, 0.01, 0.03], above=0)
    kl_coefficients: list[float] = limited([1.0], at_least=0)
    seeds: int = limited(5, at_least=1, at_most=10_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.train.algo, PPOKLConfig):
            raise ConfigError(
                f"algo={self.train.algo.name}: beta shows the adaptive β, which is algo=ppo_kl"
            )
        target = self.train.algo.target_kl
        if target != PPOKLConfig.target_kl:
            raise ConfigError(f"algo.target_kl={target:g}: beta takes targets=[{target:g}] instead")


def variants(config: BetaConfig) -> Iterator[tuple[str, TrainConfig]]:
    """Yield the name and the config of each variant; the caller sets the seed."""
    algo = config.train.algo
    assert isinstance(algo, PPOKLConfig)
    for target in config.targets:
        yield f"target {target:g}", replace(config.train, algo=replace(algo, target_kl=target))
    names = {field.name for field in fields(PPOKLFixedConfig)} - {"name"}
    shared = {f.name: getattr(algo, f.name) for f in fields(algo) if f.name in names}
    for kl_coefficient in config.kl_coefficients:
        fixed = PPOKLFixedConfig(**shared | {"kl_coefficient": kl_coefficient})
        yield f"fixed β = {kl_coefficient:g}", replace(config.train, algo=fixed)


TAGS = {
    "kl_coefficient": "kl/coefficient",
    "kl_mean": "kl/old_new",
    "kl_max": "kl/max",
    "target": "kl/target",
    "entropy": "policy/entropy",
    "return": "return/train",
}
"""Tag in the report of each column."""


def calculate(config: BetaConfig, tell: Tell) -> Rows:
    """Train every variant with every seed."""
    rows: Rows = []
    for name, train in variants(config):
        for seed in range(train.seed, train.seed + config.seeds):
            row: Row = {"variant": name, "seed": seed}
            with closing(Learner(replace(train, seed=seed))) as learner:
                rows += [row | numbers for numbers in iterations(learner, TAGS)]
            tell(f"{name}, seed {seed}: return {rows[-1]['return']:.1f}")
    return rows


def tabulate(rows: Rows) -> Rows:
    """Return how close each variant was to its target, for each half of training."""
    table: Rows = []
    middle = max(column(rows, "env_steps")) / 2
    for (name, found), half in product(grouped(rows, "variant").items(), (1, 2)):
        part = [row for row in found if (row["env_steps"] > middle) == (half == 2)]
        kl, target = np.array(column(part, "kl_mean")), float(part[0]["target"])
        within = (kl > target / 1.5) & (kl < 1.5 * target)
        ends = [of_seed[-1] for of_seed in grouped(part, "seed").values()]
        table.append(
            {
                "variant": name,
                "half": half,
                "median KL": float(np.median(kl)),
                "in band": float(within.mean()) if np.isfinite(target) else "",
                "largest KL": float(kl.max()),
                "median β": float(np.median(column(part, "kl_coefficient"))),
                "last β": ", ".join(f"{end['kl_coefficient']:.2g}" for end in ends),
                "returns": ", ".join(f"{end['return']:.0f}" for end in ends),
            }
        )
    return table


def draw(figure: Figure, rows: Rows) -> None:
    """Draw KL, β and return over training: a column per variant, a line per seed."""
    by_variant = grouped(rows, "variant")
    keys = {
        "kl_mean": "KL(old ‖ new), nats",
        "kl_coefficient": "β of the update",
        "return": "training return,\nlast 100 episodes",
    }
    panels = draw_training(figure, by_variant, keys, "lower left")
    for found, axes in zip(by_variant.values(), panels[0], strict=True):
        target = float(found[0]["target"])
        if np.isfinite(target):
            axes.axhspan(target / 1.5, 1.5 * target, color="#BBBBBB", alpha=0.6)
    panels[0, 0].set(yscale="log", ylim=(1e-5, 1))
    panels[1, 0].set_yscale("log")
    figure.suptitle(
        "β follows its target (β is constant in the grey band); "
        "as the learning rate falls to 0, no β reaches it",
        fontsize=12,
    )
