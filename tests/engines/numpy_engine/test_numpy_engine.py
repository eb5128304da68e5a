"""The NumPy engine compared with the torch engine: updates, actions, gradients, Fisher products."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from algorithm_checks import ReverseKLPenalty
from gymnasium.spaces import Box
from learning_loop import Loop, config_of, small_policy
from made_batches import KINDS, batch_for, policy_of
from torch import Generator, Tensor
from torch.func import functional_call
from worlds import MODES, wander

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.base import FixedObjective, Metrics
from rlkl.algos.critic import CriticConfig, CriticFit
from rlkl.algos.first_order import FirstOrder
from rlkl.algos.natural_gradient import NaturalGradient
from rlkl.algos.npg import NPGConfig
from rlkl.algos.ppo_clip import ClippedSurrogate, PPOClipConfig
from rlkl.algos.vanilla_pg import LogLikelihood
from rlkl.engines.base import EntropyBonus, Loss, Minibatch, NewPolicy
from rlkl.engines.make import make_engine
from rlkl.envs.make import EnvConfig
from rlkl.envs.observations import ACTION_MASK
from rlkl.models.policy import Inputs, Policy
from rlkl.numerics.trust_region import fisher_vector_product
from rlkl.rollouts.batch import Batch

MLP_KINDS = [kind for kind in KINDS if kind not in ("gru", "lstm")]
FIRST_ORDER = [name for name in ALGORITHMS if name not in ("npg", "trpo")]
ENGINES = ("torch", "numpy")


def exact_policy(kind: str, engine: str, **settings: Any) -> Policy:
    """Make a policy in float64."""
    policy = policy_of(kind, 0, dtype=torch.float64, engine=engine, **settings)
    assert make_engine(policy).name == engine
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
    for j, kind in enumerate(MLP_KINDS)
]
"""Every algorithm with every kind of action; each of them is tested with each variant."""
TOLERANCE = {name: 1e-9 if name in FIRST_ORDER else 1e-7 for name in ALGORITHMS}
"""Of the actor's parameters. Conjugate gradient amplifies rounding errors."""


def trained(
    name: str, kind: str, engine: str, updates: int = 2, **settings: Any
) -> tuple[Tensor, Tensor, list[Metrics]]:
    """Return the actor, the critic and the metrics after updates with a new batch each."""
    policy = exact_policy(kind, engine)
    settings = {"num_epochs": 3, "num_minibatches": 3, "learning_rate": 1e-2} | settings
    known = {field.name for field in fields(ALGORITHMS[name].config)}
    standardization = settings.get("advantage_standardization")
    if standardization == "minibatch" and "num_minibatches" not in known:
        settings["advantage_standardization"] = "none"
    optimizer = make_policy_optimizer(config_of(name, **settings), make_engine(policy), seeded())
    value_clip = 0.05 if "entropy_coefficient" in settings else None
    fit = CriticFit(
        CriticConfig(num_epochs=2, value_clip=value_clip), make_engine(policy), seeded(2)
    )
    reports = []
    for number in range(updates):
        batch = batch_for(policy, kind, 60 + number, number)
        reports += [optimizer.update(batch, 0.25).metrics, fit.update(batch, 0.25).metrics]
    return (
        policy.actor_parameters.vector.detach(),
        policy.critic_parameters.vector.detach(),
        reports,
    )


@pytest.mark.parametrize(("name", "kind", "variant"), PAIRS)
def test_updates_match_torch_engine(name: str, kind: str, variant: int) -> None:
    start = exact_policy(kind, "torch")
    (actor, critic, reports), (numpy_actor, numpy_critic, numpy_reports) = (
        trained(name, kind, engine, **VARIANTS[variant]) for engine in ENGINES
    )
    assert (actor - start.actor_parameters.vector).abs().max() > 1e-3
    assert (critic - start.critic_parameters.vector).abs().max() > 1e-3
    torch.testing.assert_close(numpy_actor, actor, rtol=1e-8, atol=TOLERANCE[name])
    torch.testing.assert_close(numpy_critic, critic, rtol=1e-9, atol=1e-9)
    for found, expected in zip(numpy_reports, reports, strict=True):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-8, nan_ok=True)


