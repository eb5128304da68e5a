"""The policy: an actor that gives action distributions, a critic that gives values."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.func import functional_call

from rlkl.envs.actions import ActionDecoder
from rlkl.envs.observations import ACTION_MASK, ObservationEncoder, View
from rlkl.models.flat_parameters import FlatParameters
from rlkl.models.heads import GaussianHead
from rlkl.models.network import Inputs, Network, make_networks
from rlkl.models.policy_config import PolicyConfig
from rlkl.numerics.distributions import DiagonalGaussian, Distribution
from rlkl.utils.errors import ConfigError
from rlkl.utils.state import Stateful

__all__ = ["Inputs", "Network", "Policy", "PolicyConfig"]

FEATURES = "features"  # key of a shared encoder's features, `[B, F]`, which replace observations


class Policy(Stateful):
    """The actor π(a|s) and the critic V(s).

    A policy with memory has a state of `state_size` numbers for each environment: the actor's
    memory, then the critic's. It is 0 at an episode start.

    Attributes:
        decoder: of sampled actions, to those of the environment.
        family: makes distributions from their parameters, which are the actor's output.
        actor, critic: networks that share parameters only if `share_encoder` is true.
        actor_parameters, critic_parameters: one vector each. Shared parameters are the actor's.
        state_size: size of the memory state of one environment; 0 without memory.

    Raises:
        ConfigError: an action space without a distribution, or an encoder without parameters to
            share.
    """

    saved = ("actor", "critic")

    def __init__(
        self,
        config: PolicyConfig,
        encoder: ObservationEncoder,
        action_space: gym.Space[Any],
        generator: Generator,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config = config
        self.encoder = encoder
        self.decoder = ActionDecoder(
            action_space, config.box_distribution, config.clip_actions, config.scale_actions
        )
        self.family = self.decoder.family
        self.device = torch.device(device)
        self.dtype = dtype
        outputs = self.decoder.parameter_size
        if self.decoder.is_gaussian and not config.state_dependent_std:
            outputs //= 2
        actor, critic = make_networks(config, encoder, outputs, generator)
        if self.decoder.is_gaussian:
            actor.head = GaussianHead(actor.head, self.decoder.parameter_size // 2, config)
        if config.share_encoder:
            if not list(actor.encoder.parameters()) and actor.memory is None:
                raise ConfigError(
                    "policy.share_encoder=true: there is nothing to share, since there are no "
                    "images and no memory; set policy.encoder_hidden_sizes=[64] or leave it out"
                )
            critic.encoder, critic.memory = actor.encoder, actor.memory
        self.actor = actor.to(self.device, dtype)
        self.critic = critic.to(self.device, dtype)
        own_to_critic = self.critic.head if config.share_encoder else self.critic
        self.actor_parameters, self.critic_parameters = (
            FlatParameters(tensor for tensor in network.parameters() if tensor.requires_grad)
            for network in (self.actor, own_to_critic)
        )
        self._actor_state_size = actor.memory.state_size if actor.memory else 0
        self.state_size = 2 * self._actor_state_size
        self._example = self.family(
            torch.zeros(1, self.decoder.parameter_size, device=self.device, dtype=dtype)
        )

    def distribution(self, inputs: Inputs, dtype: torch.dtype | None = None) -> Distribution:
        """Return π(·|s) for each row; `dtype` is by default the policy's."""
        return self.masked(self.outputs(inputs).to(dtype or self.dtype), inputs.observations)

    def outputs(self, inputs: Inputs, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """Return the actor's output for each row, `[B, P]`, at its own or other parameters."""
        states = self._actor_states(inputs)
        if parameters is None:
            outputs: Tensor = self.actor(inputs, states)
        else:
            outputs = functional_call(self.actor, parameters, (inputs, states))
        return outputs

    def _actor_states(self, inputs: Inputs) -> Tensor | None:
        sequences = inputs.sequences
        return sequences.states[:, : self._actor_state_size] if sequences else None

    @property
    def actor_view(self) -> View:
        """The part of encoded observations that the actor reads."""
        return self.encoder.view(self.config.actor_observation_keys, "actor_observation_keys")

    @property
    def num_parameters(self) -> int:
        """Number of parameters of actor and critic; shared ones count once."""
        return len(self.actor_parameters.vector) + len(self.critic_parameters.vector)

    @property
    def caution(self) -> str:
        """A warning about the initial policy in one line; empty if there is none."""
        if not self.decoder.is_out_of_reach(3 * math.exp(self.config.log_std)):
            return ""
        advice = (
            "wrap the environment so that 0 lies within them"
            if self.config.scale_actions
            else "policy.scale_actions=true starts in their middle if they are finite"
        )
        return (
            f"the first actions are near 0, far from the bounds of {self.decoder.space}: almost "
            f"none will be within them; {advice}"
        )

    def settle(self) -> None:
        """Clamp log standard deviations that are parameters, so that steps inward take effect."""
        if isinstance(self.actor.head, GaussianHead):
            self.actor.head.settle()

    @contextmanager
    def past_bounds(self) -> Iterator[None]:
        """Let gradients of log standard deviations pass the bounds in both directions."""
        head = self.actor.head
        if not isinstance(head, GaussianHead):
            yield
            return
        head.stops_outward = False
        try:
            yield
        finally:
            head.stops_outward = True

    def distribution_and_values(self, inputs: Inputs) -> tuple[Distribution, Tensor]:
        """Return π(·|s) and V(s) for each row, with gradients of both through a shared encoder."""
        features = self.actor.features(inputs, self._actor_states(inputs))
        distribution = self.masked(self.actor.head(features), inputs.observations)
        return distribution, self.critic.head(features).squeeze(-1)

    def values(self, inputs: Inputs, states: Tensor | None = None) -> Tensor:
        """Return V(s) of each row, `[B]`; no gradient reaches a shared encoder.

        A policy with memory needs sequences, or the states of the whole policy before each row,
        `[B, state_size]`.
        """
        if states is None and inputs.sequences is not None:
            states = inputs.sequences.states
        critic_states = None if states is None else states[:, self._actor_state_size :]
        features = inputs.observations.get(FEATURES)
        if features is None:
            features = self.critic.features(inputs, critic_states)
            if self.config.share_encoder:
                features = features.detach()
        values: Tensor = self.critic.head(features).squeeze(-1)
        return values

    @torch.no_grad()
    def rescale_values(self, scale: float, shift: float) -> None:
        """Change the critic's output layer, so that its outputs z become scale · z + shift."""
        output = self.critic.head[-1]  # type: ignore[index]
        output.weight.mul_(scale)
        output.bias.mul_(scale).add_(shift)

    @torch.no_grad()
    def critic_inputs(self, inputs: Inputs) -> Inputs:
        """Return the inputs of `values` while only the critic's own parameters change.

        With a shared encoder these are its features, computed once.
        """
        if not self.config.share_encoder:
            return inputs
        sequences = inputs.sequences
        states = sequences.states[:, self._actor_state_size :] if sequences else None
        return Inputs({FEATURES: self.critic.features(inputs, states)})

    def step(self, observations: dict[str, Tensor], states: Tensor) -> tuple[Distribution, Tensor]:
        """Return π(·|s) for a step of N environments, and the memory states after it."""
        if not self.state_size:
            return self.distribution(Inputs(observations)), states
        actor_states, critic_states = states.chunk(2, -1)
        parameters, actor_states = self.actor.step(observations, actor_states)
        _, critic_states = self.critic.step(observations, critic_states)
        return self.masked(parameters, observations), torch.cat((actor_states, critic_states), -1)

    def noise(self, steps: int, num_envs: int, generator: Generator) -> Tensor:
        """Sample the action noise for a whole rollout, `[T, N, ...]`."""
        return self._example.noise((steps, num_envs), generator)

    def masked(self, parameters: Tensor, observations: dict[str, Tensor]) -> Distribution:
        """Return distributions from the actor's output `[B, P]`, with the observations' mask."""
        distribution = self.family(parameters)
        mask = observations.get(ACTION_MASK)
        return distribution if mask is None else distribution.masked(mask)

    def initial_state(self, num_envs: int) -> Tensor:
        """Return the memory states at an episode start, `[N, state_size]`."""
        return torch.zeros(num_envs, self.state_size, device=self.device, dtype=self.dtype)

    def forget(self, states: Tensor, begins: NDArray[np.bool_]) -> Tensor:
        """Return the memory states `[N, state_size]`, set to 0 where an episode starts."""
        if not self.state_size or not begins.any():
            return states
        return states.masked_fill(self.tensor(begins).unsqueeze(-1), 0)

    def mean_std(self, distribution: Distribution) -> float:
        """Return a Gaussian's mean standard deviation, before scaling and squashing; else NaN."""
        if isinstance(distribution, DiagonalGaussian):
            return float(distribution.log_std.detach().double().exp().mean())
        return math.nan

    def tensor(self, array: Any) -> Tensor:
        """Return an array as a tensor on the policy's device; floats in the policy's dtype."""
        tensor = torch.as_tensor(array, device=self.device)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def tensors(self, observations: dict[str, Any]) -> dict[str, Tensor]:
        """Return encoded observations as tensors."""
        return {key: self.tensor(array) for key, array in observations.items()}
