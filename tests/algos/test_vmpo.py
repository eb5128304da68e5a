"""V-MPO: weights, temperature and coefficients."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from algorithm_checks import BOTH_ENGINES, BOTH_KINDS, in_torch, loss_of, optimizer_of
from made_batches import batch_for, policy_of
from scipy.optimize import minimize_scalar
from torch import Generator
from torch.distributions import Normal, kl_divergence

from rlkl.algos.multipliers import Multipliers
from rlkl.algos.vmpo import VMPOConfig, WeightedLikelihood, kl_parts, sample_weights
from rlkl.numerics.distributions import DiagonalGaussian


def test_weights_of_better_half_have_known_values() -> None:
    advantages = torch.tensor([0.0, math.log(3), -5.0, math.log(9)], dtype=torch.float64)
    weights, kl = sample_weights(advantages, 1.0)
    assert weights.tolist() == pytest.approx([0, 0.25, 0, 0.75])
    # KL((¼, ¾) ‖ (½, ½)) = ¼ ln ½ + ¾ ln 3/2.
    assert kl == pytest.approx(0.1308120, abs=1e-7)
    half, _ = sample_weights(advantages, 0.5)
    assert half.tolist() == pytest.approx([0, 0.1, 0, 0.9])


def test_weights_sum_to_1() -> None:
    advantages = 100 * torch.randn(501, generator=Generator().manual_seed(0))
    for temperature in (1e-6, 0.3, 1e6):
        weights, kl = sample_weights(advantages, temperature)
        assert float(weights.double().sum()) == pytest.approx(1, abs=1e-6)
        assert 0 <= kl <= math.log(250) + 1e-12
    assert int((weights > 0).sum()) == 250
    assert advantages[weights > 0].min() >= advantages[weights == 0].max()


def test_temperature_finds_minimum_of_dual() -> None:
    advantages = torch.randn(400, generator=Generator().manual_seed(1), dtype=torch.float64)
    better = np.sort(advantages.numpy())[200:]

    def dual(temperature: float) -> float:
        shifted = np.exp((better - better.max()) / temperature).mean()
        return float(temperature * (0.1 + np.log(shifted)) + better.max())

    best = minimize_scalar(dual, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}).x
    temperature = Multipliers([1.5 * best], 0.02)
    for _ in range(200):
        _, kl = sample_weights(advantages, temperature.values[0])
        temperature.step([0.1 - kl])
    assert temperature.values[0] == pytest.approx(best, rel=1e-3)
    slope = (dual(1.001) - dual(0.999)) / 0.002
    assert 0.1 - sample_weights(advantages, 1.0)[1] == pytest.approx(slope, rel=1e-5)


def test_loss_has_known_value_on_coin() -> None:
    # The first action has all the weight, so 2 · ψ = (2, 0): -ln ¾ + 0.5 · ½ ln(4/3).
    objective = WeightedLikelihood(VMPOConfig(kl_coefficient=0.5), is_gaussian=False)
    assert loss_of(objective, 0.75, (2, 0)) == pytest.approx(0.2876821 + 0.0719205, abs=1e-6)


def test_gaussian_kl_splits_into_mean_and_std() -> None:
    old = DiagonalGaussian(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    new = old.at(torch.tensor([[3.0, math.log(2)]], dtype=torch.float64))
    of_mean, of_std = kl_parts(old, new)
    assert float(of_mean) == pytest.approx(2.0)  # ½ (3 - 1)² / 1²
    assert float(of_std) == pytest.approx(math.log(2) - 0.375)  # ln 2 + ½ (¼ - 1)
    same_std = kl_divergence(Normal(1.0, 1.0), Normal(3.0, 1.0))
    assert float(of_mean) == pytest.approx(float(same_std))
    assert float(kl_parts(old, old)[0]) == float(kl_parts(old, old)[1]) == 0


@BOTH_KINDS
@BOTH_ENGINES
def test_step_maximises_weighted_likelihood(kind: str, engine: str) -> None:
    policy = policy_of(kind, engine=engine, dtype=torch.float64)
    batch = batch_for(policy, kind)
    once = {"num_epochs": 1, "num_minibatches": 1, "max_grad_norm": None}
    optimizer: Any = optimizer_of("vmpo", policy, temperature=0.7, **once)
    optimizer.update(batch, 0.0)
    found = policy.actor_parameters.gradient.clone()

    other = policy_of(kind, engine="torch", dtype=torch.float64)
    standardized = (batch.advantages - batch.advantages.mean()) / batch.advantages.std()
    order = standardized.argsort(descending=True)[:128]
    weights = (standardized[order] / 0.7).softmax(0)
    new = in_torch_with_graph(other, batch, kind)
    loss = -(weights * new[order]).sum()
    tensors = other.actor_parameters.tensors
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, tensors)])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def in_torch_with_graph(policy: Any, batch: Any, kind: str) -> torch.Tensor:
    """Return log π(a|s) by torch.distributions, with a graph."""
    return in_torch(policy.distribution(batch.inputs).parameters, kind).log_prob(batch.actions)


def test_gaussian_coefficients_follow_their_own_targets() -> None:
    policy = policy_of("gaussian")
    targets = {"target_kl": 1e-9, "target_std_kl": 1e3}
    optimizer: Any = optimizer_of("vmpo", policy, num_epochs=2, **targets)
    metrics = optimizer.update(batch_for(policy, "gaussian"), 0.0).metrics
    of_mean, of_std = optimizer.objective.coefficients.values
    assert of_mean > 1.03
    assert of_std < 0.95
    assert metrics["kl/coefficient"] == of_mean
    assert metrics["kl/target"] == pytest.approx(1e3)


@BOTH_KINDS
def test_larger_coefficient_gives_smaller_kl(kind: str) -> None:
    kls = []
    for coefficient in (1e-3, 1e2):
        policy = policy_of(kind)
        batch = batch_for(policy, kind, size=64)
        settings = {"kl_coefficient": coefficient, "dual_learning_rate": 1e-9, "num_epochs": 4}
        optimizer: Any = optimizer_of("vmpo", policy, **settings)
        optimizer.update(batch, 0.0)
        kls.append(optimizer.engine.mean_kl(optimizer.engine.rows(batch, optimizer.objective)))
    assert kls[1] < kls[0] / 3


def test_entropy_bonus_adds_entropy() -> None:
    entropies = []
    for coefficient in (0.0, 0.3):
        policy = policy_of("gaussian")
        batch = batch_for(policy, "gaussian", size=64)
        settings = {"num_epochs": 2, "entropy_coefficient": coefficient}
        optimizer_of("vmpo", policy, **settings).update(batch, 0.0)
        entropies.append(policy.distribution(batch.inputs).entropy().mean())
    assert entropies[1] > entropies[0] + 1e-3


@pytest.mark.parametrize(("target", "grows"), [(1e-4, True), (2.0, False)])
def test_temperature_follows_its_target(target: float, grows: bool) -> None:
    policy = policy_of("categorical")
    optimizer: Any = optimizer_of("vmpo", policy, num_epochs=2, target_weight_kl=target)
    metrics = optimizer.update(batch_for(policy, "categorical", size=64), 0.0).metrics
    (temperature,) = optimizer.objective.temperature.values
    assert (temperature > 1.03) == grows
    assert (temperature < 0.97) != grows
    assert metrics["trust_region/temperature"] == temperature