@pytest.mark.parametrize("variant", [2, 3])
def test_early_stop_variants_stop_within_update(variant: int) -> None:
    for kind in ("categorical", "gaussian"):
        _, _, (report, _) = trained("ppo_clip", kind, "numpy", 1, **VARIANTS[variant])
        assert report["optim/stopped_early"] == 1
        assert 0 < report["optim/epochs"] < 3


@pytest.mark.parametrize("activation", ["relu", "elu"])
@pytest.mark.parametrize("hidden", [[], [8, 7, 6]], ids=len)
def test_other_architectures_match_torch_engine(activation: str, hidden: list[int]) -> None:
    settings = {
        "activation": activation,
        "actor_hidden_sizes": hidden,
        "critic_hidden_sizes": hidden,
        "encoder_hidden_sizes": hidden[:1],
    }
    ends = []
    for name_of_engine in ENGINES:
        policy = exact_policy("gaussian", name_of_engine, **settings)
        for name in ("ppo_clip", "npg"):
            batch = batch_for(policy, "gaussian", 60)
            make_policy_optimizer(config_of(name), make_engine(policy), seeded()).update(batch, 0.0)
        CriticFit(CriticConfig(), make_engine(policy), seeded()).update(batch, 0.0)
        ends.append(torch.cat((policy.actor_parameters.vector, policy.critic_parameters.vector)))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-7, atol=1e-7)


# Whole iterations.


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
def test_iterations_match_torch_engine(name: str, kind: str, env: EnvConfig | None) -> None:
    space, of_kind = KINDS[kind]
    loops = []
    for name_of_engine in ENGINES:
        envs = env or wander(space, MODES[1], masked=kind == "masked")
        settings = {"rollout_steps": 30, "normalize": True, "dtype": torch.float64}
        algo = config_of(name, num_epochs=2, entropy_coefficient=0.01)
        loops.append(Loop(algo, envs, engine=name_of_engine, **settings, **of_kind))
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
@pytest.mark.parametrize("kind", MLP_KINDS)
def test_same_noise_gives_same_actions(kind: str) -> None:
    drawn = []
    for name_of_engine in ENGINES:
        policy = policy_of(kind, engine=name_of_engine)
        act = make_engine(policy).act(policy.noise(6, 5, seeded()))
        rows = batch_for(policy, kind, 30).inputs.observations
        steps = [{k: v[5 * t : 5 * t + 5].numpy() for k, v in rows.items()} for t in range(6)]
        drawn.append([act(t, step, policy.initial_state(5))[0] for t, step in enumerate(steps)])
    for found, expected in zip(drawn[1], drawn[0], strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert all(not np.array_equal(drawn[1][0], later) for later in drawn[1][1:])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["multi_categorical", "bernoulli"])
def test_masks_of_several_choices_apply(kind: str) -> None:
    generator, drawn = seeded(), []
    forbidden = torch.rand(200, 6 if kind == "bernoulli" else 5, generator=generator) < 0.5
    forbidden[:, [1, 3]] = False
    if kind == "bernoulli":
        forbidden[:, 5] = False
    for name_of_engine in ENGINES:
        policy = policy_of(kind, engine=name_of_engine)
        rows = batch_for(policy, kind, 200).inputs.observations | {ACTION_MASK: ~forbidden}
        act = make_engine(policy).act(policy.noise(1, 200, seeded()))
        arrays = {name: tensor.numpy() for name, tensor in rows.items()}
        drawn.append(act(0, arrays, policy.initial_state(200))[0])
        taken = policy.distribution(Inputs(rows)).log_prob(torch.as_tensor(drawn[-1]))
        assert taken.isfinite().all()
    np.testing.assert_array_equal(drawn[1], drawn[0])


