"""Tests of every policy-optimizer in the registry, then of each algorithm."""

import copy
import io
import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from engines_available import ENGINES, HAS_NUMPY_ENGINE
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode
from learning_loop import Loop, config_of, vectors_of
from made_batches import KINDS, batch_for, policy_of
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence
from worlds import MODES, wander

from rlkl.algos import ALGORITHMS, make_policy_optimizer, natural_gradient, trpo
from rlkl.algos.base import AlgoConfig, Metrics, PolicyOptimizer
from rlkl.algos.critic import CriticConfig, CriticFit
from rlkl.algos.first_order import FirstOrder
from rlkl.algos.natural_gradient import NaturalGradient
from rlkl.algos.npg import NPGConfig
from rlkl.algos.ppo_kl import (
    KLPenalizedSurrogate,
    PPOKLConfig,
    adapted_kl_coefficient,
)
from rlkl.algos.trpo import TRPOConfig
from rlkl.engines.base import Acting, Loss, NewPolicy
from rlkl.engines.make import make_engine
from rlkl.envs.make import EnvConfig
from rlkl.envs.observations import ACTION_MASK, Observations
from rlkl.models.policy import Inputs, Policy
from rlkl.numerics.distributions import Distribution
from rlkl.numerics.trust_region import LineSearch
from rlkl.rollouts.batch import Batch, make_batch
from rlkl.utils.errors import ConfigError


def algorithms_with(*settings: str) -> pytest.MarkDecorator:
    """Parametrise over the algorithms whose configs have all of these settings."""
    names = [
        name
        for name, algorithm in ALGORITHMS.items()
        if set(settings) <= {field.name for field in fields(algorithm.config)}
    ]
    return pytest.mark.parametrize("name", names)


EVERY_ALGORITHM = algorithms_with()
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
SOME_KINDS = pytest.mark.parametrize("kind", ["categorical", "bernoulli", "gaussian", "lstm"])
BOTH_KINDS = pytest.mark.parametrize("kind", ["categorical", "gaussian"])
BOTH_ENGINES = pytest.mark.parametrize("engine", ENGINES)
CARTPOLE_OR_PENDULUM = {
    "categorical": EnvConfig("CartPole-v1", 4),
    "gaussian": EnvConfig("Pendulum-v1", 4),
}


def loop_of(
    kind: str,
    algo: AlgoConfig,
    mode: AutoresetMode = AutoresetMode.SAME_STEP,
    **settings: Any,
) -> Loop:
    space, policy = KINDS[kind]
    env = CARTPOLE_OR_PENDULUM.get(kind) or wander(space, mode, masked=kind == "masked")
    return Loop(algo, env, **policy, **settings)


def optimizer_of(name: str, policy: Policy, **settings: Any) -> PolicyOptimizer:
    if policy.state_size:
        settings = {"num_epochs": 3} | settings  # memories are slow
    return make_policy_optimizer(
        config_of(name, **settings), make_engine(policy), Generator().manual_seed(1)
    )


def updated(name: str, kind: str, batch: Batch | None = None, **settings: Any) -> Tensor:
    """Return the actor's parameters after one update of a new policy."""
    policy = policy_of(kind)
    optimizer_of(name, policy, **settings).update(batch or batch_for(policy, kind), 0.0)
    return policy.actor_parameters.vector.detach().clone()


class InTorch:
    """Distributions of torch.distributions, one for each action dimension."""

    def __init__(self, parameters: Tensor, kind: str) -> None:
        self.kind, space, parameters = kind, KINDS[kind][0], parameters.double()
        self.parts: list[torch.distributions.Distribution]
        if isinstance(space, Discrete):
            self.parts = [Categorical(logits=parameters)]
        elif isinstance(space, MultiDiscrete):
            parts = parameters.split(space.nvec.tolist(), -1)
            self.parts = [Categorical(logits=part) for part in parts]
        elif isinstance(space, MultiBinary):
            self.parts = [Bernoulli(logits=logit) for logit in parameters.T]
        else:
            mean, log_std = parameters.chunk(2, -1)
            self.parts = [Normal(m, s) for m, s in zip(mean.T, log_std.exp().T, strict=True)]

    def log_prob(self, actions: Tensor) -> Tensor:
        columns = actions.double().unsqueeze(-1) if actions.ndim == 1 else actions.double()
        pairs = zip(self.parts, columns.unbind(-1), strict=True)
        return torch.stack([part.log_prob(column) for part, column in pairs]).sum(0)

    def kl(self, other: "InTorch") -> Tensor:
        pairs = zip(self.parts, other.parts, strict=True)
        return torch.stack([kl_divergence(p, q) for p, q in pairs]).sum(0)

    def entropy(self) -> Tensor:
        entropy = torch.stack([part.entropy() for part in self.parts]).sum(0)
        if self.kind == "tanh_gaussian":
            # + E[log(1 - tanh² u)], by the trapezoidal rule.
            z = torch.linspace(-8, 8, 2001, dtype=torch.float64)
            weights = Normal(0.0, 1.0).log_prob(z).exp() * (z[1] - z[0])
            for part in self.parts:
                u = part.mean.unsqueeze(-1) + part.stddev.unsqueeze(-1) * z
                entropy = entropy + (1 - u.tanh().square()).log() @ weights
        return entropy


