"""Experiment `collapse`: all optimizers update the same policy on the same batch."""

from typing import Any

import pytest
import torch
from experiment_configs import silent

from rlkl.tools.experiments import collapse, starts
from rlkl.tools.rows import column, select
from rlkl.training.diagnostics import compare_with_old
from rlkl.training.learner import Learner


def test_collapse_optimizers_share_policy_and_batch(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, seen = starts.actor(learner).clone(), []

    def watched(learner: Learner, batch: Any, *rest: Any) -> None:
        seen.append((starts.actor(learner).clone(), batch))
        step(learner, batch, *rest)

    step = collapse.step
    monkeypatch.setattr(collapse, "step", watched)
    monkeypatch.setattr(starts, "sampled_return", lambda *_: 0.0)
    sweeps = {name: sweep._replace(least=sweep.default) for name, sweep in collapse.SWEEPS.items()}
    monkeypatch.setattr(collapse, "SWEEPS", sweeps)
    config = collapse.CollapseConfig(batches=2, episodes=1, sizes_per_decade=1)
    rows = list(collapse.updates(learner, config, silent))
    assert len(rows) == len(seen) == 2 * sum(len(sweep.sizes(1)) for sweep in sweeps.values())
    assert all(torch.equal(actor, start) for actor, _ in seen)
    assert torch.equal(starts.actor(learner), start)
    assert len({id(batch) for _, batch in seen}) == 2
    # Every step changes the policy, and the longest of an optimizer more than the shortest.
    for name in sweeps:
        kl = column(select(rows, optimizer=name, batch=0), "kl_mean")
        assert 0 < kl[0] < kl[-1]


@pytest.mark.parametrize("name", collapse.SWEEPS)
def test_step_of_size_zero_changes_nothing(name: str, learner: Learner) -> None:
    start = starts.actor(learner).clone()
    (batch,) = starts.batches(learner, 1)
    before = starts.sampled_return(learner, 3)
    # Too small to change float32 parameters.
    collapse.step(learner, batch, collapse.SWEEPS[name], 1e-40, 0)
    metrics, _ = compare_with_old(learner.engine, batch, (0.8, 1.2))
    after = starts.sampled_return(learner, 3)
    starts.actor(learner).copy_(start)
    assert metrics["kl/old_new"] == metrics["kl/max"] == 0.0
    assert after == before


def test_plain_gradient_matches_finite_differences(learner: Learner) -> None:
    start = starts.actor(learner).clone()
    (batch,) = starts.batches(learner, 1)
    collapse.step(learner, batch, collapse.SWEEPS["plain gradient"], 1.0, 0)
    gradient = (starts.actor(learner) - start).double()
    direction = gradient / gradient.norm()
    advantages = (batch.advantages - batch.advantages.mean()) / batch.advantages.std(correction=0)

    @torch.no_grad()
    def objective(distance: float) -> float:
        starts.actor(learner).copy_(start + distance * direction)
        log_prob = learner.policy.distribution(batch.inputs).log_prob(batch.actions)
        return float((log_prob.double() * advantages.double()).mean())

    derivative = (objective(1e-2) - objective(-1e-2)) / 2e-2
    starts.actor(learner).copy_(start)
    assert derivative == pytest.approx(float(gradient.norm()), rel=1e-2)


def test_collapse_table_has_largest_harmless_step() -> None:
    def row(size: float, batch: int, kl: float, value: float) -> dict[str, Any]:
        known = {"optimizer": "trpo", "knob": "max_kl", "start": 100.0, "batch": batch}
        return known | {"size": size, "kl_mean": kl, "return": value}

    rows = [
        *(row(0.01, batch, 0.01, 100.0) for batch in (0, 1)),
        *(row(0.1, batch, 0.1, 96.0) for batch in (0, 1)),
        row(1.0, 0, 1.0, 99.0),
        row(1.0, 1, 3.0, 94.0),
        *(row(10.0, batch, 9.0, 100.0) for batch in (0, 1)),
    ]
    (found,) = collapse.tabulate(rows)
    assert found["default: KL"] == pytest.approx(0.01)
    assert (found["harmless to"], found["at KL"]) == (0.1, pytest.approx(0.1))
    assert (found["harm at"], found["of KL"], found["return"]) == (1.0, 2.0, 96.5)
