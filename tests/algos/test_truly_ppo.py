"""Truly PPO and its variants: what triggers a sample, and the gradient that it then has."""

from typing import Any

import pytest
import torch
from algorithm_checks import BOTH_ENGINES, coin, optimizer_of, true_kl
from learning_loop import as_inputs, config_of
from made_batches import batch_for, policy_of
from torch import Generator, Tensor

from rlkl.algos.truly_ppo import ROLLBACKS, RollbackSurrogate, TrulyPPOConfig
from rlkl.engines.base import Loss
from rlkl.engines.make import make_engine
from rlkl.engines.torch import TorchPolicy
from rlkl.numerics.distributions import Categorical, DiagonalGaussian
from rlkl.rollouts.batch import Batch
from rlkl.utils.errors import ConfigError

KL = 0.143841
"""KL of (¾, ¼) from (½, ½); the ratios are 1.5 and 0.5."""


def loss_at_three_quarters(advantages: tuple[float, float], **settings: Any) -> Loss:
    """Return the loss of the policy (¾, ¼), where π_old = (½, ½) took each action once."""
    batch = coin(advantages)
    new = Categorical(torch.tensor([[0.75, 0.25]] * 2, dtype=torch.float64).log())
    return RollbackSurrogate(TrulyPPOConfig(**settings)).loss(TorchPolicy(new, batch), batch)


@pytest.mark.parametrize(
    ("variant", "advantages", "loss", "of_log_prob", "of_kl"),
    [
        # Both samples have improved: r · A = 3 and -1.
        ("truly_ppo", (2, -2), -1 + 5 * (KL - 0.03), [-1.5, 0.5], [2.5, 2.5]),
        ("tr_ppo_rb", (2, -2), 0.05, [0.075, -0.025], [0, 0]),
        ("tr_ppo", (2, -2), 0.0, [0, 0], [0, 0]),
        ("ppo_rb", (2, -2), -0.22, [0.45, -0.15], [0, 0]),
        # Neither has: r · A = -3 and 1.
        *((name, (-2, 2), 1.0, [1.5, -0.5], [0, 0]) for name in ROLLBACKS),
        # The first has: r · A = 4.5 and 0.5.
        ("truly_ppo", (3, 1), -2.5 + 2.5 * (KL - 0.03), [-2.25, -0.25], [2.5, 0]),
        ("tr_ppo", (3, 1), -1.75, [0, -0.25], [0, 0]),
    ],
)
def test_two_actions_have_known_losses(
    variant: str,
    advantages: tuple[float, float],
    loss: float,
    of_log_prob: list[float],
    of_kl: list[float],
) -> None:
    found = loss_at_three_quarters(advantages, variant=variant)
    assert float(found.value) == pytest.approx(loss, abs=1e-5)
    assert found.log_prob.tolist() == pytest.approx(of_log_prob)
    assert torch.as_tensor(found.kl).expand(2).tolist() == pytest.approx(of_kl)


@pytest.mark.parametrize(("clip_kl", "of_kl"), [(0.1438, 2.5), (0.1439, 0.0)])
def test_kl_of_state_triggers(clip_kl: float, of_kl: float) -> None:
    assert loss_at_three_quarters((2, -2), clip_kl=clip_kl).kl.tolist() == [of_kl, of_kl]
    triggered = loss_at_three_quarters((2, -2), variant="tr_ppo", clip_kl=clip_kl)
    assert (triggered.log_prob == 0).all() == (of_kl > 0)


@pytest.mark.parametrize(("clip_ratio", "factor"), [(0.49, -0.3), (0.51, 1.0)])
def test_ratio_triggers_only_ppo_rb(clip_ratio: float, factor: float) -> None:
    found = loss_at_three_quarters((2, -2), variant="ppo_rb", clip_ratio=clip_ratio, clip_kl=9)
    assert found.log_prob.tolist() == pytest.approx([-1.5 * factor, 0.5 * factor])


def gaussian_gradient(mean: float, advantage: float, **settings: Any) -> list[float]:
    """Return the gradient at N(mean, 1) of mean and log σ, where N(0, 1) drew the action 1."""
    zeros = torch.zeros(1, dtype=torch.float64)
    old = DiagonalGaussian(torch.zeros(1, 2, dtype=torch.float64))
    actions = torch.ones(1, 1, dtype=torch.float64)
    weights = torch.tensor([advantage], dtype=torch.float64)
    rows = as_inputs(zeros[:, None]), actions, weights, zeros, old.parameters
    batch = Batch(*rows, old.log_prob(actions), zeros)
    leaf = torch.tensor([[mean, 0.0]], dtype=torch.float64, requires_grad=True)
    new = TorchPolicy(DiagonalGaussian(leaf), batch)
    new.backward(RollbackSurrogate(TrulyPPOConfig(**settings)).loss(new, batch))
    assert leaf.grad is not None
    return leaf.grad[0].tolist()


