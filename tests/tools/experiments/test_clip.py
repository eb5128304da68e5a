"""Experiment `clip`: epochs of one update, and the range over policies."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from experiment_configs import PENDULUM, silent

from rlkl.algos import make_policy_optimizer
from rlkl.tools.experiments import clip, starts
from rlkl.tools.rows import column, select
from rlkl.training.learner import Learner


@pytest.mark.parametrize("name", clip.OPTIMIZERS)
def test_single_epochs_are_identical_to_one_update(name: str, learner: Learner) -> None:
    start = starts.actor(learner).clone()
    (batch,) = starts.batches(learner, 1)
    config = clip.OPTIMIZERS[name]
    found = list(clip.epochs(learner, batch, config, 3, 7))
    single_epochs = starts.actor(learner).clone()
    starts.actor(learner).copy_(start)
    generator = learner.streams.torch("minibatches 7")
    whole = make_policy_optimizer(replace(config, num_epochs=3), learner.engine, generator)
    whole.update(batch, 0.0)
    one_update = starts.actor(learner).clone()
    starts.actor(learner).copy_(start)
    assert torch.equal(single_epochs, one_update)
    assert not torch.equal(single_epochs, start)
    assert [row["epoch"] for row in found] == [0, 1, 2, 3]
    assert found[0]["kl_mean"] == found[0]["kl_max"] == 0.0
    assert found[0]["ratio_max"] == found[0]["ratio_min"] == 1.0


def test_clip_optimizers_start_alike_and_trpo_is_bounded() -> None:
    config = clip.ClipConfig(
        train=PENDULUM, seeds=1, batches=2, epochs=2, learning_rates=[1e-3, 1e-2]
    )
    rows = clip.calculate(config, silent)
    assert len(rows) == 2 * (2 * 3 * 3 + 1)
    assert {row["kl_mean"] for row in select(rows, epoch=0)} == {0.0}
    steps = select(rows, optimizer="trpo")
    assert len(steps) == 2
    assert all(0 < float(row["kl_mean"]) <= 0.01 for row in steps)
    far = select(rows, optimizer="ppo_clip", learning_rate=1e-2, epoch=2)
    near = select(rows, optimizer="ppo_clip", learning_rate=1e-3, epoch=2)
    assert sum(column(far, "kl_mean")) > 2 * sum(column(near, "kl_mean"))


def test_clip_table_has_range_over_policies() -> None:
    def row(seed: int, batch: int, kl: float) -> dict[str, Any]:
        known = {"seed": seed, "batch": batch, "optimizer": "ppo_clip", "learning_rate": 0.1}
        rest = dict.fromkeys(("kl_max", "ratio_max", "ratio_min", "clip_fraction"), 1.0)
        return known | {"epoch": 1, "kl_mean": kl} | rest

    (found,) = clip.tabulate([row(0, 0, 0.1), row(0, 1, 0.3), row(1, 0, 5.0), row(1, 1, 7.0)])
    assert (found["kl_mean"], found["kl_least"], found["kl_most"]) == (2.65, 0.2, 6.0)
