"""The NumPy engine: `Engine` for MLPs on a CPU."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlkl.engines.base import Acting, Array, Objective
from rlkl.engines.numpy.distributions import (
    CategoricalForm,
    ClosedForm,
    GaussianForm,
    two_action_root,
)
from rlkl.engines.numpy.mlp import SUPPORTED_ACTIVATIONS, Perceptron
from rlkl.engines.numpy.network import FreeStdHead, Head, NumpyNetwork, StateStdHead, silently
from rlkl.engines.numpy.rows import Rows
from rlkl.engines.torch import TorchEngine, TorchPolicy
from rlkl.envs.observations import ACTION_MASK, VECTOR, Observations
from rlkl.models.flat_parameters import FlatParameters
from rlkl.models.heads import GaussianHead
from rlkl.models.networks import ACTIVATIONS
from rlkl.models.policy import Inputs, Policy
from rlkl.numerics.distributions import Categorical, DiagonalGaussian, Distribution, TanhGaussian
from rlkl.numerics.losses import value_loss

FORMS: dict[Any, type[ClosedForm]] = {
    Categorical: CategoricalForm,
    DiagonalGaussian: GaussianForm,
    TanhGaussian: GaussianForm,  # except for its entropy
}


def unsupported(policy: Policy) -> str:
    """Return the part of a policy that this engine cannot evaluate; empty if there is none."""
    config = policy.config
    for key, name in config.own_networks.items():
        return f"policy.{key}={name}"
    if policy.device.type != "cpu":
        return f"a network on {policy.device}"
    if policy.encoder.images:
        return "a network for images"
    if config.memory != "none":
        return "a memory"
    if config.share_encoder:
        return "a shared encoder"
    if config.actor_layer_norm or config.critic_layer_norm:
        return "layer normalization"
    if config.activation not in SUPPORTED_ACTIVATIONS and (
        config.actor_hidden_sizes or config.critic_hidden_sizes or config.encoder_hidden_sizes
    ):
        return f"the activation {config.activation}"
    return ""


class NumpyEngine(TorchEngine):
    """Evaluates MLPs with analytic gradients, several times as fast as torch.

    Distributions without a closed form here (multi-discrete and multi-binary actions, the beta
    distribution, the entropy of a squashed Gaussian) are differentiated by torch, down to the
    network's output. `unsupported` must be empty for the policy.
    """

    name = "numpy"
    can_fork = True

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.actor = _network(
            policy.actor.encoder, policy.actor.head, policy.actor_parameters, _head(policy)
        )
        self.critic = _network(
            policy.critic.encoder, policy.critic.head, policy.critic_parameters, Head()
        )
        self._evaluated: Rows | None = None

    def act(self, noise: Tensor) -> Acting:
        """Return a function that samples actions; see `Engine.act`."""
        policy = self.policy
        if policy.family is Categorical:
            draw = self._draw_categories(noise.numpy())
        elif policy.decoder.is_gaussian and not policy.config.state_dependent_std:
            draw = self._draw_around_means(noise.numpy())
        else:
            draw = self._draw(noise)
        if not policy.actor_parameters.vector.abs().max() < 1e12:
            draw = silently(draw)
        return lambda t, observations, states: (draw(t, observations), states)

    def _draw(self, noise: Tensor) -> Callable[[int, Observations], NDArray[Any]]:
        def draw(t: int, observations: Observations) -> NDArray[Any]:
            parameters = torch.from_numpy(self.actor.forward(observations[VECTOR]))
            mask = observations.get(ACTION_MASK)
            masks = {} if mask is None else {ACTION_MASK: torch.from_numpy(mask)}
            return self.policy.masked(parameters, masks).draw(noise[t]).numpy()

        return draw

    def _draw_categories(self, noise: NDArray[Any]) -> Callable[[int, Observations], NDArray[Any]]:
        logits_of = self.actor.fixed(noise.shape[1])

        def draw(t: int, observations: Observations) -> NDArray[Any]:
            logits = logits_of(observations[VECTOR])
            if ACTION_MASK in observations:
                logits = np.where(observations[ACTION_MASK], logits, -np.inf)
            actions: NDArray[np.int64] = (logits + noise[t]).argmax(1)
            return actions

        return draw

    def _draw_around_means(
        self, noise: NDArray[Any]
    ) -> Callable[[int, Observations], NDArray[Any]]:
        _, num_envs, size = noise.shape
        means_of = self.actor.fixed(num_envs)
        zeros = np.zeros((1, self.policy.encoder.vector_size), noise.dtype)
        offsets: NDArray[Any] = np.exp(self.actor(zeros)[0, size:]) * noise
        return lambda t, observations: means_of(observations[VECTOR]) + offsets[t]

    def step(self, observations: dict[str, Tensor], states: Tensor) -> tuple[Distribution, Tensor]:
        """Return π(·|s) of one step, and the empty states."""
        return self.distribution(Inputs(observations)), states

    def distribution(self, inputs: Inputs, dtype: torch.dtype | None = None) -> Distribution:
        """Return π(·|s) of each row; see `Engine.distribution`."""
        parameters = torch.from_numpy(self.actor(inputs.observations[VECTOR].numpy()))
        return self.policy.masked(parameters.to(dtype or self.policy.dtype), inputs.observations)

    def values(self, inputs: Inputs, states: Tensor | None = None) -> Tensor:
        """Return V(s) of each row, `[B]`."""
        return torch.from_numpy(self.critic(inputs.observations[VECTOR].numpy())).squeeze(-1)

    def _form(self, objective: Objective) -> type[ClosedForm] | None:
        """Return a closed form of everything that an objective uses, or None."""
        family = self.policy.family
        is_open = objective.uses_entropy and family is TanhGaussian
        return None if objective.uses_distribution or is_open else FORMS.get(family)

    def rows(self, batch: Any, objective: Objective) -> Rows:
        """Return the batch as arrays, with π_old in the form that the KL needs."""
        rows, form = Rows.of(batch), self._form(objective)
        if form is not None and objective.uses_kl:
            rows.old_parameters = form.prepare_old(rows.old_parameters)
        if form is not None and rows.reference_parameters is not None:
            rows.reference_parameters = form.prepare_old(rows.reference_parameters)
        return rows

    @silently
    def policy_gradient(self, objective: Objective, rows: Rows) -> float:
        """Write the actor's gradient; return the loss."""
        parameters, form = self.actor.forward(rows.vectors), self._form(objective)
        self._evaluated = rows
        if form is None:
            leaf, tensors = torch.from_numpy(parameters).requires_grad_(), rows.tensors()
            in_torch = TorchPolicy(self.policy.masked(leaf, tensors.inputs.observations), tensors)
            loss = objective.loss(in_torch, tensors)
            in_torch.backward(loss)
            assert leaf.grad is not None
            derivative = leaf.grad.numpy()
        else:
            if rows.masks is not None:
                parameters = np.where(rows.masks, parameters, -np.inf)
            new = form(parameters, rows)
            loss = objective.loss(new, rows)
            derivative = new.total_derivative(loss)
        self.actor.backward(derivative)
        return float(loss.value)

    def fisher_product(self, rows: Rows, damping: float) -> Callable[[Array], Array]:
        """Return products with F = E[Jᵀ M J].

        J is the Jacobian of the distribution's parameters with respect to θ, M the Fisher matrix of
        these parameters. J v is a forward pass of tangents, Jᵀ u a backward pass. Where M = e eᵀ,
        F is E[g gᵀ] with g = Jᵀ e, which takes half the time.
        """
        form = FORMS.get(self.policy.family)
        if form is None:
            of_tensors = super().fisher_product(rows.tensors(), damping)
            return lambda vector: of_tensors(torch.from_numpy(vector)).numpy()
        if self._evaluated is not rows:
            self.actor.forward(rows.vectors)
        self._evaluated = None
        actor, arrays = self.actor, self.policy.actor_parameters.arrays
        old_parameters, size = rows.old_parameters, len(rows)
        if form is CategoricalForm and old_parameters.shape[1] == 2:
            root = two_action_root(old_parameters)
            write = actor.second_moment(root / math.sqrt(size))
        else:

            def write(change: Any, image: Any) -> None:
                curved = form.fisher(old_parameters, actor.tangent(change)) / size
                actor.backward(curved, image, stops_outward=False)

        def product(vector: NDArray[Any]) -> NDArray[Any]:
            image = np.empty_like(vector)
            write(arrays(vector), arrays(image))
            image += damping * vector
            return image

        return product

    def vector(self, tensor: Tensor) -> NDArray[Any]:
        """Return the vector as an array."""
        array: NDArray[Any] = tensor.numpy()
        return array

    def value_rows(self, batch: Any) -> Rows:
        """Return the critic's inputs and targets as arrays."""
        return Rows.of_values(batch)

    @silently
    def value_gradient(
        self, rows: Rows, value_clip: float | None, huber_delta: float | None = None
    ) -> float:
        """Write the critic's gradient; return the loss."""
        values = self.critic.forward(rows.vectors)[:, 0]
        loss, derivative = value_loss(
            np, values, rows.old_values, rows.returns, value_clip, huber_delta
        )
        self.critic.backward(derivative[:, None])
        return float(loss)


