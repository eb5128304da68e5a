"""Measure how far an update moved the policy, and diagnose loss of plasticity and collapse."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from rlkl.algos.base import Metrics
from rlkl.algos.natural_gradient import Surrogate
from rlkl.engines.base import Engine
from rlkl.models.flat_parameters import FlatParameters
from rlkl.models.heads import GaussianHead
from rlkl.models.networks import ACTIVATIONS, ImageEncoder
from rlkl.models.policy import Network
from rlkl.numerics.advantages import standardize
from rlkl.numerics.distributions import Distribution
from rlkl.numerics.divergence_formulas import jensen_shannon_estimate, kl_estimates
from rlkl.rollouts.batch import Batch

HIDDEN_LAYERS = 6
"""The gradients of this many hidden layers of each network are reported, from the input on."""

RANK_LOSS = 0.01
"""δ of the effective rank: the share of the singular values' sum that may be left out."""

DORMANT_SCORE = 0.025
"""τ: a unit is dormant if its mean size is at most this share of its layer's mean."""


@torch.inference_mode()
def compare_with_old(
    engine: Engine, batch: Batch, ratio_bounds: tuple[float, float]
) -> tuple[Metrics, dict[str, Tensor]]:
    """Compare the policy after an update with π_old, over the full batch, in float64.

    Args:
        engine: of π_θ after the update.
        batch: of the update; its advantages are not standardized.
        ratio_bounds: outside them a ratio counts as clipped.

    Returns:
        Scalars by tag, as described in `rlkl.training.report.TAGS`, and histograms by tag: tensors
        `[B]`. `kl/js_estimate` replaces `kl/js`, and `policy/entropy_estimate` replaces
        `policy/entropy`, where there is no closed form.
    """
    policy = engine.policy
    old = policy.family(batch.old_parameters.double())
    new = engine.distribution(batch.inputs, torch.float64)
    actions = batch.actions.double() if batch.actions.is_floating_point() else batch.actions
    log_ratio = new.log_prob(actions) - old.log_prob(actions)
    ratio, advantages = log_ratio.exp(), standardize(batch.advantages).double()
    lowest, highest = ratio_bounds
    averaged = _divergences(old, new, log_ratio) | {
        "ratio/mean": ratio,
        "ratio/clip_fraction": ((ratio < lowest) | (ratio > highest)).double(),
        "ratio/square": ratio.square(),
        "trust_region/actual_improvement": (ratio - 1) * advantages,
    }
    entropy = "policy/entropy" if new.entropy_is_exact else "policy/entropy_estimate"
    averaged[entropy] = new.entropy() + policy.decoder.log_half_range
    kl, reverse_kl = averaged["kl/old_new"], averaged["kl/new_old"]
    # One mean of a stacked tensor is much faster than a mean of each row.
    means = torch.stack(list(averaged.values())).mean(-1).tolist()
    metrics = dict(zip(averaged, means, strict=True))
    least, greatest = ratio.aminmax()
    extremes = {
        "kl/max": kl.max(),
        "kl/new_old_max": reverse_kl.max(),
        "ratio/min": least,
        "ratio/max": greatest,
        "ratio/std": ratio.std(correction=0),
    }
    metrics |= zip(extremes, torch.stack(list(extremes.values())).tolist(), strict=True)
    squares = metrics.pop("ratio/square")
    share = metrics["ratio/mean"] ** 2 / squares if squares else math.nan
    metrics["ratio/effective_sample_size"] = share
    metrics["policy/std"] = policy.mean_std(new)
    histograms = {"ratio/histogram": ratio, "kl/histogram": kl, "advantage/histogram": advantages}
    return metrics, histograms


def _divergences(old: Distribution, new: Distribution, log_ratio: Tensor) -> dict[str, Tensor]:
    """Return the divergences between π_old and π_θ in each state by tag, in nats, `[B]`."""
    divergences = {"kl/old_new": old.kl(new), "kl/new_old": new.kl(old)}
    divergences |= zip(("kl/k1", "kl/k2", "kl/k3"), kl_estimates(log_ratio), strict=True)
    jensen_shannon = old.jensen_shannon(new)
    if jensen_shannon is None:
        return divergences | {"kl/js_estimate": jensen_shannon_estimate(log_ratio)}
    return divergences | {"kl/js": jensen_shannon}


