"""What holds for every algorithm."""

import copy
import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from algorithm_checks import (
    BOTH_KINDS,
    CARTPOLE_OR_PENDULUM,
    EVERY_ALGORITHM,
    EVERY_KIND,
    OF_DIFFERENCES,
    SOME_KINDS,
    evaluations,
    in_torch,
    loop_of,
    optimizer_of,
    tensors_of,
    true_kl,
    true_surrogate,
    updated,
    watch,
)
from engines_available import HAS_NUMPY_ENGINE
from gymnasium.vector import AutoresetMode
from learning_loop import config_of, vectors_of
from made_batches import KINDS, batch_for, policy_of
from numpy.typing import NDArray
from torch import Generator, Tensor
from worlds import MODES

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.critic import CriticConfig, CriticFit
from rlkl.algos.first_order import FirstOrder
from rlkl.algos.trpo import TRPOConfig
from rlkl.engines.base import Acting
from rlkl.engines.make import make_engine
from rlkl.envs.observations import ACTION_MASK, Observations
from rlkl.models.policy import Policy
from rlkl.rollouts.batch import Batch
from rlkl.rollouts.make import make_batch
from rlkl.utils.errors import ConfigError


@EVERY_ALGORITHM
@pytest.mark.parametrize(
    ("kind", "normalize", "mode", "engine"),
    [
        *((kind, True, MODES[1], "auto") for kind in ("masked", "lstm")),
        *(
            pytest.param(kind, True, MODES[1], "auto", marks=pytest.mark.slow)
            for kind in KINDS
            if kind not in ("masked", "lstm")
        ),
        *((kind, False, MODES[0], "auto") for kind in ("categorical", "gaussian", "gru", "lstm")),
        *((kind, True, MODES[0], "torch") for kind in ("categorical", "masked", "gaussian")),
    ],
)
def test_update_starts_at_ratio_1_and_kl_0(
    name: str,
    kind: str,
    normalize: bool,
    mode: AutoresetMode,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    epochs = 2 if kind in CARTPOLE_OR_PENDULUM else 1
    algo, critic = config_of(name, num_epochs=epochs), CriticConfig(num_epochs=epochs)
    settings = {"rollout_steps": 25, "normalize": normalize, "engine": engine}
    loop = loop_of(kind, algo, mode, critic=critic, **settings)
    policy, optimizer = loop.policy, loop.optimizer
    fast = HAS_NUMPY_ENGINE and engine == "auto" and not policy.state_size
    assert loop.engine.name == ("numpy" if fast else "torch")
    loop.iterate(2)
    act_with, acted = loop.engine.act, []

    def acting(noise: Tensor) -> Acting:
        act = act_with(noise)

        def recorded(
            t: int, observations: Observations, states: Tensor
        ) -> tuple[NDArray[Any], Tensor]:
            chosen, after = act(t, observations, states)
            with torch.no_grad():
                tensors = policy.tensors(copy.deepcopy(observations))
                parameters, _ = policy.actor.step(tensors, states.chunk(2, -1)[0])
            distribution = policy.family(parameters)
            if kind == "masked":
                distribution = distribution.masked(tensors[ACTION_MASK])
            # The action is that of the torch modules' distribution with the same noise.
            drawn = distribution.draw(noise[t])
            torch.testing.assert_close(torch.as_tensor(chosen), drawn, rtol=1e-5, atol=1e-5)
            acted.append(distribution.parameters)
            return chosen, after

        return recorded

    monkeypatch.setattr(loop.engine, "act", acting)
    rollout = loop.collector.collect()
    by_row = torch.cat(acted)[torch.as_tensor(rollout.is_transition.flatten())]
    batch = make_batch(rollout, make_engine(policy), 0.99, 0.95)
    torch.testing.assert_close(batch.old_parameters, by_row, rtol=1e-5, atol=1e-6)
    log_prob = in_torch(by_row, kind).log_prob(batch.actions).float()
    torch.testing.assert_close(batch.old_log_prob, log_prob, rtol=1e-4, atol=1e-5)

    start = policy.actor_parameters.vector.detach().clone()
    evaluated, ratios = evaluations(loop.engine, monkeypatch, at=start), []
    if isinstance(optimizer, FirstOrder) and name != "ppo_ewma":  # its ratio is to π_prox
        watch(optimizer, lambda new, old: ratios.append((new - old["old_log_prob"]).exp()))
    optimizer.update(batch, 0.0)
    vectors, parameters = evaluated[0]
    rows = (vectors_of(batch)[None] == vectors[:, None]).all(-1).int().argmax(-1)
    first = policy.family(parameters)
    if kind == "masked":
        first = first.masked(batch.inputs.observations[ACTION_MASK][rows])
    ratio = (first.log_prob(batch.actions[rows]) - batch.old_log_prob[rows]).exp()
    kl = in_torch(batch.old_parameters[rows], kind).kl(in_torch(first.parameters, kind))
    assert len(rows) > 10
    assert torch.equal(vectors, vectors_of(batch)[rows])
    for ratio_found in (ratio, *ratios[:1]):
        assert (ratio_found - 1).abs().max() < 1e-5
    assert kl.abs().max() < 1e-9
    with torch.no_grad():
        moved = policy.distribution(batch.inputs).parameters
    assert (moved - batch.old_parameters)[moved.isfinite()].abs().max() > 1e-4


@EVERY_ALGORITHM
@EVERY_KIND
def test_update_improves_surrogate_and_keeps_critic(name: str, kind: str) -> None:
    policy = policy_of(kind)
    batch = batch_for(policy, kind)
    # The critic's gradient is not 0, so an optimizer of all parameters would change it.
    CriticFit(CriticConfig(), make_engine(policy), Generator().manual_seed(0)).update(batch, 0.0)
    before, critic = true_surrogate(policy, batch, kind), policy.critic_parameters.vector.clone()
    metrics = optimizer_of(name, policy).update(batch, 0.0).metrics
    assert true_surrogate(policy, batch, kind) > before + 0.003
    assert torch.equal(policy.critic_parameters.vector, critic)
    assert all(math.isfinite(value) for value in metrics.values())


@EVERY_ALGORITHM
@EVERY_KIND
def test_update_does_not_change_its_batch(name: str, kind: str) -> None:
    policy = policy_of(kind)
    batch = batch_for(policy, kind)
    before = copy.deepcopy(batch)
    optimizer_of(name, policy).update(batch, 0.0)
    for name_of_tensor, tensor in tensors_of(before).items():
        assert torch.equal(tensors_of(batch)[name_of_tensor], tensor), name_of_tensor


@OF_DIFFERENCES
@EVERY_KIND
def test_zero_advantages_keep_policy(name: str, kind: str) -> None:
    policy = policy_of(kind)
    start = policy.actor_parameters.vector.detach().clone()
    batch = batch_for(policy, kind)
    batch = replace(batch, advantages=torch.zeros_like(batch.advantages))
    optimizer: Any = optimizer_of(name, policy, learning_rate=1e-3)
    metrics = optimizer.update(batch, 0.0).metrics
    # The gradient of a KL penalty is 0 up to rounding, which Adam scales up.
    assert torch.equal(policy.actor_parameters.vector, start) or optimizer.objective.uses_kl
    assert true_kl(policy, batch, kind) < 1e-6
    assert all(math.isfinite(value) for value in metrics.values())


@EVERY_ALGORITHM
@SOME_KINDS
def test_resumed_optimizer_continues_identically(name: str, kind: str) -> None:
    # The KL is far above this target, so an adaptive coefficient changes in every update.
    settings = {"num_epochs": 2, "fisher_fraction": 0.5, "target_kl": 1e-6}
    original, resumed = policy_of(kind, seed=0), policy_of(kind, seed=1)
    optimizer = optimizer_of(name, original, **settings)
    for seed in range(2):
        optimizer.update(batch_for(original, kind, seed=seed), 0.0)
    file = io.BytesIO()
    torch.save({"policy": original.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other_generator = Generator().manual_seed(99)
    other = make_policy_optimizer(
        config_of(name, **settings), make_engine(resumed), other_generator
    )
    resumed.load_state_dict(state["policy"])
    other.load_state_dict(state["optimizer"])
    for seed in range(2, 4):
        batch = batch_for(original, kind, seed=seed)
        assert optimizer.update(batch, 0.0).metrics == other.update(batch, 0.0).metrics
        assert torch.equal(original.actor_parameters.vector, resumed.actor_parameters.vector)


@EVERY_ALGORITHM
@SOME_KINDS
def test_results_depend_on_run_seed_only(name: str, kind: str) -> None:
    def trained(seed: int, global_seed: int) -> Tensor:
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        epochs, steps = (2, 20) if kind in CARTPOLE_OR_PENDULUM else (1, 8)
        algo = config_of(name, fisher_fraction=0.5, num_epochs=epochs)
        critic = CriticConfig(num_epochs=epochs)
        loop = loop_of(kind, algo, rollout_steps=steps, critic=critic, seed=seed)
        loop.iterate(2)
        policy = loop.policy
        return torch.cat((policy.actor_parameters.vector, policy.critic_parameters.vector))

    first, second, other = trained(3, 0), trained(3, 1), trained(4, 0)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@EVERY_ALGORITHM
@SOME_KINDS
def test_critic_is_identical_for_every_algorithm(name: str, kind: str) -> None:
    def fitted(policy: Policy, batch: Batch) -> Tensor:
        config = CriticConfig(num_epochs=2 if policy.state_size else 10)
        CriticFit(config, make_engine(policy), Generator().manual_seed(5)).update(batch, 0.0)
        return policy.critic_parameters.vector

    untrained, trained = policy_of(kind), policy_of(kind)
    batch = batch_for(untrained, kind)
    optimizer_of(name, trained).update(batch, 0.0)
    actor = trained.actor_parameters.vector.detach().clone()
    assert torch.equal(fitted(trained, batch), fitted(untrained, batch))
    assert torch.equal(trained.actor_parameters.vector, actor)


@EVERY_ALGORITHM
@BOTH_KINDS
def test_standardization_removes_scale_and_offset_of_advantages(name: str, kind: str) -> None:
    batch = batch_for(policy_of(kind), kind)
    scaled = replace(batch, advantages=3 * batch.advantages + 5)
    once = {"num_epochs": 1, "max_grad_norm": None}
    torch.testing.assert_close(
        updated(name, kind, scaled, **once), updated(name, kind, batch, **once), rtol=0, atol=1e-4
    )


@OF_DIFFERENCES
@BOTH_KINDS
def test_advantages_are_unchanged_without_standardization(name: str, kind: str) -> None:
    batch = batch_for(policy_of(kind), kind)
    standardized = (batch.advantages - batch.advantages.mean()) / batch.advantages.std()
    off = {"num_epochs": 1, "advantage_standardization": "none"}
    torch.testing.assert_close(
        updated(name, kind, replace(batch, advantages=standardized), **off),
        updated(name, kind, batch, num_epochs=1),
        rtol=0,
        atol=1e-4,
    )
    shifted = updated(name, kind, replace(batch, advantages=standardized + 5), **off)
    assert (shifted - updated(name, kind, batch, num_epochs=1)).abs().max() > 1e-3


@OF_DIFFERENCES
@EVERY_KIND
def test_entropy_bonus_raises_entropy(name: str, kind: str) -> None:
    policy = policy_of(kind)
    batch = batch_for(policy, kind)
    batch = replace(batch, advantages=torch.zeros_like(batch.advantages))
    optimizer_of(name, policy, entropy_coefficient=0.1).update(batch, 0.0)
    new = policy.distribution(batch.inputs).parameters.detach()
    before, after = (in_torch(p, kind).entropy().mean() for p in (batch.old_parameters, new))
    assert after > before + 1e-4


@EVERY_ALGORITHM
def test_default_name_is_registered_name(name: str) -> None:
    assert ALGORITHMS[name].config().name == name


def test_config_with_name_of_another_is_refused() -> None:
    policy = policy_of("categorical")
    for config in (TRPOConfig(name="npg"), TRPOConfig(name="nonsense")):
        with pytest.raises(ConfigError, match=r"algo\.name"):
            make_policy_optimizer(config, make_engine(policy), Generator())


@BOTH_KINDS
def test_actor_and_critic_share_no_parameter(kind: str) -> None:
    policy = policy_of(kind)
    names = {name for name, _ in policy.actor.named_parameters()}
    assert ("head.log_std" in names) == (kind == "gaussian")
    addresses = [
        {p.data_ptr() for p in module.parameters()} for module in (policy.actor, policy.critic)
    ]
    assert not addresses[0] & addresses[1]
    assert policy.actor_parameters.vector.numel() == sum(
        parameter.numel() for parameter in policy.actor.parameters()
    )


@pytest.mark.parametrize("constant", [0.1, -3.3e-7, 7e5])
@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
@OF_DIFFERENCES
def test_constant_advantages_keep_policy(name: str, kind: str, constant: float) -> None:
    policy = policy_of(kind)
    batch = batch_for(policy, kind, 250)
    batch = replace(batch, advantages=torch.full_like(batch.advantages, constant))
    before = policy.actor_parameters.vector.detach().clone()
    algo = config_of(name, kl_coefficient=1.0)
    generator = Generator().manual_seed(0)
    optimizer: Any = make_policy_optimizer(algo, make_engine(policy), generator)
    optimizer.update(batch, 0.0)
    if optimizer.objective.uses_kl or hasattr(
        algo, "kl_coefficient"
    ):  # the gradient of a KL of 0 is 0 to rounding
        # Adam enlarges rounding errors of a gradient of 0; NumPy's KL gradient has none.
        atol = 1e-6 if HAS_NUMPY_ENGINE else 5e-4
        torch.testing.assert_close(policy.actor_parameters.vector, before, rtol=0, atol=atol)
    else:
        assert torch.equal(policy.actor_parameters.vector, before)
