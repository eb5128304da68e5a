"""The policy: shared encoders, Gaussians and distribution families."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from learning_loop import as_inputs, config_of, small_policy, vector_encoder
from torch import Generator, Tensor

import rlkl
from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.critic import CriticConfig, CriticFit
from rlkl.engines.make import make_engine
from rlkl.envs.observations import ACTION_MASK, ObservationEncoder
from rlkl.models.policy import Inputs, Policy, PolicyConfig
from rlkl.models.recurrent import Sequences
from rlkl.numerics.beta import Beta
from rlkl.numerics.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    TanhGaussian,
)
from rlkl.rollouts.batch import Batch
from rlkl.utils.errors import ConfigError

FIRST_ORDER = [name for name in ALGORITHMS if name not in ("trpo", "npg")]
SHARED: dict[str, dict[str, Any]] = {
    "vector": {"encoder_hidden_sizes": [8]},
    "image": {"image_features": 6},
    "memory": {"memory": "gru", "memory_size": 5},
}


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def sharing(kind: str, **settings: Any) -> Policy:
    encoder = vector_encoder(4)
    if kind == "image":
        encoder = ObservationEncoder(Box(0, 255, (3, 3), np.uint8))
    return small_policy(encoder, Discrete(3), share_encoder=True, **SHARED[kind] | settings)


@torch.no_grad()
def batch_for(policy: Policy, rows: int = 64) -> Batch:
    inputs = as_inputs(torch.randn(rows, 4, generator=seeded()))
    if policy.encoder.images:
        pixels = torch.randint(0, 256, (rows, 1, 3, 3), generator=seeded(), dtype=torch.uint8)
        inputs = Inputs(dict.fromkeys(policy.encoder.images, pixels))
    if policy.state_size:
        cells = torch.arange(rows).reshape(-1, 8).T
        # Actor and critic share the memory, so they have the same states.
        states = 0.3 * torch.randn(rows // 8, policy.state_size // 2, generator=seeded(3))
        states = states.repeat(1, 2)
        lengths = torch.full((rows // 8,), 8)
        inputs = Inputs(inputs.observations, Sequences(cells, lengths, states))
    old = policy.distribution(inputs)
    actions = old.sample(seeded(1))
    advantages = torch.randn(rows, generator=seeded(2))
    values = policy.values(inputs)
    log_prob = old.log_prob(actions)
    return Batch(inputs, actions, advantages, values + advantages, old.parameters, log_prob, values)


def numbers(module: torch.nn.Module | None) -> Tensor:
    assert module is not None
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def shared_part(policy: Policy) -> torch.nn.Module:
    return torch.nn.ModuleList([m for m in (policy.actor.encoder, policy.actor.memory) if m])


# Shared encoders.


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("name", FIRST_ORDER)
def test_policy_optimizer_changes_shared_encoder_not_critic_head(name: str, kind: str) -> None:
    policy = sharing(kind)
    batch = batch_for(policy)
    # The critic's gradient is not 0, so an optimizer of all parameters would change it.
    CriticFit(CriticConfig(num_epochs=1), make_engine(policy), seeded()).update(batch, 0.0)
    parts = (shared_part(policy), policy.actor.head, policy.critic.head)
    before = [numbers(part) for part in parts]
    make_policy_optimizer(config_of(name), make_engine(policy), seeded()).update(batch, 0.0)
    moved = [not torch.equal(numbers(part), b) for part, b in zip(parts, before, strict=True)]
    assert moved == [True, True, False]


@pytest.mark.parametrize("kind", SHARED)
def test_critic_fit_changes_only_its_head(kind: str) -> None:
    policy = sharing(kind)
    batch = batch_for(policy)
    parts = (shared_part(policy), policy.actor.head, policy.critic.head)
    before = [numbers(part) for part in parts]
    distributions = policy.distribution(batch.inputs).parameters
    fit = CriticFit(CriticConfig(learning_rate=0.01), make_engine(policy), seeded())
    losses = [fit.update(batch, 0.0).metrics["value/loss"] for _ in range(3)]
    moved = [not torch.equal(numbers(part), b) for part, b in zip(parts, before, strict=True)]
    assert moved == [False, False, True]
    assert torch.equal(policy.distribution(batch.inputs).parameters, distributions)
    assert losses[2] < losses[0]


@pytest.mark.parametrize("kind", SHARED)
def test_precomputed_features_give_same_values(kind: str) -> None:
    policy = sharing(kind)
    batch = batch_for(policy)
    precomputed = replace(batch, inputs=policy.critic_inputs(batch.inputs))
    torch.testing.assert_close(policy.values(precomputed.inputs), policy.values(batch.inputs))
    rows = torch.tensor([5, 0, 17])
    expected = policy.values(batch.inputs)[rows]
    torch.testing.assert_close(policy.values(precomputed.take(rows).inputs), expected)


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("coefficient", [0.0, 0.5, 3.0])
def test_shared_gradient_includes_weighted_value_gradient(kind: str, coefficient: float) -> None:
    policy = sharing(kind, shared_value_coefficient=coefficient)
    batch = batch_for(policy)
    shared = list(shared_part(policy).parameters())
    log_prob = policy.distribution(batch.inputs).log_prob(batch.actions)
    of_policy = torch.autograd.grad(-(log_prob * batch.advantages).mean(), shared)
    network, sequences = policy.critic, batch.inputs.sequences
    states = None
    if sequences is not None:
        states = sequences.states.chunk(2, -1)[1]
    values = network(batch.inputs, states).squeeze(-1)
    of_values = torch.autograd.grad(0.5 * (values - batch.returns).square().mean(), shared)
    assert max(g.abs().max() for g in of_values) > 1e-4
    config = config_of(
        "vanilla_pg", advantage_standardization="none", max_grad_norm=None, learning_rate=1e-9
    )
    optimizer = make_policy_optimizer(config, make_engine(policy), seeded())
    optimizer.update(batch, 0.0)
    found = [p.grad for p in shared]
    for mine, a, b in zip(found, of_policy, of_values, strict=True):
        torch.testing.assert_close(mine, a + coefficient * b, rtol=1e-4, atol=1e-6)


def test_value_gradients_reach_shared_encoder_with_the_policys() -> None:
    policy = sharing("vector")
    inputs = batch_for(policy).inputs
    weight = policy.actor.encoder.vector[0].weight
    (none,) = torch.autograd.grad(policy.values(inputs).sum(), weight, allow_unused=True)
    assert none is None
    _, values = policy.distribution_and_values(inputs)
    assert torch.autograd.grad(values.sum(), weight)[0].any()


def test_shared_parameters_belong_to_actor() -> None:
    policy = sharing("memory", encoder_hidden_sizes=[8])
    assert policy.critic.encoder is policy.actor.encoder
    assert policy.critic.memory is policy.actor.memory
    assert len(policy.actor_parameters.vector) == len(numbers(policy.actor))
    assert len(policy.critic_parameters.vector) == len(numbers(policy.critic.head))
    separate = small_policy(4, Discrete(3), encoder_hidden_sizes=[8])
    addresses = [
        {p.data_ptr() for p in module.parameters()} for module in (separate.actor, separate.critic)
    ]
    assert not addresses[0] & addresses[1]


@pytest.mark.parametrize("name", ["trpo", "npg"])
def test_natural_gradients_refuse_shared_encoder(name: str) -> None:
    message = rf"policy\.share_encoder=true is not possible with algo={name}.*ppo_clip"
    with pytest.raises(ConfigError, match=message):
        make_policy_optimizer(config_of(name), make_engine(sharing("vector")), seeded())
    with pytest.raises(ConfigError, match=message):
        rlkl.TrainConfig(algo=config_of(name), policy=PolicyConfig(share_encoder=True))


def test_sharing_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"share_encoder=true: there is nothing to share"):
        small_policy(4, Discrete(3), share_encoder=True)


# Gaussians.


@pytest.mark.parametrize("box_distribution", ["gaussian", "tanh_gaussian"])
@pytest.mark.parametrize("of_state", [False, True])
def test_log_std_starts_as_configured_and_stays_bounded(
    of_state: bool, box_distribution: str
) -> None:
    policy = small_policy(
        4,
        Box(-1, 1, (2,)),
        state_dependent_std=of_state,
        box_distribution=box_distribution,
        log_std=-0.7,
        log_std_min=-1.5,
        log_std_max=0.25,
        actor_gain=1e-6,
    )
    inputs = as_inputs(torch.randn(50, 4, generator=seeded()))

    def log_std() -> Tensor:
        return policy.distribution(inputs).parameters[:, 2:].detach()

    torch.testing.assert_close(log_std(), torch.full((50, 2), -0.7), rtol=0, atol=1e-4)
    found = set()
    for size in (1e3, -1e3):
        start = policy.actor_parameters.vector.detach().clone()
        policy.actor_parameters.vector.data.add_(size)
        assert log_std().isfinite().all()
        found |= {round(float(v), 4) for v in (log_std().min(), log_std().max())}
        policy.actor_parameters.vector.data.copy_(start)
    assert found == {-1.5, 0.25}


def test_state_dependent_std_varies_and_has_gradients() -> None:
    policy = small_policy(4, Box(-1, 1, (2,)), state_dependent_std=True)
    inputs = as_inputs(torch.randn(50, 4, generator=seeded()))
    parameters = policy.distribution(inputs).parameters
    assert (parameters[:, 2:].std(0) > 0.01).all()
    gradients = torch.autograd.grad(parameters[:, 2:].sum(), policy.actor_parameters.tensors)
    assert any(g.any() for g in gradients)
    free = small_policy(4, Box(-1, 1, (2,)))
    assert (free.distribution(inputs).parameters[:, 2:] == -0.3).all()


# Families and masks.


@pytest.mark.parametrize(
    ("space", "settings", "family", "size"),
    [
        (Discrete(3, start=3), {}, Categorical, 3),
        (MultiDiscrete([2, 3]), {}, MultiCategorical, 5),
        (MultiBinary(4), {}, Bernoulli, 4),
        (Box(-1, 1, (2, 2)), {}, DiagonalGaussian, 8),
        (Box(-1, 1, (2,)), {"state_dependent_std": True}, DiagonalGaussian, 4),
        (Box(-1, 1, (2,)), {"box_distribution": "tanh_gaussian"}, TanhGaussian, 4),
        (Box(0, 3, (2,)), {"box_distribution": "beta", "log_std": 0.0}, Beta, 4),
    ],
)
def test_action_space_selects_family_and_contains_actions(
    space: Any, settings: dict[str, Any], family: type, size: int
) -> None:
    policy = small_policy(4, space, **settings)
    inputs = as_inputs(torch.randn(20, 4, generator=seeded()))
    distribution = policy.distribution(inputs)
    assert type(distribution) is family
    assert distribution.parameters.shape == (20, size)
    for samples in (distribution.sample(seeded()), distribution.mode()):
        for action in policy.decoder(samples.detach().numpy()):
            assert space.contains(action)
    states = policy.initial_state(20)
    stepped, after = policy.step(inputs.observations, states)
    assert torch.equal(stepped.parameters, distribution.parameters)
    assert after is states
    continuous = family in (DiagonalGaussian, TanhGaussian)
    assert np.isfinite(policy.mean_std(distribution)) == continuous


@pytest.mark.parametrize("memory", ["none", "gru"])
def test_mask_applies_in_step_and_distribution(memory: str) -> None:
    policy = small_policy(4, Discrete(3), memory=memory)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    observations = {"vector": torch.zeros(2, 4), ACTION_MASK: mask}
    distribution, _ = policy.step(observations, policy.initial_state(2))
    assert torch.equal(distribution.parameters.isfinite(), mask)
    cells, lengths = torch.tensor([[0, 1]]), torch.tensor([1, 1])
    sequences = Sequences(cells, lengths, policy.initial_state(2)) if policy.state_size else None
    again = policy.distribution(Inputs(observations, sequences))
    torch.testing.assert_close(again.parameters, distribution.parameters)


# Types, states and invalid settings.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parameters_and_outputs_have_requested_dtype(dtype: torch.dtype) -> None:
    space = Dict({"a": Box(-1, 1, (3,)), "b": Box(0, 255, (4, 4), np.uint8)})
    encoder = ObservationEncoder(space)
    config = PolicyConfig([4], [4], memory="lstm", memory_size=3, image_features=4)
    policy = Policy(config, encoder, Box(-1, 1, (2,)), seeded(), dtype=dtype)
    observations = policy.tensors(encoder.stack([space.sample() for _ in range(5)]))
    assert {k: v.dtype for k, v in observations.items()} == {
        "vector": dtype,
        "image/b": torch.uint8,
    }
    distribution, states = policy.step(observations, policy.initial_state(5))
    assert distribution.parameters.dtype == states.dtype == dtype
    assert policy.actor_parameters.vector.dtype == policy.critic_parameters.vector.dtype == dtype
    assert policy.values(Inputs(observations), states).dtype == dtype


@pytest.mark.parametrize("share", [False, True])
def test_loaded_state_enters_parameter_vectors(share: bool) -> None:
    settings = {"memory": "gru", "encoder_hidden_sizes": [5], "share_encoder": share}
    first, second = (small_policy(4, Discrete(3), seed, **settings) for seed in (0, 1))
    assert not torch.equal(first.actor_parameters.vector, second.actor_parameters.vector)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for part in ("actor_parameters", "critic_parameters"):
        assert torch.equal(getattr(first, part).vector, getattr(second, part).vector)
    before = first.actor_parameters.vector.detach().clone()
    second.actor_parameters.vector.data.zero_()
    assert not any(p.any() for p in second.actor.parameters())
    assert torch.equal(first.actor_parameters.vector, before)


def test_squashing_without_finite_bounds_is_refused() -> None:
    with pytest.raises(ConfigError, match="no finite bounds"):
        small_policy(4, Box(-np.inf, np.inf, (2,)), box_distribution="tanh_gaussian")