def diagnose(engine: Engine, batch: Batch) -> Metrics:
    """Return the numbers of `rlkl.training.report.DIAGNOSIS_TAGS` at a batch, after its update.

    No parameter and no random generator changes; the parameters' gradients do, which each update
    computes again. Collective on several ranks. NaN where a number does not apply. The advantages
    of the batch are not standardized.
    """
    policy = engine.policy
    entropy = engine.distribution(batch.inputs, torch.float64).entropy()
    found = {"plasticity/entropy_min": float(entropy.min()) + policy.decoder.log_half_range}
    states = batch.inputs.sequences.states if batch.inputs.sequences else None
    halves = (None, None) if states is None else states.chunk(2, -1)
    engine.policy_gradient(Surrogate(), engine.rows(batch.standardized(), Surrogate()))
    engine.value_gradient(engine.value_rows(batch), None)
    for name, network, parameters, state in (
        ("policy", policy.actor, policy.actor_parameters, halves[0]),
        ("value", policy.critic, policy.critic_parameters, halves[1]),
    ):
        features, scores = _hidden_units(network, batch.inputs, state)
        rank = math.nan if features is None else effective_rank(features.flatten(1))
        found[f"plasticity/{name}_rank"] = rank
        found[f"plasticity/{name}_dormant"] = dormant_share(scores)
        norms = list(_grad_norms(network, parameters))
        for layer, norm in enumerate(norms[:-1][:HIDDEN_LAYERS], 1):
            found[f"plasticity/{name}_grad_norm_{layer}"] = norm
        found[f"plasticity/{name}_grad_norm_output"] = norms[-1] if norms else math.nan
    return found


def effective_rank(features: Tensor, loss: float = RANK_LOSS) -> float:
    """Return the effective rank of features, `[B, F]`: min{k : Σ_{i≤k} σ_i ≥ (1 - δ) Σ_i σ_i}.

    srank_δ of Kumar 2021 (arXiv:2010.14498, section 3), with the singular values σ_1 ≥ σ_2 ≥ … of
    the features, which are not centred. `loss` is δ. It is 0 if all features are 0, and NaN if one
    is not finite.
    """
    if not features.isfinite().all():
        return math.nan
    # On the CPU in float64: reproducible, and exact enough for a share of the sum.
    sums = torch.linalg.svdvals(features.detach().double().cpu()).cumsum(0)
    return float((sums < (1 - loss) * sums[-1]).sum() + 1) if sums[-1] > 0 else 0.0


def dormant_share(sizes: list[Tensor], threshold: float = DORMANT_SCORE) -> float:
    """Return the share of dormant units of a network's hidden layers; NaN without hidden layers.

    Unit i of a layer of H units is dormant if E[|h_i|] ≤ τ · 1/H Σ_k E[|h_k|] (Sokar 2023,
    arXiv:2302.12902, definition 3.1). In a layer whose units are all 0, all are dormant.

    Args:
        sizes: E[|h|] over states of each layer's units, `[H]`.
        threshold: τ.
    """
    if not sizes:
        return math.nan
    dormant = [size <= threshold * size.mean() for size in sizes]
    return float(torch.cat(dormant).double().mean())


@torch.no_grad()
def _hidden_units(
    network: Network, inputs: Any, states: Tensor | None
) -> tuple[Tensor | None, list[Tensor]]:
    """Return the inputs of the output layer, `[B, F]`, and E[|h|] of each hidden layer's units.

    The inputs are None for a network of a user without such a layer. A channel of a convolution is
    one unit. Units of a memory are not among them.
    """
    features: list[Tensor] = []
    sizes: list[Tensor] = []

    def measure(_: nn.Module, __: Any, outputs: Tensor) -> None:
        units = outputs.abs().double().transpose(0, 1).flatten(1)
        sizes.append(units.mean(1))

    def remember(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        features.append(arguments[0])

    kinds = (*ACTIVATIONS.values(), ImageEncoder)
    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, kinds):
                hooks.callback(module.register_forward_hook(measure).remove)
        for output in _layers(network)[-1:]:
            hooks.callback(output.register_forward_pre_hook(remember).remove)
        network(inputs, states)
    return features[-1] if features else None, sizes


def _layers(network: Network) -> list[nn.Module]:
    """Return the linear, convolutional and recurrent layers from the input to the output."""
    head = network.head.network if isinstance(network.head, GaussianHead) else network.head
    parts = (network.encoder, network.memory or nn.Identity(), head)
    kinds = (nn.Linear, nn.Conv2d, nn.RNNBase)
    return [module for part in parts for module in part.modules() if isinstance(module, kinds)]


def _grad_norms(network: Network, parameters: FlatParameters) -> Iterator[float]:
    """Yield the norm of the gradient of each layer whose parameters these are, the output last."""
    gradients = parameters.parts(parameters.gradient)
    of = {id(t): gradient for t, gradient in zip(parameters.tensors, gradients, strict=True)}
    for layer in _layers(network):
        parts = [of[id(tensor)] for tensor in layer.parameters() if id(tensor) in of]
        if parts:
            yield float(torch.cat([part.reshape(-1).double() for part in parts]).norm())
