"""A KL to a fixed policy, added to every objective, on both engines."""

import math
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from algorithm_checks import EVERY_ALGORITHM
from engines_available import HAS_NUMPY_ENGINE, needs_numpy_engine
from learning_loop import as_inputs
from made_batches import batch_for, policy_of
from same_runs import assert_same_run, rows
from small_runs import small_config
from torch import Generator

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.engines.base import Loss, ReferencePenalty
from rlkl.engines.make import make_engine
from rlkl.engines.torch import TorchPolicy
from rlkl.numerics.distributions import Categorical, DiagonalGaussian
from rlkl.rollouts.batch import Batch
from rlkl.training.checkpoint import as_bytes
from rlkl.training.learner import Learner
from rlkl.training.start import start
from rlkl.utils.errors import ConfigError

if HAS_NUMPY_ENGINE:
    from rlkl.engines.numpy.distributions import CategoricalForm, GaussianForm
    from rlkl.engines.numpy.rows import Rows

DIRECTIONS = ("new_reference", "reference_new")


class Nothing:
    """An objective whose loss is 0."""

    uses_kl = uses_entropy = uses_distribution = False

    def loss(self, new: Any, batch: Any) -> Loss:
        return Loss(0.0, new.xp.zeros_like(new.log_prob))


def one_state(family: Any, new: list[float], reference: list[float], action: Any) -> Any:
    """Return π_θ and a batch of one state, in torch and in NumPy."""
    parameters = torch.tensor([new], dtype=torch.float64, requires_grad=True)
    distribution, zeros = family(parameters), torch.zeros(1, dtype=torch.float64)
    ref = torch.tensor([reference], dtype=torch.float64)
    batch = Batch(
        as_inputs(zeros[:, None]), action, zeros, zeros, torch.zeros_like(ref), zeros, zeros, ref
    )
    form: Any = CategoricalForm if family is Categorical else GaussianForm
    arrays = Rows.of(batch)
    arrays.reference_parameters = form.prepare_old(arrays.reference_parameters)
    return (
        parameters,
        TorchPolicy(distribution, batch),
        batch,
        form(parameters.detach().numpy(), arrays),
    )


