"""A rollout of tensors gives the batch of a rollout of arrays, without waiting for the device."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from learning_loop import small_policy
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode

import rlkl.rollouts.batch as batch_module
from rlkl.engines.make import make_engine
from rlkl.engines.torch import TorchEngine, TorchPolicy
from rlkl.envs.array_view import ArrayView
from rlkl.envs.observations import VECTOR
from rlkl.envs.tensor_env import TensorEnvironment
from rlkl.envs.torch_tasks import TorchAcrobot, TorchCartPole, TorchPendulum
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.models.policy import Inputs
from rlkl.numerics.normalization import ValueNormalizer
from rlkl.rollouts.collector import BaseCollector
from rlkl.rollouts.make import (
    BatchMaker,
    collector_for,
    make_batch,
    make_normalizer,
    make_reward_scaler,
)
from rlkl.utils.errors import BrokenEnvironmentError

GRU = {"memory": "gru", "memory_size": 4, "sequence_length": 4}
MAKERS: dict[str, Any] = {
    "cartpole": lambda: TorchCartPole(4, max_episode_steps=13),
    "pendulum": lambda: TorchPendulum(4, max_episode_steps=5),
    "acrobot": lambda: TorchAcrobot(4, max_episode_steps=7),
    "next_step": lambda: CartPoleVectorEnv(4, max_episode_steps=13),
}


def environment(name: str, kind: str) -> Any:
    envs = MAKERS[name]()
    if kind == "tensors":
        return TensorEnvironment(envs)
    return VectorEnvironment(
        envs if name == "next_step" else ArrayView(envs), seeding=lambda seeds: seeds[0]
    )


def parts(name: str, kind: str, steps: int = 20, **settings: Any) -> tuple[BaseCollector, Any, Any]:
    """Return a collector with its normalizer and its reward scaler."""
    envs = environment(name, kind)
    policy = small_policy(envs.encoder, envs.action_space, **{"engine": "torch"} | settings)
    normalizer, scaler = make_normalizer(envs), make_reward_scaler(envs, envs.num_envs, 0.9)
    generator = Generator().manual_seed(0)
    engine = make_engine(policy)
    return (
        collector_for(envs)(envs, engine, steps, generator, [3] * 4, normalizer),
        normalizer,
        scaler,
    )


def tensors_of(batch: Any) -> dict[str, Tensor]:
    without = ("inputs", "reference_parameters")
    found = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name not in without}
    return found | batch.inputs.observations


@pytest.mark.parametrize("settings", [{}, GRU, {"memory": "lstm", "memory_size": 4}], ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_batch_is_that_of_arrays(name: str, settings: dict[str, Any]) -> None:
    kinds = {kind: parts(name, kind, **settings) for kind in ("tensors", "arrays")}
    ended = 0
    for _ in range(3):
        batches, rollouts = {}, {}
        for kind, (collector, normalizer, scaler) in kinds.items():
            rollout = rollouts[kind] = collector.collect()
            scaler.update(rollout.rewards, rollout.ends, rollout.is_transition)
            engine = collector.engine  # type: ignore[attr-defined]
            batches[kind] = make_batch(rollout, engine, 0.9, 0.8, scaler, 5.0)
            normalizer.update(rollout.raw_transitions)
        found, expected = map(tensors_of, batches.values())
        for key, tensor in expected.items():
            assert found[key].dtype == tensor.dtype
            torch.testing.assert_close(found[key], tensor, rtol=2e-5, atol=2e-6)
        first, second = rollouts.values()
        assert first.env_steps == second.env_steps
        assert first.num_transitions == second.num_transitions == len(batches["tensors"])
        assert len(first.episodes) == len(second.episodes)
        for one, other in zip(first.episodes, second.episodes, strict=True):
            assert (one.env_steps, one.length) == (other.env_steps, other.length)
            assert one.reward_sum == pytest.approx(other.reward_sum, rel=1e-5)
        sequences = [batch.inputs.sequences for batch in batches.values()]
        if settings:
            assert torch.equal(sequences[0].cells, sequences[1].cells)
            torch.testing.assert_close(sequences[0].states, sequences[1].states)
        ended += len(first.episodes)
    assert ended > 8


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kind", ["tensors", "arrays"])
def test_recomputed_advantages_are_those_of_new_batch(name: str, kind: str) -> None:
    collector, _, scaler = parts(name, kind)
    engine, rollout = collector.engine, collector.collect()  # type: ignore[attr-defined]
    scaler.update(rollout.rewards, rollout.ends, rollout.is_transition)
    settings = 0.9, 0.8, scaler, 5.0
    maker = BatchMaker(rollout, engine, *settings)
    first = maker.make()
    with torch.no_grad():
        for part in (engine.policy.critic_parameters, engine.policy.actor_parameters):
            part.vector.mul_(1.5)
    recomputed = maker.recompute(first)
    second = make_batch(rollout, engine, *settings)
    assert not torch.allclose(first.advantages, second.advantages)
    for key in ("advantages", "returns"):
        assert torch.equal(getattr(recomputed, key), getattr(second, key))
    for key in ("old_values", "old_log_prob", "old_parameters", "actions"):
        assert torch.equal(getattr(recomputed, key), getattr(first, key))


@pytest.mark.parametrize("kind", ["tensors", "arrays"])
def test_advantages_use_denormalized_values(kind: str) -> None:
    collector, _, _ = parts("pendulum", kind)
    engine, rollout = collector.engine, collector.collect()  # type: ignore[attr-defined]
    normalizer = ValueNormalizer()
    normalizer.update(np.array([1.0, 5.0, 9.0]))  # mean 5, standard deviation 3.26599
    plain = make_batch(rollout, engine, 0.0, 0.8)
    maker = BatchMaker(rollout, engine, 0.0, 0.8, None, None, normalizer)
    batch = maker.make()
    # Without a future, the return is the reward.
    expected = {
        "advantages": plain.returns - 5 - 3.26599 * plain.old_values,
        "returns": (plain.returns - 5) / 3.26599,
        "old_values": plain.old_values,
    }
    recomputed = maker.recompute(batch)
    for key, tensor in expected.items():
        torch.testing.assert_close(getattr(batch, key), tensor, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(getattr(recomputed, key), tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cartpole", "next_step"])
def test_truncation_bootstraps_its_final_observation(name: str) -> None:
    collector, _, _ = parts(name, "tensors", 60)
    collector.normalizer = None  # type: ignore[attr-defined]
    engine = collector.engine  # type: ignore[attr-defined]
    rollout = collector.collect()
    batch = make_batch(rollout, engine, 0.9, 0.0)
    advantages = torch.full(rollout.rewards.shape, torch.nan)
    advantages[rollout.is_transition] = batch.advantages
    shown = rollout.observations[VECTOR][1:]
    finals = rollout.final_observations[VECTOR] if name == "cartpole" else shown
    last, first = (
        engine.values(Inputs({VECTOR: rows.flatten(0, 1)})).view(60, 4)
        for rows in (finals, rollout.observations[VECTOR][:-1])
    )
    cut = rollout.truncated & ~rollout.terminated
    assert cut.sum() > 2
    assert rollout.terminated.sum() > 2
    torch.testing.assert_close(advantages[cut], 1 + 0.9 * last[cut] - first[cut])
    dead = rollout.terminated
    torch.testing.assert_close(advantages[dead], 1 - first[dead])
    batch = make_batch(rollout, engine, 0.9, 0.0, bootstrap_truncated=False)
    advantages[rollout.is_transition] = batch.advantages
    torch.testing.assert_close(advantages[dead | cut], 1 - first[dead | cut])


@pytest.mark.parametrize("name", MAKERS)
def test_first_minibatch_has_ratio_1_and_kl_0(name: str) -> None:
    collector, normalizer, _ = parts(name, "tensors")
    engine: TorchEngine = collector.engine  # type: ignore[attr-defined]
    for _ in range(2):
        rollout = collector.collect()
        batch = make_batch(rollout, engine, 0.9, 0.8)
        minibatch = next(batch.minibatches(3, Generator().manual_seed(0)))
        new = TorchPolicy(engine.policy.distribution(minibatch.inputs), minibatch)
        torch.testing.assert_close(new.ratio, torch.ones_like(new.ratio), rtol=0, atol=1e-6)
        torch.testing.assert_close(new.kl, torch.zeros_like(new.kl), rtol=0, atol=1e-7)
        normalizer.update(rollout.raw_transitions)


READS = {
    "cpu",
    "item",
    "tolist",
    "numpy",
    "nonzero",
    "__bool__",
    "__int__",
    "__float__",
    "__array__",
}
"""Functions that wait for the device."""


class Reads(TorchFunctionMode):
    """Counts the functions that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.__name__
        indices = args[1:2] if name in ("__getitem__", "__setitem__") else ()
        flat = [part for index in indices for part in (index if type(index) is tuple else (index,))]
        is_mask = any(isinstance(part, Tensor) and part.dtype == torch.bool for part in flat)
        if name in READS or is_mask:
            self.names.append(name)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "acrobot"])
