"""Whole updates by hand against whole updates by autograd, and the parts of them against torch."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from learning_loop import Loop, config_of, small_policy
from made_batches import KINDS, batch_for, policy_of
from torch import Generator, Tensor
from torch.func import functional_call
from worlds import MODES, wander

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.base import FixedObjective, Metrics, SlopedObjective, full_batch_kl
from rlkl.algos.critic import CriticConfig, CriticFit
from rlkl.algos.first_order import FirstOrder
from rlkl.algos.gradients import ByAutograd, ByHand, fisher_root, output_fisher
from rlkl.algos.natural_gradient import (
    NaturalGradient,
    hand_fisher_vector_product,
    rooted_fisher_vector_product,
)
from rlkl.algos.npg import NPGConfig
from rlkl.algos.ppo_clip import ClippedSurrogate, PPOClipConfig
from rlkl.algos.ppo_kl import KLPenalizedSurrogate, PPOKLFixedConfig
from rlkl.envs.make import EnvConfig
from rlkl.envs.spaces import ACTION_MASK
from rlkl.models.policy import Inputs, Policy
from rlkl.numerics.distributions import Distribution
from rlkl.numerics.trust_region import fisher_vector_product
from rlkl.rollouts.rollout import Batch

PERCEPTRONS = [kind for kind in KINDS if kind not in ("gru", "lstm")]
FIRST_ORDER = [name for name in ALGORITHMS if name not in ("npg", "trpo")]
WAYS = ("autograd", "by_hand")


def exact_policy(kind: str, differentiation: str, **settings: Any) -> Policy:
    """Make a policy in float64."""
    policy = policy_of(kind, 0, dtype=torch.float64, differentiation=differentiation, **settings)
    assert (policy.by_hand is None) == (differentiation == "autograd")
    return policy


def seeded(seed: int = 1) -> Generator:
    return Generator().manual_seed(seed)


# Whole updates.


VARIANTS: list[dict[str, Any]] = [
    {"advantage_standardization": "batch", "fisher_fraction": 0.5},
    {"advantage_standardization": "minibatch", "entropy_coefficient": 0.05, "max_grad_norm": 0.1},
    {"advantage_standardization": "none", "target_kl": 2e-3, "target_kl_scope": "minibatch"},
    {"entropy_coefficient": 0.05, "target_kl": 2e-3, "target_kl_scope": "epoch"},
]
PAIRS = [
    (name, kind, (i + j) % len(VARIANTS))
    for i, name in enumerate(ALGORITHMS)
    for j, kind in enumerate(PERCEPTRONS)
]
"""Every algorithm for every kind of action; each of both meets each variant."""
TOLERANCE = {name: 1e-9 if name in FIRST_ORDER else 1e-7 for name in ALGORITHMS}
"""Of the actor's parameters. Conjugate gradient makes more of a rounding error."""


def trained(
    name: str, kind: str, differentiation: str, updates: int = 2, **settings: Any
) -> tuple[Tensor, Tensor, list[Metrics]]:
    """Return the actor, the critic and what was reported, with a new batch for each update."""
    policy = exact_policy(kind, differentiation)
    settings = {"num_epochs": 3, "num_minibatches": 3, "learning_rate": 1e-2} | settings
    known = {field.name for field in fields(ALGORITHMS[name].config)}
    standardization = settings.get("advantage_standardization")
    if standardization == "minibatch" and "num_minibatches" not in known:
        settings["advantage_standardization"] = "none"
    optimizer = make_policy_optimizer(config_of(name, **settings), policy, seeded())
    value_clip = 0.05 if "entropy_coefficient" in settings else None
    fit = CriticFit(CriticConfig(num_epochs=2, value_clip=value_clip), policy, seeded(2))
    reports = []
    for number in range(updates):
        batch = batch_for(policy, kind, 60 + number, number)
        reports += [optimizer.update(batch, 0.25), fit.update(batch, 0.25)]
    return (
        policy.actor_parameters.vector.detach(),
        policy.critic_parameters.vector.detach(),
        reports,
    )


