"""The policy: an actor that gives action distributions, a critic that gives values."""

import math
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn

from rlkl.distributions import Categorical, DiagonalGaussian, Distribution
from rlkl.networks import ACTIVATIONS, FlatParameters, mlp, orthogonal_, uniform_
from rlkl.validation import check_choice, check_range


@dataclass(frozen=True)
class PolicyConfig:
    """Sizes and initialisation of the actor and the critic, two separate networks.

    Attributes:
        actor_hidden_sizes: units of the actor's hidden layers.
        critic_hidden_sizes: units of the critic's hidden layers.
        activation: between layers: tanh, relu, elu, gelu or silu.
        initialization: `orthogonal` with the gains below, or `uniform` within ±1/√fan_in.
        hidden_gain: of hidden layers.
        actor_gain: of the actor's output; small, so the first policy is nearly the same everywhere.
        critic_gain: of the critic's output.
        log_std: logarithm of the standard deviation a Gaussian policy starts from, learned freely.
    """

    actor_hidden_sizes: list[int] = field(default_factory=lambda: [64, 64])
    critic_hidden_sizes: list[int] = field(default_factory=lambda: [64, 64])
    activation: str = "tanh"
    initialization: str = "orthogonal"
    hidden_gain: float = 2**0.5
    actor_gain: float = 0.01
    critic_gain: float = 1.0
    log_std: float = 0.0

    def __post_init__(self) -> None:
        for key in ("actor_hidden_sizes", "critic_hidden_sizes"):
            for size in getattr(self, key):
                check_range(f"policy.{key}", size, at_least=1, at_most=65536)
        check_choice("policy.activation", self.activation, ACTIVATIONS)
        check_choice("policy.initialization", self.initialization, ("orthogonal", "uniform"))
        for key in ("hidden_gain", "actor_gain", "critic_gain"):
            check_range(f"policy.{key}", getattr(self, key), above=0)
        check_range("policy.log_std", self.log_std, at_least=-20, at_most=5)


class GaussianActor(nn.Module):
    """Means from a network, beside log standard deviations that depend on no state.

    Args:
        network: `[B, observation_size]` to means `[B, D]`.
        action_size: D.
        log_std: the starting value.
    """

    def __init__(self, network: nn.Sequential, action_size: int, log_std: float) -> None:
        super().__init__()
        self.network = network
        self.log_std = nn.Parameter(torch.full((action_size,), log_std))

    def forward(self, observations: Tensor) -> Tensor:
        """Return means and log standard deviations, `[B, 2D]`."""
        mean = self.network(observations)
        return torch.cat((mean, self.log_std.expand_as(mean)), -1)


class Policy:
    """π(a|s) and V(s).

    Args:
        config: sizes and initialisation.
        observation_size: numbers in one observation.
        action_space: Discrete gives a categorical policy, Box a diagonal Gaussian.
        generator: source of the initial weights.
        device: where the networks live.
        dtype: of all parameters.

    Attributes:
        distribution_type: what the actor's output is the parameters of.
        actor, critic: networks that share no parameter.
        actor_parameters, critic_parameters: theirs, each as one vector.
    """

    def __init__(
        self,
        config: PolicyConfig,
        observation_size: int,
        action_space: gym.spaces.Discrete | gym.spaces.Box,
        generator: Generator,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.distribution_type: type[Distribution]
        if isinstance(action_space, gym.spaces.Discrete):
            self.distribution_type, outputs = Categorical, int(action_space.n)
        else:
            self.distribution_type, outputs = DiagonalGaussian, math.prod(action_space.shape)
        network = mlp(observation_size, config.actor_hidden_sizes, outputs, config.activation)
        critic = mlp(observation_size, config.critic_hidden_sizes, 1, config.activation)
        if config.initialization == "orthogonal":
            orthogonal_(network, config.hidden_gain, config.actor_gain, generator)
            orthogonal_(critic, config.hidden_gain, config.critic_gain, generator)
        else:
            uniform_(network, generator)
            uniform_(critic, generator)
        gaussian = self.distribution_type is DiagonalGaussian
        actor = GaussianActor(network, outputs, config.log_std) if gaussian else network
        self.device = torch.device(device)
        self.dtype = dtype
        self.actor: nn.Module = actor.to(self.device, dtype)
        self.critic: nn.Module = critic.to(self.device, dtype)
        self.actor_parameters = FlatParameters(self.actor)
        self.critic_parameters = FlatParameters(self.critic)

    def distribution(self, observations: Tensor) -> Distribution:
        """Return π(·|s) for observations `[B, D]`."""
        return self.distribution_type(self.actor(observations))

    def values(self, observations: Tensor) -> Tensor:
        """Return V(s) for observations `[B, D]`, `[B]`."""
        values: Tensor = self.critic(observations).squeeze(-1)
        return values

    def mean_std(self) -> float:
        """Return the standard deviation of a Gaussian policy, averaged over actions; else NaN."""
        if isinstance(self.actor, GaussianActor):
            return float(self.actor.log_std.detach().double().exp().mean())
        return math.nan

    def tensor(self, array: Any) -> Tensor:
        """Return numbers as a tensor on the policy's device, floats in its type."""
        tensor = torch.as_tensor(array, device=self.device)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def state_dict(self) -> dict[str, Any]:
        """Return all parameters by name."""
        return {"actor": self.actor.state_dict(), "critic": self.critic.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the parameters, in place."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
