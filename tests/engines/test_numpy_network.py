"""A policy's networks by hand against its own modules and autograd, and which can be done so."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from learning_loop import seen, small_policy
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.autograd.functional import jvp
from torch.func import functional_call

from rlkl.engines.numpy.network import FreeStdHead, HandNetwork, StateStdHead
from rlkl.envs.spaces import ACTION_MASK, VECTOR, ObservationEncoder
from rlkl.models.flat_parameters import FlatParameters
from rlkl.models.policy import GaussianHead, HandPolicy, Inputs, Policy, PolicyConfig
from rlkl.utils.validation import ConfigError

LOWEST, HIGHEST = -1.5, 0.25
BOX = Box(-1, 1, (3,))
OF_STATE = {"state_dependent_std": True}
CLAMPS = {"log_std": -0.7, "log_std_min": LOWEST, "log_std_max": HIGHEST}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "categorical": (Discrete(3), {}),
    "several choices": (MultiDiscrete([2, 3]), {"activation": "relu"}),
    "bits": (MultiBinary(2), {"actor_hidden_sizes": [], "critic_hidden_sizes": []}),
    "gaussian": (BOX, CLAMPS | {"actor_hidden_sizes": [8, 5]}),
    "gaussian of state": (BOX, CLAMPS | OF_STATE | {"activation": "elu"}),
    "squashed": (BOX, CLAMPS | {"box_distribution": "tanh_gaussian"}),
    "encoder": (BOX, CLAMPS | OF_STATE | {"encoder_hidden_sizes": [6, 7]}),
}
EVERY_CASE = pytest.mark.parametrize("case", CASES)


def policy_of(case: str, dtype: torch.dtype = torch.float64, **settings: Any) -> Policy:
    """Make a policy whose log standard deviations go beyond both clamps, if it has any."""
    space, of_case = CASES[case]
    policy = small_policy(4, space, 0, dtype, **of_case | {"actor_gain": 3.0} | settings)
    log_std = getattr(policy.actor.head, "log_std", None)
    if log_std is not None:
        log_std.data.copy_(torch.tensor([LOWEST - 1, -0.2, HIGHEST + 1]))
    return policy


def networks_of(policy: Policy) -> HandPolicy:
    assert policy.by_hand is not None
    return policy.by_hand


def states(size: int = 50, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = Generator().manual_seed(size)
    return torch.randn(size, 4, generator=generator, dtype=torch.float64).to(dtype)


def both(policy: Policy) -> list[tuple[torch.nn.Module, HandNetwork, FlatParameters]]:
    networks = networks_of(policy)
    return [
        (policy.actor, networks.actor, policy.actor_parameters),
        (policy.critic, networks.critic, policy.critic_parameters),
    ]


def flat(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate([array.ravel() for array in arrays])


@EVERY_CASE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_outputs_and_gradients_of_both_networks_are_those_of_their_modules(
    case: str, dtype: torch.dtype
) -> None:
    policy, atol = policy_of(case, dtype), {torch.float32: 1e-4, torch.float64: 1e-12}[dtype]
    for module, network, parameters in both(policy):
        for size in (600, 50, 1):
            vectors = states(size, dtype)
            outputs = module(seen(vectors))
            found = network(vectors.numpy())
            assert found.dtype == outputs.detach().numpy().dtype
            np.testing.assert_allclose(found, outputs.detach(), rtol=0, atol=atol)
            np.testing.assert_array_equal(found.shape, outputs.shape)
            lent = network.forward(vectors.numpy())
            np.testing.assert_allclose(lent, outputs.detach(), rtol=0, atol=atol)

            slopes = torch.linspace(-2, 3, outputs.numel()).reshape(outputs.shape).to(dtype)
            expected = torch.autograd.grad(outputs, parameters.tensors, slopes)
            parameters.gradient.fill_(torch.nan)
            network.backward(slopes.numpy().copy())
            whole = torch.cat([gradient.flatten() for gradient in expected])
            scale = float(whole.abs().max()) + 1
            np.testing.assert_allclose(parameters.gradient, whole, rtol=0, atol=atol * scale)
            elsewhere = [np.full_like(g.numpy(), np.nan) for g in expected]
            network.backward(slopes.numpy().copy(), elsewhere)
            np.testing.assert_array_equal(flat(elsewhere), parameters.gradient)


@EVERY_CASE
def test_directional_derivatives_of_both_networks_are_those_of_their_modules(case: str) -> None:
    for module, network, parameters in both(policy_of(case)):
        vectors, generator = states(), Generator().manual_seed(1)
        change = torch.randn(parameters.vector.shape, generator=generator).double()
        names, tensors = zip(*module.named_parameters(), strict=True)

        def outputs(
            *at: Tensor, module: Any = module, names: Any = names, vectors: Tensor = vectors
        ) -> Tensor:
            return functional_call(module, dict(zip(names, at, strict=True)), (seen(vectors),))

        directions = tuple(torch.as_tensor(array) for array in parameters.arrays(change))
        _, expected = jvp(outputs, tensors, directions)
        network.forward(vectors.numpy())
        found = network.tangent(parameters.arrays(change))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("case", ["gaussian", "gaussian of state", "encoder"])
def test_the_cases_go_beyond_both_clamps(case: str) -> None:
    log_std = networks_of(policy_of(case)).actor(states().numpy())[:, 3:]
    assert log_std.min() == LOWEST
    assert log_std.max() == HIGHEST
    assert ((log_std > LOWEST) & (log_std < HIGHEST)).any()


CORNERS = [LOWEST - 1, LOWEST, -0.2, HIGHEST, HIGHEST + 1]


CLAMPED = [LOWEST, LOWEST, -0.2, HIGHEST, HIGHEST]
INWARD = {1.0: [0, 0, 1, 1, 1], -1.0: [1, 1, 1, 0, 0]}
"""Which corners have a slope where descent leads down (of a positive slope), and where up."""


def in_torch(of_state: bool, slopes: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Return log standard deviations at CORNERS, and slopes with respect to what went in."""
    head = GaussianHead(
        torch.nn.Identity(),
        5,
        PolicyConfig(
            state_dependent_std=of_state, log_std=0.0, log_std_min=LOWEST, log_std_max=HIGHEST
        ),
    ).double()
    corners = torch.tensor(CORNERS, dtype=torch.float64)
    rows = torch.zeros(len(slopes), 5, dtype=torch.float64)
    leaf = torch.cat((rows, corners.expand_as(rows)), 1) if of_state else rows
    leaf.requires_grad_()
    if not of_state:
        head.log_std.data.copy_(corners)
    outputs = head(leaf)
    outputs.backward(torch.from_numpy(np.concatenate((np.zeros_like(slopes), slopes), 1)))
    gradient = leaf.grad[:, 5:] if of_state else head.log_std.grad
    return outputs[:, 5:].detach(), gradient


