"""Several ranks compute the update of one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning_loop import config_of
from made_batches import KINDS, batch_for, policy_of
from several_ranks import on_ranks
from torch import Generator

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.critic import CriticConfig, CriticFit
from rlkl.engines.base import full_batch_kl
from rlkl.engines.ranked import RankedEngine
from rlkl.engines.torch import TorchEngine
from rlkl.utils.ranks import ALONE, Ranks

SETTINGS = {"num_minibatches": 3, "num_epochs": 2, "entropy_coefficient": 0.01, "max_kl": 0.003}
SIZE = 100  # no multiple of the number of ranks, nor of the minibatches


def updated(ranks: Ranks, name: str, kind: str, size: int = SIZE) -> dict[str, Any]:
    """Update actor and critic once; return their parameters, the metrics and the KL."""
    policy = policy_of(kind, dtype=torch.float64)
    batch = batch_for(policy, kind, size)
    engine = TorchEngine(policy) if ranks.size == 1 else RankedEngine(policy, ranks)
    optimizer = make_policy_optimizer(
        config_of(name, **SETTINGS), engine, Generator().manual_seed(1)
    )
    critic = CriticFit(CriticConfig(num_epochs=2), engine, Generator().manual_seed(2))
    metrics = optimizer.update(batch, 0.0).metrics | critic.update(batch, 0.0).metrics
    return {
        "actor": policy.actor_parameters.vector.detach().numpy().copy(),
        "critic": policy.critic_parameters.vector.detach().numpy().copy(),
        "values": engine.values(batch.inputs).numpy() if not policy.state_size else np.zeros(1),
        "metrics": np.array([metrics[key] for key in sorted(metrics)]),
        "kl": full_batch_kl(engine, batch),
    }


CASES = [(name, kind) for name in ALGORITHMS for kind in KINDS]


def all_updated(ranks: Ranks) -> list[dict[str, Any]]:
    """Run every case, on several ranks at once."""
    return [updated(ranks, *case) for case in CASES]


@pytest.fixture(scope="module")
def on_three(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """Return what each of three ranks computes, for each case."""
    return on_ranks(3, tmp_path_factory.mktemp("ranks"), all_updated)


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(case) for case in CASES])
def test_three_ranks_compute_the_update_of_one(
    number: int, on_three: list[list[dict[str, Any]]]
) -> None:
    alone = updated(ALONE, *CASES[number])
    first = on_three[0][number]
    for part, value in alone.items():
        np.testing.assert_allclose(first[part], value, rtol=1e-9, atol=1e-12, err_msg=part)
    for other in on_three[1:]:
        for part in alone:
            np.testing.assert_array_equal(other[number][part], first[part], err_msg=part)


def few_rows(ranks: Ranks) -> dict[str, Any]:
    """Update with fewer rows in a minibatch than there are ranks."""
    return updated(ranks, "ppo_clip", "categorical", size=4)


def test_rank_without_a_row_takes_part(tmp_path: Path) -> None:
    alone = few_rows(ALONE)
    for result in on_ranks(3, tmp_path, few_rows):
        np.testing.assert_allclose(result["actor"], alone["actor"], rtol=1e-9, atol=1e-12)
