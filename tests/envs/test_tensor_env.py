"""Environments of tensors: encoding, decoding, contract and error messages."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, iterate
from torch import Tensor

from rlkl.envs.actions import ActionDecoder
from rlkl.envs.array_view import ArrayView
from rlkl.envs.make import EnvConfig, choose_backend, make_training_env, make_vector_env
from rlkl.envs.observations import VECTOR, ObservationEncoder
from rlkl.envs.tensor_env import TensorEnvironment
from rlkl.envs.tensor_spaces import TensorDecoder, TensorEncoder
from rlkl.envs.torch_tasks import TorchCartPole, TorchPendulum, TorchVectorEnv
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError

CPU = torch.device("cpu")
OBSERVATIONS: dict[str, gym.Space[Any]] = {
    "box": Box(-1, 1, (3,), np.float32),
    "matrix": Box(-1, 1, (2, 2), np.float32),
    "number": Box(-1, 1, (), np.float32),
    "wide": Box(-1, 1, (3,), np.float64),
    "integers": Box(-5, 5, (3,), np.int32),
    "discrete": Discrete(4, start=-1),
    "multi_discrete": MultiDiscrete([2, 3], start=[1, 0]),
    "bits": MultiBinary(3),
    "image": Box(0, 255, (4, 5), np.uint8),
    "channels last": Box(0, 255, (4, 5, 3), np.uint8),
    "channels first": Box(0, 255, (3, 4, 5), np.uint8),
    "stack": Box(0, 255, (2, 4, 5, 3), np.uint8),
    "dict": Dict(
        a=Box(-1, 1, (2,), np.float32), b=Tuple((Discrete(3), Box(0, 255, (4, 4), np.uint8)))
    ),
}
ACTIONS: list[tuple[gym.Space[Any], dict[str, Any]]] = [
    (Discrete(3), {}),
    (Discrete(3, start=2), {}),
    (MultiDiscrete([2, 3], start=[1, 5]), {}),
    (MultiBinary(3), {}),
    (Box(-1, 1, (2,), np.float32), {}),
    (Box(np.array([0, -3]), np.array([100, 5]), dtype=np.float32), {"scale": True}),
    (Box(-np.inf, np.inf, (2,), np.float32), {"scale": True}),
    (Box(-1, 1, (2, 2), np.float64), {"clip": False}),
    (Box(-2, 6, (2,), np.float32), {"box_distribution": "tanh_gaussian"}),
    (Box(-2, 6, (2,), np.float32), {"box_distribution": "beta"}),
]


def as_tensors(observations: Any) -> Any:
    if isinstance(observations, dict):
        return {key: as_tensors(part) for key, part in observations.items()}
    if isinstance(observations, tuple):
        return tuple(map(as_tensors, observations))
    return torch.from_numpy(observations)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_encoding_is_that_of_arrays(name: str) -> None:
    space = batch_space(OBSERVATIONS[name], 6)
    space.seed(0)
    sample = space.sample()
    encoder = ObservationEncoder(OBSERVATIONS[name])
    found = TensorEncoder(encoder, CPU, 6)(as_tensors(sample))
    expected = encoder(sample)
    assert found.keys() == expected.keys()
    for key, rows in expected.items():
        np.testing.assert_array_equal(found[key].numpy(), rows)
        assert found[key].numpy().dtype == rows.dtype


@pytest.mark.parametrize(("space", "settings"), ACTIONS, ids=str)
def test_decoding_is_that_of_arrays(space: gym.Space[Any], settings: dict[str, Any]) -> None:
    decoder = ActionDecoder(space, **settings)
    generator = torch.Generator().manual_seed(0)
    family = decoder.family(2 * torch.randn(50, decoder.parameter_size, generator=generator))
    samples = family.sample(generator)
    found, expected = TensorDecoder(decoder, CPU)(samples), decoder(samples.numpy())
    assert found.numpy().dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)
    if settings.get("clip", True):
        assert all(
            space.contains(action) for action in iterate(batch_space(space, 50), found.numpy())
        )


def test_discrete_observation_outside_its_space_is_nan() -> None:
    encode = TensorEncoder(ObservationEncoder(Discrete(3)), CPU, 3)
    found = encode(torch.tensor([0, 3, 2]))[VECTOR]
    assert found.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", [TorchCartPole, TorchPendulum])
def test_arrays_and_tensors_are_of_the_same_steps(kind: Any) -> None:
    tensors = TensorEnvironment(kind(3, max_episode_steps=6))
    arrays = VectorEnvironment(ArrayView(kind(3, max_episode_steps=6)), seeding=lambda s: s[0])
    first, second = tensors.reset([7]), arrays.reset([7])
    np.testing.assert_array_equal(first[VECTOR].numpy(), second[VECTOR])
    random = np.random.default_rng(0)
    ends = 0
    for _ in range(40):
        actions = random.integers(0, 2, 3)
        if kind is TorchPendulum:
            actions = random.normal(size=(3, 1)).astype(np.float32)
        one, other = tensors.step(torch.from_numpy(actions)), arrays.step(actions)
        np.testing.assert_array_equal(one.observations[VECTOR].numpy(), other.observations[VECTOR])
        for name in ("rewards", "terminated", "truncated", "is_transition", "begins"):
            np.testing.assert_array_equal(getattr(one, name).numpy(), getattr(other, name))
        assert one.final_observations is not None
        finals = one.final_observations[VECTOR][torch.from_numpy(other.final_envs)]
        if len(finals):
            np.testing.assert_array_equal(finals.numpy(), other.final_observations[VECTOR])
        ends += len(finals)
    assert ends >= 18


def test_next_step_rows_are_marked() -> None:
    envs = TensorEnvironment(CartPoleVectorEnv(2, max_episode_steps=3))
    others = VectorEnvironment(CartPoleVectorEnv(2, max_episode_steps=3), seeding=lambda s: s[0])
    envs.reset([0])
    others.reset([0])
    assert envs.skips_rows
    for _ in range(9):
        one, other = envs.step(torch.ones(2, dtype=torch.int64)), others.step(np.ones(2, np.int64))
        assert one.final_observations is None
        np.testing.assert_array_equal(one.is_transition.numpy(), other.is_transition)
        np.testing.assert_array_equal(one.begins.numpy(), other.begins)
        np.testing.assert_array_equal(one.observations[VECTOR].numpy(), other.observations[VECTOR])


def test_state_is_restored_bit_for_bit() -> None:
    first, second = (TensorEnvironment(TorchCartPole(4, max_episode_steps=5)) for _ in range(2))
    first.reset([1])
    second.reset([2])
    push = torch.ones(4, dtype=torch.int64)
    first.step(push)
    state = first.state()
    assert state is not None
    second.set_state(state)
    for _ in range(12):
        one, other = first.step(push), second.step(push)
        assert torch.equal(one.observations[VECTOR], other.observations[VECTOR])
        assert torch.equal(one.truncated, other.truncated)


class Wrong(TorchCartPole):
    """A CartPole with one wrong result."""

    def __init__(self, wrong: str) -> None:
        super().__init__(2)
        self.wrong = wrong
        self.closed = False
        if wrong == "mode":
            self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}

    def reset(self, **given: Any) -> tuple[Tensor, dict[str, Any]]:
        observations, infos = super().reset(**given)
        return observations, {"action_mask": torch.ones(2, 2)} if self.wrong == "mask" else infos

    def step(self, actions: Tensor) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.wrong == "raises":
            raise ValueError("no such\naction")
        results: list[Any] = list(super().step(actions))
        changes: dict[str, tuple[int, Callable[[Any], Any]]] = {
            "shape": (0, lambda rows: rows[:, :3]),
            "list": (0, lambda rows: rows.tolist()),
            "reward": (1, lambda rewards: rewards[:1]),
            "terminated": (2, lambda flags: flags.float()),
            "finals": (4, lambda infos: {}),
            "rows": (4, lambda infos: {"final_obs": infos["final_obs"][:1]}),
        }
        place, change = changes[self.wrong]
        results[place] = change(results[place])
        return tuple(results)  # type: ignore[return-value]

    def close(self, **_: Any) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("raises", "step failed: ValueError: no such action"),
        ("shape", r"the observations have shape \(2, 3\); expected \(2, 4\)"),
        ("rows", r"the observations have shape \(1, 4\); expected \(2, 4\)"),
        ("list", "takes torch tensors and arrays that have DLPack, such as JAX's; got list"),
        ("reward", r"reward has shape \(1,\) and type torch.float64; expected numbers, one for"),
        (
            "terminated",
            "terminated has .* torch.float32; expected True or False, one for each of 2",
        ),
        ("finals", r"expected infos\['final_obs'\]"),
    ],
)
def test_wrong_results_end_in_one_line(wrong: str, message: str) -> None:
    given = Wrong(wrong)
    envs = TensorEnvironment(given, name="Wrong-v0")
    envs.reset([0])
    with pytest.raises(BrokenEnvironmentError, match=f"^env.id=Wrong-v0: .*{message}") as caught:
        envs.step(torch.ones(2, dtype=torch.int64))
    assert "\n" not in str(caught.value)
    assert given.closed


def test_masks_and_other_autoreset_modes_are_refused() -> None:
    with pytest.raises(BrokenEnvironmentError, match="does not support action masks"):
        TensorEnvironment(Wrong("mask")).reset([0])
    parts = TorchCartPole(2)
    parts.single_observation_space = Dict(action_mask=MultiBinary(2), seen=Box(-1, 1, (4,)))
    with pytest.raises(ConfigError, match="does not support action masks"):
        TensorEnvironment(parts)
    with pytest.raises(ConfigError, match="DISABLED is not supported"):
        TensorEnvironment(Wrong("mode"))


def test_known_ids_are_made_in_torch() -> None:
    for env_id in ("CartPole-v1", "Pendulum-v1", "Acrobot-v1"):
        envs = make_training_env(EnvConfig(env_id, 3, "tensor", kwargs={"max_episode_steps": 9}))
        assert isinstance(envs, TensorEnvironment)
        assert isinstance(envs._envs, TorchVectorEnv)
        assert envs._envs.max_episode_steps == 9
        ordinary = make_vector_env(EnvConfig(env_id, 3, "tensor"))
        assert ordinary.backend == "sync"
        assert isinstance(make_training_env(EnvConfig(env_id, 3)), VectorEnvironment)
    assert choose_backend(EnvConfig("CartPole-v1", 1024)) == "native"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EnvConfig("FrozenLake-v1", 2, "tensor"), "FrozenLake-v1 has no form that returns tensors"),
        (EnvConfig("CartPole-v1", 2, "tensor", frame_stack=2), "frames are not stacked"),
        (EnvConfig("CartPole-v1", 2, "tensor", kwargs={"gravity": 1}), "no argument 'gravity'"),
        (EnvConfig("CartPol-v1", 2, "tensor"), "did you mean CartPole-v1"),
    ],
    ids=["no tensors", "frames", "argument", "id"],
)
def test_bad_settings_are_refused_in_one_line(config: EnvConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_training_env(config)
    assert "\n" not in str(caught.value)


def test_device_without_float64_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs float64, which device=mps does not have"):
        make_training_env(EnvConfig("CartPole-v1", 2, "tensor"), "mps")
