"""What the hyperparameters and objectives of all algorithms share."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from learning_loop import config_of

from rlkl.algos import ALGORITHMS
from rlkl.algos.base import AlgoConfig
from rlkl.algos.vanilla_pg import LogLikelihood
from rlkl.engines.base import EntropyBonus, Loss
from rlkl.utils.errors import ConfigError


def test_minibatch_standardization_needs_minibatches() -> None:
    for name, algorithm in ALGORITHMS.items():
        if "num_minibatches" not in {field.name for field in fields(algorithm.config)}:
            with pytest.raises(ConfigError, match="advantage_standardization"):
                config_of(name, advantage_standardization="minibatch")


@pytest.mark.parametrize("coefficient", [-0.1, float("nan"), float("inf")])
def test_entropy_coefficient_is_finite_and_not_negative(coefficient: float) -> None:
    with pytest.raises(ConfigError, match=r"algo\.entropy_coefficient="):
        AlgoConfig(entropy_coefficient=coefficient)


def test_objective_without_entropy_bonus_is_unchanged() -> None:
    objective = LogLikelihood()
    without, with_bonus = EntropyBonus(objective, 0.0), EntropyBonus(objective, 0.1)
    loss = Loss(1.0, torch.zeros(1))
    objective.loss = lambda new, batch: loss  # type: ignore[method-assign]
    assert without.loss(SimpleNamespace(), []) is loss  # type: ignore[arg-type]
    assert (without.uses_entropy, with_bonus.uses_entropy) == (False, True)


def test_fixed_objective_has_neither_metrics_nor_state() -> None:
    objective = LogLikelihood()
    objective.adapt(3.0)
    objective.load_state_dict({})
    assert (objective.metrics, objective.state_dict()) == ({}, {})


def test_reports_of_all_algorithms_have_the_same_bounds() -> None:
    config = AlgoConfig()
    assert (config.ratio_bounds, config.kl_bounds) == ((0.8, 1.2), (0.0, 1.0))
