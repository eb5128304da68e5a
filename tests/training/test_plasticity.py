"""The diagnosis of plasticity and collapse: against literal numbers, autograd and other engines."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines_available import ENGINES
from gymnasium.spaces import Box, Dict, Discrete
from learning_loop import small_policy
from made_batches import KINDS, batch_for, policy_of
from same_runs import assert_same_run
from several_ranks import on_ranks
from torch import Tensor

import rlkl
from rlkl.engines.make import make_engine
from rlkl.envs.observations import ObservationEncoder
from rlkl.models.policy import Inputs
from rlkl.training.diagnostics import diagnose, dormant_share, effective_rank
from rlkl.training.report import DIAGNOSIS_TAGS, Report
from rlkl.utils.ranks import ALONE, Ranks


def test_effective_rank_of_known_singular_values() -> None:
    features = torch.diag(torch.tensor([3.0, -2.0, 1.0]))
    assert effective_rank(features) == 3
    assert effective_rank(features, loss=0.2) == 2  # 3 + 2 of 6 are above 4.8
    assert effective_rank(features, loss=0.5) == 1  # 3 of 6 is enough
    assert effective_rank(torch.diag(torch.tensor([1.0, 0.02, 0.005]))) == 2


def test_effective_rank_ignores_rotations() -> None:
    rows, columns = (torch.linalg.qr(torch.randn(n, 3))[0] for n in (50, 8))
    assert effective_rank(rows @ torch.diag(torch.tensor([1.0, 2, 3])) @ columns.T) == 3


def test_effective_rank_of_degenerate_features() -> None:
    assert effective_rank(torch.ones(5, 3)) == 1
    assert effective_rank(torch.zeros(5, 3)) == 0
    assert math.isnan(effective_rank(torch.tensor([[1.0, math.inf]])))


def test_dormant_share_counts_all_layers() -> None:
    # Means 0.5 and 1: dormant up to 0.0125 and 0.025, so two of four, and one of two.
    layers = [torch.tensor([0.0125, 0.0, 1.0, 0.9875]), torch.tensor([0.01, 1.99])]
    assert dormant_share(layers) == pytest.approx(3 / 6)
    assert dormant_share(layers, threshold=1.0) == pytest.approx(3 / 6)
    assert dormant_share([torch.zeros(3)]) == 1
    assert math.isnan(dormant_share([]))


def kill_units(layer: Any, units: list[int]) -> None:
    """Make the input of some units' activation -1 in every state."""
    layer.weight.data[units] = 0
    layer.bias.data[units] = -1


def test_dead_relu_units_are_dormant() -> None:
    policy = small_policy(
        4,
        Box(-1, 1, (2,)),
        activation="relu",
        encoder_hidden_sizes=[10],
        actor_hidden_sizes=[6],
        critic_hidden_sizes=[16, 4],
    )
    for parameters in (policy.actor_parameters, policy.critic_parameters):
        for tensor in parameters.tensors:
            tensor.data += 0.2 * (tensor.ndim == 1)  # biases, so that no unit starts dormant
    batch = batch_for(policy, "gaussian")
    before = diagnose(make_engine(policy), batch)
    assert before["plasticity/policy_dormant"] == before["plasticity/value_dormant"] == 0
    kill_units(policy.actor.encoder.vector[0], [0, 7, 9])
    kill_units(policy.actor.head.network[0], [5])
    kill_units(policy.critic.head[2], [0, 1, 3])
    found = diagnose(make_engine(policy), batch)
    assert found["plasticity/policy_dormant"] == 4 / 16
    assert found["plasticity/value_dormant"] == 3 / 30
    assert found["plasticity/policy_rank"] <= 5 < before["plasticity/policy_rank"]
    assert found["plasticity/value_rank"] == 1


