"""PPO-EWMA: its moving average, its objective, and its limits."""

from typing import Any

import pytest
import torch
from algorithm_checks import BOTH_ENGINES, BOTH_KINDS, in_torch, optimizer_of
from made_batches import batch_for, policy_of

from rlkl.algos.ppo_ewma import MovingAverage, PPOEWMAConfig


def test_average_has_known_values() -> None:
    average = MovingAverage(torch.zeros(1, dtype=torch.float64), 0.5)
    found = []
    for number in (8.0, 2.0, 1.0):
        average.add(torch.tensor([number], dtype=torch.float64))
        found.append(float(average.vector))
    # 8; (½ · 8 + 2) / 1½; (¼ · 8 + ½ · 2 + 1) / 1¾.
    assert found == pytest.approx([8, 4, 16 / 7])


def test_decay_0_keeps_last_vector() -> None:
    average = MovingAverage(torch.zeros(3), 0.0)
    for number in (1.0, 2.0, 3.0):
        average.add(torch.full((3,), number))
        assert average.vector.tolist() == [number] * 3


def test_default_average_is_as_old_as_an_update() -> None:
    # The paper's rule: π_prox is on average as old as π_old is at most.
    config = PPOEWMAConfig()
    age = config.proximal_decay / (1 - config.proximal_decay)
    assert age == pytest.approx(config.num_epochs * config.num_minibatches, rel=0.02)


@pytest.mark.parametrize("parts", [2, 4])
def test_smaller_steps_with_same_age_lag_equally(parts: int) -> None:
    # Parameters move by 1 for each batch, in one step or in several.
    for each in (1, parts):
        average = MovingAverage(torch.zeros((), dtype=torch.float64), each / (each + 1))
        for step in range(80 * each):
            average.add(torch.tensor(step / each))
        assert step / each - float(average.vector) == pytest.approx(1.0, rel=1e-6)


@BOTH_KINDS
@BOTH_ENGINES
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_first_step_is_that_of_ppo_clip(kind: str, engine: str, decay: float) -> None:
    found = []
    for name in ("ppo_clip", "ppo_ewma"):
        policy = policy_of(kind, engine=engine, dtype=torch.float64)
        once = {"num_epochs": 1, "num_minibatches": 1, "proximal_decay": decay}
        optimizer_of(name, policy, **once).update(batch_for(policy, kind), 0.0)
        found.append(policy.actor_parameters.vector.detach())
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


@BOTH_KINDS
@BOTH_ENGINES
def test_gradient_is_that_of_decoupled_objective(kind: str, engine: str) -> None:
    policy = policy_of(kind, engine=engine, dtype=torch.float64)
    batch = batch_for(policy, kind)
    settings = {"num_epochs": 1, "num_minibatches": 1, "max_grad_norm": None, "clip_ratio": 0.05}
    optimizer: Any = optimizer_of("ppo_ewma", policy, **settings)
    generator = torch.Generator().manual_seed(3)
    vector = policy.actor_parameters.vector.data
    change = 0.1 * torch.randn(len(vector), generator=generator, dtype=torch.float64)
    optimizer.proximal.add(vector + change)
    prox = policy_of(kind, engine="torch", dtype=torch.float64)
    prox.actor_parameters.vector.data.copy_(vector + change)
    vector.add_(0.1 * torch.randn(len(vector), generator=generator, dtype=torch.float64))
    now = policy_of(kind, engine="torch", dtype=torch.float64)
    now.actor_parameters.vector.data.copy_(vector)
    optimizer.update(batch, 0.0)

    advantages = (batch.advantages - batch.advantages.mean()) / batch.advantages.std()
    log_prob, of_prox = (
        in_torch(p.distribution(batch.inputs).parameters, kind).log_prob(batch.actions)
        for p in (now, prox)
    )
    of_prox = of_prox.detach()
    ratio = (log_prob - batch.old_log_prob).exp()
    clipped = (log_prob - of_prox).exp().clip(0.95, 1.05) * (of_prox - batch.old_log_prob).exp()
    assert float((ratio != clipped).double().mean()) > 0.1
    loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
    tensors = now.actor_parameters.tensors
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, tensors)])
    found = policy.actor_parameters.gradient
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_average_follows_every_step() -> None:
    policy = policy_of("categorical")
    optimizer: Any = optimizer_of("ppo_ewma", policy, num_epochs=2, proximal_decay=0.8)
    vectors = [policy.actor_parameters.vector.detach().clone()]
    step = optimizer.adam.step

    def recorded(max_grad_norm: float | None = None) -> Any:
        norm = step(max_grad_norm)
        vectors.append(policy.actor_parameters.vector.detach().clone())
        return norm

    optimizer.adam.step = recorded
    for seed in range(2):
        optimizer.update(batch_for(policy, "categorical", seed=seed), 0.0)
    assert len(vectors) == 1 + 2 * 2 * 4
    weights = 0.8 ** torch.arange(len(vectors) - 1, -1, -1)
    expected = (weights[:, None] * torch.stack(vectors)).sum(0) / weights.sum()
    torch.testing.assert_close(optimizer.proximal.vector, expected, rtol=1e-5, atol=1e-6)


def test_half_batches_with_half_steps_move_equally() -> None:
    # In the limit of small steps the gradient is constant, and Adam's steps are proportional to
    # the learning rate; both runs see the same rows.
    found = []
    for parts, decay in ((1, 0.5), (2, 2 / 3)):
        policy = policy_of("categorical", dtype=torch.float64)
        start = policy.actor_parameters.vector.detach().clone()
        settings: dict[str, Any] = {"num_epochs": 20 * parts, "num_minibatches": 1}
        settings |= {"learning_rate": 1e-7 / parts, "adam_epsilon": 1e-15}
        optimizer: Any = optimizer_of("ppo_ewma", policy, proximal_decay=decay, **settings)
        optimizer.update(batch_for(policy, "categorical", size=64), 0.0)
        vector = policy.actor_parameters.vector.detach()
        found.append(torch.stack((vector - start, vector - optimizer.proximal.vector)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-12)