@pytest.mark.parametrize(
    ("variant", "advantage", "of_mean"),
    [
        # r = exp(0.375), KL = 0.125, ∂r/∂mean = r / 2 and ∂KL/∂mean = 0.5.
        ("truly_ppo", 1.0, -0.727496 + 2.5),
        ("tr_ppo_rb", 1.0, 0.05 * 0.727496),
        ("ppo_rb", 1.0, 0.3 * 0.727496),
        ("tr_ppo", 1.0, 0.0),
        *((name, -1.0, 0.727496) for name in ROLLBACKS),
    ],
)
def test_gaussian_is_pulled_back(variant: str, advantage: float, of_mean: float) -> None:
    found = gaussian_gradient(0.5, advantage, variant=variant)
    assert found[0] == pytest.approx(of_mean, abs=1e-6)


def moved(kind: str, engine: str, distance: float) -> tuple[Any, Batch]:
    """Return an engine whose policy is at a distance from that of the batch."""
    policy = policy_of(kind, engine=engine, dtype=torch.float64)
    batch = batch_for(policy, kind)
    vector = policy.actor_parameters.vector.data
    noise = torch.randn(vector.shape, generator=Generator().manual_seed(0), dtype=torch.float64)
    vector.add_(noise, alpha=distance)
    return make_engine(policy), batch


def gradient(engine: Any, batch: Batch, name: str, **settings: Any) -> Tensor:
    """Return the actor's gradient of an algorithm's objective."""
    objective = optimizer_of(name, engine.policy, **settings).objective  # type: ignore[attr-defined]
    engine.policy_gradient(objective, engine.rows(batch, objective))
    found: Tensor = engine.policy.actor_parameters.gradient.clone()
    return found


@BOTH_ENGINES
@pytest.mark.parametrize("variant", ROLLBACKS)
def test_untriggered_gradient_is_that_of_ppo_clip(variant: str, engine: str) -> None:
    for kind in ("masked", "gaussian"):
        near, batch = moved(kind, engine, 1e-3)
        assert torch.equal(gradient(near, batch, "truly_ppo", variant=variant),
                           gradient(near, batch, "ppo_clip"))  # fmt: skip
        far, batch = moved(kind, engine, 0.3)
        assert not torch.equal(gradient(far, batch, "truly_ppo", variant=variant),
                               gradient(far, batch, "ppo_clip"))  # fmt: skip


def test_ppo_rb_without_rollback_is_ppo_clip() -> None:
    far, batch = moved("gaussian", "torch", 0.3)
    found = gradient(far, batch, "truly_ppo", variant="ppo_rb", rollback_coefficient=0.0)
    torch.testing.assert_close(found, gradient(far, batch, "ppo_clip"))


@pytest.mark.parametrize("variant", ROLLBACKS)
def test_engines_agree_where_samples_are_triggered(variant: str) -> None:
    for kind in ("masked", "gaussian", "multi_categorical"):
        first, second = (
            gradient(*moved(kind, engine, 0.3), "truly_ppo", variant=variant)
            for engine in ("torch", "auto")
        )
        torch.testing.assert_close(second, first, rtol=1e-9, atol=1e-12)


def test_rollback_keeps_kl_smaller_than_clip() -> None:
    kls = {}
    for variant in ("truly_ppo", "tr_ppo", "ppo_clip"):
        name, policy = "ppo_clip" if variant == "ppo_clip" else "truly_ppo", policy_of("gaussian")
        batch = batch_for(policy, "gaussian")
        settings = {"variant": variant, "learning_rate": 1e-2, "num_epochs": 30}
        optimizer_of(name, policy, **settings).update(batch, 0.0)
        kls[variant] = true_kl(policy, batch, "gaussian")
    assert kls["truly_ppo"] < 0.1
    assert min(kls["tr_ppo"], kls["ppo_clip"]) > 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "tr"}, "algo.variant=tr"),
        ({"variant": "tr_ppo", "rollback_coefficient": 0.1}, "tr_ppo has no rollback"),
        ({"rollback_coefficient": -1}, "rollback_coefficient=-1: expected a number at least 0"),
    ],
)
def test_impossible_variants_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of("truly_ppo", **settings)