def test_rollout_and_batch_wait_for_the_device_once(name: str) -> None:
    collector, normalizer, scaler = parts(name, "tensors")
    engine = collector.engine  # type: ignore[attr-defined]
    with Reads() as reads:
        rollout = collector.collect()
        scaler.update(rollout.rewards, rollout.ends, rollout.is_transition)
        make_batch(rollout, engine, 0.9, 0.8, scaler)
        normalizer.update(rollout.raw_transitions)
    assert reads.names == ["cpu", "numpy"]  # the array is that of the copy on the CPU


def test_reused_tensors_are_copied() -> None:
    class Reusing(TorchCartPole):
        """Returns the same tensors in every step."""

        kept: Any = None

        def step(self, actions: Tensor) -> Any:
            *results, infos = super().step(actions)
            given = [*results, infos["final_obs"]]
            if self.kept is None:
                self.kept = [tensor.clone() for tensor in given]
            for kept, tensor in zip(self.kept, given, strict=True):
                kept.copy_(tensor)
            *kept, final = self.kept
            return *kept, {"final_obs": final}

    batches = []
    for kind in (TorchCartPole, Reusing):
        envs = TensorEnvironment(kind(4, max_episode_steps=6))
        engine = make_engine(small_policy(envs.encoder, envs.action_space, engine="torch"))
        collector = collector_for(envs)(envs, engine, 20, Generator().manual_seed(0), [3] * 4)
        collector.collect()
        batches.append(tensors_of(make_batch(collector.collect(), engine, 0.9, 0.8)))
    for key, tensor in batches[0].items():
        assert torch.equal(tensor, batches[1][key])


