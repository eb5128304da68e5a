"""The settings of a policy's networks."""

from dataclasses import dataclass, field
from typing import Any

from rlkl.envs.actions import BOX_DISTRIBUTIONS
from rlkl.models.networks import ACTIVATIONS, IMAGE_ENCODERS
from rlkl.models.recurrent import MEMORIES
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import check_fields, limited
from rlkl.utils.validation import check_range, check_text

ENGINES = ("auto", "numpy", "torch")
LARGEST_SIZE = 65536  # of a layer, or of a sequence

OWN_NETWORKS = ("encoder", "actor_head", "actor_critic")
"""Keys that choose registered networks, with arguments in `KEY_kwargs`."""


@dataclass(frozen=True)
class PolicyConfig:
    """Networks of the actor and the critic, and the distribution of actions.

    Each network is an encoder, an optional memory and an MLP. The two share nothing unless
    `share_encoder` is true.

    Attributes:
        actor_hidden_sizes, critic_hidden_sizes: units of the hidden layers of each MLP.
        encoder_hidden_sizes: units of the encoder's layers for vectors; empty for no layers.
        image_encoder: for images: `nature` (Mnih 2015), `impala` (residual, Espeholt 2018), `small`
            (for grids of a few cells), `strided` (halves any image to 8 × 8 or less), or `auto`:
            nature from 36 to 128 pixels a side, small for grids of up to 10 cells, else strided.
            `nature_or_small` is `auto` of older runs.
        image_features: number of features of each image.
        pixel_scale: divisor of the bytes of images.
        share_encoder: actor and critic have one encoder and one memory. The policy-optimizer trains
            them with its own loss plus `shared_value_coefficient` times the value loss; only
            first-order algorithms can.
        memory: `none`, `gru` or `lstm`, of `memory_size` units.
        sequence_length: maximal number of steps of backpropagation through time.
        activation: between layers: tanh, relu, elu, gelu or silu.
        actor_layer_norm, critic_layer_norm: layer normalization (Ba 2016) in each network, between
            each linear hidden layer, also of its encoder for vectors, and its activation. Not in
            image encoders and memories. Only the torch engine has it.
        initialization: `orthogonal` with the gains below, or `uniform` within ±1/√fan_in.
        hidden_gain, actor_gain, critic_gain: of hidden layers and of each output. The actor's is
            small, so the first policy hardly depends on the state.
        box_distribution: for Box actions: `gaussian`, clipped to the bounds before the environment
            gets it, `tanh_gaussian`, squashed into them, or `beta`, a beta distribution between
            them with α, β > 1 (Chou 2017), which has no `log_std`.
        clip_actions: false leaves the clipping of a `gaussian` to the environment.
        scale_actions: whether a `gaussian` is in half-ranges from the middle of finite bounds: the
            environment gets middle + half-range · sample. Mean, standard deviation and entropy are
            in these units; KL and ratios do not depend on them. False passes on the sample itself.
        state_dependent_std: the standard deviation is an output of the actor, not a parameter.
        log_std: initial logarithm of a Gaussian's standard deviation, in half-ranges with
            `scale_actions`; `log_std_min` and `log_std_max` bound it during training.
        engine: `numpy` evaluates MLPs on a CPU with analytic gradients, several times as fast;
            `torch` evaluates every network on every device; `auto` is numpy where possible. Both
            give the same numbers, up to rounding.
        actor_observation_keys, critic_observation_keys: the parts of a Dict or Tuple observation
            that each network sees, of those in `env.observation_keys`; empty for all.
        encoder: name of a registered encoder, in place of the vector's layers and the image
            encoders; empty for these. `encoder_kwargs` are passed to its constructor.
        actor_head: name of a registered head of the actor, in place of its MLP, and its
            `actor_head_kwargs`.
        actor_critic: name of a registered actor and critic, in place of both networks, and its
            `actor_critic_kwargs`.
        module: the Python module that registers these names. A command imports it only if it is
            named on the command line.
    """

    actor_hidden_sizes: list[int] = limited([64, 64], at_least=1, at_most=LARGEST_SIZE)
    critic_hidden_sizes: list[int] = limited([64, 64], at_least=1, at_most=LARGEST_SIZE)
    encoder_hidden_sizes: list[int] = limited([], at_least=1, at_most=LARGEST_SIZE)
    image_encoder: str = limited("auto", choices=IMAGE_ENCODERS)
    image_features: int = limited(512, at_least=1, at_most=LARGEST_SIZE)
    pixel_scale: float = limited(255.0, above=0)
    share_encoder: bool = False
    shared_value_coefficient: float = limited(0.5, at_least=0)
    memory: str = limited("none", choices=MEMORIES)
    memory_size: int = limited(64, at_least=1, at_most=LARGEST_SIZE)
    sequence_length: int = limited(32, at_least=1, at_most=LARGEST_SIZE)
    activation: str = limited("tanh", choices=ACTIVATIONS)
    actor_layer_norm: bool = False
    critic_layer_norm: bool = False
    initialization: str = limited("orthogonal", choices=("orthogonal", "uniform"))
    hidden_gain: float = limited(2**0.5, above=0)
    actor_gain: float = limited(0.01, above=0)
    critic_gain: float = limited(1.0, above=0)
    box_distribution: str = limited("gaussian", choices=BOX_DISTRIBUTIONS)
    clip_actions: bool = True
    scale_actions: bool = True
    state_dependent_std: bool = False
    log_std: float = 0.0
    log_std_min: float = limited(-20.0, at_least=-20, at_most=5)
    log_std_max: float = 2.0
    engine: str = limited("auto", choices=ENGINES)
    actor_observation_keys: list[str] = field(default_factory=list)
    critic_observation_keys: list[str] = field(default_factory=list)
    encoder: str = ""
    encoder_kwargs: dict[str, Any] = field(default_factory=dict)
    actor_head: str = ""
    actor_head_kwargs: dict[str, Any] = field(default_factory=dict)
    actor_critic: str = ""
    actor_critic_kwargs: dict[str, Any] = field(default_factory=dict)
    module: str = ""

    def __post_init__(self) -> None:
        check_fields(self, "policy.")
        self._check_own_networks()
        if not self.clip_actions and self.box_distribution != "gaussian":
            raise ConfigError(
                "policy.clip_actions=false: has no effect with policy.box_distribution="
                f"{self.box_distribution}, whose actions are within their bounds; leave one of "
                "them out"
            )
        if self.box_distribution == "beta" and (self.state_dependent_std or self.log_std):
            raise ConfigError(
                "policy.box_distribution=beta: has no log_std, and always depends on the state; "
                "leave out policy.state_dependent_std and policy.log_std"
            )
        for name in ("actor", "critic"):
            sizes = getattr(self, f"{name}_hidden_sizes")
            if getattr(self, f"{name}_layer_norm") and not [*sizes, *self.encoder_hidden_sizes]:
                raise ConfigError(
                    f"policy.{name}_layer_norm=true: there is no hidden layer to normalize; set "
                    f"policy.{name}_hidden_sizes=[64], or leave it out"
                )
        check_range("policy.log_std_max", self.log_std_max, at_least=self.log_std_min, at_most=5)
        check_range(
            "policy.log_std", self.log_std, at_least=self.log_std_min, at_most=self.log_std_max
        )

    @property
    def own_networks(self) -> dict[str, str]:
        """The names of registered networks by their keys; empty if all networks are rlkl's."""
        return {key: getattr(self, key) for key in OWN_NETWORKS if getattr(self, key)}

    def _check_own_networks(self) -> None:
        for key in OWN_NETWORKS:
            if getattr(self, f"{key}_kwargs") and not getattr(self, key):
                raise ConfigError(
                    f"policy.{key}_kwargs: changes nothing without policy.{key}=NAME; set both, or "
                    "leave it out"
                )
        if self.module:
            check_text("policy.module", self.module)
            if not self.own_networks:
                raise ConfigError(
                    f"policy.module={self.module}: none of its networks is used; set "
                    "policy.encoder=NAME, policy.actor_head=NAME or policy.actor_critic=NAME"
                )
        if self.encoder and self.encoder_hidden_sizes:
            raise ConfigError(
                f"policy.encoder_hidden_sizes={self.encoder_hidden_sizes}: changes nothing with "
                f"policy.encoder={self.encoder}; leave one of them out"
            )
        whole = f"not possible with policy.actor_critic={self.actor_critic}, which is the whole"
        for key in ("encoder", "actor_head", "share_encoder", "actor_layer_norm",
                    "critic_layer_norm"):  # fmt: skip
            value = getattr(self, key)
            if self.actor_critic and value:
                text = str(value).lower() if value is True else value
                raise ConfigError(f"policy.{key}={text}: {whole} network; leave one of them out")
        if self.actor_critic and self.memory != "none":
            raise ConfigError(
                f"policy.memory={self.memory}: {whole} network; register an encoder instead, which "
                "the memory follows"
            )
        if self.share_encoder and self.actor_observation_keys != self.critic_observation_keys:
            raise ConfigError(
                "policy.share_encoder=true: actor and critic see the same observations then; use "
                "equal actor_observation_keys and critic_observation_keys, or separate encoders"
            )
