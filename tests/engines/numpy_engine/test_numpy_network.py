"""Networks of the NumPy engine compared with torch modules, and the choice of the engine."""

from typing import Any

import numpy as np
import pytest
import torch
from engines_available import numpy_engine
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from learning_loop import as_inputs, small_policy
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.autograd.functional import jvp
from torch.func import functional_call

from rlkl.engines.make import make_engine
from rlkl.engines.numpy.network import FreeStdHead, NumpyNetwork, StateStdHead
from rlkl.envs.observations import ACTION_MASK, VECTOR, ObservationEncoder
from rlkl.models.flat_parameters import FlatParameters
from rlkl.models.policy import GaussianHead, Inputs, Policy, PolicyConfig
from rlkl.utils.errors import ConfigError

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
    """Make a policy; log standard deviations that are parameters exceed both bounds."""
    space, of_case = CASES[case]
    policy = small_policy(4, space, 0, dtype, **of_case | {"actor_gain": 3.0} | settings)
    log_std = getattr(policy.actor.head, "log_std", None)
    if log_std is not None:
        log_std.data.copy_(torch.tensor([LOWEST - 1, -0.2, HIGHEST + 1]))
    return policy


def networks_of(policy: Policy) -> Any:
    return numpy_engine(policy)


def states(size: int = 50, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = Generator().manual_seed(size)
    return torch.randn(size, 4, generator=generator, dtype=torch.float64).to(dtype)


def both(policy: Policy) -> list[tuple[torch.nn.Module, NumpyNetwork, FlatParameters]]:
    networks = networks_of(policy)
    return [
        (policy.actor, networks.actor, policy.actor_parameters),
        (policy.critic, networks.critic, policy.critic_parameters),
    ]


def flat(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate([array.ravel() for array in arrays])


@EVERY_CASE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_outputs_and_gradients_match_torch_modules(case: str, dtype: torch.dtype) -> None:
    policy, atol = policy_of(case, dtype), {torch.float32: 1e-4, torch.float64: 1e-12}[dtype]
    for module, network, parameters in both(policy):
        for size in (600, 50, 1):
            vectors = states(size, dtype)
            outputs = module(as_inputs(vectors))
            found = network(vectors.numpy())
            assert found.dtype == outputs.detach().numpy().dtype
            np.testing.assert_allclose(found, outputs.detach(), rtol=0, atol=atol)
            np.testing.assert_array_equal(found.shape, outputs.shape)
            found = network.forward(vectors.numpy())
            np.testing.assert_allclose(found, outputs.detach(), rtol=0, atol=atol)

            given = torch.linspace(-2, 3, outputs.numel()).reshape(outputs.shape).to(dtype)
            gradients = torch.autograd.grad(outputs, parameters.tensors, given)
            parameters.gradient.fill_(torch.nan)
            network.backward(given.numpy().copy())
            expected = torch.cat([gradient.flatten() for gradient in gradients])
            scale = float(expected.abs().max()) + 1
            np.testing.assert_allclose(parameters.gradient, expected, rtol=0, atol=atol * scale)
            into = [np.full_like(gradient.numpy(), np.nan) for gradient in gradients]
            network.backward(given.numpy().copy(), into)
            np.testing.assert_array_equal(flat(into), parameters.gradient)


@EVERY_CASE
def test_directional_derivatives_match_torch_modules(case: str) -> None:
    for module, network, parameters in both(policy_of(case)):
        vectors, generator = states(), Generator().manual_seed(1)
        change = torch.randn(parameters.vector.shape, generator=generator).double()
        names, tensors = zip(*module.named_parameters(), strict=True)

        def outputs(
            *at: Tensor, module: Any = module, names: Any = names, vectors: Tensor = vectors
        ) -> Tensor:
            return functional_call(module, dict(zip(names, at, strict=True)), (as_inputs(vectors),))

        directions = tuple(torch.as_tensor(array) for array in parameters.arrays(change))
        _, expected = jvp(outputs, tensors, directions)
        network.forward(vectors.numpy())
        found = network.tangent(parameters.arrays(change))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("case", ["gaussian", "gaussian of state", "encoder"])
def test_cases_exceed_both_bounds(case: str) -> None:
    log_std = networks_of(policy_of(case)).actor(states().numpy())[:, 3:]
    assert log_std.min() == LOWEST
    assert log_std.max() == HIGHEST
    assert ((log_std > LOWEST) & (log_std < HIGHEST)).any()


CORNERS = [LOWEST - 1, LOWEST, -0.2, HIGHEST, HIGHEST + 1]


CLAMPED = [LOWEST, LOWEST, -0.2, HIGHEST, HIGHEST]
INWARD = {1.0: [0, 0, 1, 1, 1], -1.0: [1, 1, 1, 0, 0]}
"""Which corners keep their gradient, if it is positive (descent goes down) or negative."""


def in_torch(of_state: bool, gradients: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Return bounded log standard deviations at CORNERS, and gradients of the unbounded ones."""
    head = GaussianHead(
        torch.nn.Identity(),
        5,
        PolicyConfig(
            state_dependent_std=of_state, log_std=0.0, log_std_min=LOWEST, log_std_max=HIGHEST
        ),
    ).double()
    corners = torch.tensor(CORNERS, dtype=torch.float64)
    rows = torch.zeros(len(gradients), 5, dtype=torch.float64)
    leaf = torch.cat((rows, corners.expand_as(rows)), 1) if of_state else rows
    leaf.requires_grad_()
    if not of_state:
        head.log_std.data.copy_(corners)
    outputs = head(leaf)
    outputs.backward(torch.from_numpy(np.concatenate((np.zeros_like(gradients), gradients), 1)))
    gradient = leaf.grad[:, 5:] if of_state else head.log_std.grad
    return outputs[:, 5:].detach(), gradient


@pytest.mark.parametrize("sign", INWARD)
def test_free_log_std_at_bound_moves_only_inward(sign: float) -> None:
    head = FreeStdHead(np.array(CORNERS), 1, LOWEST, HIGHEST)
    means, gradients = np.arange(10.0).reshape(2, 5), np.full((2, 10), 3 * sign)
    gradients[0, 5:] = -sign  # the sum over rows decides, not a single row
    np.testing.assert_allclose(head.forward(means), np.concatenate((means, [CLAMPED] * 2), 1))
    into = [np.full(1, np.nan), np.full(5, np.nan)]
    np.testing.assert_array_equal(head.backward(gradients, into), gradients[:, :5])
    assert into[1].tolist() == (2 * sign * np.array(INWARD[sign])).tolist()
    assert np.isnan(into[0]).all()
    clamped, expected = in_torch(False, gradients[:, 5:])
    assert clamped.tolist() == [CLAMPED] * 2
    assert into[1].tolist() == expected.tolist()
    head.backward(gradients, into, stops_outward=False)
    assert into[1].tolist() == [2 * sign] * 5
    tangent = head.tangent(means, [np.empty(1), np.arange(5.0)])
    np.testing.assert_array_equal(tangent, np.concatenate((means, [np.arange(5.0)] * 2), 1))


@pytest.mark.parametrize("sign", INWARD)
def test_state_dependent_log_std_moves_only_inward(sign: float) -> None:
    head = StateStdHead(-0.5, LOWEST, HIGHEST)
    # The head adds -0.5, which gives the corners exactly.
    outputs = np.concatenate((np.arange(5.0), np.array(CORNERS) + 0.5))[None]
    before, gradients = outputs.copy(), np.full((1, 10), 3 * sign)
    np.testing.assert_allclose(head.forward(outputs)[0], [*np.arange(5.0), *CLAMPED])
    back = head.backward(gradients, [])
    assert back[0].tolist() == [3 * sign] * 5 + (3 * sign * np.array(INWARD[sign])).tolist()
    clamped, expected = in_torch(True, gradients[:, 5:])
    assert clamped[0].tolist() == CLAMPED
    assert back[:, 5:].tolist() == expected.tolist()
    assert head.backward(gradients, [], stops_outward=False).tolist() == gradients.tolist()
    assert head.tangent(gradients, []).tolist() == gradients.tolist()
    np.testing.assert_array_equal(outputs, before)
    assert (gradients == 3 * sign).all()


@EVERY_CASE
def test_call_returns_new_array(case: str) -> None:
    for _, network, _ in both(policy_of(case)):
        vectors = states().numpy()
        outputs = network(vectors)
        copy = outputs.copy()
        network.forward(-vectors)
        network(-vectors)
        np.testing.assert_array_equal(outputs, copy)


@EVERY_CASE
def test_parameter_changes_reach_networks(case: str) -> None:
    policy = policy_of(case)
    vectors = states()
    other = small_policy(4, CASES[case][0], 1, torch.float64, **CASES[case][1])
    for change in (
        lambda: policy.actor_parameters.vector.data.mul_(0.5),
        lambda: policy.load_state_dict(other.state_dict()),
        policy.actor_parameters.tensors[0].data.zero_,
    ):
        before = networks_of(policy).actor(vectors.numpy())
        change()
        expected = policy.actor(as_inputs(vectors)).detach()
        found = networks_of(policy).actor(vectors.numpy())
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        assert not np.allclose(found, before)


@EVERY_CASE
def test_policy_without_gradients_matches_modules(case: str) -> None:
    policy = policy_of(case)
    inputs = as_inputs(states())
    with torch.no_grad():
        distribution, values = policy.distribution(inputs), policy.values(inputs)
    assert distribution.parameters.dtype == values.dtype == torch.float64
    torch.testing.assert_close(distribution.parameters, policy.actor(inputs).detach())
    torch.testing.assert_close(values, policy.critic(inputs).squeeze(-1).detach())
    assert policy.distribution(inputs).parameters.requires_grad
    assert policy.values(inputs).requires_grad


def test_masks_apply_without_gradients() -> None:
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
def test_overflowing_weights_show_in_outputs_without_warning(case: str, number: float) -> None:
    policy = policy_of(case, torch.float32)
    inputs = as_inputs(states(dtype=torch.float32))
    for parameters in (policy.actor_parameters, policy.critic_parameters):
        parameters.vector.data[:-1] = number
    assert not policy.values(inputs).isfinite().all()
    assert not policy.distribution(inputs).parameters.isfinite().all()
    act = make_engine(policy).act(policy.noise(1, 50, Generator().manual_seed(0)))
    act(0, {VECTOR: inputs.observations[VECTOR].numpy()}, policy.initial_state(50))


# What the NumPy engine cannot evaluate.


IMAGE = Dict({"numbers": Box(-1, 1, (3,)), "view": Box(0, 255, (4, 4), np.uint8)})
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "images": ({}, "images"),
    "gru": ({"memory": "gru"}, "memory"),
    "lstm": ({"memory": "lstm"}, "memory"),
    "shared": ({"share_encoder": True, "encoder_hidden_sizes": [4]}, "shared encoder"),
    "gelu": ({"activation": "gelu"}, "gelu"),
    "silu": ({"activation": "silu"}, "silu"),
}


def made(kind: str, engine: str) -> Policy:
    space = IMAGE if kind == "images" else Box(-1, 1, (4,))
    config = PolicyConfig([8], [8], engine=engine, **OTHERS[kind][0])
    return Policy(config, ObservationEncoder(space), Discrete(3), Generator().manual_seed(0))


@pytest.mark.parametrize("kind", OTHERS)
def test_other_networks_fall_back_to_torch(kind: str) -> None:
    engine = make_engine(made(kind, "auto"))
    assert engine.name == "torch"
    assert OTHERS[kind][1] in engine.reason
    with pytest.raises(ConfigError, match=OTHERS[kind][1]) as caught:
        make_engine(made(kind, "numpy"))
    assert str(caught.value).startswith("policy.engine=numpy: ")
    assert "policy.engine=auto" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", OTHERS)
def test_torch_engine_needs_no_reason(kind: str) -> None:
    for policy in (made(kind, "torch"), policy_of("categorical", engine="torch")):
        engine = make_engine(policy)
        assert (engine.name, engine.reason) == ("torch", "")


@EVERY_CASE
@pytest.mark.parametrize("engine", ["auto", "numpy"])
def test_mlps_get_numpy_engine(case: str, engine: str) -> None:
    assert numpy_engine(policy_of(case, engine=engine)).reason == ""


def test_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy\.engine"):
        PolicyConfig(engine="finite_differences")


def test_activation_is_ignored_without_hidden_layers() -> None:
    settings = {"actor_hidden_sizes": [], "critic_hidden_sizes": [], "activation": "gelu"}
    policy = small_policy(4, Discrete(3), **settings)
    vectors = states(dtype=torch.float32)
    found = networks_of(policy).actor(vectors.numpy())
    np.testing.assert_allclose(found, policy.actor(as_inputs(vectors)).detach(), atol=1e-6)