# N(1, 1) and N(0, 2²): ln 2 + 2/8 - ½ and -ln 2 + 5/2 - ½; (½, ½) and (¼, ¾).
@pytest.mark.parametrize(
    ("family", "new", "reference", "action", "expected"),
    [
        (DiagonalGaussian, [1.0, 0.0], [0.0, math.log(2)], torch.zeros(1, 1).double(),
         (0.4431471805599453, 1.3068528194400547)),
        (Categorical, [0.0, 0.0], [0.0, math.log(3)], torch.zeros(1, dtype=torch.long),
         (0.14384103622589045, 0.13081203594113697)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("direction", DIRECTIONS)
@needs_numpy_engine
def test_penalty_has_known_value_and_derivative(
    family: Any, new: Any, reference: Any, action: Any, expected: Any, direction: str
) -> None:
    parameters, in_torch, batch, form = one_state(family, new, reference, action)
    penalty = ReferencePenalty(Nothing(), 3.0, direction)
    known = 3 * expected[DIRECTIONS.index(direction)]
    loss = penalty.loss(in_torch, batch)
    assert float(loss.value) == pytest.approx(known, rel=1e-12)
    in_torch.backward(loss)
    in_numpy = penalty.loss(form, batch)
    assert float(in_numpy.value) == pytest.approx(known, rel=1e-12)
    ref = family(torch.tensor([reference], dtype=torch.float64))
    again = parameters.detach().clone().requires_grad_()
    kl = family(again).kl(ref) if direction == "new_reference" else ref.kl(family(again))
    (by_autograd,) = torch.autograd.grad(3 * kl.sum(), again)
    assert parameters.grad is not None and by_autograd.abs().max() > 0.1
    torch.testing.assert_close(parameters.grad, by_autograd)
    np.testing.assert_allclose(form.total_derivative(in_numpy), by_autograd, rtol=1e-12)


@pytest.mark.parametrize(
    "kind", ["categorical", "masked", "gaussian", "bernoulli", "tanh_gaussian"]
)
@pytest.mark.parametrize("direction", DIRECTIONS)
@needs_numpy_engine
def test_engines_agree_on_penalized_gradient(kind: str, direction: str) -> None:
    gradients = []
    for name in ("numpy", "torch"):
        policy = policy_of(kind, engine=name)
        batch = batch_for(policy, kind, 64)
        other = make_engine(policy_of(kind, seed=7)).distribution(batch.inputs).parameters
        batch = replace(batch, reference_parameters=other)
        engine = make_engine(policy)
        objective = ReferencePenalty(Nothing(), 2.0, direction)
        engine.policy_gradient(objective, engine.rows(batch, objective))
        gradients.append(policy.actor_parameters.gradient.clone())
    assert gradients[0].abs().max() > 1e-4
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


@EVERY_ALGORITHM
@pytest.mark.parametrize("kind", ["categorical", "gaussian", "gru"])
def test_every_algorithm_is_pulled_to_the_reference(name: str, kind: str) -> None:
    distances = []
    for coefficient in (0.0, 100.0):
        policy = policy_of(kind)
        engine, batch = make_engine(policy), batch_for(policy, kind, 64)
        other = make_engine(policy_of(kind, seed=7)).distribution(batch.inputs).parameters
        batch = replace(batch, reference_parameters=other)
        optimizer = rlkl.make_policy_optimizer(
            ALGORITHMS[name].config(), engine, Generator().manual_seed(1)
        )
        optimizer.penalize(coefficient, "new_reference")
        optimizer.update(batch, 0.0)
        reference = policy.family(other)
        distances.append(float(engine.distribution(batch.inputs).kl(reference).mean()))
    assert distances[1] < distances[0]


config = partial(small_config, total_env_steps=512)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "first"
    rlkl.train(config(path, normalize_observations=True, clip_observations=3.0))
    return path


def test_huge_coefficient_keeps_the_reference(first: Path, tmp_path: Path) -> None:
    found = {}
    for coefficient in (0.0, 1000.0):
        run = tmp_path / str(coefficient)
        reference = rlkl.ReferenceConfig(str(first), coefficient)
        settings = {"init_from": str(first), "normalize_observations": True, "reference": reference}
        rlkl.train(config(run, **settings))
        found[coefficient] = [float(row["kl/reference"]) for row in rows(run)]
    assert max(found[1000.0]) < 1e-3 < 0.2 * found[0.0][-1]


def test_reference_sees_its_own_normalization(first: Path, tmp_path: Path) -> None:
    learner = start(config(tmp_path / "new", reference=str(first), seed=3))
    rollout = learner.collector.collect()
    assert rollout.raw_transitions is None and learner.reference is not None
    raw = torch.as_tensor(rollout.observations["vector"][:-1].reshape(-1, 4))[:5]
    batch = batch_for(policy_of("categorical"), "categorical", 5)
    batch = replace(batch, inputs=as_inputs(raw))
    found = learner.reference.added(batch, None).reference_parameters
    trained = rlkl.load_policy(first)
    assert trained.normalizer is not None
    seen = torch.from_numpy(trained.normalizer(raw.numpy()))
    expected = trained.engine.distribution(as_inputs(seen)).parameters
    torch.testing.assert_close(found, expected)
    learner.close()


def test_coefficient_follows_the_rule_of_ppo_kl(first: Path, tmp_path: Path) -> None:
    reference = rlkl.ReferenceConfig(str(first), 1.0, target_kl=1e-9)
    rlkl.train(config(tmp_path / "run", reference=reference))
    betas = [float(row["kl/reference_coefficient"]) for row in rows(tmp_path / "run")]
    assert betas == [2.0**i for i in range(8)]


def test_resumed_run_needs_no_reference_folder(first: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.pt"
    gone.write_bytes((first / "checkpoints" / "last.pt").read_bytes())
    algo = rlkl.PPOClipConfig(learning_rate_schedule="constant")
    reference = rlkl.ReferenceConfig(str(gone), 1.0, target_kl=0.01)
    settings: dict[str, Any] = {
        "reference": reference,
        "algo": algo,
        "env": rlkl.EnvConfig(num_envs=1),
    }
    rlkl.train(config(tmp_path / "whole", total_env_steps=256, **settings))
    rlkl.train(config(tmp_path / "parts", total_env_steps=128, **settings))
    gone.unlink()
    rlkl.resume(tmp_path / "parts", lambda saved: replace(saved, total_env_steps=256))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"env": rlkl.EnvConfig("MountainCar-v0", 2)}, "the observation's vector"),
        ({"env": rlkl.EnvConfig("Acrobot-v1", 2)}, "there, and"),
        ({"reference": "nowhere"}, "nowhere: there is no such folder"),
    ],
)
def test_reference_that_does_not_fit_is_named(
    first: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        rlkl.Trainer(config(tmp_path / "new", **{"reference": str(first)} | change))
    assert said in str(caught.value) and not (tmp_path / "new").exists()


def test_reference_of_another_distribution_is_refused(tmp_path: Path) -> None:
    pendulum = partial(small_config, env=rlkl.EnvConfig("Pendulum-v1", 1))
    with closing(Learner(pendulum(tmp_path / "first"))) as learner:
        state = learner.state_dict() | {"resumable": False, "whole": False}
        (tmp_path / "first.pt").write_bytes(as_bytes(state))
    for setting, there in (({"box_distribution": "tanh_gaussian"}, "gaussian"),
                           ({"scale_actions": False}, True)):  # fmt: skip
        ((key, here),) = setting.items()
        policy = rlkl.PolicyConfig([8], [8], **setting)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=f"policy.{key} is {there} there, and {here} here"):
            start(pendulum(tmp_path / "new", policy=policy, reference=str(tmp_path / "first.pt")))