def in_torch(parameters: Tensor, kind: str) -> InTorch:
    return InTorch(parameters, kind)


@torch.no_grad()
def true_kl(policy: Policy, batch: Batch, kind: str) -> float:
    """Return the mean of KL(π_old ‖ π_θ) over the full batch, by torch.distributions."""
    new = make_engine(policy).distribution(batch.inputs).parameters
    return float(in_torch(batch.old_parameters, kind).kl(in_torch(new, kind)).mean())


@torch.no_grad()
def true_surrogate(policy: Policy, batch: Batch, kind: str) -> float:
    """Return the mean of r · A with standardized advantages, by torch.distributions."""
    new = in_torch(make_engine(policy).distribution(batch.inputs).parameters, kind)
    old = in_torch(batch.old_parameters, kind)
    ratio = (new.log_prob(batch.actions) - old.log_prob(batch.actions)).exp()
    advantages = batch.advantages.double()
    return float((ratio * (advantages - advantages.mean()) / advantages.std()).mean())


def tensors_of(batch: Batch) -> dict[str, Tensor]:
    """Return every tensor of a batch by name."""
    found = {field.name: getattr(batch, field.name) for field in fields(batch)}
    inputs = found.pop("inputs")
    if inputs.sequences is not None:
        found |= {f.name: getattr(inputs.sequences, f.name) for f in fields(inputs.sequences)}
    return found | inputs.observations


def watch(optimizer: PolicyOptimizer, look: Callable[[Tensor, dict[str, Tensor]], None]) -> None:
    """Call `look` with log π_θ and the rows of every minibatch of the objective."""
    assert isinstance(optimizer, FirstOrder)
    objective: Any = optimizer.penalized
    loss = objective.loss

    def watched(new: NewPolicy, batch: Any) -> Loss:
        rows = tensors_of(batch) if isinstance(batch, Batch) else arrays_of(batch)
        look(torch.as_tensor(new.log_prob).clone(), rows)
        found: Loss = loss(new, batch)
        return found

    objective.loss = watched


def arrays_of(rows: Any) -> dict[str, Tensor]:
    """Return every array of the NumPy engine's rows by name, as tensors."""
    found = {field.name: getattr(rows, field.name) for field in fields(rows)}
    return {
        name: torch.as_tensor(array).clone() for name, array in found.items() if array is not None
    }