def test_unit_that_rarely_fires_is_dormant() -> None:
    policy = small_policy(1, Discrete(2), activation="relu", actor_hidden_sizes=[2])
    policy.actor.head[0].weight.data.fill_(1.0)
    policy.actor.head[0].bias.data.copy_(torch.tensor([0.0, -92.0]))
    inputs = Inputs({"vector": torch.arange(101.0)[:, None]})
    batch = replace(batch_for(small_policy(4, Discrete(2)), "categorical", 101), inputs=inputs)
    # The means are 50 and 36 / 101: the second unit has 0.014 of its layer's mean.
    assert diagnose(make_engine(policy), batch)["plasticity/policy_dormant"] == 1 / 2


def expected_norms(policy: Any, batch: Any, network: str) -> list[float]:
    """Return the norm of each layer's gradient, by autograd of the loss as the field writes it."""
    if network == "policy":
        advantages = batch.advantages - batch.advantages.mean()
        advantages = advantages / batch.advantages.std()
        log_prob = policy.distribution(batch.inputs).log_prob(batch.actions)
        loss = -((log_prob - batch.old_log_prob).exp() * advantages).mean()
        head, encoder = policy.actor.head, policy.actor.encoder
        head = getattr(head, "network", head)
    else:
        loss = 0.5 * (policy.values(batch.inputs) - batch.returns).square().mean()
        head, encoder = policy.critic.head, policy.critic.encoder
    layers = [*encoder.vector[::2], *head[::2]]
    norms = []
    for layer in layers:
        gradients: tuple[Tensor, ...] = torch.autograd.grad(
            loss, list(layer.parameters()), retain_graph=True
        )
        norms.append(math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients)))
    return norms


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_gradient_norms_equal_autograds(kind: str, engine: str) -> None:
    sizes = {"encoder_hidden_sizes": [8], "actor_hidden_sizes": [7, 6]}
    policy = policy_of(kind, dtype=torch.float64, engine=engine, **sizes)
    batch = batch_for(policy, kind)
    policy.actor_parameters.vector.data.mul_(1.1)  # after an update the ratio is not 1
    found = diagnose(make_engine(policy), batch)
    for name, hidden in (("policy", 3), ("value", 2)):
        tags = [f"plasticity/{name}_grad_norm_{n}" for n in [*range(1, hidden + 1), "output"]]
        assert [found[tag] for tag in tags] == pytest.approx(expected_norms(policy, batch, name))
        assert f"plasticity/{name}_grad_norm_{hidden + 1}" not in found


def test_smallest_entropy_is_of_one_state() -> None:
    policy = small_policy(1, Discrete(2), actor_hidden_sizes=[])
    batch = batch_for(small_policy(4, Discrete(2)), "categorical", 3)
    vectors = torch.tensor([[0.0], [1.0], [-2.0]])
    inputs = batch.inputs._replace(observations={"vector": vectors})
    layer = policy.actor.head[0]
    layer.weight.data[:, 0] = torch.tensor([math.log(3), 0.0])
    layer.bias.data.zero_()
    found = diagnose(make_engine(policy), replace(batch, inputs=inputs))
    # Probabilities (0.5, 0.5), (0.75, 0.25) and (0.1, 0.9).
    entropy = -0.1 * math.log(0.1) - 0.9 * math.log(0.9)
    assert found["plasticity/entropy_min"] == pytest.approx(entropy, rel=1e-6)
    assert math.isnan(found["plasticity/policy_dormant"])  # there is no hidden layer


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_policy_is_diagnosed(kind: str) -> None:
    policy = policy_of(kind)
    parameters = policy.actor_parameters.vector.detach().clone()
    found = diagnose(make_engine(policy), batch_for(policy, kind))
    assert set(found) <= set(DIAGNOSIS_TAGS)
    assert all(math.isfinite(value) for value in found.values())
    assert found["plasticity/policy_grad_norm_1"] > 0
    assert torch.equal(policy.actor_parameters.vector, parameters)


def diagnosed(ranks: Ranks) -> dict[str, float]:
    policy = policy_of("gru", dtype=torch.float64)
    batch = batch_for(policy, "gru", 100)
    return diagnose(make_engine(policy, ranks), batch)


