"""Layer normalization of hidden layers: its place, its gradients, its engine and its errors."""

import math
from typing import Any

import pytest
import torch
from gymnasium.spaces import Box, Discrete
from learning_loop import config_of, small_policy
from made_batches import batch_for
from torch import Generator, nn
from torch.func import functional_call

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.engines.make import make_engine
from rlkl.models.networks import mlp
from rlkl.models.policy import Policy, PolicyConfig
from rlkl.utils.errors import ConfigError

NORMALIZED = {"actor_layer_norm": True, "critic_layer_norm": True}


def policy_of(space: Any = Discrete(3), **settings: Any) -> Policy:  # noqa: B008
    return small_policy(4, space, dtype=torch.float64, **NORMALIZED | settings)


def test_normalization_is_before_the_activation() -> None:
    network = mlp(2, [2], 1, "relu", layer_norm=True).double()
    nn.init.eye_(network[0].weight)
    nn.init.zeros_(network[0].bias)
    with torch.no_grad():
        units = network[:3](torch.tensor([[1.0, 3.0], [7.0, 7.0]], dtype=torch.float64))
    # Mean 2 and variance 1, with 1e-5 added; then 7 and 0.
    expected = torch.tensor([[0.0, 0.9999950000374997], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(units, expected, rtol=1e-12, atol=0)


def test_each_network_has_its_own_key() -> None:
    def counts(**settings: Any) -> list[int]:
        policy = small_policy(4, Discrete(2), encoder_hidden_sizes=[5], **settings)
        return [
            sum(isinstance(module, nn.LayerNorm) for module in network.modules())
            for network in (policy.actor, policy.critic)
        ]

    assert counts() == [0, 0]
    assert counts(actor_layer_norm=True) == [2, 0]
    assert counts(critic_layer_norm=True, critic_hidden_sizes=[8, 8]) == [0, 3]
    assert counts(**NORMALIZED, share_encoder=True) == [2, 2]


def test_scale_of_a_layer_changes_nothing() -> None:
    policy = policy_of()
    inputs = batch_for(policy, "categorical").inputs
    before = policy.distribution(inputs).parameters
    policy.actor.head[0].weight.data.mul_(100)
    after = policy.distribution(inputs).parameters
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("space", [Discrete(3), Box(-1, 1, (2,))], ids=["discrete", "box"])
def test_fisher_products_match_kl_hessian(space: Any) -> None:
    policy = policy_of(space, actor_hidden_sizes=[3])
    kind = "categorical" if isinstance(space, Discrete) else "gaussian"
    batch = batch_for(policy, kind, 32)
    names = [name for name, _ in policy.actor.named_parameters()]

    def mean_kl(vector: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(names, policy.actor_parameters.parts(vector), strict=True))
        new = policy.family(functional_call(policy.actor, parts, (batch.inputs, None)))
        return new.at(batch.old_parameters).kl(new).mean()

    vector = policy.actor_parameters.vector.detach()
    fisher = torch.autograd.functional.hessian(mean_kl, vector)
    direction = torch.linspace(-1, 1, len(vector), dtype=torch.float64)
    product = make_engine(policy).fisher_product(batch, 0.1)(direction)
    torch.testing.assert_close(product, fisher @ direction + 0.1 * direction)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_updates_normalized_networks(name: str) -> None:
    policy = policy_of()
    batch = batch_for(policy, "categorical", 64)
    engine = make_engine(policy)
    config = config_of(name, num_epochs=1, max_grad_norm=None)
    update = make_policy_optimizer(config, engine, Generator()).update(batch, 0.0)
    assert all(math.isfinite(loss) for loss in update.losses)
    assert 0 < float(engine.state_kl(batch).mean()) < 1


def test_torch_engine_is_chosen_and_said() -> None:
    engine = make_engine(small_policy(4, Discrete(2), actor_layer_norm=True))
    assert engine.name == "torch"
    assert engine.reason.endswith(("cannot evaluate layer normalization", "is not installed"))
    with pytest.raises(ConfigError, match=r"policy\.engine=numpy: .*; use policy\.engine=auto"):
        make_engine(small_policy(4, Discrete(2), critic_layer_norm=True, engine="numpy"))


def test_nothing_to_normalize_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"policy\.critic_layer_norm=true: there is no hidden"):
        PolicyConfig(critic_hidden_sizes=[], critic_layer_norm=True)
    PolicyConfig(critic_hidden_sizes=[], encoder_hidden_sizes=[4], critic_layer_norm=True)
