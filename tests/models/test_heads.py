"""A standard deviation at its bound returns to the inside if the advantages favour it."""

from typing import Any

import pytest
import torch
from engines_available import ENGINES
from gymnasium.spaces import Box
from learning_loop import as_inputs, config_of, small_policy
from torch import Generator

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.base import PolicyOptimizer
from rlkl.engines.make import make_engine
from rlkl.models.policy import Policy
from rlkl.rollouts.batch import Batch

LOWEST, HIGHEST = -0.9, 0.3


@torch.no_grad()
def widening_batch(policy: Policy, sign: float, generator: Generator) -> Batch:
    """Return a batch that favours a larger standard deviation if the sign is positive."""
    inputs = as_inputs(torch.randn(64, 2, generator=generator))
    old = policy.distribution(inputs)
    noise = torch.randn(64, 1, generator=generator)
    actions, zeros = old.draw(noise), torch.zeros(64)
    advantages = sign * (noise[:, 0].square() - 1)
    return Batch(
        inputs, actions, advantages, zeros, old.parameters, old.log_prob(actions), zeros
    )  # fmt: skip


def log_std_of(policy: Policy) -> torch.Tensor:
    return widening_batch(policy, 1.0, Generator().manual_seed(1)).old_parameters[:, 1]


def made(name: str, **settings: Any) -> tuple[Policy, PolicyOptimizer]:
    bounds = {"log_std_min": LOWEST, "log_std_max": HIGHEST}
    policy = small_policy(2, Box(-9, 9, (1,)), actor_gain=0.01, **bounds, **settings)
    algo = config_of(
        name,
        learning_rate={"vanilla_pg": 0.1, "trpl": 0.01}.get(name, 0.04),
        learning_rate_schedule="constant",
        learning_rate_max=1.0,
        ratio_bound=0.9,
        max_kl=0.05,
        max_kl_schedule="constant",
        num_epochs=2,
        kl_coefficient=0.1,
        covariance_bound=0.1,
    )
    return policy, make_policy_optimizer(algo, make_engine(policy), Generator().manual_seed(0))


EVERY = pytest.mark.parametrize("name", ALGORITHMS)


@pytest.mark.parametrize("bound", [HIGHEST, pytest.param(LOWEST, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("of_state", "engine"),
    [
        *((False, engine) for engine in ENGINES),
        *(pytest.param(True, engine, marks=pytest.mark.slow) for engine in ENGINES),
    ],
)
@EVERY
def test_std_returns_from_its_bound(name: str, engine: str, of_state: bool, bound: float) -> None:
    policy, optimizer = made(name, engine=engine, state_dependent_std=of_state)
    generator = Generator().manual_seed(0)
    outward = 1.0 if bound == HIGHEST else -1.0
    for _ in range(20):
        optimizer.update(widening_batch(policy, outward, generator), 0.0)
    assert float(log_std_of(policy).median()) == pytest.approx(bound, abs=0.02)
    for _ in range(20):
        optimizer.update(widening_batch(policy, -outward, generator), 0.0)
    assert float(((bound - log_std_of(policy)) * outward).median()) > 0.3


@EVERY
def test_std_far_beyond_bound_returns_at_once(name: str) -> None:
    policy, optimizer = made(name)
    policy.actor.head.log_std.data.fill_(HIGHEST + 5)
    generator = Generator().manual_seed(0)
    for _ in range(2):
        optimizer.update(widening_batch(policy, -1.0, generator), 0.0)
    assert (log_std_of(policy) < HIGHEST - 0.1).all()