@pytest.mark.parametrize("sign", INWARD)
def test_free_logarithm_at_a_bound_moves_inward_alone(sign: float) -> None:
    head = FreeStdHead(np.array(CORNERS), 1, LOWEST, HIGHEST)
    means, slopes = np.arange(10.0).reshape(2, 5), np.full((2, 10), 3 * sign)
    slopes[0, 5:] = -sign  # the sum over rows decides, not a row
    np.testing.assert_allclose(head.forward(means), np.concatenate((means, [CLAMPED] * 2), 1))
    into = [np.full(1, np.nan), np.full(5, np.nan)]
    np.testing.assert_array_equal(head.backward(slopes, into), slopes[:, :5])
    assert into[1].tolist() == (2 * sign * np.array(INWARD[sign])).tolist()
    assert np.isnan(into[0]).all()
    clamped, expected = in_torch(False, slopes[:, 5:])
    assert clamped.tolist() == [CLAMPED] * 2
    assert into[1].tolist() == expected.tolist()
    head.backward(slopes, into, stops_outward=False)
    assert into[1].tolist() == [2 * sign] * 5
    moved = head.tangent(means, [np.empty(1), np.arange(5.0)])
    np.testing.assert_array_equal(moved, np.concatenate((means, [np.arange(5.0)] * 2), 1))


@pytest.mark.parametrize("sign", INWARD)
def test_logarithm_of_the_state_at_a_bound_moves_inward_alone(sign: float) -> None:
    head = StateStdHead(-0.5, LOWEST, HIGHEST)
    # Halves are exact: what the head adds makes the corners again.
    outputs = np.concatenate((np.arange(5.0), np.array(CORNERS) + 0.5))[None]
    before, slopes = outputs.copy(), np.full((1, 10), 3 * sign)
    np.testing.assert_allclose(head.forward(outputs)[0], [*np.arange(5.0), *CLAMPED])
    back = head.backward(slopes, [])
    assert back[0].tolist() == [3 * sign] * 5 + (3 * sign * np.array(INWARD[sign])).tolist()
    clamped, expected = in_torch(True, slopes[:, 5:])
    assert clamped[0].tolist() == CLAMPED
    assert back[:, 5:].tolist() == expected.tolist()
    assert head.backward(slopes, [], stops_outward=False).tolist() == slopes.tolist()
    assert head.tangent(slopes, []).tolist() == slopes.tolist()
    np.testing.assert_array_equal(outputs, before)
    assert (slopes == 3 * sign).all()


@EVERY_CASE
def test_what_a_call_returns_is_its_own(case: str) -> None:
    for _, network, _ in both(policy_of(case)):
        vectors = states().numpy()
        own = network(vectors)
        kept = own.copy()
        network.forward(-vectors)
        network(-vectors)
        np.testing.assert_array_equal(own, kept)