def _head(policy: Policy) -> Head:
    """Return the head that turns the actor's MLP output into distribution parameters."""
    config, head = policy.config, policy.actor.head
    if not isinstance(head, GaussianHead):
        return Head()
    bounds = config.log_std_min, config.log_std_max
    if config.state_dependent_std:
        return StateStdHead(config.log_std, *bounds)
    parameters = policy.actor_parameters
    place = next(i for i, tensor in enumerate(parameters.tensors) if tensor is head.log_std)
    return FreeStdHead(parameters.arrays(parameters.vector.data)[place], place, *bounds)


def _network(
    encoder: Any, output: nn.Module, parameters: FlatParameters, head: Head
) -> NumpyNetwork:
    """Return a network of linear layers and activations, in shared memory with torch."""
    if isinstance(output, GaussianHead):
        output = output.network
    layers = [*([] if encoder.vector is None else encoder.vector), *output.children()]
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    activations = {names[type(layer)] for layer in layers if not isinstance(layer, nn.Linear)}
    place = {id(tensor): i for i, tensor in enumerate(parameters.tensors)}
    arrays = parameters.arrays(parameters.vector.data)
    places = [(place[id(layer.weight)], place[id(layer.bias)]) for layer in linear]
    perceptron = Perceptron(
        [arrays[weight] for weight, _ in places],
        [arrays[bias] for _, bias in places],
        activations.pop() if activations else "tanh",  # a single layer has none
    )
    columns = None if encoder.columns is None else encoder.columns.numpy()
    return NumpyNetwork(perceptron, places, head, parameters, columns)
