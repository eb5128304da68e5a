"""The two networks of a policy, each an encoder, an optional memory and a head."""

from typing import NamedTuple

from torch import Generator, Tensor, nn

from rlkl.envs.observations import ObservationEncoder, View
from rlkl.models.networks import Encoder, ImageEncoder, hidden_layers, mlp, orthogonal_, uniform_
from rlkl.models.own_networks import (
    OwnNetwork,
    check_apart,
    column_indices,
    make_own_actor_critic,
    make_own_encoder,
    make_own_head,
)
from rlkl.models.policy_config import PolicyConfig
from rlkl.models.recurrent import Memory, Sequences


class Inputs(NamedTuple):
    """B rows of encoded observations, and the sequences they form for a policy with memory."""

    observations: dict[str, Tensor]
    sequences: Sequences | None = None


class Network(nn.Module):
    """An encoder of observations, an optional memory and a head."""

    def __init__(self, encoder: nn.Module, memory: Memory | None, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.memory = memory
        self.head = head

    def features(self, inputs: Inputs, states: Tensor | None) -> Tensor:
        """Return the input of the head, `[B, F]`.

        Without sequences each row is a separate step. `states` are those of the memory before each
        sequence, `[S, M]`, or before each row, `[B, M]`.
        """
        features: Tensor = self.encoder(inputs.observations)
        if self.memory is None:
            return features
        assert states is not None
        if inputs.sequences is None:
            outputs: Tensor = self.memory(features.unsqueeze(0), states)[0]
            return outputs.squeeze(0)
        return self.memory.over(features, inputs.sequences, states)

    def forward(self, inputs: Inputs, states: Tensor | None = None) -> Tensor:
        """Return the output `[B, P]`; see `features`."""
        output: Tensor = self.head(self.features(inputs, states))
        return output

    def step(self, observations: dict[str, Tensor], states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output for one step of N environments, and the states after it, `[N, M]`."""
        features = self.encoder(observations)
        if self.memory is not None:
            outputs, states = self.memory(features.unsqueeze(0), states)
            features = outputs[0]
        return self.head(features), states


def make_networks(
    config: PolicyConfig, encoder: ObservationEncoder, outputs: int, generator: Generator
) -> tuple[Network, Network]:
    """Make and initialize the actor, with a number of outputs, and the critic, with one.

    Modules that a user registered keep their own initialization, whose random numbers depend on the
    generator alone.

    Raises:
        ConfigError: a registered network breaks its contract, or a setting names observations that
            do not exist.
    """
    views = [
        encoder.view(getattr(config, f"{name}_observation_keys"), f"policy.{name}_observation_keys")
        for name in ("actor", "critic")
    ]
    if config.actor_critic:
        own = make_own_actor_critic(config, views, outputs, generator)
        actor, critic = (Network(network, None, nn.Identity()) for network in own)
    else:
        actor = _network(config, views[0], outputs, generator, of_actor=True)
        critic = _network(config, views[1], 1, generator, of_actor=False)
        for network, gain in ((actor, config.actor_gain), (critic, config.critic_gain)):
            _initialize(config, network, gain, generator)
    if config.own_networks:
        check_apart(actor, critic, config)
    return actor, critic


def _network(
    config: PolicyConfig, view: View, outputs: int, generator: Generator, *, of_actor: bool
) -> Network:
    layer_norm = config.actor_layer_norm if of_actor else config.critic_layer_norm
    hidden_sizes = config.actor_hidden_sizes if of_actor else config.critic_hidden_sizes
    made: nn.Module
    if config.encoder:
        made, features = make_own_encoder(config, view, generator)
    else:
        made, features = _encoder(config, view, layer_norm=layer_norm)
    memory = None
    if config.memory != "none":
        memory = Memory(config.memory, features, config.memory_size)
        features = memory.hidden_size
    if of_actor and config.actor_head:
        head: nn.Module = make_own_head(config, features, outputs, generator)
    else:
        head = mlp(features, hidden_sizes, outputs, config.activation, layer_norm)
    return Network(made, memory, head)


def _encoder(config: PolicyConfig, view: View, *, layer_norm: bool) -> tuple[Encoder, int]:
    """Return the encoder of the config's layers, and its number of features."""
    images = {
        key: ImageEncoder(shape, config.image_encoder, config.image_features, config.pixel_scale)
        for key, shape in view.images.items()
    }
    sizes, size = config.encoder_hidden_sizes, view.vector_size
    vector = hidden_layers(size, sizes, config.activation, layer_norm) if size else None
    features = [size, *sizes][-1] if size else 0
    features += config.image_features * len(images)
    return Encoder(vector, images, column_indices(view)), features


def _initialize(config: PolicyConfig, network: Network, gain: float, generator: Generator) -> None:
    """Initialize the parts that no user made."""
    parts = (network.encoder, network.memory, network.head)
    ours = nn.ModuleList(p for p in parts if p is not None and not isinstance(p, OwnNetwork))
    if config.initialization == "uniform":
        uniform_(ours, generator)
    else:
        gain = config.hidden_gain if isinstance(network.head, OwnNetwork) else gain
        orthogonal_(ours, config.hidden_gain, gain, generator)