@EVERY_CASE
def test_whatever_moves_the_vector_or_the_modules_moves_the_networks(case: str) -> None:
    policy = policy_of(case)
    vectors = states()
    other = small_policy(4, CASES[case][0], 1, torch.float64, **CASES[case][1])
    for move in (
        lambda: policy.actor_parameters.vector.data.mul_(0.5),
        lambda: policy.load_state_dict(other.state_dict()),
        policy.actor_parameters.tensors[0].data.zero_,
    ):
        before = networks_of(policy).actor(vectors.numpy())
        move()
        expected = policy.actor(seen(vectors)).detach()
        found = networks_of(policy).actor(vectors.numpy())
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        assert not np.allclose(found, before)


@EVERY_CASE
def test_without_gradients_a_policy_answers_as_its_modules_do(case: str) -> None:
    policy = policy_of(case)
    inputs = seen(states())
    with torch.no_grad():
        distribution, values = policy.distribution(inputs), policy.values(inputs)
    assert distribution.parameters.dtype == values.dtype == torch.float64
    torch.testing.assert_close(distribution.parameters, policy.actor(inputs).detach())
    torch.testing.assert_close(values, policy.critic(inputs).squeeze(-1).detach())
    # With gradients it is the modules that answer.
    assert policy.distribution(inputs).parameters.requires_grad
    assert policy.values(inputs).requires_grad


def test_masks_are_kept_without_gradients_too() -> None:
    policy = policy_of("categorical")
    mask = torch.rand(50, 3, generator=Generator().manual_seed(0)) < 0.5
    mask[:, 1] |= ~mask.any(1)
    inputs = Inputs({VECTOR: states(), ACTION_MASK: mask})
    with torch.no_grad():
        found = policy.distribution(inputs)
    assert torch.equal(found.parameters.isfinite(), mask)
    torch.testing.assert_close(found.parameters, policy.distribution(inputs).parameters.detach())


@EVERY_CASE
@pytest.mark.parametrize("number", [np.nan, np.inf, 1e38])
@torch.no_grad()
def test_weights_that_overflow_make_no_warning_and_show_in_the_answers(
    case: str, number: float
) -> None:
    policy = policy_of(case, torch.float32)
    inputs = seen(states(dtype=torch.float32))
    for parameters in (policy.actor_parameters, policy.critic_parameters):
        parameters.vector.data[:-1] = number
    assert not policy.values(inputs).isfinite().all()
    assert not policy.distribution(inputs).parameters.isfinite().all()
    act = policy.acting(policy.noise(1, 50, Generator().manual_seed(0)))
    act(0, {VECTOR: inputs.observations[VECTOR].numpy()}, policy.initial_state(50))


# What cannot be done by hand.


IMAGE = Dict({"numbers": Box(-1, 1, (3,)), "view": Box(0, 255, (4, 4), np.uint8)})
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "images": ({}, "images"),
    "gru": ({"memory": "gru"}, "memory"),
    "lstm": ({"memory": "lstm"}, "memory"),
    "shared": ({"share_encoder": True, "encoder_hidden_sizes": [4]}, "shared encoder"),
    "gelu": ({"activation": "gelu"}, "gelu"),
    "silu": ({"activation": "silu"}, "silu"),
}


def made(kind: str, differentiation: str) -> Policy:
    space = IMAGE if kind == "images" else Box(-1, 1, (4,))
    config = PolicyConfig([8], [8], differentiation=differentiation, **OTHERS[kind][0])
    return Policy(config, ObservationEncoder(space), Discrete(3), Generator().manual_seed(0))


@pytest.mark.parametrize("kind", OTHERS)
def test_a_network_of_another_kind_is_left_to_autograd_and_the_reason_told(kind: str) -> None:
    policy = made(kind, "auto")
    assert policy.by_hand is None
    assert OTHERS[kind][1] in policy.autograd_reason
    with pytest.raises(ConfigError, match=OTHERS[kind][1]) as caught:
        made(kind, "by_hand")
    assert str(caught.value).startswith("policy.differentiation=by_hand: ")
    assert "policy.differentiation=auto" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", OTHERS)
def test_asking_for_autograd_needs_no_reason(kind: str) -> None:
    for policy in (made(kind, "autograd"), policy_of("categorical", differentiation="autograd")):
        assert policy.by_hand is None
        assert policy.autograd_reason == ""


@EVERY_CASE
@pytest.mark.parametrize("differentiation", ["auto", "by_hand"])
def test_perceptrons_are_done_by_hand(case: str, differentiation: str) -> None:
    policy = policy_of(case, differentiation=differentiation)
    assert policy.by_hand is not None
    assert policy.autograd_reason == ""


def test_other_ways_of_differentiating_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy\.differentiation"):
        PolicyConfig(differentiation="finite_differences")


def test_one_activation_without_hidden_layers_does_not_matter() -> None:
    settings = {"actor_hidden_sizes": [], "critic_hidden_sizes": [], "activation": "gelu"}
    policy = small_policy(4, Discrete(3), **settings)
    vectors = states(dtype=torch.float32)
    found = networks_of(policy).actor(vectors.numpy())
    np.testing.assert_allclose(found, policy.actor(seen(vectors)).detach(), atol=1e-6)
