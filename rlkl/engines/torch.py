"""The torch engine: any network, any device. It defines what every engine computes."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from rlkl.engines.base import Array, Engine, Loss, NewPolicy, Objective
from rlkl.models.policy import Policy
from rlkl.numerics.distributions import Distribution
from rlkl.numerics.losses import value_loss
from rlkl.utils.errors import BrokenNetworkError

Mean = Callable[[Tensor], Tensor]
make_dual: Any = forward_ad.make_dual
unpack_dual: Any = forward_ad.unpack_dual


class TorchPolicy(NewPolicy):
    """`NewPolicy` as tensors without a graph, from a distribution with one and its minibatch.

    `mean` is that over the rows of the minibatch.
    """

    xp = torch

    def __init__(self, distribution: Distribution, batch: Any, mean: Mean = torch.mean) -> None:
        self.distribution, self.batch, self.mean = distribution, batch, mean

    _old = cached_property(lambda self: self.distribution.at(self.batch.old_parameters))

    # With a graph, and below without.
    _log_prob = cached_property(lambda self: self.distribution.log_prob(self.batch.actions))
    _kl = cached_property(lambda self: self._old.kl(self.distribution))
    _reverse_kl = cached_property(lambda self: self.distribution.kl(self._old))
    _entropy = cached_property(lambda self: self.distribution.entropy())

    log_prob = cached_property(lambda self: self._log_prob.detach())
    ratio = cached_property(lambda self: (self.log_prob - self.batch.old_log_prob).exp())
    kl = cached_property(lambda self: self._kl.detach())
    reverse_kl = cached_property(lambda self: self._reverse_kl.detach())
    entropy = cached_property(lambda self: self._entropy.detach())

    @cached_property
    def reference(self) -> "TorchPolicy":
        """The same with π_ref in place of π_old."""
        batch = self.batch
        batch = replace(batch, old_parameters=batch.reference_parameters)
        return TorchPolicy(self.distribution, batch, self.mean)

    def mean_kl(self) -> Tensor:
        """Return the mean of `kl`."""
        return self.mean(self.kl)

    def mean_entropy(self) -> Tensor:
        """Return the mean of `entropy`."""
        return self.mean(self.entropy)

    def backward(self, loss: Loss, *further: tuple[Tensor, Tensor]) -> None:
        """Backpropagate a loss from its derivatives, and from further tensors with theirs."""
        pairs = [(self._log_prob, loss.log_prob), *further]
        for name, derivative in (
            ("_kl", loss.kl),
            ("_reverse_kl", loss.reverse_kl),
            ("_entropy", loss.entropy),
            ("reference._kl", loss.reference_kl),
            ("reference._reverse_kl", loss.reverse_reference_kl),
        ):
            if isinstance(derivative, Tensor) or derivative:
                root = attrgetter(name)(self)
                pairs.append((root, root.new_ones(root.shape) * derivative))
        if loss.torch_term is not None:
            pairs.append((loss.torch_term, torch.ones_like(loss.torch_term)))
        roots, derivatives = zip(*pairs, strict=True)
        torch.autograd.backward(roots, derivatives)


def _tangent_by_backward(
    outputs: Tensor, parameters: list[Any], parts: list[Tensor], error: Exception | None = None
) -> Tensor:
    """Return J v from two backward passes, for J = ∂outputs/∂parameters and v in parts.

    Raises:
        Exception: the given error, if the network cannot be differentiated twice.
    """
    probe = torch.zeros_like(outputs, requires_grad=True)
    settings: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
    try:
        pulled = torch.autograd.grad(outputs, parameters, probe, create_graph=True, **settings)
        used = [(g, part) for g, part in zip(pulled, parts, strict=True) if g.requires_grad]
        roots, vectors = zip(*used, strict=True)
        (tangent,) = torch.autograd.grad(roots, probe, vectors, **settings)
    except (RuntimeError, ValueError) as failure:  # ValueError: nothing can be differentiated twice
        raise error or failure from failure
    if error is not None and not _is_tangent(tangent, outputs, parameters, parts):
        raise error
    return tangent


def _is_tangent(
    tangent: Tensor, outputs: Tensor, parameters: list[Any], parts: list[Tensor]
) -> bool:
    """Return whether u · J v = Jᵀ u · v; not if a function hides its second derivatives."""
    u = torch.linspace(-1, 1, outputs.numel()).to(outputs).view_as(outputs)
    back = torch.autograd.grad(outputs, parameters, u, retain_graph=True, materialize_grads=True)
    terms = torch.stack([(g * part).sum() for g, part in zip(back, parts, strict=True)])
    scale = float((tangent * u).abs().sum() + terms.abs().sum())
    return abs(float((tangent * u).sum() - terms.sum())) <= 1e-4 * scale


class TorchEngine(Engine):
    """Differentiates with torch, and evaluates the policy's own modules; see `Engine`."""

    name = "torch"
    can_fork = False

    def __init__(self, policy: Policy, reason: str = "") -> None:
        self.policy = policy
        self.reason = reason
        self._mean: Mean = torch.mean
        self._has_forward_mode = True

    def policy_gradient(self, objective: Objective, rows: Any) -> Any:
        """Write the actor's gradient; return the loss."""
        policy = self.policy
        policy.actor_parameters.gradient.zero_()
        if not policy.config.share_encoder:
            new = TorchPolicy(policy.distribution(rows.inputs), rows, self._mean)
            loss = objective.loss(new, rows)
            new.backward(loss)
            return loss.value
        distribution, values = policy.distribution_and_values(rows.inputs)
        new = TorchPolicy(distribution, rows, self._mean)
        loss = objective.loss(new, rows)
        weight = policy.config.shared_value_coefficient
        value_term, derivative = value_loss(torch, values.detach(), rows.old_values, rows.returns)
        new.backward(loss, (values, weight * derivative))
        return loss.value + weight * value_term

    def fisher_product(self, rows: Any, damping: float) -> Callable[[Array], Array]:
        """Return products with F = Jᵀ M J + damping · I.

        J is the derivative of the actor's outputs with respect to θ, and M the Hessian of the mean
        KL(π_old ‖ π_θ) with respect to the outputs. At θ_old, where the KL has no gradient, this is
        its Hessian with respect to θ (TRPO, appendix C). J is applied in forward mode; if a user's
        module has no forward mode, as the derivative of Jᵀ u with respect to u.
        """
        policy, inputs = self.policy, rows.inputs
        parameters = policy.actor_parameters.tensors
        named = {
            name: tensor.detach()
            for name, tensor in policy.actor.named_parameters()
            if tensor.requires_grad
        }
        # Of attention, only this kernel has the derivatives that a Fisher matrix needs.
        with policy.past_bounds(), sdpa_kernel(SDPBackend.MATH):
            outputs = policy.outputs(inputs)
        at = outputs.detach().requires_grad_()
        new = policy.masked(at, inputs.observations)
        mean_kl = new.at(rows.old_parameters).kl(new).mean()
        (slope,) = torch.autograd.grad(mean_kl, at, create_graph=True)

        def tangent_of(parts: list[Tensor]) -> Tensor:
            with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
                pairs = zip(named.items(), parts, strict=True)
                duals = {name: make_dual(tensor, part) for (name, tensor), part in pairs}
                tangent: Tensor = unpack_dual(policy.outputs(inputs, duals)).tangent
            return tangent

        def product(vector: Tensor) -> Tensor:
            parts = policy.actor_parameters.parts(vector)
            if self._has_forward_mode:
                try:
                    tangent = tangent_of(parts)
                except BrokenNetworkError as error:
                    tangent = _tangent_by_backward(outputs, parameters, parts, error)
                    self._has_forward_mode = False
            else:
                tangent = _tangent_by_backward(outputs, parameters, parts)
            (curved,) = torch.autograd.grad(slope, at, tangent, retain_graph=True)
            back = torch.autograd.grad(
                outputs, parameters, curved, retain_graph=True, materialize_grads=True
            )
            return torch.cat([g.reshape(-1) for g in back]).add_(vector, alpha=damping)

        return product

    def value_rows(self, batch: Any) -> Any:
        """Return the batch; with a shared encoder, features replace the observations."""
        return replace(batch, inputs=self.policy.critic_inputs(batch.inputs))

    def value_gradient(
        self, rows: Any, value_clip: float | None, huber_delta: float | None = None
    ) -> Any:
        """Write the critic's gradient; return the loss."""
        self.policy.critic_parameters.gradient.zero_()
        values = self.policy.values(rows.inputs)
        loss, derivative = value_loss(
            torch, values.detach(), rows.old_values, rows.returns, value_clip, huber_delta
        )
        torch.autograd.backward(values, derivative)
        return loss
