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
from rlkl.tools.experiments.base import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    "collapse": collapse.EXPERIMENT,
    "geometry": geometry.EXPERIMENT,
    "directions": directions.EXPERIMENT,
    "clip": clip.EXPERIMENT,
    "estimators": estimators.EXPERIMENT,
    "beta": beta.EXPERIMENT,
    "fine_tuning": fine_tuning.EXPERIMENT,
}
