"""Advantages recomputed between epochs: the order of turns, and what each of them sees."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from algorithm_checks import BOTH_ENGINES, algorithms_with
from learning_loop import config_of
from several_ranks import on_ranks

from rlkl.algos.alternating import share
from rlkl.algos.critic import CriticConfig
from rlkl.algos.ppo_clip import PPOClipConfig
from rlkl.envs.make import EnvConfig
from rlkl.models.policy import PolicyConfig
from rlkl.rollouts.make import make_batch
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.training.nonfinite_guard import copied
from rlkl.utils.errors import ConfigError
from rlkl.utils.ranks import ALONE, Ranks

TURNS = 3


def config(algo: str = "ppo_clip", engine: str = "auto", **settings: Any) -> TrainConfig:
    """Return the config of a run with recomputation, of 64 steps in a rollout."""
    of_algo = {"num_epochs": TURNS, "num_minibatches": 2, "recompute_advantages": True}
    given = {"critic": CriticConfig(num_epochs=TURNS, learning_rate=0.01)} | settings
    return TrainConfig(
        algo=config_of(algo, **of_algo),
        env=EnvConfig("Pendulum-v1", 4, backend="sync", kwargs={"max_episode_steps": 10}),
        rollout_steps=16,
        scale_rewards=True,
        **{"policy": PolicyConfig([8], [8], engine=engine)} | given,
    )


@pytest.fixture
def learners() -> Iterator[Any]:
    made: list[Learner] = []

    def make(config: TrainConfig) -> Learner:
        made.append(Learner(config))
        return made[-1]

    yield make
    for learner in made:
        learner.close()


def advantages_seen(learner: Learner) -> list[torch.Tensor]:
    """Return a list that gets the advantages of each epoch of the policy."""
    seen: list[torch.Tensor] = []
    rows = learner.engine.rows

    def recorded(batch: Any, objective: Any) -> Any:
        seen.append(batch.advantages.clone())
        return rows(batch, objective)

    learner.engine.rows = recorded  # type: ignore[method-assign]
    return seen


@BOTH_ENGINES
def test_each_epoch_sees_the_latest_critic(engine: str, learners: Any) -> None:
    learner, other = (learners(config(engine=engine)) for _ in range(2))
    seen = advantages_seen(learner)
    learner.iterate()
    assert len(seen) == TURNS
    # The other run's policy stays; its critic makes an epoch on each new batch.
    rollout = other.collector.collect()
    other.reward_scaler.update(rollout.rewards, rollout.ends, rollout.is_transition)
    for advantages in seen:
        batch = make_batch(rollout, other.engine, 0.99, 0.95, other.reward_scaler)
        expected = (batch.advantages - batch.advantages.mean()) / batch.advantages.std()
        torch.testing.assert_close(advantages, expected, rtol=1e-4, atol=1e-5)
        other.critic_fit.epochs(batch, 0.0, 1)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)
    assert torch.equal(
        learner.policy.critic_parameters.vector, other.policy.critic_parameters.vector
    )


def test_critic_ends_its_turns_after_early_stop(learners: Any) -> None:
    whole = config()
    algo = replace(whole.algo, target_kl=1e-9)
    learner, stopped = learners(whole), learners(replace(whole, algo=algo))
    reports = [each.iterate().scalars for each in (learner, stopped)]
    assert reports[0]["optim/epochs"] == TURNS
    assert reports[1]["optim/epochs"] == 1
    assert torch.equal(
        learner.policy.critic_parameters.vector, stopped.policy.critic_parameters.vector
    )
    assert reports[0]["value/loss"] == reports[1]["value/loss"]


@algorithms_with("recompute_advantages")
def test_every_algorithm_recomputes_in_each_epoch(name: str, learners: Any) -> None:
    learner = learners(config(name))
    seen = advantages_seen(learner)
    learner.iterate()
    assert len({float(advantages[0]) for advantages in seen[:TURNS]}) == TURNS


@pytest.mark.parametrize(
    ("num_epochs", "num_turns", "expected"),
    [
        (3, 3, [1, 1, 1]),
        (5, 2, [3, 2]),
        (1, 3, [1, 0, 0]),
        (10, 4, [3, 2, 3, 2]),
    ],
)
def test_epochs_are_shared_among_turns(
    num_epochs: int, num_turns: int, expected: list[int]
) -> None:
    assert [share(num_epochs, turn, num_turns) for turn in range(num_turns)] == expected


def test_resumed_run_recomputes_identically(learners: Any) -> None:
    whole, resumed = (learners(config()) for _ in range(2))
    whole.iterate()
    resumed.load_state_dict(copied(whole.state_dict()))
    for learner in (whole, resumed):
        learner.iterate()
    for ours, theirs in zip(parameters_of(whole), parameters_of(resumed), strict=True):
        assert torch.equal(ours, theirs)


def parameters_of(learner: Learner) -> list[torch.Tensor]:
    """Return the parameters of actor and critic."""
    policy = learner.policy
    return [policy.actor_parameters.vector.detach(), policy.critic_parameters.vector.detach()]


def trained(ranks: Ranks) -> np.ndarray[Any, Any]:
    """Return the parameters after two updates."""
    with closing(Learner(config(engine="torch"))) as learner:
        learner.iterate()
        learner.iterate()
        return torch.cat(parameters_of(learner)).numpy().copy()


@pytest.mark.slow
def test_two_ranks_recompute_as_one(tmp_path: Path) -> None:
    first, second = on_ranks(2, tmp_path, trained)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, trained(ALONE), rtol=1e-3, atol=1e-4)


def test_recomputation_refuses_memory_worker_and_single_epoch() -> None:
    with pytest.raises(ConfigError, match=r"policy\.memory=gru: the stored memory states"):
        config(policy=PolicyConfig(memory="gru"))
    with pytest.raises(ConfigError, match=r"critic\.worker=always: .* use critic.worker=auto"):
        config(critic=CriticConfig(worker="always"))
    with pytest.raises(ConfigError, match=r"changes nothing with algo\.num_epochs=1"):
        PPOClipConfig(recompute_advantages=True, num_epochs=1)