@pytest.mark.parametrize(("name", "kind", "variant"), PAIRS)
def test_updates_by_hand_are_those_by_autograd(name: str, kind: str, variant: int) -> None:
    start = exact_policy(kind, "autograd")
    (actor, critic, reports), (hand_actor, hand_critic, hand_reports) = (
        trained(name, kind, way, **VARIANTS[variant]) for way in WAYS
    )
    assert (actor - start.actor_parameters.vector).abs().max() > 1e-3
    assert (critic - start.critic_parameters.vector).abs().max() > 1e-3
    torch.testing.assert_close(hand_actor, actor, rtol=1e-8, atol=TOLERANCE[name])
    torch.testing.assert_close(hand_critic, critic, rtol=1e-9, atol=1e-9)
    for found, expected in zip(hand_reports, reports, strict=True):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-8, nan_ok=True)


@pytest.mark.parametrize("variant", [2, 3])
def test_the_variants_that_may_stop_early_do_so_amid_an_update(variant: int) -> None:
    for kind in ("categorical", "gaussian"):
        _, _, (report, _) = trained("ppo_clip", kind, "by_hand", 1, **VARIANTS[variant])
        assert report["optim/stopped_early"] == 1
        assert 0 < report["optim/epochs"] < 3


@pytest.mark.parametrize("activation", ["relu", "elu"])
@pytest.mark.parametrize("hidden", [[], [8, 7, 6]], ids=len)
def test_other_networks_are_updated_alike(activation: str, hidden: list[int]) -> None:
    settings = {
        "activation": activation,
        "actor_hidden_sizes": hidden,
        "critic_hidden_sizes": hidden,
        "encoder_hidden_sizes": hidden[:1],
    }
    ends = []
    for way in WAYS:
        policy = exact_policy("gaussian", way, **settings)
        for name in ("ppo_clip", "npg"):
            batch = batch_for(policy, "gaussian", 60)
            make_policy_optimizer(config_of(name), policy, seeded()).update(batch, 0.0)
        CriticFit(CriticConfig(), policy, seeded()).update(batch, 0.0)
        ends.append(torch.cat((policy.actor_parameters.vector, policy.critic_parameters.vector)))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-7, atol=1e-7)


# Whole iterations: collected, learned from, and collected again.


LOOPS = [
    ("trpo", "categorical", EnvConfig("CartPole-v1", 3)),
    ("ppo_clip", "gaussian", EnvConfig("Pendulum-v1", 3)),
    ("ppo_kl", "masked", None),
    ("npg", "gaussian_of_state", None),
    ("vanilla_pg", "bernoulli", None),
    ("ppo_kl_fixed", "tanh_gaussian", None),
    ("trpo", "multi_categorical", None),
]


