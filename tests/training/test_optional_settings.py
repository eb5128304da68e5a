"""Settings that are off by default, all at once: engines agree, runs resume, ranks train as one."""

import copy
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from algorithm_checks import BOTH_ENGINES, EVERY_ALGORITHM, algorithms_with, optimizer_of
from engines_available import HAS_NUMPY_ENGINE
from learning_loop import config_of
from made_batches import batch_for, policy_of
from numpy.typing import NDArray
from several_ranks import on_ranks
from torch import Tensor
from torch.distributions import Normal

from rlkl.algos import make_policy_optimizer
from rlkl.algos.critic import CriticConfig, CriticFit
from rlkl.engines.make import make_engine
from rlkl.envs.make import EnvConfig
from rlkl.models.policy import PolicyConfig
from rlkl.rollouts.make import make_batch
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.training.nonfinite_guard import copied
from rlkl.utils.errors import ConfigError
from rlkl.utils.ranks import ALONE, Ranks

OF_ADAM = {"adam_beta1": 0.8, "adam_beta2": 0.95, "weight_decay": 0.1}
OF_RATE = {"learning_rate_warmup": 0.5}
OF_ALGO: dict[str, Any] = {
    "num_epochs": 2,
    "entropy_coefficient": 0.1,
    "entropy_coefficient_schedule": "linear",
    **OF_ADAM,
    **OF_RATE,
}
OF_CRITIC: dict[str, Any] = {
    **OF_ADAM,
    **OF_RATE,
    "num_epochs": 2,
    "loss": "huber",
    "huber_delta": 0.5,
    "normalize_values": True,
}


def config(algo: str = "ppo_clip", engine: str = "auto", **of_critic: Any) -> TrainConfig:
    """Return the config of a run whose rollouts have 64 steps."""
    return TrainConfig(
        algo=config_of(algo, **OF_ALGO),
        env=EnvConfig("Pendulum-v1", 4, backend="sync", kwargs={"max_episode_steps": 10}),
        policy=PolicyConfig([8], [8], engine=engine),
        critic=CriticConfig(**OF_CRITIC | of_critic),
        rollout_steps=16,
        total_env_steps=64 * 8,
    )


@pytest.fixture
def learners() -> Iterator[Any]:
    """Return a function that makes learners, which are closed after the test."""
    made: list[Learner] = []

    def make(config: TrainConfig) -> Learner:
        made.append(Learner(config))
        return made[-1]

    yield make
    for learner in made:
        learner.close()


def parameters_of(learner: Learner) -> Tensor:
    """Return the parameters of actor and critic."""
    policy = learner.policy
    vectors = policy.actor_parameters.vector, policy.critic_parameters.vector
    return torch.cat(vectors).detach().clone()


def iterated(learner: Learner, count: int = 3) -> Tensor:
    """Iterate a learner; return its parameters."""
    for _ in range(count):
        learner.iterate()
    return parameters_of(learner)


@pytest.mark.skipif(not HAS_NUMPY_ENGINE, reason="compares two engines")
@pytest.mark.parametrize("algo", ["ppo_clip", "trpo"])
def test_engines_agree_on_all_settings(algo: str, learners: Any) -> None:
    ours, theirs = (iterated(learners(config(algo, name)), 2) for name in ("numpy", "torch"))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@BOTH_ENGINES
def test_run_with_all_settings_resumes_identically(engine: str, learners: Any) -> None:
    whole, resumed = (learners(config(engine=engine)) for _ in range(2))
    iterated(whole, 2)
    resumed.load_state_dict(copied(whole.state_dict()))
    assert torch.equal(iterated(whole), iterated(resumed))


@pytest.mark.skipif(not hasattr(os, "fork") or not HAS_NUMPY_ENGINE, reason="needs a worker")
def test_worker_fits_identically_with_all_settings(learners: Any) -> None:
    found = [iterated(learners(config(worker=worker))) for worker in ("always", "never")]
    assert torch.equal(*found)


def trained(ranks: Ranks) -> NDArray[Any]:
    """Return the parameters after three updates."""
    with closing(Learner(config(engine="torch"))) as learner:
        return iterated(learner).numpy()


@pytest.mark.slow
def test_two_ranks_train_as_one_with_all_settings(tmp_path: Path) -> None:
    first, second = on_ranks(2, tmp_path, trained)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, trained(ALONE), rtol=1e-3, atol=1e-4)


def batches_of(learner: Learner, count: int) -> list[Any]:
    """Iterate a learner; return each update's batch, and the batch in units of returns."""
    found, collect, update = [], learner.collector.collect, learner.updates.update

    def recorded(batch: Any, *rest: Any) -> Any:
        found.append((batch, make_batch(rollouts[-1], learner.engine, 0.99, 0.95)))
        return update(batch, *rest)

    rollouts: list[Any] = []

    def collected() -> Any:
        rollouts.append(collect())
        return rollouts[-1]

    learner.updates.update = recorded  # type: ignore[method-assign]
    learner.collector.collect = collected  # type: ignore[method-assign]
    for _ in range(count):
        learner.iterate()
    return found