def test_reference_with_a_memory_is_refused(tmp_path: Path) -> None:
    gru = rlkl.PolicyConfig([8], [8], memory="gru", memory_size=4)
    with closing(Learner(small_config(tmp_path / "first", policy=gru))) as learner:
        state = learner.state_dict() | {"resumable": False, "whole": False}
        (tmp_path / "gru.pt").write_bytes(as_bytes(state))
    with pytest.raises(ConfigError, match="its policy is recurrent"):
        start(small_config(tmp_path / "new", reference=str(tmp_path / "gru.pt")))


def test_settings_of_box_actions_do_not_matter_elsewhere(first: Path, tmp_path: Path) -> None:
    policy = rlkl.PolicyConfig([8], [8], scale_actions=False)
    start(config(tmp_path / "new", policy=policy, reference=str(first))).close()


def near(first: Path, path: Path, **settings: Any) -> tuple[Any, Batch, np.ndarray, np.ndarray]:
    """Return a reference, a batch, and the probabilities of π_θ and π_ref, `[5, 2]`."""
    learner = start(config(path, reference=rlkl.ReferenceConfig(str(first), **settings), seed=3))
    learner.close()
    assert learner.reference is not None
    raw = torch.randn(5, 4, generator=Generator().manual_seed(0))
    batch = replace(batch_for(policy_of("categorical"), "categorical", 5), inputs=as_inputs(raw))
    batch = learner.reference.added(batch, None)
    logits = learner.engine.distribution(batch.inputs, torch.float64).parameters
    assert batch.reference_parameters is not None
    found = [np.exp(part.double().numpy()) for part in (logits, batch.reference_parameters)]
    new, reference = (part / part.sum(1, keepdims=True) for part in found)
    return learner.reference, batch, new, reference


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_reported_kl_is_exact(first: Path, tmp_path: Path, direction: str) -> None:
    reference, batch, new, other = near(first, tmp_path, direction=direction)
    p, q = (new, other) if direction == "new_reference" else (other, new)
    expected = (p * np.log(p / q)).sum(1).mean()
    found = reference.metrics(batch, adapts=True)
    assert found["kl/reference"] == pytest.approx(expected, rel=1e-10)
    assert found["kl/reference_coefficient"] == 0.1
    assert reference.penalty.coefficient == 0.1  # fixed without a target


