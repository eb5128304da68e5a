"""Several ranks compute the update of one."""

from typing import Any

import numpy as np
import pytest
import torch
from learning_loop import config_of
from made_batches import KINDS, batch_for, policy_of
from several_ranks import on_ranks
from torch import Generator

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.base import LearningObjective
from rlkl.algos.critic import CriticConfig, CriticFit
from rlkl.engines.base import Loss, NewPolicy
from rlkl.engines.ranked import RankedEngine
from rlkl.engines.torch import TorchEngine
from rlkl.utils.ranks import ALONE, Ranks

SETTINGS = {"num_minibatches": 3, "num_epochs": 2, "entropy_coefficient": 0.01, "max_kl": 0.003}
SETTINGS["max_state_kl"] = 0.003  # fixpo makes steps in its fixup phase
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
        "kl": float(engine.state_kl(batch).mean()),
        "ratio deviation": engine.mean_ratio_deviation(batch),
    }


class SquaredKL(LearningObjective):
    """(E[KL] + 1)², whose derivative depends on the mean over the whole minibatch."""

    uses_kl = True

    def loss(self, new: NewPolicy, batch: Any) -> Loss:
        mean = new.mean_kl()
        return Loss((mean + 1) ** 2, 0 * new.log_prob, kl=2 * (mean + 1) / len(batch))


def squared_kl(ranks: Ranks) -> dict[str, Any]:
    """Return the loss and the gradient of `SquaredKL` after a change of the policy."""
    policy = policy_of("gaussian", dtype=torch.float64)
    batch = batch_for(policy, "gaussian", SIZE)
    policy.actor_parameters.vector.data.mul_(1.5)
    engine = TorchEngine(policy) if ranks.size == 1 else RankedEngine(policy, ranks)
    loss = float(engine.policy_gradient(SquaredKL(), batch))
    return {"loss": loss, "gradient": policy.actor_parameters.gradient.numpy().copy()}


def every_case(ranks: Ranks) -> dict[tuple[str, str], dict[str, Any]]:
    """Update with every algorithm and kind of policy, and once with fewer rows than ranks."""
    results = {(name, kind): updated(ranks, name, kind) for name in ALGORITHMS for kind in KINDS}
    results["ppo_kl", "few rows"] = updated(ranks, "ppo_kl", "categorical", size=4)
    return results | {("ppo_kl", "squared KL"): squared_kl(ranks)}


@pytest.fixture(scope="module")
def on_three(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[tuple[str, str], dict[str, Any]]]:
    """Return what each of three ranks computes."""
    return on_ranks(3, tmp_path_factory.mktemp("ranks"), every_case)


@pytest.mark.slow  # three processes, each with an import of torch
@pytest.mark.parametrize("kind", [*KINDS, "few rows", "squared KL"])
def test_three_ranks_compute_the_update_of_one(
    kind: str, on_three: list[dict[tuple[str, str], dict[str, Any]]]
) -> None:
    first, *others = on_three
    for case in [case for case in first if case[1] == kind]:
        few = {"size": 4, "kind": "categorical"} if kind == "few rows" else {"kind": kind}
        alone = squared_kl(ALONE) if kind == "squared KL" else updated(ALONE, case[0], **few)
        for part, value in alone.items():
            np.testing.assert_allclose(
                first[case][part], value, rtol=1e-9, atol=1e-12, err_msg=f"{case} {part}"
            )
            for other in others:
                np.testing.assert_array_equal(other[case][part], first[case][part])
