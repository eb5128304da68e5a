"""KLip-PPO: its values, PPO-clip's gradient, and the pull of the exact KL."""

import math
from typing import Any

import pytest
import torch
from algorithm_checks import BOTH_ENGINES, coin, optimizer_of
from engines_available import ENGINES
from made_batches import KINDS, batch_for, policy_of
from torch import Generator, Tensor

from rlkl.algos.klip_ppo import ClipAsPenalty, KLipPPOConfig, clip_coefficients
from rlkl.algos.ppo_clip import ClippedSurrogate, PPOClipConfig
from rlkl.engines.base import Loss
from rlkl.engines.make import make_engine
from rlkl.engines.torch import TorchPolicy
from rlkl.numerics.distributions import Categorical, DiagonalGaussian
from rlkl.rollouts.batch import Batch

SEVEN_TENTHS = torch.tensor([[0.7, 0.3]] * 2, dtype=torch.float64).log()


def objective_of(kl_form: str) -> ClipAsPenalty:
    return ClipAsPenalty(KLipPPOConfig(kl_form=kl_form))


def test_coefficients_are_known_and_zero_where_unclipped() -> None:
    ratio = torch.tensor([1.4, 0.6, 1.4, 0.6, 1.1, 1.2], dtype=torch.float64)
    advantages = torch.tensor([2.0, -1.0, -1.0, 2.0, 5.0, 0.0], dtype=torch.float64)
    beta, clipped = clip_coefficients(torch, ratio, advantages, 0.8, 1.2)
    assert beta.tolist() == pytest.approx([7.0, 1.5, 0, 0, 0, 0], rel=1e-12)
    assert clipped.tolist() == [True, True, False, False, False, False]


def bandit_loss(kl_form: str) -> Loss:
    """Return the loss at ratios of 1.4 and 0.6, both clipped: β is 7 and 1.5."""
    batch = coin((2.0, -1.0))
    return objective_of(kl_form).loss(TorchPolicy(Categorical(SEVEN_TENTHS), batch), batch)


def test_sample_form_has_known_bandit_loss() -> None:
    loss = bandit_loss("sample")
    # (7 · 0.063528 - 2.8 + 1.5 · 0.110826 + 0.6) / 2
    assert float(loss.value) == pytest.approx(-0.794534, abs=1e-6)
    assert loss.log_prob.tolist() == pytest.approx([0, 0], abs=1e-15)
    assert loss.kl == 0


def test_exact_form_has_known_bandit_loss() -> None:
    loss = bandit_loss("exact")
    # KL is -½ ln 0.84 = 0.087177 in both rows: (8.5 · 0.087177 - 2.2) / 2
    assert float(loss.value) == pytest.approx(-0.729499, abs=1e-6)
    assert loss.log_prob.tolist() == pytest.approx([-1.4, 0.3], rel=1e-12)
    assert torch.as_tensor(loss.kl).tolist() == pytest.approx([3.5, 0.75], rel=1e-12)


@pytest.mark.parametrize(("kl_form", "pull"), [("sample", 0.0), ("exact", 0.22)])
def test_exact_form_pulls_clipped_samples_back(kl_form: str, pull: float) -> None:
    logits, batch = SEVEN_TENTHS.clone().requires_grad_(), coin((2.0, -1.0))
    new = TorchPolicy(Categorical(logits), batch)
    new.backward(objective_of(kl_form).loss(new, batch))
    assert logits.grad is not None
    # Of the loss, so descent lowers the logit of the action whose probability has grown.
    assert logits.grad.sum(0).tolist() == pytest.approx([pull, -pull], abs=1e-12)


