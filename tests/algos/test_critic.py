"""The critic's fit: convergence, clipping, metrics, and independence of the actor."""

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from learning_loop import as_inputs, vector_encoder

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
    [{"learning_rate": 0.0}, {"num_epochs": 0}, {"value_clip": -1.0}, {"max_grad_norm": 0.0}],
)
def test_hyperparameters_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"critic.{next(iter(settings))}"):
        CriticConfig(**settings)