@BOTH_ENGINES
def test_normalized_values_give_advantages_in_units_of_returns(engine: str, learners: Any) -> None:
    learner = learners(config(engine=engine))
    (first, plain), (second, of_outputs) = batches_of(learner, 2)
    # Statistics start to move after the first iteration.
    for key in ("advantages", "returns", "old_values"):
        assert torch.equal(getattr(first, key), getattr(plain, key))
    returns = plain.returns.double()
    mean, std = float(returns.mean()), float(returns.std(correction=0))
    assert std > 5
    torch.testing.assert_close(second.old_values, of_outputs.old_values, rtol=1e-4, atol=1e-4)
    values, targets = (mean + std * each for each in (second.old_values, second.returns))
    torch.testing.assert_close(second.advantages, targets - values, rtol=1e-3, atol=1e-2)
    assert second.returns.abs().max() < 5 < targets.abs().max()


@pytest.mark.parametrize("part", ["actor", "critic"])
@BOTH_ENGINES
def test_updates_match_torch_adamw(part: str, engine: str) -> None:
    policy = policy_of("gaussian", engine=engine, dtype=torch.float64)
    batch = batch_for(policy, "gaussian", 60)
    settings = {"num_epochs": 4, "num_minibatches": 1, "max_grad_norm": None, **OF_ADAM}
    network = getattr(policy, part)
    theirs = copy.deepcopy(network)
    adamw = torch.optim.AdamW(theirs.parameters(), 1e-2, (0.8, 0.95), 1e-5, weight_decay=0.1)
    for _ in range(4):
        adamw.zero_grad()
        outputs = theirs(batch.inputs)
        if part == "critic":
            loss = 0.5 * (outputs.squeeze(-1) - batch.returns).square().mean()
        else:
            log_prob = Normal(outputs[:, :2], outputs[:, 2:].exp()).log_prob(batch.actions).sum(-1)
            loss = -((log_prob - batch.old_log_prob).exp() * batch.advantages).mean()
        loss.backward()
        adamw.step()
    made, generator = make_engine(policy), torch.Generator()
    if part == "critic":
        CriticFit(CriticConfig(learning_rate=1e-2, **settings), made, generator).update(batch, 0.0)
    else:
        algo = config_of(
            "ppo_kl_fixed",
            learning_rate=1e-2,
            kl_coefficient=0.0,
            advantage_standardization="none",
            **settings,
        )
        make_policy_optimizer(algo, made, generator).update(batch, 0.0)
    expected = torch.cat([each.detach().reshape(-1) for each in theirs.parameters()])
    found = torch.cat([each.detach().reshape(-1) for each in network.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


CONSTANT = {
    "learning_rate_schedule": "constant",
    "max_kl_schedule": "constant",
    "step_size_schedule": "constant",
}


@BOTH_ENGINES
@EVERY_ALGORITHM
def test_linear_entropy_coefficient_falls_to_zero(name: str, engine: str) -> None:
    found = []
    for progress, coefficient, schedule in (
        (0.75, 0.4, "linear"),
        (0.75, 0.1, "constant"),
        (0.0, 0.4, "linear"),
        (0.0, 0.4, "constant"),
    ):
        policy = policy_of("categorical", engine=engine)
        settings = {"num_epochs": 2, "entropy_coefficient": coefficient, **CONSTANT}
        optimizer = optimizer_of(name, policy, entropy_coefficient_schedule=schedule, **settings)
        optimizer.update(batch_for(policy, "categorical"), progress)
        found.append(policy.actor_parameters.vector.detach().clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])
    assert not torch.allclose(found[0], found[2], rtol=1e-5, atol=1e-7)


@BOTH_ENGINES
@algorithms_with("learning_rate_warmup")
def test_warmup_raises_learning_rates(name: str, engine: str) -> None:
    if name == "ppo_kl_lr":
        with pytest.raises(ConfigError, match=r"learning_rate_warmup=0\.2: .* the KL sets"):
            config_of(name, learning_rate_warmup=0.2)
        return
    settings = {"learning_rate": 0.01, "learning_rate_warmup": 0.2, "num_epochs": 1}
    policy = policy_of("categorical", engine=engine)
    batch = batch_for(policy, "categorical")
    optimizer = optimizer_of(name, policy, learning_rate_schedule="constant", **settings)
    fit = CriticFit(CriticConfig(**settings), make_engine(policy), torch.Generator())
    for progress, expected in ((0.0, 1e-4), (0.1, 5.05e-3), (0.2, 0.01), (0.9, 0.01)):
        assert optimizer.update(batch, progress).metrics["optim/lr"] == pytest.approx(expected)
        fit.update(batch, progress)
        assert fit.adam.learning_rate == pytest.approx(expected)


@pytest.mark.parametrize("part", ["algo", "critic"])
def test_warmup_without_annealing_is_refused(part: str) -> None:
    plain = TrainConfig(algo=config_of("ppo_clip"), critic=CriticConfig())
    warm = replace(getattr(plain, part), learning_rate_warmup=0.1)
    with pytest.raises(ConfigError, match=rf"{part}\.learning_rate_warmup=0\.1: with anneal=false"):
        replace(plain, anneal=False, **{part: warm})


def test_resumed_run_keeps_normalization_of_values(learners: Any) -> None:
    learner = learners(config())
    learner.iterate()
    state = learner.state_dict()["critic_fit"]["returns"]
    assert state["count"] == 64
    other = learners(replace(config(), critic=CriticConfig()))
    assert "returns" not in other.state_dict()["critic_fit"]