def test_gaussian_has_known_loss_in_both_forms() -> None:
    zeros = torch.zeros(1, dtype=torch.float64)
    old, action = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    old_log_prob, inputs = DiagonalGaussian(old).log_prob(action), None
    batch = Batch(inputs, action, zeros + 1, zeros, old, old_log_prob, zeros)  # type: ignore[arg-type]
    new = DiagonalGaussian(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    # r = √e = 1.648721 is clipped, β = 2.541494; k3 = 0.148721, KL = 0.5
    losses = [objective_of(f).loss(TorchPolicy(new, batch), batch) for f in ("sample", "exact")]
    assert float(losses[0].value) == pytest.approx(-1.270747, abs=1e-6)
    assert float(losses[1].value) == pytest.approx(-0.377974, abs=1e-6)


def moved(kind: str, engine: str) -> tuple[Any, Batch]:
    """Return the engine of a policy that has moved far from that of a batch, and the batch."""
    policy = policy_of(kind, dtype=torch.float64, engine=engine)
    batch = batch_for(policy, kind, 60)
    vector = policy.actor_parameters.vector.data
    vector.add_(torch.randn(vector.shape, generator=Generator().manual_seed(3)).double(), alpha=0.3)
    return make_engine(policy), batch


MLP_KINDS = [kind for kind in KINDS if kind not in ("gru", "lstm")]
PAIRS = [(engine, kind) for engine in ENGINES for kind in MLP_KINDS]
PAIRS += [("torch", "gru"), ("torch", "lstm")]


@pytest.mark.parametrize(("engine", "kind"), PAIRS)
def test_gradient_is_that_of_ppo_clip(engine: str, kind: str) -> None:
    found: list[Tensor] = []
    unclipped = ClippedSurrogate(PPOClipConfig(clip_ratio=0.999, clip_ratio_high=1e9))
    for objective in (objective_of("sample"), ClippedSurrogate(PPOClipConfig()), unclipped):
        of_policy, batch = moved(kind, engine)
        of_policy.policy_gradient(objective, of_policy.rows(batch, objective))
        found.append(of_policy.policy.actor_parameters.gradient.clone())
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-13)
    assert (found[1] - found[2]).abs().max() > 0.01  # some samples are clipped


@pytest.mark.parametrize("kind", MLP_KINDS)
def test_exact_form_agrees_on_engines(kind: str) -> None:
    found = []
    for engine in ENGINES:
        of_policy, batch = moved(kind, engine)
        objective = objective_of("exact")
        of_policy.policy_gradient(objective, of_policy.rows(batch, objective))
        found.append(of_policy.policy.actor_parameters.gradient.clone())
    torch.testing.assert_close(found[-1], found[0], rtol=1e-10, atol=1e-12)


@BOTH_ENGINES
def test_update_is_that_of_ppo_clip(engine: str) -> None:
    ends = []
    for name in ("klip_ppo", "ppo_clip"):
        policy = policy_of("gaussian", dtype=torch.float64, engine=engine)
        settings = {"learning_rate": 0.01, "clip_ratio": 0.1, "clip_ratio_high": 0.15}
        optimizer = optimizer_of(name, policy, **settings)
        optimizer.update(batch_for(policy, "gaussian"), 0.0)
        ends.append(policy.actor_parameters.vector.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-11)


def test_early_stop_is_that_of_ppo_clip() -> None:
    policy = policy_of("gaussian")
    optimizer = optimizer_of("klip_ppo", policy, target_kl=1e-6, target_kl_scope="minibatch")
    metrics = optimizer.update(batch_for(policy, "gaussian"), 0.0).metrics
    assert metrics["optim/stopped_early"] == 1
    assert metrics["kl/target"] == 1e-6


def test_unclipped_sample_ignores_infinite_kl() -> None:
    batch = coin((-3.0, 1.0))
    new = TorchPolicy(Categorical(torch.tensor([[0.0, -math.inf]] * 2)), batch)
    assert new.kl.tolist() == [math.inf] * 2
    loss = objective_of("exact").loss(new, batch)  # r is 2 and 0
    assert float(loss.value) == 3.0
    assert loss.log_prob.tolist() == [3.0, 0.0]