@pytest.mark.parametrize(("name", "kind", "env"), LOOPS)
def test_iterations_by_hand_are_those_by_autograd(
    name: str, kind: str, env: EnvConfig | None
) -> None:
    space, of_kind = KINDS[kind]
    loops = []
    for way in WAYS:
        envs = env or wander(space, MODES[1], masked=kind == "masked")
        settings = {"rollout_steps": 30, "normalize": True, "dtype": torch.float64}
        algo = config_of(name, num_epochs=2, entropy_coefficient=0.01)
        loops.append(Loop(algo, envs, differentiation=way, **settings, **of_kind))
    for _ in range(3):
        batches = []
        for loop in loops:
            batch = loop.collect()
            loop.optimizer.update(batch, 0.0)
            loop.critic_fit.update(batch, 0.0)
            batches.append(batch)
        expected, found = batches
        torch.testing.assert_close(found.actions, expected.actions, rtol=1e-7, atol=1e-7)
        for part in ("advantages", "returns", "old_parameters", "old_log_prob", "old_values"):
            torch.testing.assert_close(
                getattr(found, part), getattr(expected, part), rtol=1e-6, atol=1e-6
            )
    first, second = (
        torch.cat((loop.policy.actor_parameters.vector, loop.policy.critic_parameters.vector))
        for loop in loops
    )
    torch.testing.assert_close(second, first, rtol=1e-6, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("kind", PERCEPTRONS)
def test_one_noise_makes_the_same_actions_both_ways(kind: str) -> None:
    drawn = []
    for way in WAYS:
        policy = policy_of(kind, differentiation=way)
        act = policy.acting(policy.noise(6, 5, seeded()))
        rows = batch_for(policy, kind, 30).inputs.observations
        steps = [{k: v[5 * t : 5 * t + 5].numpy() for k, v in rows.items()} for t in range(6)]
        drawn.append([act(t, step, policy.initial_state(5))[0] for t, step in enumerate(steps)])
    for found, expected in zip(drawn[1], drawn[0], strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert all(not np.array_equal(drawn[1][0], later) for later in drawn[1][1:])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["multi_categorical", "bernoulli"])
def test_masks_of_several_choices_are_kept_both_ways(kind: str) -> None:
    generator, drawn = seeded(), []
    forbidden = torch.rand(200, 6 if kind == "bernoulli" else 5, generator=generator) < 0.5
    forbidden[:, [1, 3]] = False
    if kind == "bernoulli":
        forbidden[:, 5] = False
    for way in WAYS:
        policy = policy_of(kind, differentiation=way)
        rows = batch_for(policy, kind, 200).inputs.observations | {ACTION_MASK: ~forbidden}
        act = policy.acting(policy.noise(1, 200, seeded()))
        arrays = {name: tensor.numpy() for name, tensor in rows.items()}
        drawn.append(act(0, arrays, policy.initial_state(200))[0])
        taken = policy.distribution(Inputs(rows)).log_prob(torch.as_tensor(drawn[-1]))
        assert taken.isfinite().all()
    np.testing.assert_array_equal(drawn[1], drawn[0])


@pytest.mark.parametrize("kind", PERCEPTRONS)
def test_actions_that_were_returned_are_not_overwritten_by_later_steps(kind: str) -> None:
    policy = policy_of(kind)
    act = policy.acting(policy.noise(2, 30, seeded()))
    rows = {k: v.numpy() for k, v in batch_for(policy, kind, 30).inputs.observations.items()}
    first, _ = act(0, rows, policy.initial_state(30))
    kept = first.copy()
    act(1, rows, policy.initial_state(30))
    np.testing.assert_array_equal(first, kept)


# The gradient of one minibatch.


def gradient_of(policy: Policy, objective: Any, config: Any, batch: Batch) -> Tensor:
    """Return the actor's gradient after moving away from π_old."""
    vector = policy.actor_parameters.vector.data
    vector.add_(torch.randn(vector.shape, generator=seeded(4)).double(), alpha=0.1)
    optimizer = FirstOrder(config, objective, policy, seeded())
    gradient = optimizer.gradient
    (part,) = gradient.minibatches(gradient.source(batch), 1, seeded())
    loss = float(optimizer.gradient.write(part))
    assert optimizer.gradient.mean_kl(part) == pytest.approx(full_batch_kl(policy, batch))
    return torch.cat((policy.actor_parameters.gradient.clone(), torch.tensor([loss])))


@pytest.mark.parametrize("kind", PERCEPTRONS)
@pytest.mark.parametrize("name", FIRST_ORDER)
@pytest.mark.parametrize("entropy_coefficient", [0.0, 0.3])
def test_the_gradient_of_a_minibatch_is_that_of_autograd(
    name: str, kind: str, entropy_coefficient: float
) -> None:
    config: Any = config_of(name, entropy_coefficient=entropy_coefficient, kl_coefficient=2.0)
    found = []
    for way in WAYS:
        policy = exact_policy(kind, way)
        batch = batch_for(policy, kind, 40)
        optimizer: Any = make_policy_optimizer(config, policy, seeded())
        assert isinstance(optimizer.objective, SlopedObjective)
        assert isinstance(optimizer.gradient, ByHand if way == "by_hand" else ByAutograd)
        found.append(gradient_of(policy, optimizer.objective, config, batch))
    assert found[0].abs().max() > 0.01
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


class OwnObjective(FixedObjective):
    """What a user may write: a loss, and no slopes."""

    def loss(self, new: Distribution, batch: Batch) -> Tensor:
        log_ratio = new.log_prob(batch.actions) - batch.old_log_prob
        jump = (new.at(batch.old_parameters).kl(new) + 1e-3).sqrt()
        return -(log_ratio.tanh() * batch.advantages - 0.3 * jump).mean()


@pytest.mark.parametrize("kind", PERCEPTRONS)
@pytest.mark.parametrize("entropy_coefficient", [0.0, 0.3])
def test_an_objective_without_slopes_is_differentiated_by_torch_and_the_network_by_hand(
    kind: str, entropy_coefficient: float
) -> None:
    config = PPOClipConfig(entropy_coefficient=entropy_coefficient, num_epochs=2)
    objective, gradients, ends = OwnObjective(), [], []
    assert not isinstance(objective, SlopedObjective)
    for way in WAYS:
        policy = exact_policy(kind, way)
        batch = batch_for(policy, kind, 40)
        FirstOrder(config, objective, policy, seeded()).update(batch, 0.0)
        ends.append(policy.actor_parameters.vector.detach().clone())
        gradients.append(gradient_of(policy, objective, config, batch))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-9)


