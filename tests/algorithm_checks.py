"""What tests of algorithms share: updates, and KL and surrogate by torch.distributions."""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from engines_available import ENGINES
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode
from learning_loop import Loop, as_inputs, config_of
from made_batches import KINDS, batch_for, policy_of
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Beta,
    Categorical,
    Normal,
    TransformedDistribution,
    kl_divergence,
)
from worlds import wander

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.base import AlgoConfig, FixedObjective, PolicyOptimizer
from rlkl.algos.first_order import FirstOrder
from rlkl.engines.base import Loss, NewPolicy
from rlkl.engines.make import make_engine
from rlkl.engines.torch import TorchPolicy
from rlkl.envs.make import EnvConfig
from rlkl.models.policy import Inputs, Policy
from rlkl.numerics import distributions
from rlkl.numerics.losses import surrogate
from rlkl.rollouts.batch import Batch


def algorithms_with(*settings: str) -> pytest.MarkDecorator:
    """Parametrise over the algorithms whose configs have all of these settings."""
    names = [
        name
        for name, algorithm in ALGORITHMS.items()
        if set(settings) <= {field.name for field in fields(algorithm.config)}
    ]
    return pytest.mark.parametrize("name", names)


EVERY_ALGORITHM = algorithms_with()
OF_DIFFERENCES = pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "vmpo"])
"""All algorithms but V-MPO, which makes half of the actions likelier even if advantages are equal,
and which a constant added to the advantages does not change."""
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


def coin(advantages: tuple[float, float]) -> Batch:
    """Return two actions, each taken once by π_old = (½, ½)."""
    old = torch.full((2, 2), math.log(0.5), dtype=torch.float64)
    zeros = torch.zeros(2, dtype=torch.float64)
    weights = torch.tensor(advantages, dtype=torch.float64)
    inputs, actions = as_inputs(zeros[:, None]), torch.tensor([0, 1])
    return Batch(inputs, actions, weights, zeros, old, old[:, 0], zeros)


def loss_of(objective: Any, p: float, advantages: tuple[float, float]) -> float:
    """Return the loss of the policy (p, 1 - p)."""
    batch = coin(advantages)
    new = distributions.Categorical(torch.tensor([[p, 1 - p]] * 2, dtype=torch.float64).log())
    return float(objective.loss(TorchPolicy(new, batch), batch).value)


class ReverseKLPenalty(FixedObjective):
    """An objective that needs the distribution: a surrogate with a penalty on the reverse KL."""

    uses_distribution = True

    def loss(self, new: NewPolicy, batch: Any) -> Loss:
        old = new.distribution.at(batch.old_parameters)
        penalty = new.distribution.kl(old).mean()
        value, derivative = surrogate(new.ratio, batch.advantages)
        return Loss(penalty.detach() - value, -derivative, torch_term=penalty)


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
        elif kind == "beta":
            alpha, beta = (1 + (1 + parameters.exp()).log()).chunk(2, -1)
            self.parts = [
                TransformedDistribution(Beta(a, b), [AffineTransform(-1.0, 2.0)])
                for a, b in zip(alpha.T, beta.T, strict=True)
            ]
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
        if self.kind == "beta":
            entropies = [part.base_dist.entropy() + math.log(2) for part in self.parts]
            return torch.stack(entropies).sum(0)
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
    found = {name: tensor for name, tensor in found.items() if tensor is not None}
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


def evaluations(
    engine: Any, monkeypatch: pytest.MonkeyPatch, at: Tensor | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Return a list that will get the inputs and outputs of the actor, with the parameters `at`."""
    found: list[tuple[Tensor, Tensor]] = []
    policy = engine.policy

    def is_wanted() -> bool:
        return at is None or torch.equal(policy.actor_parameters.vector, at)

    evaluate = policy.outputs

    def evaluated(inputs: Inputs, *others: Any) -> Tensor:
        outputs: Tensor = evaluate(inputs, *others)
        if not others and is_wanted():
            parameters = policy.masked(outputs.detach(), inputs.observations).parameters
            found.append((inputs.observations["vector"], parameters))
        return outputs

    monkeypatch.setattr(policy, "outputs", evaluated)
    if getattr(engine, "actor", None) is not None:
        forward = engine.actor.forward

        def forwarded(vectors: NDArray[Any]) -> NDArray[Any]:
            parameters = forward(vectors)
            if is_wanted():
                found.append((torch.tensor(vectors), torch.tensor(parameters)))
            return parameters

        monkeypatch.setattr(engine.actor, "forward", forwarded)
    return found


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