@pytest.mark.slow  # two processes, each with an import of torch
def test_two_ranks_diagnose_like_one(tmp_path: Path) -> None:
    alone = diagnosed(ALONE)
    for found in on_ranks(2, tmp_path, diagnosed):
        assert found == pytest.approx(alone, rel=1e-9)


def test_images_and_a_shared_encoder_are_diagnosed() -> None:
    space = Dict({"image": Box(0, 255, (12, 12, 1), np.uint8), "vector": Box(-1, 1, (2,))})
    encoder = ObservationEncoder(space)
    for kind, shared in (("strided", True), ("impala", False)):
        settings: dict[str, Any] = {"image_features": 5, "image_encoder": kind}
        policy = small_policy(encoder, Discrete(2), share_encoder=shared, **settings)
        batch = batch_for(small_policy(4, Discrete(2)), "categorical", 6)
        space.seed(1)
        observations = policy.tensors(encoder.stack([space.sample() for _ in range(6)]))
        inputs = batch.inputs._replace(observations=observations)
        found = diagnose(make_engine(policy), replace(batch, inputs=inputs))
        assert 1 <= found["plasticity/policy_rank"] <= 6
        assert ("plasticity/value_grad_norm_2" in found) is not shared  # its encoder is the actor's


def config(run_dir: Path, interval: int = 2, **changes: Any) -> rlkl.TrainConfig:
    logger = rlkl.LoggerConfig(False, diagnosis_interval=interval, progress="none")
    return rlkl.TrainConfig(
        env=rlkl.EnvConfig("CartPole-v1", 2),
        policy=rlkl.PolicyConfig(actor_hidden_sizes=[8], critic_hidden_sizes=[8]),
        logger=logger,
        checkpoint=rlkl.CheckpointConfig(interval=3),
        critic=rlkl.CriticConfig(num_epochs=2, worker="never"),
        rollout_steps=16,
        total_env_steps=160,
        eval_episodes=0,
        run_dir=str(run_dir),
        **changes,
    )


def rows_of(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_diagnosis_changes_no_other_number(tmp_path: Path) -> None:
    rlkl.train(config(tmp_path / "with"))
    rlkl.train(config(tmp_path / "without", 0))
    found, plain = rows_of(tmp_path / "with"), rows_of(tmp_path / "without")
    assert not set(plain[0]) & set(DIAGNOSIS_TAGS)
    assert set(found[0]) == {*plain[0], *DIAGNOSIS_TAGS}
    ranks = [bool(row["plasticity/policy_rank"]) for row in found]
    assert ranks == [False, True, False, True, False]
    for row, before in zip(found, plain, strict=True):
        same = {tag for tag in before if not tag.startswith("time/")}
        assert {tag: row[tag] for tag in same} == {tag: before[tag] for tag in same}


class Stopping:
    """A logger that interrupts a run at an iteration."""

    def __init__(self, iteration: int) -> None:
        self.left = iteration

    def log(self, report: Report) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt

    def close(self, status: str) -> None:
        pass


@pytest.mark.slow
def test_diagnosis_of_a_resumed_run_is_exact(tmp_path: Path) -> None:
    rlkl.train(config(tmp_path / "whole"))
    rlkl.Trainer(config(tmp_path / "run")).train(loggers=[Stopping(3)])
    rlkl.resume(tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
def test_diagnosis_switched_on_later_keeps_columns(tmp_path: Path) -> None:
    rlkl.Trainer(config(tmp_path / "run", 0)).train(loggers=[Stopping(3)])
    logger = rlkl.LoggerConfig(tensorboard=False, diagnosis_interval=1, progress="none")
    rlkl.resume(tmp_path / "run", lambda before: replace(before, logger=logger))
    rows = rows_of(tmp_path / "run")
    assert len(rows) == 5
    assert not set(rows[0]) & set(DIAGNOSIS_TAGS)