@pytest.mark.parametrize("kind", MLP_KINDS)
def test_returned_actions_are_not_overwritten(kind: str) -> None:
    policy = policy_of(kind)
    act = make_engine(policy).act(policy.noise(2, 30, seeded()))
    rows = {k: v.numpy() for k, v in batch_for(policy, kind, 30).inputs.observations.items()}
    first, _ = act(0, rows, policy.initial_state(30))
    kept = first.copy()
    act(1, rows, policy.initial_state(30))
    np.testing.assert_array_equal(first, kept)


# The gradient of one minibatch.


def gradient_of(policy: Policy, objective: Any, config: Any, batch: Batch) -> Tensor:
    """Return the actor's gradient and loss at a policy different from π_old."""
    vector = policy.actor_parameters.vector.data
    vector.add_(torch.randn(vector.shape, generator=seeded(4)).double(), alpha=0.1)
    engine = make_engine(policy)
    penalized = EntropyBonus(objective, config.entropy_coefficient)
    (part,) = engine.rows(batch, penalized).minibatches(1, seeded())
    loss = float(engine.policy_gradient(penalized, part))
    assert engine.mean_kl(part) == pytest.approx(float(engine.state_kl(batch).mean()))
    return torch.cat((policy.actor_parameters.gradient.clone(), torch.tensor([loss])))


@pytest.mark.parametrize("kind", MLP_KINDS)
@pytest.mark.parametrize("name", FIRST_ORDER)
@pytest.mark.parametrize("entropy_coefficient", [0.0, 0.3])
def test_minibatch_gradient_matches_torch_engine(
    name: str, kind: str, entropy_coefficient: float
) -> None:
    config: Any = config_of(name, entropy_coefficient=entropy_coefficient, kl_coefficient=2.0)
    found = []
    for name_of_engine in ENGINES:
        policy = exact_policy(kind, name_of_engine)
        batch = batch_for(policy, kind, 40)
        optimizer: Any = make_policy_optimizer(config, make_engine(policy), seeded())
        assert optimizer.engine.name == name_of_engine
        found.append(gradient_of(policy, optimizer.objective, config, batch))
    assert found[0].abs().max() > 0.01
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


class CustomObjective(FixedObjective):
    """A custom objective: the square root of each state's KL, and a tanh."""

    uses_kl = True

    def loss(self, new: NewPolicy, batch: Minibatch) -> Loss:
        squashed = new.xp.tanh(new.log_prob - batch.old_log_prob)
        root = new.xp.sqrt(new.kl + 1e-3)
        return Loss(
            -(squashed * batch.advantages - 0.3 * root).mean(),
            -(1 - squashed**2) * batch.advantages / len(batch),
            kl=0.3 * 0.5 / root / len(batch),
        )


@pytest.mark.parametrize("kind", MLP_KINDS)
@pytest.mark.parametrize("entropy_coefficient", [0.0, 0.3])
@pytest.mark.parametrize("objective", [CustomObjective(), ReverseKLPenalty()])
def test_custom_objective_matches_torch_engine(
    objective: Any, kind: str, entropy_coefficient: float
) -> None:
    config = PPOClipConfig(entropy_coefficient=entropy_coefficient, num_epochs=2)
    gradients, ends = [], []
    for name_of_engine in ENGINES:
        policy = exact_policy(kind, name_of_engine)
        batch = batch_for(policy, kind, 40)
        FirstOrder(config, objective, make_engine(policy), seeded()).update(batch, 0.0)
        ends.append(policy.actor_parameters.vector.detach().clone())
        gradients.append(gradient_of(policy, objective, config, batch))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-9)


def test_undeclared_use_of_distribution_is_refused() -> None:
    class Undeclared(ReverseKLPenalty):
        uses_distribution = False

    policy = exact_policy("categorical", "numpy")
    engine = make_engine(policy)
    rows = engine.rows(batch_for(policy, "categorical", 40), Undeclared())
    with pytest.raises(AttributeError, match="uses_distribution = True"):
        engine.policy_gradient(Undeclared(), rows)


