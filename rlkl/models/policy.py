"""The policy: an actor that gives action distributions, a critic that gives values."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from rlkl.engines.numpy.network import (
    FreeStdHead,
    HandNetwork,
    Head,
    NotByHandError,
    PlainHead,
    StateStdHead,
    hand_network,
)
from rlkl.envs.spaces import (
    ACTION_MASK,
    BOX_DISTRIBUTIONS,
    VECTOR,
    ActionDecoder,
    ObservationEncoder,
    Observations,
)
from rlkl.models.flat_parameters import FlatParameters
from rlkl.models.networks import (
    ACTIVATIONS,
    IMAGE_ENCODERS,
    Encoder,
    ImageEncoder,
    hidden_layers,
    mlp,
    orthogonal_,
    uniform_,
)
from rlkl.models.recurrent import MEMORIES, Memory, Sequences
from rlkl.numerics.distributions import Categorical, DiagonalGaussian, Distribution
from rlkl.utils.field_types import check_fields
from rlkl.utils.validation import ConfigError, check_choice, check_range

DIFFERENTIATION = ("auto", "by_hand", "autograd")

FEATURES = "features"
"""What a shared encoder made of observations, in place of them, `[B, F]`."""


@dataclass(frozen=True)
class PolicyConfig:
    """Networks of the actor and the critic, and what the actor's output means.

    Each of the two is an encoder, a memory if there is one, and a perceptron on top. They share
    nothing unless `share_encoder` says so.

    Attributes:
        actor_hidden_sizes: units of the hidden layers of the actor's perceptron.
        critic_hidden_sizes: units of the hidden layers of the critic's perceptron.
        encoder_hidden_sizes: units of the encoder's layers for numbers and one-hot codes; empty
            passes them on as they are.
        image_encoder: for images: `nature` (Mnih 2015), `impala` (residual, Espeholt 2018), `small`
            (for grids of a few cells), `strided` (halves any image to 8 × 8 or less), or `auto`:
            nature from 36 to 128 pixels a side, small for grids of up to 10 cells, else strided.
            `nature_or_small` is what `auto` was in older runs.
        image_features: features made of each image.
        pixel_scale: what the bytes of images are divided by.
        share_encoder: actor and critic have one encoder and one memory. The policy-optimizer moves
            them, by its own loss plus `shared_value_coefficient` times that of the values; only
            first-order algorithms can.
        shared_value_coefficient: see `share_encoder`.
        memory: `none`, `gru` or `lstm`.
        memory_size: units of the memory.
        sequence_length: most steps that gradients go back through a memory.
        activation: between layers: tanh, relu, elu, gelu or silu.
        initialization: `orthogonal` with the gains below, or `uniform` within ±1/√fan_in.
        hidden_gain: of hidden layers.
        actor_gain: of the actor's output; small, so the first policy is nearly the same everywhere.
        critic_gain: of the critic's output.
        box_distribution: for Box actions: `gaussian`, clipped to the bounds on its way to the
            environment, or `tanh_gaussian`, squashed into them.
        clip_actions: false does not clip actions of a `gaussian`: an environment may clip them
            itself, and charge for what it was given.
        scale_actions: a `gaussian` counts in half-ranges from the middle of finite bounds: the
            environment gets middle + half-range · sample. Mean, standard deviation and entropy are
            in these units; KL and ratios are the same in any. False hands on the sample itself.
        state_dependent_std: the standard deviation is an output of the actor, not free parameters.
        log_std: logarithm of the standard deviation a Gaussian policy starts from, in half-ranges
            where `scale_actions` scales.
        log_std_min: the logarithm is kept at or above this; from there it can come back.
        log_std_max: the logarithm is kept at or below this.
        differentiation: `by_hand` evaluates and differentiates perceptrons by formulas in NumPy, on
            the CPU, several times as fast; `autograd` is torch's and can do every network; `auto`
            is by hand where that can be. Both give the same numbers, to rounding.
    """

    actor_hidden_sizes: list[int] = field(default_factory=lambda: [64, 64])
    critic_hidden_sizes: list[int] = field(default_factory=lambda: [64, 64])
    encoder_hidden_sizes: list[int] = field(default_factory=list)
    image_encoder: str = "auto"
    image_features: int = 512
    pixel_scale: float = 255.0
    share_encoder: bool = False
    shared_value_coefficient: float = 0.5
    memory: str = "none"
    memory_size: int = 64
    sequence_length: int = 32
    activation: str = "tanh"
    initialization: str = "orthogonal"
    hidden_gain: float = 2**0.5
    actor_gain: float = 0.01
    critic_gain: float = 1.0
    box_distribution: str = "gaussian"
    clip_actions: bool = True
    scale_actions: bool = True
    state_dependent_std: bool = False
    log_std: float = 0.0
    log_std_min: float = -20.0
    log_std_max: float = 2.0
    differentiation: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self, "policy.")
        for key in ("actor_hidden_sizes", "critic_hidden_sizes", "encoder_hidden_sizes"):
            for size in getattr(self, key):
                check_range(f"policy.{key}", size, at_least=1, at_most=65536)
        for key in ("image_features", "memory_size", "sequence_length"):
            check_range(f"policy.{key}", getattr(self, key), at_least=1, at_most=65536)
        check_choice("policy.image_encoder", self.image_encoder, IMAGE_ENCODERS)
        check_choice("policy.memory", self.memory, MEMORIES)
        check_choice("policy.activation", self.activation, ACTIVATIONS)
        check_choice("policy.initialization", self.initialization, ("orthogonal", "uniform"))
        check_choice("policy.box_distribution", self.box_distribution, BOX_DISTRIBUTIONS)
        if not self.clip_actions and self.box_distribution == "tanh_gaussian":
            raise ConfigError(
                "policy.clip_actions=false: changes nothing with policy.box_distribution="
                "tanh_gaussian, which squashes actions into their bounds; leave one of them out"
            )
        check_choice("policy.differentiation", self.differentiation, DIFFERENTIATION)
        for key in ("pixel_scale", "hidden_gain", "actor_gain", "critic_gain"):
            check_range(f"policy.{key}", getattr(self, key), above=0)
        check_range("policy.shared_value_coefficient", self.shared_value_coefficient, at_least=0)
        check_range("policy.log_std_min", self.log_std_min, at_least=-20, at_most=5)
        check_range("policy.log_std_max", self.log_std_max, at_least=self.log_std_min, at_most=5)
        check_range(
            "policy.log_std", self.log_std, at_least=self.log_std_min, at_most=self.log_std_max
        )


class Inputs(NamedTuple):
    """What a policy decides from.

    Attributes:
        observations: encoded, tensors of B rows each.
        sequences: which rows follow each other; None where the policy has no memory.
    """

    observations: dict[str, Tensor]
    sequences: Sequences | None = None


class _Bounded(torch.autograd.Function):
    """Clamps to two bounds; see `GaussianHead` for its gradient."""

    @staticmethod
    def forward(
        ctx: Any, numbers: Tensor, lowest: float, highest: float, stops_outward: bool
    ) -> Tensor:
        ctx.stops_outward = stops_outward
        ctx.save_for_backward(numbers <= lowest, numbers >= highest)
        return numbers.clamp(lowest, highest)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.stops_outward:
            is_lowest, is_highest = ctx.saved_tensors
            outward = (is_lowest & (slopes > 0)) | (is_highest & (slopes < 0))
            slopes = slopes.masked_fill(outward, 0)
        return slopes, None, None, None


class GaussianHead(nn.Module):
    """Features to means and log standard deviations within bounds.

    A logarithm at a bound or beyond it has the gradient of the bound itself where descent leads
    back inside, and 0 where it leads further out. So it can come back, and does not wander off.

    Args:
        network: features to means `[B, D]`, or to means and log standard deviations `[B, 2D]`.
        action_size: D.
        config: starting value and bounds of the logarithms, and whether they depend on the state.

    Attributes:
        stops_outward: False passes gradients in both directions, as Fisher-vector products need:
            the sign of what is differentiated twice says nothing of where a step leads.
    """

    def __init__(self, network: nn.Module, action_size: int, config: PolicyConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.stops_outward = True
        if not config.state_dependent_std:
            self.log_std = nn.Parameter(torch.full((action_size,), config.log_std))

    def forward(self, features: Tensor) -> Tensor:
        """Return means and log standard deviations, `[B, 2D]`."""
        config = self.config
        if config.state_dependent_std:
            mean, offset = self.network(features).chunk(2, -1)
            log_std = self._bounded(config.log_std + offset)
        else:
            mean = self.network(features)
            # Before it is repeated for each row: the sum over rows says where descent leads.
            log_std = self._bounded(self.log_std).expand_as(mean)
            # Changes no number, but torch adds up gradients that lie side by side in this order.
            log_std = log_std * 1.0
        return torch.cat((mean, log_std), -1)

    def _bounded(self, log_std: Tensor) -> Tensor:
        lowest, highest = self.config.log_std_min, self.config.log_std_max
        if not torch.is_grad_enabled():
            return log_std.clamp(lowest, highest)
        bounded: Tensor = _Bounded.apply(log_std, lowest, highest, self.stops_outward)  # type: ignore[no-untyped-call]
        return bounded

    def settle(self) -> None:
        """Put free logarithms that are beyond a bound onto it, which changes no distribution."""
        if not self.config.state_dependent_std:
            self.log_std.data.clamp_(self.config.log_std_min, self.config.log_std_max)


class Network(nn.Module):
    """An encoder, a memory if there is one, and a head.

    Args:
        encoder: observations to features.
        memory: runs over the features of successive steps.
        head: to the output.
    """

    def __init__(self, encoder: Encoder, memory: Memory | None, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.memory = memory
        self.head = head

    def features(self, inputs: Inputs, states: Tensor | None) -> Tensor:
        """Return what the head sees, `[B, F]`.

        Args:
            inputs: B rows; without sequences each row is a step of its own.
            states: of the memory before each sequence `[S, M]`, or before each row `[B, M]`.
        """
        features: Tensor = self.encoder(inputs.observations)
        if self.memory is None:
            return features
        assert states is not None
        if inputs.sequences is None:
            remembered: Tensor = self.memory(features.unsqueeze(0), states)[0]
            return remembered.squeeze(0)
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


Drawing = Callable[[int, Observations], NDArray[Any]]
"""Step t of a rollout and observations of N environments to actions as sampled."""

Acting = Callable[[int, Observations, Tensor], tuple[NDArray[Any], Tensor]]
"""The same with what is remembered, `[N, state_size]`, before and after."""


class HandPolicy(NamedTuple):
    """Both networks of a policy, done by hand.

    Attributes:
        actor: from vectors to the parameters of distributions.
        critic: from vectors to values, `[B, 1]`.
    """

    actor: HandNetwork
    critic: HandNetwork


class Policy:
    """π(a|s) and V(s).

    A policy with memory has a state for each environment, one row of `state_size` numbers: what the
    actor remembers, then what the critic does. It is 0 at the beginning of an episode.

    Args:
        config: networks and initialisation.
        encoder: of the environment's observations.
        action_space: Discrete, MultiDiscrete, MultiBinary or a Box of floats.
        generator: source of the initial weights.
        device: where the networks live.
        dtype: of all parameters.

    Attributes:
        encoder: of raw observations.
        decoder: to actions that the environment takes.
        family: makes distributions from the actor's output, which are their parameters.
        actor, critic: networks that share no parameter unless the config says so.
        actor_parameters, critic_parameters: theirs, each as one vector. What is shared belongs to
            the actor.
        state_size: numbers that are remembered for each environment; 0 without memory.
        by_hand: the networks done by hand; None where autograd does them.
        autograd_reason: why, if nobody asked for autograd; else empty.

    Raises:
        ConfigError: an action space without a distribution, nothing to share, or
            `policy.differentiation=by_hand` for networks that cannot be.
    """

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
        if self.decoder.is_continuous and not config.state_dependent_std:
            outputs //= 2
        actor = self._network(config.actor_hidden_sizes, outputs)
        critic = self._network(config.critic_hidden_sizes, 1)
        for network, gain in ((actor, config.actor_gain), (critic, config.critic_gain)):
            if config.initialization == "orthogonal":
                orthogonal_(network, config.hidden_gain, gain, generator)
            else:
                uniform_(network, generator)
        if self.decoder.is_continuous:
            actor.head = GaussianHead(actor.head, self.decoder.parameter_size // 2, config)
        if config.share_encoder:
            if not list(actor.encoder.parameters()) and actor.memory is None:
                raise ConfigError(
                    "policy.share_encoder=true: there is nothing to share, since observations have "
                    "no image and the policy no memory; set policy.encoder_hidden_sizes=[64] or "
                    "leave it out"
                )
            critic.encoder, critic.memory = actor.encoder, actor.memory
        self.actor = actor.to(self.device, dtype)
        self.critic = critic.to(self.device, dtype)
        self.actor_parameters = FlatParameters(self.actor.parameters())
        self.critic_parameters = FlatParameters(
            (self.critic.head if config.share_encoder else self.critic).parameters()
        )
        self._actor_state_size = actor.memory.state_size if actor.memory else 0
        self.state_size = 2 * self._actor_state_size
        self._example = self.family(
            torch.zeros(1, self.decoder.parameter_size, device=self.device, dtype=dtype)
        )
        self.by_hand: HandPolicy | None = None
        self.autograd_reason = ""
        if config.differentiation != "autograd":
            try:
                self.by_hand = self._done_by_hand()
            except NotByHandError as reason:
                self.autograd_reason = str(reason)
        if config.differentiation == "by_hand" and self.by_hand is None:
            raise ConfigError(
                f"policy.differentiation=by_hand: {self.autograd_reason} cannot be differentiated "
                "by hand; use policy.differentiation=auto"
            )

    def _done_by_hand(self) -> HandPolicy:
        config = self.config
        if self.device.type != "cpu":
            raise NotByHandError(f"a network on {self.device}")
        if self.encoder.images:
            raise NotByHandError("a network for images")
        if config.memory != "none":
            raise NotByHandError("a memory")
        if config.share_encoder:
            raise NotByHandError("a shared encoder")
        parameters, output, head = self.actor_parameters, self.actor.head, PlainHead()
        bounds = config.log_std_min, config.log_std_max
        actor_head: Head = head
        if isinstance(output, GaussianHead):
            if config.state_dependent_std:
                actor_head = StateStdHead(config.log_std, *bounds)
            else:
                place = next(
                    i for i, tensor in enumerate(parameters.tensors) if tensor is output.log_std
                )
                log_std = parameters.arrays(parameters.vector.data)[place]
                actor_head = FreeStdHead(log_std, place, *bounds)
            output = output.network
        return HandPolicy(
            hand_network(_layers(self.actor.encoder, output), parameters, actor_head),
            hand_network(
                _layers(self.critic.encoder, self.critic.head), self.critic_parameters, head
            ),
        )

    def _network(self, hidden_sizes: list[int], outputs: int) -> Network:
        config, vector_size = self.config, self.encoder.vector_size
        images = {
            key: ImageEncoder(
                shape, config.image_encoder, config.image_features, config.pixel_scale
            )
            for key, shape in self.encoder.images.items()
        }
        sizes = config.encoder_hidden_sizes
        vector = hidden_layers(vector_size, sizes, config.activation) if vector_size else None
        features = [vector_size, *sizes][-1] if vector_size else 0
        features += config.image_features * len(images)
        encoder = Encoder(vector, VECTOR, images)
        memory = None
        if config.memory != "none":
            memory = Memory(config.memory, features, config.memory_size)
            features = memory.hidden_size
        head = mlp(features, hidden_sizes, outputs, config.activation)
        return Network(encoder, memory, head)

    def distribution(self, inputs: Inputs, dtype: torch.dtype | None = None) -> Distribution:
        """Return π(·|s) for each row.

        Args:
            inputs: what to decide from.
            dtype: of the distribution; None for the policy's own.
        """
        if self.by_hand is not None and not torch.is_grad_enabled():
            parameters = torch.from_numpy(self.by_hand.actor(inputs.observations[VECTOR].numpy()))
            return self._masked(parameters.to(dtype or self.dtype), inputs.observations)
        sequences = inputs.sequences
        states = sequences.states[:, : self._actor_state_size] if sequences else None
        return self._masked(self.actor(inputs, states).to(dtype or self.dtype), inputs.observations)

    @property
    def caution(self) -> str:
        """What a user should know of how the policy starts, in a line; mostly empty."""
        if not self.decoder.is_out_of_reach(3 * math.exp(self.config.log_std)):
            return ""
        advice = (
            "wrap the environment so that 0 lies within them"
            if self.config.scale_actions
            else "policy.scale_actions=true starts in their middle if they are finite"
        )
        return (
            f"the first actions lie around 0, far from the bounds of {self.decoder.space}, so that "
            f"hardly any will ever lie within them; {advice}"
        )

    def settle(self) -> None:
        """Put free log standard deviations that are beyond a bound onto it.

        No distribution changes, and the next step back inside has an effect at once.
        """
        if isinstance(self.actor.head, GaussianHead):
            self.actor.head.settle()

    @contextmanager
    def past_bounds(self) -> Iterator[None]:
        """Have gradients pass the bounds of log standard deviations in both directions."""
        head = self.actor.head
        if not isinstance(head, GaussianHead):
            yield
            return
        head.stops_outward = False
        try:
            yield
        finally:
            head.stops_outward = True

    def values(
        self, inputs: Inputs, states: Tensor | None = None, *, through_encoder: bool = False
    ) -> Tensor:
        """Return V(s) of each row, `[B]`.

        Args:
            inputs: with sequences, or with `states` if the policy has a memory.
            states: of the whole policy before each row, `[B, state_size]`.
            through_encoder: whether gradients reach an encoder that is shared with the actor.
        """
        if self.by_hand is not None and not torch.is_grad_enabled():
            vectors = inputs.observations[VECTOR].numpy()
            return torch.from_numpy(self.by_hand.critic(vectors)).squeeze(-1)
        if states is None and inputs.sequences is not None:
            states = inputs.sequences.states
        own = None if states is None else states[:, self._actor_state_size :]
        features = inputs.observations.get(FEATURES)
        if features is None:
            features = self.critic.features(inputs, own)
            if self.config.share_encoder and not through_encoder:
                features = features.detach()
        values: Tensor = self.critic.head(features).squeeze(-1)
        return values

    @torch.no_grad()
    def critic_inputs(self, inputs: Inputs) -> Inputs:
        """Return what the critic's own parameters act on, while nothing else moves.

        These are features computed once where the encoder is shared, else the inputs themselves.
        """
        if not self.config.share_encoder:
            return inputs
        sequences = inputs.sequences
        states = sequences.states[:, self._actor_state_size :] if sequences else None
        return Inputs({FEATURES: self.critic.features(inputs, states)})

    def step(self, observations: dict[str, Tensor], states: Tensor) -> tuple[Distribution, Tensor]:
        """Return π(·|s) for one step of N environments, and what is remembered after it.

        Args:
            observations: encoded, N rows.
            states: what was remembered before, `[N, state_size]`.
        """
        if not self.state_size:
            return self.distribution(Inputs(observations)), states
        actor_states, critic_states = states.chunk(2, -1)
        parameters, actor_states = self.actor.step(observations, actor_states)
        _, critic_states = self.critic.step(observations, critic_states)
        return self._masked(parameters, observations), torch.cat((actor_states, critic_states), -1)

    def noise(self, steps: int, num_envs: int, generator: Generator) -> Tensor:
        """Return all the chance in the actions of a rollout, `[T, N, ...]`."""
        return self._example.noise((steps, num_envs), generator)

    def acting(self, noise: Tensor) -> Acting:
        """Return how to act in a rollout, while the policy stands as it is.

        By hand a step of 8 environments takes 20 to 30 µs; as modules and distributions of torch it
        takes 200 µs.

        Args:
            noise: all the chance in it, `[T, N, ...]`.
        """
        if self.by_hand is None:

            def by_torch(
                t: int, observations: Observations, states: Tensor
            ) -> tuple[NDArray[Any], Tensor]:
                distribution, states = self.step(self.tensors(observations), states)
                return distribution.draw(noise[t]).cpu().numpy(), states

            return by_torch
        if self.family is Categorical:
            draw = _drawing_categories(self.by_hand.actor, noise.numpy())
        elif self.decoder.is_continuous and not self.config.state_dependent_std:
            draw = _drawing_around_means(self.by_hand.actor, noise.numpy())
        else:
            draw = self._drawing(self.by_hand.actor, noise)
        if not self.actor_parameters.vector.abs().max() < 1e12:
            draw = np.errstate(all="ignore")(draw)  # torch does not warn of an overflow either
        return lambda t, observations, states: (draw(t, observations), states)

    def _drawing(self, actor: HandNetwork, noise: Tensor) -> Drawing:
        def draw(t: int, observations: Observations) -> NDArray[Any]:
            distribution = self.family(torch.from_numpy(actor.forward(observations[VECTOR])))
            mask = observations.get(ACTION_MASK)
            if mask is not None:
                distribution = distribution.masked(torch.from_numpy(mask))
            return distribution.draw(noise[t]).numpy()

        return draw

    def _masked(self, parameters: Tensor, observations: dict[str, Tensor]) -> Distribution:
        distribution = self.family(parameters)
        mask = observations.get(ACTION_MASK)
        return distribution if mask is None else distribution.masked(mask)

    def initial_state(self, num_envs: int) -> Tensor:
        """Return what is remembered at the beginning of an episode, `[N, state_size]`."""
        return torch.zeros(num_envs, self.state_size, device=self.device, dtype=self.dtype)

    def forget(self, states: Tensor, begins: NDArray[np.bool_]) -> Tensor:
        """Return the states `[N, state_size]` with nothing remembered where an episode begins."""
        if not self.state_size or not begins.any():
            return states
        return states.masked_fill(self.tensor(begins).unsqueeze(-1), 0)

    def mean_std(self, distribution: Distribution) -> float:
        """Return the standard deviation of Gaussians, averaged over rows and actions; else NaN.

        It is in the Gaussian's own units: half-ranges where `scale_actions` scales, and before a
        squash.
        """
        if isinstance(distribution, DiagonalGaussian):
            return float(distribution.log_std.detach().double().exp().mean())
        return math.nan

    def tensor(self, array: Any) -> Tensor:
        """Return numbers as a tensor on the policy's device, floats in its type."""
        tensor = torch.as_tensor(array, device=self.device)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def tensors(self, observations: dict[str, Any]) -> dict[str, Tensor]:
        """Return encoded observations as tensors."""
        return {key: self.tensor(array) for key, array in observations.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return all parameters by name."""
        return {"actor": self.actor.state_dict(), "critic": self.critic.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the parameters, in place."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])


def _layers(encoder: Encoder, head: nn.Module) -> list[nn.Module]:
    """Return the linear layers and activations that a vector passes through."""
    below = [] if encoder.vector is None else list(encoder.vector)
    return [*below, *head.children()]


def _drawing_categories(actor: HandNetwork, noise: NDArray[Any]) -> Drawing:
    logits_of = actor.perceptron.fixed(noise.shape[1])

    def draw(t: int, observations: Observations) -> NDArray[Any]:
        logits = logits_of(observations[VECTOR])
        if ACTION_MASK in observations:
            logits = np.where(observations[ACTION_MASK], logits, -np.inf)
        winners: NDArray[np.int64] = (logits + noise[t]).argmax(1)
        return winners

    return draw


def _drawing_around_means(actor: HandNetwork, noise: NDArray[Any]) -> Drawing:
    _, num_envs, size = noise.shape
    means_of = actor.perceptron.fixed(num_envs)
    nowhere = np.zeros((1, actor.perceptron.num_inputs), noise.dtype)
    offsets: NDArray[Any] = np.exp(actor(nowhere)[0, size:]) * noise
    return lambda t, observations: means_of(observations[VECTOR]) + offsets[t]
