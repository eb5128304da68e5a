"""TRPL: its bounds on every state, its loss and the derivatives that reach the network."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from algorithm_checks import BOTH_ENGINES, coin, in_torch, loss_of, optimizer_of
from made_batches import batch_for, policy_of
from scipy.optimize import brentq
from torch import Generator, Tensor

from rlkl.algos.base import Metrics
from rlkl.algos.trpl import ProjectedSurrogate, Regression, TRPLConfig
from rlkl.engines.torch import TorchPolicy
from rlkl.numerics import distributions
from rlkl.numerics.projections import discrete_projection
from rlkl.rollouts.batch import Batch
from rlkl.utils.errors import ConfigError

OTHER_KINDS = ["masked", "bernoulli", "gaussian_of_state", "tanh_gaussian", "gru"]
KINDS = [
    "categorical", "gaussian", *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHER_KINDS)
]  # fmt: skip


@torch.no_grad()
def largest_kl(optimizer: Any, batch: Batch, kind: str) -> float:
    """Return the largest KL(π_θ ‖ π_old) of a state, by torch.distributions."""
    new, old = optimizer.engine.distribution(batch.inputs).parameters, batch.old_parameters
    if kind == "masked":
        new, old = new.clamp(min=-1e4), old.clamp(min=-1e4)
    return float(in_torch(new, kind).kl(in_torch(old, kind)).max())


def updated(kind: str, engine: str = "auto", **settings: Any) -> tuple[Metrics, float, Tensor]:
    """Return metrics, the largest KL and the parameters after an update that goes too far."""
    policy = policy_of(kind, engine=engine)
    batch = batch_for(policy, kind, size=64)
    settings = {
        "learning_rate": 0.01, "max_state_kl": 0.05, "mean_bound": 0.03, "covariance_bound": 0.02,
        "num_epochs": 2,
    } | settings  # fmt: skip
    optimizer = optimizer_of("trpl", policy, **settings)
    metrics = optimizer.update(batch, 0.0).metrics
    return metrics, largest_kl(optimizer, batch, kind), policy.actor_parameters.vector.detach()


@pytest.mark.parametrize("kind", KINDS)
@BOTH_ENGINES
def test_every_state_is_within_bound(kind: str, engine: str) -> None:
    if kind == "gru" and engine == "numpy":
        pytest.skip("the NumPy engine has no memories")
    metrics, largest, _ = updated(kind, engine)
    assert 0 < largest <= 0.05 * (1 + 1e-6)
    assert metrics["trust_region/fixup_steps"] > 0
    assert metrics["kl/target"] == 0.05
    _, too_large, _ = updated(kind, engine, max_state_kl=9, mean_bound=9, covariance_bound=9)
    assert too_large > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("projection", ["wasserstein", "frobenius"])
def test_means_and_covariances_are_within_bounds(projection: str) -> None:
    policy = policy_of("gaussian_of_state")
    settings = {"projection": projection, "mean_bound": 0.03, "covariance_bound": 0.02}
    settings["num_minibatches"] = 1
    optimizer: Any = optimizer_of("trpl", policy, learning_rate=0.01, num_epochs=4, **settings)
    for seed in range(2):
        batch = batch_for(policy, "gaussian_of_state", size=64, seed=seed)
        metrics = optimizer.update(batch, 0.0).metrics
        new = optimizer.engine.distribution(batch.inputs).parameters.double()
        (mean, log_std), (old_mean, old_log_std) = (
            part.double().chunk(2, -1) for part in (new, batch.old_parameters)
        )
        std, old_std = log_std.exp(), old_log_std.exp()
        change = std / old_std - 1 if projection == "wasserstein" else std**2 - old_std**2
        assert 0 < ((mean - old_mean) / old_std).square().sum(-1).max() <= 0.03 * (1 + 1e-6)
        assert 0 < change.square().sum(-1).max() <= 0.02 * (1 + 1e-6)
        assert "kl/target" not in metrics


@BOTH_ENGINES
def test_unfinished_fixup_shortens_update(engine: str) -> None:
    metrics, largest, _ = updated("gaussian", engine, max_fixup_steps=0, mean_bound=1e-4)
    assert metrics["trust_region/step_fraction"] < 1
    assert metrics["trust_region/fixup_steps"] == 0
    assert 0 < largest <= 0.02 + 1e-4


# π_old = (½, ½), each action taken once.


def objective_of(bound: float, coefficient: float) -> ProjectedSurrogate:
    config = TRPLConfig(regression_coefficient=coefficient)
    return ProjectedSurrogate(config, discrete_projection(distributions.Categorical, bound), bound)


def test_loss_takes_ratio_of_projection() -> None:
    # KL((p, 1 - p) ‖ (½, ½)) = 0.130812 nats at p = ¾; there E[r · A] = ½ (1.5 - 0.5).
    assert loss_of(objective_of(0.2, 0.0), 0.75, (1, -1)) == pytest.approx(-0.5, abs=1e-6)
    beyond = objective_of(0.130812, 0.0)
    assert loss_of(beyond, 0.9, (1, -1)) == pytest.approx(-0.5, abs=1e-5)
    # + 2 · KL((0.9, 0.1) ‖ (¾, ¼)) = 2 · (0.9 ln 1.2 + 0.1 ln 0.4) = 2 · 0.0724602
    expected = -0.5 + 2 * 0.0724602
    assert loss_of(objective_of(0.130812, 2.0), 0.9, (1, -1)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss", ["projected", "regression"])
def test_regression_has_gradient_beyond_bound_only(loss: str) -> None:
    projection = discrete_projection(distributions.Categorical, 0.13)
    objective: Any = Regression(projection)
    if loss == "projected":
        objective = ProjectedSurrogate(TRPLConfig(regression_coefficient=1.0), projection, None)
    batch = coin((0, 0))
    logits = torch.tensor([[0.1, 0.0], [3.0, 0.0]], dtype=torch.float64, requires_grad=True)
    new = TorchPolicy(distributions.Categorical(logits), batch)
    new.backward(objective.loss(new, batch))
    assert logits.grad is not None
    assert torch.equal(logits.grad[0], torch.zeros(2))
    assert logits.grad[1, 0] > 1e-3  # descent lowers the logit that is too high


def test_fixup_pulls_to_half_the_bound() -> None:
    # q with KL((q, 1 - q) || (½, ½)) = ½ · 0.13 is the fixed target of p = 1 / (1 + e⁻³).
    def kl(q: float) -> float:
        return q * math.log(2 * q) + (1 - q) * math.log(2 * (1 - q))

    q, p = brentq(lambda q: kl(q) - 0.065, 0.5, 0.99), 1 / (1 + math.exp(-3))
    logits = torch.tensor([[3.0, 0.0]] * 2, dtype=torch.float64, requires_grad=True)
    batch = coin((0, 0))
    new = TorchPolicy(distributions.Categorical(logits), batch)
    new.backward(Regression(discrete_projection(distributions.Categorical, 0.13)).loss(new, batch))
    expected = p * (1 - p) * (math.log(p / q) - math.log((1 - p) / (1 - q))) / 2
    assert logits.grad is not None
    assert float(logits.grad[0, 0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["categorical", "masked", "bernoulli", "gaussian_of_state"])
@BOTH_ENGINES
def test_gradient_matches_finite_differences(kind: str, engine: str) -> None:
    policy = policy_of(kind, engine=engine, dtype=torch.float64)
    batch = batch_for(policy, kind, size=32)
    settings = {"max_state_kl": 0.005, "mean_bound": 0.01, "covariance_bound": 0.001}
    settings |= {"regression_coefficient": 1.5, "entropy_coefficient": 0.01}
    optimizer: Any = optimizer_of("trpl", policy, **settings)
    vector = policy.actor_parameters.vector.data
    generator = Generator().manual_seed(3)
    vector.add_(0.05 * torch.randn(len(vector), generator=generator, dtype=torch.float64))
    rows = optimizer.engine.rows(batch, optimizer.penalized)
    assert optimizer.largest(rows) > 2
    target = optimizer.projection(
        optimizer.engine.distribution(batch.inputs).parameters, batch.old_parameters
    )
    optimizer.engine.policy_gradient(optimizer.penalized, rows)
    gradient = policy.actor_parameters.gradient.clone()

    def loss() -> float:
        """Return the loss, with the target of the regression as it was."""
        new = optimizer.engine.distribution(batch.inputs)
        projected = optimizer.projection(new.parameters, batch.old_parameters)
        ratio = (new.at(projected).log_prob(batch.actions) - batch.old_log_prob).exp()
        moved = (target != new.parameters).any(-1)
        pull = 1.5 * (moved * new.kl(new.at(target))).mean()
        return float(pull - (ratio * batch.advantages).mean() - 0.01 * new.entropy().mean())

    direction = torch.randn(len(vector), generator=generator, dtype=torch.float64)
    start, values = vector.clone(), []
    for step in (1e-6, -1e-6):
        vector.copy_(start + step * direction)
        values.append(loss())
    expected = (values[0] - values[1]) / 2e-6
    assert float(gradient @ direction) == pytest.approx(expected, rel=1e-5)


def test_discrete_actions_need_kl_projection() -> None:
    with pytest.raises(ConfigError, match=r"algo\.projection=wasserstein: needs continuous"):
        optimizer_of("trpl", policy_of("categorical"), projection="wasserstein")


def test_nan_reaches_loss() -> None:
    batch = replace(coin((1, -1)), old_log_prob=torch.full((2,), math.log(0.5)).double())
    new = TorchPolicy(distributions.Categorical(torch.full((2, 2), math.nan).double()), batch)
    assert math.isnan(objective_of(0.1, 1.0).loss(new, batch).value)