class Secretive(KLPenalizedSurrogate):
    """What a user may write by mistake: slopes of a KL that it does not tell of."""

    has_kl = False


def test_an_objective_that_hides_its_kl_is_told_so() -> None:
    policy = exact_policy("categorical", "by_hand")
    config = PPOKLFixedConfig(kl_coefficient=1.0)
    optimizer = FirstOrder(config, Secretive(config), policy, seeded())
    with pytest.raises(AssertionError, match="has_kl"):
        optimizer.update(batch_for(policy, "categorical", 40), 0.0)


class Tripled(ClippedSurrogate):
    """What a user may write: another loss than that of the class above, whose slopes are left."""

    def loss(self, new: Distribution, batch: Batch) -> Tensor:
        return 3 * super().loss(new, batch)


def test_a_loss_that_was_overridden_is_the_one_that_is_descended() -> None:
    config, gradients = PPOClipConfig(), []
    for way in WAYS:
        policy = exact_policy("categorical", way)
        batch = batch_for(policy, "categorical", 40)
        gradients.append(gradient_of(policy, Tripled(config), config, batch))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", ["categorical", "masked", "gaussian", "bernoulli"])
@pytest.mark.parametrize("name", FIRST_ORDER)
def test_what_is_not_finite_shows_in_the_report_and_in_the_parameters(name: str, kind: str) -> None:
    for way in WAYS:
        policy = exact_policy(kind, way)
        batch = batch_for(policy, kind, 40)
        batch.advantages[3] = batch.returns[5] = math.nan
        once = config_of(name, num_epochs=1, num_minibatches=1)
        report = make_policy_optimizer(once, policy, seeded()).update(batch, 0.0)
        assert math.isnan(report["policy/loss"])
        assert math.isnan(report["optim/grad_norm"])
        assert policy.actor_parameters.vector.isnan().all()
        report = CriticFit(CriticConfig(num_epochs=1), policy, seeded()).update(batch, 0.0)
        assert math.isnan(report["value/loss"])
        assert math.isnan(report["value/grad_norm"])
        assert policy.critic_parameters.vector.isnan().all()


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
@pytest.mark.parametrize("name", FIRST_ORDER)
def test_a_ratio_that_overflows_makes_no_warning(name: str, kind: str) -> None:
    policy = exact_policy(kind, "by_hand")
    batch = batch_for(policy, kind, 40)
    batch = replace(batch, old_log_prob=batch.old_log_prob - 1e4)
    make_policy_optimizer(config_of(name), policy, seeded()).update(batch, 0.0)


