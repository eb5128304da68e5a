"""Vanilla policy gradient: its loss, and one step for each rollout."""

import pytest
from algorithm_checks import BOTH_KINDS, loss_of, optimizer_of
from made_batches import batch_for, policy_of

from rlkl.algos.vanilla_pg import LogLikelihood


def test_vanilla_pg_loss_has_known_value() -> None:
    assert loss_of(LogLikelihood(), 0.75, (2, -4)) == pytest.approx(-2.484907, abs=1e-6)


@BOTH_KINDS
def test_update_is_one_step(kind: str) -> None:
    policy = policy_of(kind)
    outcome = optimizer_of("vanilla_pg", policy).update(batch_for(policy, kind), 0.0)
    assert len(outcome.losses) == len(outcome.gradient_norms) == 1
    assert outcome.metrics["optim/epochs"] == 1


def test_learning_rate_is_constant_by_default() -> None:
    policy = policy_of("categorical")
    outcome = optimizer_of("vanilla_pg", policy).update(batch_for(policy, "categorical"), 0.9)
    assert outcome.metrics["optim/lr"] == 0.01
