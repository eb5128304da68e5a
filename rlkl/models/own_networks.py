"""Networks that users register: their registries, and the checks of what they return."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn

from rlkl.envs.ids import import_named
from rlkl.envs.observations import VECTOR, View
from rlkl.models.networks import of_columns
from rlkl.models.policy_config import PolicyConfig
from rlkl.utils.errors import BrokenNetworkError, ConfigError
from rlkl.utils.validation import described, nearest

Maker = Callable[..., nn.Module]
M = TypeVar("M", bound=Maker)

ENCODERS: dict[str, Maker] = {}
"""Encoders by name: `maker(shapes, **encoder_kwargs)` returns a module that maps observations, a
dict of tensors `[B, *shape]`, to features `[B, F]`."""

ACTOR_HEADS: dict[str, Maker] = {}
"""Heads of the actor by name: `maker(num_features, num_outputs, **actor_head_kwargs)` returns a
module that maps features `[B, num_features]` to outputs `[B, num_outputs]`."""

ACTOR_CRITICS: dict[str, Maker] = {}
"""Both networks by name: `maker(actor_shapes, critic_shapes, num_outputs, **actor_critic_kwargs)`
returns a module whose parts `actor` and `critic` map observations to outputs `[B, num_outputs]` and
to values `[B, 1]`."""

REGISTRIES = {"encoder": ENCODERS, "actor_head": ACTOR_HEADS, "actor_critic": ACTOR_CRITICS}
"""By the key of `policy` that chooses among them."""


def register_encoder(name: str) -> Callable[[M], M]:
    """Return a decorator that registers a class for `policy.encoder=NAME`; see `ENCODERS`."""
    return _decorator("encoder", name)


def register_actor_head(name: str) -> Callable[[M], M]:
    """Return a decorator that registers a class for `policy.actor_head=NAME`; see `ACTOR_HEADS`."""
    return _decorator("actor_head", name)


def register_actor_critic(name: str) -> Callable[[M], M]:
    """Return a decorator that registers a class for `policy.actor_critic=NAME`.

    See `ACTOR_CRITICS`.
    """
    return _decorator("actor_critic", name)


def _decorator(key: str, name: str) -> Callable[[M], M]:
    if not name.isidentifier():
        raise ConfigError(f"register_{key}({name!r}): expected a name of letters, digits and _")

    def register(maker: M) -> M:
        known = REGISTRIES[key].get(name)
        if known is not None and _place(known) != _place(maker):
            raise ConfigError(
                f"register_{key}({name!r}): {_place(known)} has this name already; choose another"
            )
        REGISTRIES[key][name] = maker
        return maker

    return register


def _place(maker: Maker) -> str:
    return f"{maker.__module__}.{getattr(maker, '__qualname__', type(maker).__qualname__)}"


def import_networks(config: PolicyConfig) -> None:
    """Import `policy.module`, and check that the chosen networks are registered.

    It is called for configs that the user made, never for one that was read from a run's folder.

    Raises:
        ConfigError: the module cannot be imported, or does not register them.
    """
    if config.module:
        import_named(config.module, f"policy.module={config.module}")
    for key in config.own_networks:
        registered(config, key)


def registered(config: PolicyConfig, key: str) -> Maker:
    """Return the maker of a config's network.

    Raises:
        ConfigError: none with this name is registered.
    """
    name, known = config.own_networks[key], REGISTRIES[key]
    if name in known:
        return known[name]
    found = f"expected one of {', '.join(known)}{nearest(name, known)}, or " if known else ""
    module = config.module or "MODULE"
    raise ConfigError(
        f"policy.{key}={name}: no such network is registered; {found}import the module that "
        f"registers it: in Python import {module} first, for rlkl train and resume add "
        f"policy.module={module}, for other commands --module {module}"
    )


class OwnNetwork(nn.Module):
    """A user's module, whose errors name its label in one line.

    `view` is what it reads of observations; None for a module that reads features.
    """

    columns: Tensor | None

    def __init__(self, module: nn.Module, label: str, view: View | None = None) -> None:
        super().__init__()
        self.module, self.label, self.view = module, label, view
        self.register_buffer("columns", column_indices(view), persistent=False)

    def forward(self, inputs: Any) -> Tensor:
        """Return the module's output for observations or features."""
        view = self.view
        if view is not None:
            inputs = {
                key: of_columns(inputs[key], self.columns) if key == VECTOR else inputs[key]
                for key in view.shapes
            }
        try:
            output: Tensor = self.module(inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise BrokenNetworkError(f"{self.label}: {described(error)}") from error
        return output


def column_indices(view: View | None) -> Tensor | None:
    """Return the columns that a network reads; None for all."""
    if view is None or view.columns is None:
        return None
    return torch.tensor(view.columns, dtype=torch.long)


def make_own_encoder(
    config: PolicyConfig, view: View, generator: Generator
) -> tuple[OwnNetwork, int]:
    """Make the encoder of `policy.encoder`; return it and its number of features."""
    with _seeded(generator):
        module, label = _made(config, "encoder", view.shapes)
        encoder = OwnNetwork(module, label, view)
        return encoder, check_network(encoder, _observations(view), None)


def make_own_head(
    config: PolicyConfig, features: int, outputs: int, generator: Generator
) -> OwnNetwork:
    """Make the head of `policy.actor_head`."""
    with _seeded(generator):
        module, label = _made(config, "actor_head", features, outputs)
        head = OwnNetwork(module, label)
        check_network(head, torch.zeros(3, features), outputs)
    return head


def make_own_actor_critic(
    config: PolicyConfig, views: Sequence[View], outputs: int, generator: Generator
) -> tuple[OwnNetwork, OwnNetwork]:
    """Make the networks of `policy.actor_critic`, from the views of the actor and the critic."""
    networks: list[OwnNetwork] = []
    with _seeded(generator):
        module, label = _made(config, "actor_critic", *(view.shapes for view in views), outputs)
        for part, view, width in zip(("actor", "critic"), views, (outputs, 1), strict=True):
            found = getattr(module, part, None)
            if not isinstance(found, nn.Module):
                raise ConfigError(
                    f"{label}: its part {part!r} is {type(found).__name__}; expected a torch module"
                )
            network = OwnNetwork(found, f"{label}, {part}", view)
            check_network(network, _observations(view), width)
            networks.append(network)
    actor, critic = networks
    return actor, critic


def check_apart(actor: nn.Module, critic: nn.Module, config: PolicyConfig) -> None:
    """Check that actor and critic have parameters, and share none.

    Raises:
        ConfigError: naming the parameter.
    """
    names = ", ".join(f"policy.{key}={name}" for key, name in config.own_networks.items())
    of_critic = {id(tensor) for tensor in chain(critic.parameters(), critic.buffers())}
    for name, tensor in chain(actor.named_parameters(), actor.named_buffers()):
        if id(tensor) in of_critic:
            raise ConfigError(
                f"{names}: actor and critic share {name}; make it twice, or use "
                "policy.share_encoder=true with a registered encoder"
            )
    for whose, network in (("actor", actor), ("critic", critic)):
        if not any(tensor.requires_grad for tensor in network.parameters()):
            raise ConfigError(f"{names}: the {whose} has no parameters to train")


@contextmanager
def _seeded(generator: Generator) -> Iterator[None]:
    """Seed torch's own random numbers, from which a user's module draws its weights."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _made(config: PolicyConfig, key: str, *arguments: Any) -> tuple[nn.Module, str]:
    """Return a user's module and its label."""
    maker, kwargs = registered(config, key), getattr(config, f"{key}_kwargs")
    label = f"policy.{key}={config.own_networks[key]} ({_place(maker)})"
    try:
        module = maker(*arguments, **kwargs)
    except Exception as error:
        raise ConfigError(f"{label} cannot be made: {described(error)}") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{label} is {type(module).__name__}; expected a torch module")
    return module, label


def _observations(view: View) -> dict[str, Tensor]:
    """Return three observations of zeros."""
    width = 1 + max(view.columns) if view.columns else view.vector_size
    images = {key: torch.zeros(3, *s, dtype=torch.uint8) for key, s in view.images.items()}
    return ({VECTOR: torch.zeros(3, width)} if view.vector_size else {}) | images


def _random(zeros: Any, generator: Generator) -> Any:
    if isinstance(zeros, dict):
        return {key: _random(tensor, generator) for key, tensor in zeros.items()}
    if zeros.dtype == torch.uint8:
        return torch.empty_like(zeros).random_(256, generator=generator)
    return torch.randn(zeros.shape, generator=generator)


def check_network(network: OwnNetwork, zeros: Any, width: int | None) -> int:
    """Check that a module is a function of each row, with finite outputs `[B, width]`.

    An update starts at π_θ = π_old only if a forward pass changes nothing in the module, draws no
    random numbers, and does not mix rows.

    Args:
        network: of the user.
        zeros: three rows of inputs.
        width: of the outputs; None for any. The width is returned.

    Raises:
        ConfigError: naming what was expected.
    """
    label, rows = network.label, _random(zeros, Generator().manual_seed(0))
    first = {k: v[:2] for k, v in rows.items()} if isinstance(rows, dict) else rows[:2]
    try:
        at_zero = network(zeros)  # lazy modules make their parameters here
        before = {name: tensor.clone() for name, tensor in network.named_buffers()}
        outputs, again, alone = network(rows), network(rows), network(first)
    except BrokenNetworkError as error:
        raise ConfigError(str(error)) from error
    _check_form(label, at_zero, width)
    for output, inputs in ((at_zero, "zeros"), (outputs, "random numbers")):
        if not bool(output.isfinite().all()):
            raise ConfigError(f"{label} returns numbers that are not finite for {inputs}")
    if any(tensor.requires_grad for tensor in network.parameters()) and not outputs.requires_grad:
        raise ConfigError(
            f"{label}: no gradient reaches its parameters; remove torch.no_grad and detach from it"
        )
    rule = "an update must start at the old policy"
    for name, tensor in network.named_buffers():
        if not torch.equal(before[name], tensor):
            raise ConfigError(
                f"{label}: forward changes its buffer {name.removeprefix('module.')}, as batch "
                f"normalization does, and {rule}; use another layer, such as LayerNorm"
            )
    if not torch.equal(outputs, again):
        raise ConfigError(
            f"{label}: two calls with the same inputs differ, as with dropout, and {rule}; remove "
            "what is random from it"
        )
    if not torch.allclose(outputs[:2], alone, rtol=1e-3, atol=1e-4):
        raise ConfigError(
            f"{label}: the output of a row depends on the other rows, as with batch "
            f"normalization, and {rule}; use another layer, such as LayerNorm"
        )
    return int(at_zero.shape[1])


def _check_form(label: str, output: Any, width: int | None) -> None:
    """Check that the output for three rows is a tensor of floats `[3, width]`."""
    wanted = f"a tensor of floats [B, {width or 'F'}]"
    if not isinstance(output, Tensor):
        raise ConfigError(f"{label} returns {type(output).__name__}; expected {wanted}")
    is_right = output.ndim == 2 and output.shape == (3, width or max(1, output.shape[1]))
    if not is_right or not output.is_floating_point():
        kind = str(output.dtype).removeprefix("torch.")
        shape = ["B" if n == 3 and not i else n for i, n in enumerate(output.shape)]
        text = f"[{', '.join(map(str, shape))}] of {kind}"
        raise ConfigError(f"{label} returns {text}; expected {wanted}")
