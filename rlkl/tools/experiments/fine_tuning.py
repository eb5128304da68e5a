"""Experiment `fine_tuning`: a changed task, with and without a KL penalty to the start."""

import math
import tempfile
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rlkl.envs.make import EnvConfig
from rlkl.rollouts.make import for_arrays
from rlkl.tools.experiments.base import Tell, TrainingExperimentConfig
from rlkl.tools.experiments.drawing import Figure, draw_training
from rlkl.tools.experiments.starts import iterations, trained
from rlkl.tools.rows import Row, Rows, column, grouped
from rlkl.training.checkpoint import as_bytes
from rlkl.training.config import TrainConfig
from rlkl.training.evaluation import evaluate
from rlkl.training.learner import Learner
from rlkl.training.reference import ReferenceConfig
from rlkl.training.start import start
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import limited

BEFORE = "before"
EPISODES, MAX_STEPS = 20, 10_000


@dataclass(frozen=True)
class FineTuningConfig(TrainingExperimentConfig):
    """Settings.

    Attributes:
        train: of the changed task; the task that is learned first has none of its `env.kwargs`.
        first_env_steps: environment steps on the first task.
        kl_coefficients: values of β, the weight of KL(π_θ ‖ start); 0 is no penalty.
        seeds: runs of each β; the first has `train.seed`, the others the seeds after it.
    """

    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            env=EnvConfig("rlkl/PoleCartPole-v1", kwargs={"length": 10.0})
        )
    )
    first_env_steps: int = limited(50_000, at_least=1)
    kl_coefficients: list[float] = limited([0.0, 0.01, 0.1, 1.0], at_least=0)
    seeds: int = limited(2, at_least=1, at_most=10_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.train.env.kwargs:
            raise ConfigError(
                "env.kwargs={}: fine_tuning needs a changed task; set an argument, such as "
                "env.kwargs.length=10"
            )


def calculate(config: FineTuningConfig, tell: Tell) -> Rows:
    """Train on the first task, and then every β with every seed on the changed one."""
    old_env = replace(config.train.env, kwargs={})
    first = replace(config.train, env=old_env, total_env_steps=config.first_env_steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "start.pt"
        with closing(trained(first, tell)) as learner:
            path.write_bytes(as_bytes(learner.state_dict()))
            new, old = _return(learner, config.train.env), _return(learner, old_env)
        row: Row = {"variant": BEFORE, "seed": config.train.seed, "env_steps": 0, "return": new}
        rows = [row | {"kl": 0.0, "new": new, "old": old}]
        for beta in config.kl_coefficients:
            reference = ReferenceConfig(str(path), kl_coefficient=beta)
            for seed in range(config.train.seed, config.train.seed + config.seeds):
                train = replace(config.train, seed=seed, init_from=str(path), reference=reference)
                rows += _run(train, old_env, f"β = {beta:g}")
                last = rows[-1]
                tell(
                    f"{last['variant']}, seed {seed}: return {last['new']:.1f} on the changed "
                    f"task, {last['old']:.1f} on the first"
                )
    return rows


def _run(train: TrainConfig, old_env: EnvConfig, name: str) -> Rows:
    """Train, and return a row for each iteration; the last has the returns of evaluations."""
    row, not_evaluated = {"variant": name, "seed": train.seed}, {"new": math.nan, "old": math.nan}
    tags = {"return": "return/train", "kl": "kl/reference"}
    with closing(start(train)) as learner:
        rows = [row | numbers | not_evaluated for numbers in iterations(learner, tags)]
        rows[-1] |= {"new": _return(learner, train.env), "old": _return(learner, old_env)}
    return rows


def _return(learner: Learner, env: EnvConfig) -> float:
    """Return the mean return of deterministic actions in an environment."""
    seeds = learner.streams.integers("evaluation", EPISODES)
    normalizer = for_arrays(learner.normalizer)
    return evaluate(
        learner.engine, env, EPISODES, seeds, normalizer=normalizer, max_episode_steps=MAX_STEPS
    ).mean_return


def tabulate(rows: Rows) -> Rows:
    """Return the returns on both tasks, and the KL to the start, at the end of each variant."""
    table: Rows = []
    for name, found in grouped(rows, "variant").items():
        ends = [of_seed[-1] for of_seed in grouped(found, "seed").values()]
        table.append(
            {
                "variant": name,
                "changed task": ", ".join(f"{end['new']:.0f}" for end in ends),
                "first task": ", ".join(f"{end['old']:.0f}" for end in ends),
                "KL to the start": float(np.mean(column(ends, "kl"))),
            }
        )
    return table


def draw(figure: Figure, rows: Rows) -> None:
    """Draw return and KL to the start over training: a column per β, a line per seed."""
    by_variant = grouped([row for row in rows if row["variant"] != BEFORE], "variant")
    keys = {"return": "training return,\nlast 100 episodes", "kl": "KL(new ‖ start), nats"}
    draw_training(figure, by_variant, keys, "upper left")
    figure.suptitle(
        "Fine-tuning on a changed task, with a KL penalty of weight β to the start", fontsize=12
    )