@pytest.mark.parametrize(
    ("place", "what"), [(0, "an observation"), (1, "the reward"), (4, "an observation")]
)
@pytest.mark.parametrize("normalizes", [False, True])
def test_number_that_is_not_finite_ends_the_run(place: int, what: str, normalizes: bool) -> None:
    class Breaking(TorchCartPole):
        """Returns one infinite number in its third step."""

        calls = 0

        def step(self, actions: Tensor) -> Any:
            results: list[Any] = list(super().step(actions))
            self.calls += 1
            if self.calls == 3:
                broken = results[place]["final_obs"] if place == 4 else results[place]
                broken[2] = torch.inf
                results[2][2] = place == 4
            return tuple(results)

    envs = TensorEnvironment(Breaking(4), name="Breaking-v0")
    engine = make_engine(small_policy(envs.encoder, envs.action_space, engine="torch"))
    normalizer = make_normalizer(envs) if normalizes else None
    collector = collector_for(envs)(
        envs, engine, 5, Generator().manual_seed(0), [3] * 4, normalizer
    )
    message = f"env.id=Breaking-v0: {what} of sub-environment 2 was not finite"
    with pytest.raises(BrokenEnvironmentError, match=message):
        collector.collect()


def test_short_rollout_of_autoreset_steps_is_skipped() -> None:
    envs = TensorEnvironment(CartPoleVectorEnv(2, max_episode_steps=1))
    engine = make_engine(small_policy(envs.encoder, envs.action_space, engine="torch"))
    collector = collector_for(envs)(envs, engine, 1, Generator().manual_seed(0), [0, 0])
    for i in range(3):
        rollout = collector.collect()
        assert rollout.num_transitions == 2
        assert rollout.env_steps == 2 * (i + 1)
        assert [episode.length for episode in rollout.episodes] == [1, 1]


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "acrobot"])
def test_collector_resumes_bit_for_bit(name: str) -> None:
    first, second = (parts(name, "tensors", **GRU)[0] for _ in range(2))
    first.collect()
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        one, other = first.collect(), second.collect()
        assert one.episodes == other.episodes
        assert torch.equal(one.rewards, other.rewards)
        assert torch.equal(one.states, other.states)
        np.testing.assert_array_equal(one.observations[VECTOR], other.observations[VECTOR])


def test_recomputing_copies_nothing_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    collector, _, _ = parts("pendulum", "arrays")
    engine, rollout = collector.engine, collector.collect()  # type: ignore[attr-defined]
    maker = BatchMaker(rollout, engine, 0.9, 0.8)
    monkeypatch.setattr(batch_module, "_to_device", None)
    batch = maker.make()
    assert torch.equal(maker.recompute(batch).advantages, batch.advantages)