def test_coefficient_adapts_only_on_request_within_bounds(first: Path, tmp_path: Path) -> None:
    reference, batch, *_ = near(first, tmp_path, target_kl=1e-9, kl_coefficient_max=0.15)
    found = reference.metrics(batch, adapts=False)
    assert found["kl/reference_coefficient"] == reference.penalty.coefficient == 0.1
    assert reference.metrics(batch, adapts=True)["kl/reference_coefficient"] == 0.1
    assert reference.penalty.coefficient == 0.15
    assert reference.state_dict()["kl_coefficient"] == 0.15


def test_reference_sees_raw_and_clipped_numbers(first: Path, tmp_path: Path) -> None:
    reference, batch, *_ = near(first, tmp_path)
    raw = 1e4 * batch.inputs.observations["vector"]
    trained = rlkl.load_policy(first)
    assert trained.normalizer is not None
    seen = torch.from_numpy(trained.normalizer(raw.numpy()))
    assert float(seen.abs().max()) == trained.normalizer.clip == 3.0
    expected = trained.engine.distribution(as_inputs(seen)).parameters
    torch.testing.assert_close(reference.added(batch, raw).reference_parameters, expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kl_coefficient": -1.0}, "reference.kl_coefficient=-1.0: expected a number at least 0"),
        ({"target_kl": 0.0}, "reference.target_kl=0.0: expected a number above 0"),
        ({"target_kl": 0.1, "kl_coefficient_max": 0.01}, "reference.kl_coefficient"),
        ({"kl_coefficient_min": 1e-3}, "they change nothing without reference.target_kl"),
        ({"kl_coefficient_max": 10.0}, "they change nothing without reference.target_kl"),
        ({"direction": "both"}, "reference.direction=both: expected one of new_reference"),
        ({"run_dir": " "}, "reference.run_dir"),
        ({"run_dir": 3}, "reference.run_dir=3"),
        ({"target_kl": "small"}, "reference.target_kl='small'"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rlkl.ReferenceConfig(**{"run_dir": "run"} | settings)
    assert said in str(caught.value)


def test_entropy_bonus_keeps_its_schedule() -> None:
    schedule = {"entropy_coefficient": 0.5, "entropy_coefficient_schedule": "linear"}
    algo = rlkl.PPOClipConfig(**schedule)  # type: ignore[arg-type]
    policy = policy_of("categorical")
    batch = batch_for(policy, "categorical")
    batch = replace(batch, reference_parameters=batch.old_parameters)
    optimizer: Any = rlkl.make_policy_optimizer(algo, make_engine(policy), Generator())
    optimizer.penalize(1.0, DIRECTIONS[0])
    optimizer.update(batch, 0.5)
    assert optimizer.bonus.coefficient == 0.25


def test_penalty_passes_on_what_its_objective_uses() -> None:
    objective = Nothing()
    objective.uses_kl = objective.uses_entropy = objective.uses_distribution = True  # type: ignore[misc]
    penalty = ReferencePenalty(objective, 0.0, DIRECTIONS[0])
    assert (penalty.uses_kl, penalty.uses_entropy, penalty.uses_distribution) == (True,) * 3
    loss = penalty.loss(SimpleNamespace(xp=np, log_prob=np.ones(3)), range(3))  # type: ignore[arg-type]
    assert (loss.value, loss.reference_kl, loss.reverse_reference_kl) == (0, 0, 0)


def test_settings_without_reference_are_refused() -> None:
    with pytest.raises(ConfigError, match="need a policy; set reference=RUN_DIR"):
        rlkl.ReferenceConfig(kl_coefficient=2.0)