@pytest.mark.parametrize("kind", ["categorical", "masked", "gaussian", "bernoulli"])
@pytest.mark.parametrize("name", FIRST_ORDER)
def test_nonfinite_batch_shows_in_report_and_parameters(name: str, kind: str) -> None:
    for name_of_engine in ENGINES:
        policy = exact_policy(kind, name_of_engine)
        batch = batch_for(policy, kind, 40)
        batch.advantages[3] = batch.returns[5] = math.nan
        once = config_of(name, num_epochs=1, num_minibatches=1)
        report = (
            make_policy_optimizer(once, make_engine(policy), seeded()).update(batch, 0.0).metrics
        )
        assert math.isnan(report["policy/loss"])
        assert math.isnan(report["optim/grad_norm"])
        assert policy.actor_parameters.vector.isnan().all()
        report = (
            CriticFit(CriticConfig(num_epochs=1), make_engine(policy), seeded())
            .update(batch, 0.0)
            .metrics
        )
        assert math.isnan(report["value/loss"])
        assert math.isnan(report["value/grad_norm"])
        assert policy.critic_parameters.vector.isnan().all()


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
@pytest.mark.parametrize("name", FIRST_ORDER)
def test_overflowing_ratio_gives_no_warning(name: str, kind: str) -> None:
    policy = exact_policy(kind, "numpy")
    batch = batch_for(policy, kind, 40)
    batch = replace(batch, old_log_prob=batch.old_log_prob - 1e4)
    make_policy_optimizer(config_of(name), make_engine(policy), seeded()).update(batch, 0.0)


def test_gradient_needs_no_zeroing() -> None:
    policy = exact_policy("gaussian", "numpy")
    batch = batch_for(policy, "gaussian", 40)
    engine, objective = make_engine(policy), ClippedSurrogate(PPOClipConfig())
    rows = engine.rows(batch, objective)
    found = []
    for number in (0.0, math.nan):
        policy.actor_parameters.gradient.fill_(number)
        engine.policy_gradient(objective, rows)
        found.append(policy.actor_parameters.gradient.clone())
    assert torch.equal(*found)


# The Fisher matrix.


FISHER = [
    *("categorical", "masked", "gaussian", "gaussian_of_state", "tanh_gaussian"),
    *("two_actions", "two_actions_masked", "beta"),
]


def far_policy(kind: str, engine: str = "numpy") -> Policy:
    """Make a policy with few parameters, far from the initial ones."""
    policy = exact_policy(kind, engine, actor_hidden_sizes=[3])
    vector = policy.actor_parameters.vector.data
    vector.add_(torch.randn(vector.shape, generator=seeded(5)).double(), alpha=0.3)
    return policy


def hessian_of_the_kl(policy: Policy, inputs: Inputs) -> Tensor:
    """Return the Hessian of the mean KL at θ_old."""
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


