"""MDPO: its values on a bandit and a Gaussian, its closed form, and its step size."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from algorithm_checks import BOTH_ENGINES, coin, optimizer_of
from learning_loop import as_inputs, vectors_of
from made_batches import batch_for, policy_of
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax
from torch import Tensor

from rlkl.algos.mdpo import MDPOConfig, MirrorDescentObjective
from rlkl.engines.torch import TorchPolicy
from rlkl.numerics.distributions import Categorical, DiagonalGaussian
from rlkl.rollouts.batch import Batch


def test_bandit_has_known_loss_and_derivatives() -> None:
    batch = coin((2.0, -1.0))
    new = Categorical(torch.tensor([[0.7, 0.3]] * 2, dtype=torch.float64).log())
    loss = MirrorDescentObjective(MDPOConfig(step_size=0.5)).loss(TorchPolicy(new, batch), batch)
    # E[r · A] is 1.1; KL(π ‖ π_old) is 0.7 ln 1.4 + 0.3 ln 0.6 = 0.082283
    assert float(loss.value) == pytest.approx(-1.1 + 2 * 0.082283, abs=1e-6)
    assert loss.log_prob.tolist() == pytest.approx([-1.4, 0.3], rel=1e-12)
    assert (loss.reverse_kl, loss.kl) == (1.0, 0.0)


def test_gaussian_has_known_loss() -> None:
    zeros = torch.zeros(1, dtype=torch.float64)
    old, action = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    inputs: Any = None
    old_log_prob = DiagonalGaussian(old).log_prob(action)
    batch = Batch(inputs, action, zeros + 2, zeros, old, old_log_prob, zeros)
    new = DiagonalGaussian(torch.tensor([[1.0, math.log(2)]], dtype=torch.float64))
    loss = MirrorDescentObjective(MDPOConfig(step_size=0.5)).loss(TorchPolicy(new, batch), batch)
    # r = √e / 2; KL(N(1, 2²) ‖ N(0, 1)) is ½ (4 + 1 - 1 - 2 ln 2) = 1.306853, its reverse 0.443147
    assert float(loss.value) == pytest.approx(-1.648721 + 2 * 1.306853, abs=1e-6)


OLD = (0.5, 0.3, 0.2)
ADVANTAGES = (1.0, 0.0, -1.0)


def exact_bandit() -> Batch:
    """Return each action as often as π_old takes it, so that E[r · A] = Σ π(a) A(a)."""
    actions = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    parameters = torch.tensor([OLD] * 10, dtype=torch.float64).log()
    log_prob, zeros = parameters[range(10), actions], torch.zeros(10, dtype=torch.float64)
    advantages = torch.tensor(ADVANTAGES, dtype=torch.float64)[actions]
    inputs: Any = None
    return Batch(inputs, actions, advantages, zeros, parameters, log_prob, zeros)


@pytest.mark.parametrize(
    ("step_size", "expected"),
    [
        (0.5, [0.661783, 0.240835, 0.097382]),  # 0.5 e^½, 0.3 and 0.2 e^-½, normalized
        (2.0, [0.918672, 0.074597, 0.006730]),
    ],
)
def test_converged_bandit_has_the_closed_form(step_size: float, expected: list[float]) -> None:
    batch, objective = exact_bandit(), MirrorDescentObjective(MDPOConfig(step_size=step_size))

    def loss_and_gradient(at: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        logits = torch.tensor(at, requires_grad=True)
        new = TorchPolicy(Categorical(logits.expand(10, 3)), batch)
        loss = objective.loss(new, batch)
        new.backward(loss)
        assert logits.grad is not None
        return float(loss.value), logits.grad.numpy()

    found = minimize(loss_and_gradient, np.log(OLD), jac=True, options={"gtol": 1e-10})
    assert softmax(found.x).tolist() == pytest.approx(expected, abs=1e-6)


@BOTH_ENGINES
def test_update_approaches_the_closed_form(engine: str) -> None:
    policy = policy_of("categorical", dtype=torch.float64, engine=engine)
    some = batch_for(policy, "categorical", 1)
    (old,) = Categorical(some.old_parameters).log_probabilities.exp()
    # Each action once, with the advantages 3 π_old(a) A(a): then E[r · A] = Σ π(a) A(a).
    actions, advantages = torch.arange(3), torch.tensor(ADVANTAGES, dtype=torch.float64)
    inputs = as_inputs(vectors_of(some).expand(3, -1).contiguous())
    zeros = torch.zeros(3, dtype=torch.float64)
    rows = some.old_parameters.expand(3, 3).contiguous()
    batch = Batch(inputs, actions, 3 * old * advantages, zeros, rows, old.log(), zeros)
    settings: dict[str, Any] = {"num_epochs": 300, "num_minibatches": 1, "step_size": 0.5}
    settings |= {"learning_rate": 0.003, "advantage_standardization": "none"}
    optimizer_of("mdpo", policy, **settings, max_grad_norm=None).update(batch, 0.0)
    expected = old * (0.5 * advantages).exp()
    found = policy.distribution(batch.inputs).parameters.detach().softmax(-1)[0]
    torch.testing.assert_close(found, expected / expected.sum(), rtol=0, atol=1e-4)
    assert (expected / expected.sum() - old).abs().max() > 0.1


@pytest.mark.parametrize(
    ("schedule", "progress", "coefficient"),
    [("linear", 0.0, 2.0), ("linear", 0.75, 8.0), ("linear", 1.0, 1e6), ("constant", 0.75, 2.0)],
)
def test_step_size_falls_as_scheduled(schedule: str, progress: float, coefficient: float) -> None:
    policy = policy_of("gaussian")
    settings: dict[str, Any] = {"step_size": 0.5, "step_size_schedule": schedule, "num_epochs": 1}
    optimizer = optimizer_of("mdpo", policy, **settings)
    metrics = optimizer.update(batch_for(policy, "gaussian"), progress).metrics
    assert metrics["kl/coefficient"] == pytest.approx(coefficient, rel=1e-12)
    assert policy.actor_parameters.vector.isfinite().all()


def test_smaller_step_size_gives_smaller_kl() -> None:
    def reverse_kl(step_size: float) -> Tensor:
        policy = policy_of("gaussian")
        batch = batch_for(policy, "gaussian")
        optimizer_of("mdpo", policy, step_size=step_size).update(batch, 0.0)
        new = policy.distribution(batch.inputs)
        return new.kl(new.at(batch.old_parameters)).mean()

    assert reverse_kl(0.01) < 0.1 * reverse_kl(1.0)