def test_the_gradient_by_hand_needs_no_zeroing() -> None:
    policy = exact_policy("gaussian", "by_hand")
    batch = batch_for(policy, "gaussian", 40)
    optimizer: Any = make_policy_optimizer(config_of("ppo_clip"), policy, seeded())
    gradient = optimizer.gradient
    (part,) = gradient.minibatches(gradient.source(batch), 1, seeded())
    found = []
    for left in (0.0, math.nan):
        policy.actor_parameters.gradient.fill_(left)
        optimizer.gradient.write(part)
        found.append(policy.actor_parameters.gradient.clone())
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", ["masked", "gaussian"])
@pytest.mark.parametrize("standardization", ["none", "minibatch"])
@pytest.mark.parametrize("number", [1, 4, 50])
def test_minibatches_by_hand_hold_the_rows_of_those_by_autograd(
    number: int, standardization: str, kind: str
) -> None:
    policy = exact_policy(kind, "by_hand")
    batch = batch_for(policy, kind, 31)
    config = PPOClipConfig(advantage_standardization=standardization)
    objective, generators = OwnObjective(), [seeded(), seeded()]
    by_autograd = ByAutograd(config, objective, policy)
    by_hand = FirstOrder(config, objective, policy, seeded()).gradient
    assert isinstance(by_hand, ByHand)
    for _ in range(2):
        expected_parts = list(by_autograd.minibatches(batch, number, generators[0]))
        parts = list(by_hand.minibatches(by_hand.source(batch), number, generators[1]))
        assert len(parts) == min(number, 31)
        for expected, found in zip(expected_parts, parts, strict=True):
            observations = expected.inputs.observations
            np.testing.assert_array_equal(found.vectors, observations["vector"])
            assert (found.masks is None) == (kind == "gaussian")
            if found.masks is not None:
                np.testing.assert_array_equal(found.masks, observations[ACTION_MASK])
            for name in found._fields[2:]:
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert torch.equal(generators[0].get_state(), generators[1].get_state())


# The Fisher matrix.


FISHER = [
    *("categorical", "masked", "gaussian", "gaussian_of_state", "tanh_gaussian"),
    *("two_actions", "two_actions_masked"),
]


def far_policy(kind: str, differentiation: str = "by_hand") -> Policy:
    """Make a policy of a few dozen parameters, far from its tame start."""
    policy = exact_policy(kind, differentiation, actor_hidden_sizes=[3])
    vector = policy.actor_parameters.vector.data
    vector.add_(torch.randn(vector.shape, generator=seeded(5)).double(), alpha=0.3)
    return policy


def hessian_of_the_kl(policy: Policy, inputs: Inputs) -> Tensor:
    """Return the whole matrix of second derivatives of the mean KL at θ_old."""
    names, tensors = zip(*policy.actor.named_parameters(), strict=True)
    with torch.no_grad():
        old = policy.distribution(inputs)

    def mean_kl(vector: Tensor) -> Tensor:
        parts = vector.split([tensor.numel() for tensor in tensors])
        named = {n: p.view_as(t) for n, p, t in zip(names, parts, tensors, strict=True)}
        new = old.at(functional_call(policy.actor, named, (inputs,)))
        mask = inputs.observations.get(ACTION_MASK)
        return old.kl(new if mask is None else new.masked(mask)).mean()

    matrix: Tensor = torch.autograd.functional.hessian(
        mean_kl, policy.actor_parameters.vector.detach().clone()
    )
    return matrix


