"""The critic's fit: convergence, clipping, metrics, and independence of the actor."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from algorithm_checks import BOTH_ENGINES
from gymnasium.spaces import Discrete
from learning_loop import as_inputs, vector_encoder
from made_batches import batch_for, policy_of
from torch import Generator

from rlkl.algos.critic import CriticConfig, CriticFit
from rlkl.engines.make import make_engine
from rlkl.models.policy import Policy, PolicyConfig
from rlkl.rollouts.batch import Batch
from rlkl.utils.errors import ConfigError

EXPLAINED = ("value/explained_variance", "value/explained_variance_after")


@pytest.fixture
def policy() -> Policy:
    generator = torch.Generator().manual_seed(0)
    return Policy(PolicyConfig([8], [8]), vector_encoder(2), Discrete(2), generator)


def batch_of(policy: Policy, returns: torch.Tensor) -> Batch:
    inputs = as_inputs(torch.linspace(-1, 1, 2 * len(returns)).reshape(-1, 2))
    with torch.no_grad():
        values = policy.values(inputs)
    nothing = torch.zeros(len(returns))
    return Batch(inputs, nothing, nothing, returns, nothing, nothing, values)


def fit(policy: Policy, **settings: object) -> CriticFit:
    return CriticFit(
        CriticConfig(**settings), make_engine(policy), torch.Generator().manual_seed(1)
    )


def test_fit_reaches_returns_and_keeps_actor(policy: Policy) -> None:
    batch = batch_of(policy, torch.linspace(-2, 3, 64))
    actor = policy.actor_parameters.vector.detach().clone()
    critic_fit = fit(policy, learning_rate=0.02, num_epochs=200, max_grad_norm=None)
    critic_fit.update(batch, 0.0)
    assert critic_fit.update(batch, 0.0).metrics["value/loss"] < 0.01
    torch.testing.assert_close(policy.values(batch.inputs), batch.returns, rtol=0, atol=0.3)
    assert torch.equal(policy.actor_parameters.vector, actor)


def test_value_clip_limits_change_of_values(policy: Policy) -> None:
    batch = batch_of(policy, torch.full((64,), 50.0))
    moved = {}
    for value_clip in (0.5, None):
        settings = {"num_epochs": 100, "max_grad_norm": None, "value_clip": value_clip}
        fit(policy, learning_rate=0.02, **settings).update(batch, 0.0)
        distance = (policy.values(batch.inputs) - batch.old_values).abs().mean()
        moved[value_clip] = float(distance.detach())
    assert 0.5 < moved[0.5] < 3  # Adam's momentum goes slightly beyond the clip
    assert moved[None] > 20


def test_single_return_gives_finite_loss(policy: Policy) -> None:
    metrics = fit(policy, num_minibatches=4).update(batch_of(policy, torch.ones(1)), 0.0).metrics
    assert math.isfinite(metrics["value/loss"]) and math.isfinite(metrics["value/grad_norm"])
    assert all(math.isnan(metrics[tag]) for tag in EXPLAINED)  # one return does not vary


def test_explained_variance_is_reported_before_and_after_fit(policy: Policy) -> None:
    batch = batch_of(policy, torch.linspace(-2, 3, 64))
    metrics = fit(policy, learning_rate=0.01).update(batch, 0.0).metrics
    vectors = batch.inputs.observations["vector"]
    with torch.no_grad():
        fitted = policy.critic(as_inputs(vectors)).squeeze(-1)
    for tag, values in zip(EXPLAINED, (batch.old_values, fitted), strict=True):
        residuals = (batch.returns - values).double().numpy()
        expected = 1 - np.var(residuals) / np.var(batch.returns.double().numpy())
        assert metrics[tag] == pytest.approx(float(expected), rel=1e-4, abs=1e-6)
    assert metrics[EXPLAINED[0]] < metrics[EXPLAINED[1]]


def test_learning_rate_follows_schedule(policy: Policy) -> None:
    critic_fit = fit(policy, learning_rate=0.1, learning_rate_schedule="linear")
    critic_fit.update(batch_of(policy, torch.ones(8)), 0.75)
    assert critic_fit.adam.learning_rate == pytest.approx(0.025)
    before = policy.critic_parameters.vector.detach().clone()
    critic_fit.update(batch_of(policy, torch.ones(8)), 1.0)
    assert torch.equal(policy.critic_parameters.vector, before)


def test_restored_fit_continues_identically(policy: Policy) -> None:
    batch = batch_of(policy, torch.linspace(-2, 3, 64))
    first = fit(policy)
    first.update(batch, 0.0)
    weights, state = policy.state_dict(), first.state_dict()
    saved = torch.load(_saved(state), weights_only=True)
    kept = {part: {k: v.clone() for k, v in weights[part].items()} for part in weights}
    first.update(batch, 0.0)
    expected = policy.critic_parameters.vector.detach().clone()
    policy.load_state_dict(kept)
    second = CriticFit(CriticConfig(), make_engine(policy), torch.Generator())
    second.load_state_dict(saved)
    second.update(batch, 0.0)
    assert torch.equal(policy.critic_parameters.vector, expected)


def _saved(state: dict[str, object]) -> object:
    from io import BytesIO

    file = BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.0},
        {"num_epochs": 0},
        {"value_clip": -1.0},
        {"max_grad_norm": 0.0},
        {"huber_delta": 0.0},
    ],
)
def test_hyperparameters_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"critic.{next(iter(settings))}"):
        CriticConfig(**settings)


@BOTH_ENGINES
@pytest.mark.parametrize("value_clip", [None, 0.1])
def test_huber_gradient_is_that_of_torch(engine: str, value_clip: float | None) -> None:
    policy = policy_of("gaussian", engine=engine, dtype=torch.float64)
    batch = batch_for(policy, "gaussian", 40)
    old_values = batch.old_values - torch.linspace(-0.3, 0.3, 40).double()
    batch = replace(batch, old_values=old_values)
    config = CriticConfig(
        num_epochs=1,
        num_minibatches=1,
        max_grad_norm=None,
        loss="huber",
        huber_delta=0.7,
        value_clip=value_clip,
    )
    huber = torch.nn.HuberLoss(reduction="none", delta=0.7)
    values = policy.values(batch.inputs)
    costs = huber(values, batch.returns)
    if value_clip is not None:
        near = old_values + (values - old_values).clamp(-value_clip, value_clip)
        costs = torch.maximum(costs, huber(near, batch.returns))
    expected = torch.autograd.grad(costs.mean(), list(policy.critic.parameters()))
    metrics = CriticFit(config, make_engine(policy), Generator().manual_seed(1)).update(batch, 0.0)
    assert metrics.metrics["value/loss"] == pytest.approx(costs.mean().item(), rel=1e-9)
    found = policy.critic_parameters.gradient
    torch.testing.assert_close(found, torch.cat([g.reshape(-1) for g in expected]))


@BOTH_ENGINES
@pytest.mark.parametrize("hidden", [[], [8, 8]], ids=len)
def test_new_statistics_keep_values(engine: str, hidden: list[int]) -> None:
    policy = policy_of("categorical", engine=engine, critic_hidden_sizes=hidden)
    fit = CriticFit(CriticConfig(normalize_values=True), make_engine(policy), Generator())
    normalizer, batch = fit.value_normalizer, batch_for(policy, "categorical", 50)
    assert normalizer is not None
    for factor in (300.0, 0.1):
        outputs = fit.engine.values(batch.inputs)
        before = normalizer.denormalize(outputs)
        returns = normalizer.normalize(factor * batch.returns - 100)
        fit.adapt(replace(batch, returns=returns))
        after = fit.engine.values(batch.inputs)
        assert not torch.allclose(after, outputs)
        torch.testing.assert_close(normalizer.denormalize(after), before, rtol=1e-4, atol=1e-3)
    assert normalizer.moments.count == 100
    every = torch.cat([factor * batch.returns - 100 for factor in (300.0, 0.1)]).double()
    assert normalizer.mean == pytest.approx(float(every.mean()), rel=1e-5)
    assert normalizer.std == pytest.approx(float(every.std(correction=0)), rel=1e-5)


def test_normalized_fit_learns_large_returns(policy: Policy) -> None:
    batch = batch_of(policy, 1000 + 300 * torch.linspace(-2, 3, 64))
    settings = {"learning_rate": 0.02, "num_epochs": 100}
    critic_fit = fit(policy, normalize_values=True, **settings)
    normalizer = critic_fit.value_normalizer
    assert normalizer is not None
    critic_fit.adapt(batch)
    returns, old_values = map(normalizer.normalize, (batch.returns, batch.old_values))
    standardized = replace(batch, returns=returns, old_values=old_values)
    metrics = critic_fit.update(standardized, 0.0).metrics
    values = normalizer.denormalize(critic_fit.engine.values(batch.inputs))
    assert (values - batch.returns).abs().mean() < 40
    assert metrics["value/explained_variance_after"] > 0.98


@pytest.mark.slow
def test_rising_returns_make_only_plain_critic_constant() -> None:
    # All errors have one sign for many steps, until the tanh units are near 1 or -1 everywhere.
    explained = {}
    for normalized in (False, True):
        policy = policy_of("categorical", critic_hidden_sizes=[64, 64])
        critic_fit = fit(policy, normalize_values=normalized)
        normalizer, generator = critic_fit.value_normalizer, Generator().manual_seed(0)
        for level in range(20, 60, 4):
            inputs = as_inputs(0.3 * torch.randn(256, 4, generator=generator))
            phase = inputs.observations["vector"][:, :2].sum(-1)
            returns = level * (1 + 0.25 * torch.sin(4 * phase))
            returns = returns if normalizer is None else normalizer.normalize(returns)
            nothing, values = torch.zeros(256), critic_fit.engine.values(inputs)
            batch = Batch(inputs, nothing, nothing, returns, nothing, nothing, values)
            explained[normalized] = critic_fit.update(batch, 0.0).metrics[EXPLAINED[1]]
            critic_fit.adapt(batch)
    assert explained[False] < 0.01
    assert explained[True] > 0.2


def test_huber_delta_without_huber_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"changes nothing with critic\.loss=mse"):
        CriticConfig(huber_delta=2.0)