def evaluations(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Return a list that will get the inputs and outputs of the actor."""
    found: list[tuple[Tensor, Tensor]] = []
    policy = engine.policy
    evaluate = policy.distribution

    def evaluated(inputs: Inputs, *dtype: Any) -> Distribution:
        distribution = evaluate(inputs, *dtype)
        found.append((inputs.observations["vector"], distribution.parameters.detach()))
        return distribution

    monkeypatch.setattr(policy, "distribution", evaluated)
    if getattr(engine, "actor", None) is not None:
        forward = engine.actor.forward

        def forwarded(vectors: NDArray[Any]) -> NDArray[Any]:
            parameters = forward(vectors)
            found.append((torch.tensor(vectors), torch.tensor(parameters)))
            return parameters

        monkeypatch.setattr(engine.actor, "forward", forwarded)
    return found


@EVERY_ALGORITHM
@pytest.mark.parametrize(
    ("kind", "normalize", "mode", "engine"),
    [
        *((kind, True, MODES[1], "auto") for kind in KINDS),
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

    evaluated, ratios = evaluations(loop.engine, monkeypatch), []
    if isinstance(optimizer, FirstOrder):
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
    assert true_surrogate(policy, batch, kind) > before + 0.005
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


@EVERY_ALGORITHM
@EVERY_KIND
def test_zero_advantages_keep_policy(name: str, kind: str) -> None:
    policy = policy_of(kind)
    start = policy.actor_parameters.vector.detach().clone()
    batch = batch_for(policy, kind)
    batch = replace(batch, advantages=torch.zeros_like(batch.advantages))
    metrics = optimizer_of(name, policy, learning_rate=1e-3).update(batch, 0.0).metrics
    # The gradient of a KL penalty is 0 up to rounding, which Adam scales up.
    exactly = "kl_coefficient" not in {field.name for field in fields(ALGORITHMS[name].config)}
    assert torch.equal(policy.actor_parameters.vector, start) or not exactly
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


@EVERY_ALGORITHM
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


def advantages_seen(name: str, batch: Batch, engine: str, **settings: Any) -> list[Tensor]:
    """Return the advantages of every minibatch of the objective in one update."""
    policy, found = policy_of("categorical", engine=engine), []
    optimizer = optimizer_of(name, policy, **settings)
    watch(optimizer, lambda _, minibatch: found.append(minibatch["advantages"]))
    optimizer.update(batch, 0.0)
    return found


@algorithms_with("num_minibatches")
@BOTH_ENGINES
def test_advantages_are_standardized_per_batch_or_minibatch(name: str, engine: str) -> None:
    batch = batch_for(policy_of("categorical"), "categorical")
    for mode, of_each in (("batch", False), ("minibatch", True)):
        settings = {"num_minibatches": 4, "num_epochs": 1, "advantage_standardization": mode}
        parts = advantages_seen(name, batch, engine, **settings)
        assert len(parts) == 4
        whole = torch.cat(parts).double()
        assert whole.mean().abs() < 1e-6
        means = torch.stack([part.double().mean().abs() for part in parts])
        assert bool((means < 1e-6).all()) == of_each
        deviations = torch.stack([(part.double().std() - 1).abs() for part in parts])
        assert bool((deviations < 1e-5).all()) == of_each
        assert of_each or abs(whole.std() - 1) < 1e-5


@algorithms_with("num_minibatches")
@BOTH_ENGINES
def test_every_epoch_visits_all_rows_in_new_order(name: str, engine: str) -> None:
    batch = batch_for(policy_of("categorical"), "categorical", size=50)
    batch = replace(batch, advantages=torch.arange(50.0))
    settings = {"num_minibatches": 4, "num_epochs": 3, "advantage_standardization": "none"}
    parts = advantages_seen(name, batch, engine, **settings)
    assert [len(part) for part in parts] == [13, 13, 12, 12] * 3
    epochs = [torch.cat(parts[i : i + 4]) for i in (0, 4, 8)]
    for epoch in epochs:
        assert epoch.sort().values.tolist() == batch.advantages.tolist()
    assert not torch.equal(epochs[0], epochs[1])


def test_minibatch_standardization_needs_minibatches() -> None:
    for name, algorithm in ALGORITHMS.items():
        if "num_minibatches" not in {field.name for field in fields(algorithm.config)}:
            with pytest.raises(ConfigError, match="advantage_standardization"):
                config_of(name, advantage_standardization="minibatch")


@EVERY_ALGORITHM
@EVERY_KIND
def test_entropy_bonus_raises_entropy(name: str, kind: str) -> None:
    policy = policy_of(kind)
    batch = batch_for(policy, kind)
    batch = replace(batch, advantages=torch.zeros_like(batch.advantages))
    optimizer_of(name, policy, entropy_coefficient=0.1).update(batch, 0.0)
    new = policy.distribution(batch.inputs).parameters.detach()
    before, after = (in_torch(p, kind).entropy().mean() for p in (batch.old_parameters, new))
    assert after > before + 1e-4


def step_gradients(optimizer: PolicyOptimizer, policy: Policy) -> list[Tensor]:
    """Return a list that will get the clipped gradient of every Adam step."""
    gradients: list[Tensor] = []
    assert isinstance(optimizer, FirstOrder)
    step = optimizer.adam.step

    def recorded(max_grad_norm: float | None = None) -> Tensor | float:
        norm = step(max_grad_norm)
        gradients.append(policy.actor_parameters.gradient.clone())
        return norm

    optimizer.adam.step = recorded  # type: ignore[method-assign]
    return gradients


@algorithms_with("max_grad_norm")
@BOTH_KINDS
def test_gradient_is_clipped_and_reported_unclipped(name: str, kind: str) -> None:
    found = []
    for max_grad_norm in (0.01, None, 1e6):
        policy = policy_of(kind)
        once = {"num_epochs": 1, "num_minibatches": 1, "max_grad_norm": max_grad_norm}
        optimizer = optimizer_of(name, policy, **once)
        gradients = step_gradients(optimizer, policy)
        metrics = optimizer.update(batch_for(policy, kind), 0.0).metrics
        found.append((gradients[0], metrics["optim/grad_norm"]))
    (clipped, reported), (free, free_reported), (loose, _) = found
    assert float(clipped.norm()) == pytest.approx(0.01, rel=1e-3)
    assert float(free.norm()) > 0.02
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm(), rtol=1e-4, atol=1e-6)
    assert torch.equal(free, loose)
    assert reported == free_reported == pytest.approx(float(free.norm()), rel=1e-5)


@algorithms_with("learning_rate_schedule")
def test_linear_learning_rate_ends_at_zero(name: str) -> None:
    policy = policy_of("categorical")
    optimizer = optimizer_of(name, policy, learning_rate=0.01, learning_rate_schedule="linear")
    assert isinstance(optimizer, FirstOrder)
    for progress, rate in ((0.0, 0.01), (0.25, 0.0075), (1.0, 0.0)):
        start = policy.actor_parameters.vector.detach().clone()
        metrics = optimizer.update(batch_for(policy, "categorical"), progress).metrics
        assert metrics["optim/lr"] == pytest.approx(rate, abs=1e-12)
        assert optimizer.adam.learning_rate == pytest.approx(rate, abs=1e-12)
        assert torch.equal(policy.actor_parameters.vector, start) == (rate == 0)
    constant = optimizer_of(name, policy, learning_rate=0.01, learning_rate_schedule="constant")
    assert constant.update(batch_for(policy, "categorical"), 0.9).metrics["optim/lr"] == 0.01


@algorithms_with("max_kl_schedule")
@BOTH_KINDS
def test_linear_max_kl_ends_at_zero(name: str, kind: str) -> None:
    for progress, max_kl in ((0.0, 4e-5), (0.75, 1e-5), (1.0, 0.0)):
        policy = policy_of(kind)
        batch = batch_for(policy, kind)
        settings = {"max_kl": 4e-5, "max_kl_schedule": "linear", "cg_damping": 1e-4}
        optimizer_of(name, policy, **settings).update(batch, progress)
        # A step slightly too long is shortened once, to 0.8² of its KL.
        assert 0.6 * max_kl <= true_kl(policy, batch, kind) <= 1.1 * max_kl


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


# PPO-KL's coefficient.


@pytest.mark.parametrize(
    ("kl", "coefficient"),
    [
        (0.0301, 2.0),
        (0.0299, 1.0),
        (0.02, 1.0),
        (0.0134, 1.0),
        (0.0133, 0.5),
        (0.0, 0.5),
        (-1e-17, 0.5),
        (1e9, 2.0),
        (math.inf, 1.0),
        (math.nan, 1.0),
    ],
)
def test_coefficient_doubles_above_and_halves_below_target(kl: float, coefficient: float) -> None:
    assert adapted_kl_coefficient(1.0, kl, 0.02, 1e-4, 1e4) == coefficient


def test_coefficient_stays_within_bounds() -> None:
    assert adapted_kl_coefficient(3.0, 1.0, 0.02, 0.5, 4.0) == 4.0
    assert adapted_kl_coefficient(4.0, 1.0, 0.02, 0.5, 4.0) == 4.0
    assert adapted_kl_coefficient(0.75, 0.0, 0.02, 0.5, 4.0) == 0.5
    assert adapted_kl_coefficient(0.5, 0.0, 0.02, 0.5, 4.0) == 0.5


@pytest.mark.parametrize("kl", [math.nan, math.inf])
def test_nonfinite_kl_keeps_coefficient(kl: float) -> None:
    objective = KLPenalizedSurrogate(PPOKLConfig(kl_coefficient=3.0))
    objective.adapt(kl)
    assert objective.kl_coefficient == 3.0


def ppo_kl_updates(updates: int, **settings: Any) -> tuple[list[float], list[float], list[float]]:
    """Return the coefficients at each minibatch, those reported, and the KL of each update."""
    policy = policy_of("gaussian")
    settings = {"num_epochs": 2, "num_minibatches": 3, "learning_rate": 1e-3} | settings
    optimizer = optimizer_of(settings.pop("name", "ppo_kl"), policy, **settings)
    assert isinstance(optimizer, FirstOrder)
    objective = optimizer.objective
    assert isinstance(objective, KLPenalizedSurrogate)
    used, reported, kls = [], [], []
    watch(optimizer, lambda *_: used.append(objective.kl_coefficient))
    for seed in range(updates):
        batch = batch_for(policy, "gaussian", seed=seed)
        reported.append(optimizer.update(batch, 0.0).metrics["kl/coefficient"])
        kls.append(true_kl(policy, batch, "gaussian"))
        optimizer.adapt(kls[-1])
    return used, reported, kls


def test_coefficient_changes_once_after_each_update() -> None:
    used, reported, _ = ppo_kl_updates(3, target_kl=1e-9)
    assert used == [1.0] * 6 + [2.0] * 6 + [4.0] * 6
    assert reported == [1.0, 2.0, 4.0]
    used, reported, _ = ppo_kl_updates(3, target_kl=1e9, kl_coefficient_min=0.4)
    assert used == [1.0] * 6 + [0.5] * 6 + [0.4] * 6
    assert reported == [1.0, 0.5, 0.4]


def test_larger_coefficient_gives_smaller_kl() -> None:
    _, _, (weak,) = ppo_kl_updates(1, kl_coefficient=1e-3, num_epochs=10)
    _, _, (strong,) = ppo_kl_updates(1, kl_coefficient=1e3, num_epochs=10)
    assert strong < weak / 2


@pytest.mark.parametrize(
    ("target_over_kl", "factor"),
    [(0.999 / 1.5, 2.0), (1.001 / 1.5, 1.0), (0.999 * 1.5, 1.0), (1.001 * 1.5, 0.5)],
)
def test_coefficient_follows_full_batch_kl_after_update(
    target_over_kl: float, factor: float
) -> None:
    _, _, (kl,) = ppo_kl_updates(1)
    _, reported, (same_kl, _) = ppo_kl_updates(2, target_kl=target_over_kl * kl)
    assert same_kl == kl
    assert reported == [1.0, factor]


def test_fixed_coefficient_stays() -> None:
    used, _, _ = ppo_kl_updates(3, name="ppo_kl_fixed", kl_coefficient=3.0)
    assert used == [3.0] * 18


# PPO-clip's early stop.


def ppo_clip_steps(**settings: Any) -> tuple[int, Metrics, float]:
    """Return the number of steps of an update, its metrics, and its KL."""
    policy = policy_of("gaussian")
    batch = batch_for(policy, "gaussian")
    optimizer = optimizer_of("ppo_clip", policy, learning_rate=1e-3, **settings)
    steps = step_gradients(optimizer, policy)
    metrics = optimizer.update(batch, 0.0).metrics
    return len(steps), metrics, true_kl(policy, batch, "gaussian")


@pytest.mark.parametrize(("scope", "steps"), [("minibatch", 1), ("epoch", 4)])
def test_early_stop_leaves_both_loops(scope: str, steps: int) -> None:
    taken, metrics, _ = ppo_clip_steps(
        num_epochs=5, num_minibatches=4, target_kl=1e-6, target_kl_scope=scope
    )
    assert taken == steps
    assert metrics["optim/stopped_early"] == 1
    assert metrics["optim/epochs"] == steps / 4


@pytest.mark.parametrize("scope", ["minibatch", "epoch"])
@pytest.mark.parametrize("target_kl", [None, 1e3])
def test_without_early_stop_every_step_is_taken(scope: str, target_kl: float | None) -> None:
    taken, metrics, _ = ppo_clip_steps(
        num_epochs=5, num_minibatches=4, target_kl=target_kl, target_kl_scope=scope
    )
    assert taken == 20
    assert metrics["optim/stopped_early"] == 0
    assert metrics["optim/epochs"] == 5


@pytest.mark.parametrize("scope", ["minibatch", "epoch"])
def test_early_stop_uses_multiple_of_target_kl(scope: str) -> None:
    once = {"num_minibatches": 1, "target_kl_scope": scope, "target_kl_multiplier": 3.0}
    _, _, kl = ppo_clip_steps(num_epochs=1, **once)
    stopped, _, _ = ppo_clip_steps(num_epochs=2, target_kl=0.999 * kl / 3, **once)
    completed, _, _ = ppo_clip_steps(num_epochs=2, target_kl=1.001 * kl / 3, **once)
    assert (stopped, completed) == (1, 2)


def test_epoch_stop_measures_full_batch() -> None:
    settings = {"num_minibatches": 4, "target_kl_scope": "epoch", "target_kl_multiplier": 1.0}
    _, _, kl = ppo_clip_steps(num_epochs=1, **settings)
    stopped, _, _ = ppo_clip_steps(num_epochs=2, target_kl=0.999 * kl, **settings)
    completed, _, _ = ppo_clip_steps(num_epochs=2, target_kl=1.001 * kl, **settings)
    assert (stopped, completed) == (4, 8)


def test_minibatch_stop_measures_that_minibatch() -> None:
    taken = set()
    for stale_row in range(8):
        policy = policy_of("gaussian")
        batch = batch_for(policy, "gaussian")
        batch.old_parameters[stale_row, 0] += 1e3  # one row, so one minibatch
        settings = {"num_minibatches": 4, "target_kl": 1.0, "target_kl_scope": "minibatch"}
        optimizer = optimizer_of("ppo_clip", policy, **settings)
        steps = step_gradients(optimizer, policy)
        assert optimizer.update(batch, 0.0).metrics["optim/stopped_early"] == 1
        taken.add(len(steps))
    assert len(taken) > 1
    assert taken <= {0, 1, 2, 3}


def test_complete_update_is_not_stopped_early() -> None:
    taken, metrics, kl = ppo_clip_steps(num_epochs=2, num_minibatches=1, target_kl=0.1)
    assert taken == 2
    assert metrics["optim/stopped_early"] == 0
    taken, metrics, _ = ppo_clip_steps(num_epochs=1, num_minibatches=1, target_kl=1e-9 * kl)
    assert taken == 1
    assert metrics["optim/stopped_early"] == 0


def test_stop_before_first_step_changes_nothing() -> None:
    policy = policy_of("gaussian")
    start = policy.actor_parameters.vector.detach().clone()
    batch = batch_for(policy, "gaussian")
    # Rounding alone can exceed such a small target.
    batch = replace(batch, old_parameters=batch.old_parameters + 1e-6)
    settings = {"target_kl": 1e-20, "target_kl_scope": "minibatch"}
    metrics = optimizer_of("ppo_clip", policy, **settings).update(batch, 0.0).metrics
    assert metrics["optim/epochs"] == 0
    assert metrics["optim/stopped_early"] == 1
    assert torch.equal(policy.actor_parameters.vector, start)


# The trust region.


@EVERY_KIND
def test_trpo_keeps_kl_within_bound(kind: str) -> None:
    loop = loop_of(kind, TRPOConfig(max_kl=0.02, cg_damping=1e-3), normalize=True)
    accepted, iterations = 0, 6 if kind in CARTPOLE_OR_PENDULUM else 3
    for _ in range(iterations):
        batch = loop.collect()
        before = true_surrogate(loop.policy, batch, kind)
        metrics = loop.optimizer.update(batch, 0.0).metrics
        kl = true_kl(loop.policy, batch, kind)
        assert kl <= 0.02
        if metrics["trust_region/accepted"]:
            accepted += 1
            assert kl > 1e-4
            assert true_surrogate(loop.policy, batch, kind) > before
    assert accepted >= iterations - 2


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("multi_categorical", "gru")]
)
def test_trpo_backtracks_until_bound_holds(kind: str) -> None:
    policy = policy_of(kind)
    batch = batch_for(policy, kind)
    settings = {"max_kl": 0.5, "cg_damping": 1e-4, "line_search_decay": 0.7}
    metrics = optimizer_of("trpo", policy, **settings).update(batch, 0.0).metrics
    backtracks = metrics["trust_region/backtracks"]
    assert backtracks >= 1
    assert metrics["trust_region/step_fraction"] == pytest.approx(0.7**backtracks)
    assert 0.05 < true_kl(policy, batch, kind) <= 0.5


@EVERY_KIND
def test_trpo_rejected_step_restores_parameters(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reject_all(evaluate: Callable[[float], tuple[float, float]], *_: Any) -> LineSearch:
        assert evaluate(1.0)[1] > 0
        return LineSearch(False, 0.0, 1, 0.0)

    monkeypatch.setattr(trpo, "backtracking_line_search", reject_all)
    policy = policy_of(kind)
    start = policy.actor_parameters.vector.detach().clone()
    metrics = optimizer_of("trpo", policy).update(batch_for(policy, kind), 0.0).metrics
    assert torch.equal(policy.actor_parameters.vector, start)
    assert metrics["trust_region/accepted"] == 0
    assert metrics["trust_region/step_fraction"] == 0


@BOTH_KINDS
def test_trpo_measures_improvement_and_kl_from_old_policy(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {}

    def measure(evaluate: Callable[[float], tuple[float, float]], *_: Any) -> LineSearch:
        measured.update({fraction: evaluate(fraction) for fraction in (0.5, 0.0, 1.0)})
        return LineSearch(True, 1.0, 0, measured[1.0][0])

    monkeypatch.setattr(trpo, "backtracking_line_search", measure)
    policy = policy_of(kind)
    batch = batch_for(policy, kind)

    def objective() -> float:
        new = in_torch(policy.distribution(batch.inputs).parameters.detach(), kind)
        return true_surrogate(policy, batch, kind) + 0.1 * float(new.entropy().mean())

    before = objective()
    optimizer_of("trpo", policy, entropy_coefficient=0.1).update(batch, 0.0)
    improvement, kl = objective() - before, true_kl(policy, batch, kind)
    assert measured[1.0] == pytest.approx((improvement, kl), rel=1e-4)
    assert measured[0.0] == pytest.approx((0, 0), abs=1e-6)
    assert measured[0.5][1] == pytest.approx(kl / 4, rel=0.2)


@BOTH_KINDS
def test_trpo_rejects_too_long_step_without_backtracks(kind: str) -> None:
    policy = policy_of(kind)
    start = policy.actor_parameters.vector.detach().clone()
    batch = batch_for(policy, kind)
    settings = {"max_kl": 0.5, "cg_damping": 1e-4, "max_backtracks": 0}
    metrics = optimizer_of("trpo", policy, **settings).update(batch, 0.0).metrics
    assert metrics["trust_region/accepted"] == 0
    assert torch.equal(policy.actor_parameters.vector, start)
    assert true_kl(policy, batch, kind) == 0


@EVERY_KIND
def test_npg_step_is_full_trpo_step(kind: str) -> None:
    settings = {"max_kl": 1e-3}
    assert torch.equal(updated("npg", kind, **settings), updated("trpo", kind, **settings))


@algorithms_with("max_kl")
@EVERY_KIND
def test_small_natural_step_has_predicted_kl_and_improvement(name: str, kind: str) -> None:
    policy = policy_of(kind)
    batch = batch_for(policy, kind)
    before = true_surrogate(policy, batch, kind)
    metrics = optimizer_of(name, policy, max_kl=1e-5, cg_damping=1e-4).update(batch, 0.0).metrics
    # A step slightly too long is shortened once.
    fraction = metrics["trust_region/step_fraction"]
    assert fraction in ((1.0, 0.8) if name == "trpo" else (1.0,))
    assert true_kl(policy, batch, kind) == pytest.approx(fraction**2 * 1e-5, rel=0.1)
    improvement = true_surrogate(policy, batch, kind) - before
    expected = fraction * metrics["trust_region/expected_improvement"]
    assert expected == pytest.approx(improvement, rel=0.05)
    assert metrics["kl/target"] == 1e-5


@algorithms_with("max_kl")
@BOTH_KINDS
@pytest.mark.parametrize("advantage", [0.0, math.nan, math.inf])
def test_zero_or_nonfinite_advantages_keep_policy(name: str, kind: str, advantage: float) -> None:
    policy = policy_of(kind)
    start = policy.actor_parameters.vector.detach().clone()
    batch = batch_for(policy, kind)
    batch = replace(batch, advantages=torch.full_like(batch.advantages, advantage))
    metrics = optimizer_of(name, policy).update(batch, 0.0).metrics
    assert torch.equal(policy.actor_parameters.vector, start)
    assert metrics["trust_region/accepted"] == 0
    assert metrics["trust_region/step_fraction"] == 0
    assert metrics["trust_region/backtracks"] == 0


@algorithms_with("max_kl")
def test_natural_step_ignores_scale_of_advantages(name: str) -> None:
    batch = batch_for(policy_of("gaussian"), "gaussian")
    off = {"advantage_standardization": "none", "cg_iterations": 5}
    torch.testing.assert_close(
        updated(name, "gaussian", replace(batch, advantages=100 * batch.advantages), **off),
        updated(name, "gaussian", batch, **off),
        rtol=0,
        atol=1e-4,
    )


@algorithms_with("fisher_fraction")
@BOTH_KINDS
def test_fisher_fraction_of_all_states_is_full_matrix(name: str, kind: str) -> None:
    torch.testing.assert_close(
        updated(name, kind, fisher_fraction=0.9999), updated(name, kind), rtol=0, atol=1e-4
    )


@algorithms_with("fisher_fraction")
@BOTH_KINDS
@BOTH_ENGINES
def test_fisher_states_are_sampled_in_each_update(
    name: str, kind: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(kind, engine=engine)
    batch = batch_for(policy, kind)
    optimizer: Any = optimizer_of(name, policy, fisher_fraction=0.25)
    found = evaluations(optimizer.engine, monkeypatch)
    before = true_surrogate(policy, batch, kind)
    optimizer.update(batch, 0.0)
    assert true_surrogate(policy, batch, kind) > before
    optimizer.update(batch_for(policy, kind), 0.0)
    first, second = (vectors for vectors, _ in found if len(vectors) == 64)
    assert not torch.equal(first, second)
    assert len({tuple(row) for row in first.tolist()}) == 64


@BOTH_KINDS
def test_line_search_measures_in_float64(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(evaluate: Callable[[float], tuple[float, float]], *_: Any) -> LineSearch:
        measured.append(evaluate(1.0))
        return LineSearch(True, 1.0, 0, 0.0)

    monkeypatch.setattr(trpo, "backtracking_line_search", measure)
    policy = policy_of(kind)
    batch = batch_for(policy, kind)
    optimizer_of("trpo", policy, max_kl=1e-10).update(batch, 0.0)
    # Float32, with its rounding of 6e-8, would give another KL.
    assert measured[0][1] == pytest.approx(true_kl(policy, batch, kind), rel=1e-5)
    assert 1e-11 < measured[0][1] < 2e-10


@BOTH_ENGINES
def test_inexact_direction_is_scaled_by_true_curvature(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, float] = {}

    def inexact(product: Any, gradient: Any, *_: Any) -> tuple[Any, Any]:
        direction = 1.0 * gradient
        direction[::2] = 0  # not the solution, and not orthogonal to its residual
        image = product(direction)
        found["curvature"] = float(direction @ image)
        found["length"] = float(direction @ direction) ** 0.5
        return direction, gradient - image

    monkeypatch.setattr(natural_gradient, "conjugate_gradient", inexact)
    policy = policy_of("gaussian", engine=engine)
    batch = batch_for(policy, "gaussian")
    start = policy.actor_parameters.vector.detach().clone()
    gradient = NaturalGradient(TRPOConfig(), make_engine(policy), Generator().manual_seed(0))
    step = gradient.step(gradient.prepared(batch), 0.01).step
    direction = -policy.actor_parameters.gradient.clone()
    direction[::2] = 0
    cosine = float(step @ direction / (step.norm() * direction.norm()))
    assert cosine == pytest.approx(1, rel=1e-5)
    # xᵀFx of the step is 2δ: its length is that of the direction times √(2δ / curvature).
    length = found["length"] * (2 * 0.01 / found["curvature"]) ** 0.5
    assert float(step.norm()) == pytest.approx(length, rel=1e-4)
    assert torch.equal(policy.actor_parameters.vector, start)


@BOTH_ENGINES
@pytest.mark.parametrize("size", [1e-30, 1e-5, 1e12])
def test_natural_step_handles_advantages_of_any_size(size: float, engine: str) -> None:
    policy = policy_of("gaussian", engine=engine)
    batch = batch_for(policy, "gaussian")
    config = NPGConfig(advantage_standardization="none", cg_residual_tolerance=1e-4)
    natural = NaturalGradient(config, make_engine(policy), Generator().manual_seed(0))
    step = natural.step(batch, 0.01)
    scaled = natural.step(replace(batch, advantages=size * batch.advantages), 0.01)
    assert step.step.norm() > 0.01
    torch.testing.assert_close(scaled.step, step.step, rtol=1e-3, atol=1e-6)
    for name in ("expected_improvement", "gradient_norm", "cg_residual"):
        assert getattr(scaled, name) == pytest.approx(size * getattr(step, name), rel=1e-2), name


@pytest.mark.parametrize("constant", [0.1, -3.3e-7, 7e5])
@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_constant_advantages_keep_policy(name: str, kind: str, constant: float) -> None:
    policy = policy_of(kind)
    batch = batch_for(policy, kind, 250)
    batch = replace(batch, advantages=torch.full_like(batch.advantages, constant))
    before = policy.actor_parameters.vector.detach().clone()
    algo = config_of(name, kl_coefficient=1.0)
    make_policy_optimizer(algo, make_engine(policy), Generator().manual_seed(0)).update(batch, 0.0)
    if algo.name in ("ppo_kl", "ppo_kl_fixed"):  # the gradient of a KL of 0 is 0 to rounding
        # Adam enlarges rounding errors of a gradient of 0; NumPy's KL gradient has none.
        atol = 1e-6 if HAS_NUMPY_ENGINE else 1e-4
        torch.testing.assert_close(policy.actor_parameters.vector, before, rtol=0, atol=atol)
    else:
        assert torch.equal(policy.actor_parameters.vector, before)