@pytest.mark.parametrize("kind", [*FISHER, "multi_categorical", "bernoulli"])
def test_fisher_products_match_torch_engine_and_hessian(kind: str) -> None:
    policy = far_policy(kind)
    batch = batch_for(policy, kind, 9)
    engine = make_engine(policy)
    product = engine.fisher_product(engine.rows(batch, LogLikelihood()), 0.25)

    def numpy_product(vector: Tensor) -> Tensor:
        return torch.as_tensor(product(engine.vector(vector)))

    new = policy.distribution(batch.inputs)
    mean_kl = new.at(batch.old_parameters).kl(new).mean()
    torch_product = fisher_vector_product(mean_kl, policy.actor_parameters.tensors, 0.25)
    unit = torch.eye(len(policy.actor_parameters.vector), dtype=torch.float64)
    dense = hessian_of_the_kl(policy, batch.inputs) + 0.25 * unit
    before = policy.actor_parameters.vector.detach().clone()
    found = torch.stack([numpy_product(column) for column in unit], 1)
    torch.testing.assert_close(found, dense, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found, found.T, rtol=1e-9, atol=1e-12)
    vector = torch.randn(len(unit), generator=seeded(), dtype=torch.float64)
    kept = vector.clone()
    torch.testing.assert_close(numpy_product(vector), torch_product(vector), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(numpy_product(vector), dense @ vector, rtol=1e-9, atol=1e-12)
    assert torch.equal(vector, kept)
    assert torch.equal(policy.actor_parameters.vector, before)


def test_fisher_products_use_their_own_rows() -> None:
    policy = far_policy("gaussian")
    engine, objective = make_engine(policy), LogLikelihood()
    rows, others = (
        engine.rows(batch_for(policy, "gaussian", 9, seed), objective) for seed in (0, 1)
    )
    vector = np.linspace(-1, 1, len(policy.actor_parameters.vector))
    expected = engine.fisher_product(rows, 0.0)(vector)
    engine.policy_gradient(objective, others)
    np.testing.assert_array_equal(engine.fisher_product(rows, 0.0)(vector), expected)
    engine.policy_gradient(objective, rows)
    np.testing.assert_array_equal(engine.fisher_product(rows, 0.0)(vector), expected)
    policy.actor_parameters.vector.data.mul_(0.5)  # the next product is that of the new policy
    moved = engine.fisher_product(rows, 0.0)(vector)
    fresh = make_engine(policy).fisher_product(rows, 0.0)(vector)
    np.testing.assert_array_equal(moved, fresh)


@pytest.mark.parametrize("kind", FISHER)
@pytest.mark.parametrize("fraction", [1.0, 0.4])
def test_natural_step_uses_configured_fraction_of_states(kind: str, fraction: float) -> None:
    config = NPGConfig(fisher_fraction=fraction, cg_damping=0.05, entropy_coefficient=0.1)
    steps = []
    for name_of_engine in ENGINES:
        policy = far_policy(kind, name_of_engine)
        batch = batch_for(policy, kind, 30)
        natural = NaturalGradient(config, make_engine(policy), seeded())
        steps.append(natural.step(*natural.prepared(batch, 0.0)))
    (first, expected), (second, found) = steps
    assert first.abs().max() > 1e-3
    torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-6)
    for tag, rtol in (("trust_region/expected_improvement", 1e-6), ("optim/grad_norm", 1e-9)):
        assert found[tag] == pytest.approx(expected[tag], rel=rtol)


@pytest.mark.parametrize("of_state", [False, True])
def test_log_std_beyond_bound_keeps_curvature(of_state: bool) -> None:
    products = []
    for name_of_engine in ENGINES:
        policy = small_policy(
            4,
            Box(-1, 1, (2,)),
            dtype=torch.float64,
            engine=name_of_engine,
            state_dependent_std=of_state,
            log_std_min=-1.0,
            log_std_max=0.5,
            actor_hidden_sizes=[],
        )
        bias = policy.actor.head.network[-1].bias[-2:] if of_state else policy.actor.head.log_std
        bias.data.copy_(torch.tensor([-2.0, 0.1]))
        batch = batch_for(policy, "gaussian", 20)
        engine = make_engine(policy)
        product = engine.fisher_product(engine.rows(batch, LogLikelihood()), 0.0)
        unit = torch.eye(len(policy.actor_parameters.vector), dtype=torch.float64)
        columns = [torch.as_tensor(product(engine.vector(column))) for column in unit]
        products.append(torch.stack(columns, 1))
        place = (bias.data_ptr() - policy.actor_parameters.vector.data_ptr()) // 8
        assert products[-1].diagonal()[place : place + 2].tolist() == pytest.approx([2, 2])
    torch.testing.assert_close(products[0], products[1], rtol=1e-9, atol=1e-12)
