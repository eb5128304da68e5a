"""The torch engine: quantities of a new policy, and gradients by autograd."""

import math

import pytest
import torch
from algorithm_checks import ReverseKLPenalty, in_torch
from learning_loop import as_inputs
from made_batches import KINDS, batch_for, policy_of
from torch import Generator, Tensor

from rlkl.algos.vanilla_pg import LogLikelihood
from rlkl.engines.base import Loss
from rlkl.engines.make import make_engine
from rlkl.engines.torch import TorchPolicy
from rlkl.numerics.distributions import DiagonalGaussian
from rlkl.rollouts.batch import Batch


def one_row() -> tuple[Tensor, TorchPolicy]:
    """Return the parameters of π_θ = N(1, 1), and it with the action 1; π_old is N(0, 1)."""
    parameters = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    old = DiagonalGaussian(torch.zeros(1, 2, dtype=torch.float64))
    actions, zeros = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    inputs, old_log_prob = as_inputs(zeros[:, None]), old.log_prob(actions)
    batch = Batch(inputs, actions, zeros, zeros, old.parameters, old_log_prob, zeros)
    return parameters, TorchPolicy(DiagonalGaussian(parameters), batch)


def test_new_policy_has_known_quantities_without_a_graph() -> None:
    _, new = one_row()
    found = (new.log_prob, new.ratio, new.kl, new.entropy, new.mean_kl(), new.mean_entropy())
    found = (*found, new.reverse_kl)
    known = (-0.9189385, math.exp(0.5), 0.5, 1.4189385, 0.5, 1.4189385, 0.5)
    assert [float(value) for value in found] == pytest.approx(known, rel=1e-7)
    assert not any(value.requires_grad for value in found)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (Loss(0.0, torch.tensor([3.0])), [0, -3]),
        (Loss(0.0, torch.tensor([0.0]), kl=2.0), [2, -2]),
        (Loss(0.0, torch.tensor([0.0]), reverse_kl=2.0), [2, 0]),
        (Loss(0.0, torch.tensor([0.0]), entropy=torch.tensor([0.5])), [0, 0.5]),
        (Loss(0.0, torch.tensor([3.0]), kl=2.0, entropy=0.5), [2, -4.5]),
    ],
)
def test_backward_adds_what_each_derivative_gives(loss: Loss, expected: list[float]) -> None:
    parameters, new = one_row()
    new.backward(loss._replace(log_prob=loss.log_prob.double()))
    assert parameters.grad is not None
    assert parameters.grad[0].tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("gru", "lstm")])
def test_reverse_kl_matches_finite_differences(kind: str) -> None:
    policy = policy_of(kind, dtype=torch.float64, engine="torch")
    batch = batch_for(policy, kind, 12)
    old, generator = batch.old_parameters, Generator().manual_seed(4)
    leaf = (old + 0.3 * torch.randn(old.shape, generator=generator)).requires_grad_()
    new = TorchPolicy(policy.family(leaf), batch)
    new.backward(Loss(0.0, torch.zeros(12).double(), reverse_kl=torch.ones(12).double()))

    def reverse_kl(at: Tensor) -> Tensor:
        return in_torch(at, kind).kl(in_torch(old, kind))

    torch.testing.assert_close(new.reverse_kl, reverse_kl(leaf.detach()), rtol=1e-9, atol=1e-12)
    assert leaf.grad is not None
    for column in range(old.shape[1]):
        step = torch.zeros_like(old)
        step[:, column] = 1e-5
        expected = (reverse_kl(leaf.detach() + step) - reverse_kl(leaf.detach() - step)) / 2e-5
        torch.testing.assert_close(leaf.grad[:, column], expected, rtol=1e-6, atol=1e-8)


def test_torch_term_is_differentiated() -> None:
    policy = policy_of("categorical", dtype=torch.float64, engine="torch")
    batch = batch_for(policy, "categorical", 40)
    vector = policy.actor_parameters.vector.data
    vector.add_(torch.randn(vector.shape, generator=Generator().manual_seed(4)).double(), alpha=0.1)
    make_engine(policy).policy_gradient(ReverseKLPenalty(), batch)
    new = policy.distribution(batch.inputs)
    old = new.at(batch.old_parameters)
    ratio = (new.log_prob(batch.actions) - batch.old_log_prob).exp()
    loss = new.kl(old).mean() - (ratio * batch.advantages).mean()
    expected = torch.autograd.grad(loss, policy.actor_parameters.tensors)
    flat = torch.cat([part.flatten() for part in expected])
    torch.testing.assert_close(policy.actor_parameters.gradient, flat, rtol=1e-9, atol=1e-12)


def test_gradients_replace_earlier_ones() -> None:
    policy = policy_of("gaussian", engine="torch")
    engine, batch = make_engine(policy), batch_for(policy, "gaussian", 40)
    found = []
    for number in (0.0, math.nan):
        for parameters in (policy.actor_parameters, policy.critic_parameters):
            parameters.gradient.fill_(number)
        engine.policy_gradient(LogLikelihood(), engine.rows(batch, LogLikelihood()))
        engine.value_gradient(engine.value_rows(batch), None)
        gradients = policy.actor_parameters.gradient, policy.critic_parameters.gradient
        found.append(torch.cat(gradients))
    assert torch.equal(*found)
    assert found[0].abs().max() > 1e-3