@pytest.mark.parametrize("kind", FISHER)
def test_products_by_hand_are_those_of_autograd_and_of_the_dense_hessian(kind: str) -> None:
    policy = far_policy(kind)
    assert policy.by_hand is not None
    batch = batch_for(policy, kind, 9)
    fisher = output_fisher(policy.family)
    assert fisher is not None
    actor, rows = policy.by_hand.actor, batch.rows()
    root = fisher_root(policy.family, rows.old_parameters)
    assert (root is not None) == kind.startswith("two_actions")
    actor.forward(rows.vectors)
    product = (
        hand_fisher_vector_product(actor, fisher, rows, 0.25)
        if root is None
        else rooted_fisher_vector_product(actor, root, 0.25)
    )

    def by_hand(vector: Tensor) -> Tensor:
        return torch.from_numpy(product(vector.numpy()))

    new = policy.distribution(batch.inputs)
    mean_kl = new.at(batch.old_parameters).kl(new).mean()
    by_autograd = fisher_vector_product(mean_kl, policy.actor_parameters.tensors, 0.25)
    unit = torch.eye(len(policy.actor_parameters.vector), dtype=torch.float64)
    dense = hessian_of_the_kl(policy, batch.inputs) + 0.25 * unit
    before = policy.actor_parameters.vector.detach().clone()
    found = torch.stack([by_hand(column) for column in unit], 1)
    torch.testing.assert_close(found, dense, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found, found.T, rtol=1e-9, atol=1e-12)
    vector = torch.randn(len(unit), generator=seeded(), dtype=torch.float64)
    kept = vector.clone()
    torch.testing.assert_close(by_hand(vector), by_autograd(vector), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(by_hand(vector), dense @ vector, rtol=1e-9, atol=1e-12)
    assert torch.equal(vector, kept)
    assert torch.equal(policy.actor_parameters.vector, before)


@pytest.mark.parametrize("kind", ["multi_categorical", "bernoulli"])
def test_families_without_a_fisher_matrix_of_their_own_are_left_to_autograd(kind: str) -> None:
    assert output_fisher(policy_of(kind).family) is None


@pytest.mark.parametrize("kind", FISHER)
@pytest.mark.parametrize("fraction", [1.0, 0.4])
def test_a_step_goes_by_the_share_of_states_that_is_configured(kind: str, fraction: float) -> None:
    config = NPGConfig(fisher_fraction=fraction, cg_damping=0.05, entropy_coefficient=0.1)
    steps = []
    for way in WAYS:
        policy = far_policy(kind, way)
        batch = batch_for(policy, kind, 30)
        natural = NaturalGradient(config, policy, seeded())
        steps.append(natural.step(natural.prepared(batch), 0.01))
    first, second = steps
    assert first.step.abs().max() > 1e-3
    torch.testing.assert_close(second.step, first.step, rtol=1e-5, atol=1e-6)
    assert second.expected_improvement == pytest.approx(first.expected_improvement, rel=1e-6)
    assert second.gradient_norm == pytest.approx(first.gradient_norm, rel=1e-9)


@pytest.mark.parametrize("of_state", [False, True])
def test_logarithm_beyond_its_bound_keeps_its_curvature(of_state: bool) -> None:
    products = []
    for way in WAYS:
        policy = small_policy(
            4,
            Box(-1, 1, (2,)),
            dtype=torch.float64,
            differentiation=way,
            state_dependent_std=of_state,
            log_std_min=-1.0,
            log_std_max=0.5,
            actor_hidden_sizes=[],
        )
        bias = policy.actor.head.network[-1].bias[-2:] if of_state else policy.actor.head.log_std
        bias.data.copy_(torch.tensor([-2.0, 0.1]))
        batch = batch_for(policy, "gaussian", 20)
        natural = NaturalGradient(NPGConfig(cg_damping=0.0), policy, seeded())
        natural.gradient.write(
            next(natural.gradient.minibatches(natural.gradient.source(batch), 1, seeded()))
        )
        by_autograd = natural._product_by_autograd(batch)
        product = natural._product_by_hand(batch, batch.rows())
        unit = torch.eye(len(policy.actor_parameters.vector), dtype=torch.float64)
        products.append(
            torch.stack(
                [
                    by_autograd(column)
                    if product is None
                    else torch.from_numpy(product(column.numpy()))
                    for column in unit
                ],
                1,
            )
        )
        place = (bias.data_ptr() - policy.actor_parameters.vector.data_ptr()) // 8
        assert products[-1].diagonal()[place : place + 2].tolist() == pytest.approx([2, 2])
    torch.testing.assert_close(products[0], products[1], rtol=1e-9, atol=1e-12)
