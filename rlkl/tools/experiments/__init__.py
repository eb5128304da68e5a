"""Experiments that show what KL measures, by name."""

from rlkl.tools.experiments import (
    beta,
    clip,
    collapse,
    directions,
    estimators,
    fine_tuning,
    geometry,
)
from rlkl.tools.experiments.base import Experiment, ExperimentConfig

EXPERIMENTS = {
    "collapse": Experiment(
        "how one update changes the return of a trained policy, at growing step sizes",
        collapse.CollapseConfig, collapse.calculate, collapse.tabulate, collapse.draw,
        (13.0, 5.0), (),
    ),
    "geometry": Experiment(
        "steps of equal length in the parameters have different KLs",
        geometry.GeometryConfig, geometry.calculate, geometry.tabulate, geometry.draw, (11.5, 5.0),
    ),
    "directions": Experiment(
        "the Gaussian nearest to two peaks depends on the direction of the KL",
        ExperimentConfig, directions.calculate, directions.tabulate, directions.draw, (13.0, 4.4),
    ),
    "clip": Experiment(
        "how far PPO-clip moves the policy in many epochs on one batch",
        clip.ClipConfig, clip.calculate, clip.tabulate, clip.draw,
        (13.0, 7.0), ("env=pendulum", "total_env_steps=50000"),
    ),
    "estimators": Experiment(
        "bias and spread of the estimators k1, k2 and k3 as the true KL grows",
        estimators.EstimatorsConfig, estimators.calculate, estimators.tabulate, estimators.draw,
        (13.0, 5.6),
    ),
    "beta": Experiment(
        "an adaptive β, its KL and its target over training, and a fixed β",
        beta.BetaConfig, beta.calculate, beta.tabulate, beta.draw,
        (13.0, 7.5), ("algo=ppo_kl", "total_env_steps=80000"),
    ),
    "fine_tuning": Experiment(
        "fine-tuning on a changed task, with and without a KL penalty to the start",
        fine_tuning.FineTuningConfig, fine_tuning.calculate, fine_tuning.tabulate, fine_tuning.draw,
        (13.0, 5.5), ("experiment=fine_tuning",),
    ),
}  # fmt: skip
