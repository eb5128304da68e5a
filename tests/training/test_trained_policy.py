"""Policies loaded from checkpoints act as in training, in every kind of space, or are refused."""

import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from learning_loop import small_policy
from made_runs import save_checkpoint
from test_learner import config
from torch import Generator

import rlkl
from rlkl.engines.acting import TrainedPolicy
from rlkl.envs.observations import ObservationEncoder
from rlkl.loading import load_policy
from rlkl.models.policy import Policy
from rlkl.models.policy_description import describe_policy
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.training.checkpoint import FORMAT, load_checkpoint, newest
from rlkl.training.trained_policy import load_run

OBSERVATIONS: dict[str, Any] = {
    "vector": Box(-2, 2, (3,), np.float32),
    "matrix": Box(-1, 1, (2, 3), np.float64),
    "unbounded": Box(np.float32([-np.inf, 0]), np.float32([1, np.inf])),
    "discrete": Discrete(4, start=-2),
    "multi_discrete": MultiDiscrete([[2, 3], [4, 2]]),
    "multi_binary": MultiBinary([2, 2]),
    "image": Box(0, 255, (5, 6, 3), np.uint8),
    "frames": Box(0, 255, (2, 40, 36), np.uint8),
    "nested": Dict(
        {
            "there": Tuple([Discrete(3, start=1), Box(-1, 1, (2,))]),
            "picture": Box(0, 255, (4, 4, 1), np.uint8),
            "bits": MultiBinary(3),
        }
    ),
}


ACTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "discrete": (Discrete(3, start=3), {}),
    "multi_discrete": (MultiDiscrete([2, 3], start=[5, -1]), {}),
    "multi_binary": (MultiBinary([2, 2]), {}),
    "box": (Box(np.array([-1.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float64), {}),
    "normalized": (Discrete(3), {"actor_layer_norm": True, "encoder_hidden_sizes": [5]}),
    "box_of_state": (Box(-1, 1, (2,)), {"state_dependent_std": True}),
    "box_beta": (Box(-3, 1, (2, 2)), {"box_distribution": "beta", "log_std": 0.0}),
    "box_tanh": (Box(-3, 1, (2, 2)), {"box_distribution": "tanh_gaussian"}),
}


def written(path: Path, policy: Policy, normalizer: ObservationNormalizer | None = None) -> Path:
    """Write what a trainer writes, as far as `load_policy` needs it."""
    state = {
        "policy_description": describe_policy(policy),
        "policy": policy.state_dict(),
        "normalizer": normalizer and normalizer.state_dict(),
    }
    save_checkpoint(path / "checkpoints" / "last.pt", state)
    return path


def act(policy: TrainedPolicy, observations: list[Any], **more: Any) -> list[Any]:
    chance = Generator().manual_seed(0)
    return [policy.act(o, **more) for o in observations] + [
        policy.act(o, chance, **more) for o in observations
    ]


def same(first: list[Any], second: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_loaded_policy_acts_like_the_original(
    action: str, observation: str, tmp_path: Path
) -> None:
    space, settings = ACTIONS[action]
    encoder = ObservationEncoder(OBSERVATIONS[observation])
    settings = settings | {"image_features": 8, "actor_gain": 2.0}
    policy = small_policy(encoder, space, **settings)
    policy.encoder.space.seed(0)
    observations = [policy.encoder.space.sample() for _ in range(6)]
    back = load_policy(written(tmp_path, policy))
    assert back.policy.encoder.space == policy.encoder.space
    assert back.policy.decoder.space == space
    actions = act(back, observations)
    assert same(actions, act(TrainedPolicy(policy, None), observations))
    assert all(space.contains(a) for a in actions)
    by_hand = policy.tensors(encoder.stack(observations))
    modes = policy.step(by_hand, policy.initial_state(6))[0].mode().detach().numpy()
    for a, b in zip(actions, policy.decoder(modes), strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_description_is_plain_data(tmp_path: Path) -> None:
    for space, _ in ACTIONS.values():
        policy = small_policy(ObservationEncoder(OBSERVATIONS["nested"]), space, image_features=4)
        description = describe_policy(policy)
        assert json.loads(json.dumps(description)) == description


@pytest.mark.parametrize("memory", ["gru", "lstm"])
@pytest.mark.parametrize("share", [False, True])
def test_memory_continues_until_it_is_reset(memory: str, share: bool, tmp_path: Path) -> None:
    encoder = ObservationEncoder(OBSERVATIONS["vector"])
    settings = {"memory": memory, "share_encoder": share, "actor_gain": 2.0}
    policy = small_policy(encoder, Box(-9, 9, (2,)), **settings)
    back = load_policy(written(tmp_path, policy))
    observations = [encoder.space.sample() for _ in range(4)]
    first = [back.act(o) for o in observations]
    on = [back.act(o) for o in observations]
    back.reset()
    again = [back.act(o) for o in observations]
    assert same(first, again)
    assert not same(first, on)
    states, by_hand = policy.initial_state(1), []
    for o in observations:
        distribution, states = policy.step(policy.tensors(encoder.stack([o])), states)
        by_hand.append(9 * distribution.mode()[0].detach().numpy())  # half of the range
    assert np.allclose(first, by_hand, atol=1e-6)


@pytest.mark.parametrize(
    ("space", "mask", "allowed"),
    [
        (Discrete(4, start=3), [0, 1, 0, 1], lambda a: a in (4, 6)),
        (MultiDiscrete([2, 3]), [1, 0, 0, 1, 1], lambda a: a[0] == 0 and a[1] > 0),
        (MultiDiscrete([2, 3]), ([1, 0], [0, 1, 1]), lambda a: a[0] == 0 and a[1] > 0),
        (MultiBinary(3), [0, 1, 2], lambda a: a[0] == 0 and a[1] == 1),
    ],
)
def test_action_mask_is_obeyed(space: Any, mask: Any, allowed: Any, tmp_path: Path) -> None:
    encoder = ObservationEncoder(OBSERVATIONS["vector"])
    back = load_policy(written(tmp_path, small_policy(encoder, space, actor_gain=3.0)))
    observations = [encoder.space.sample() for _ in range(40)]
    mask = tuple(map(np.array, mask)) if isinstance(mask, tuple) else np.array(mask, np.int8)
    assert all(allowed(a) for a in act(back, observations, action_mask=mask))
    assert not all(allowed(a) for a in act(back, observations))


def test_normalizer_is_loaded_with_its_policy(tmp_path: Path) -> None:
    encoder = ObservationEncoder(Dict({"a": Box(-2, 2, (2,)), "b": Discrete(3)}))
    policy = small_policy(encoder, Box(-9, 9, (1,)), actor_gain=3.0)
    normalizer = ObservationNormalizer((5,), is_measured=encoder.is_measured)
    normalizer.update(3 + 5 * np.random.default_rng(0).standard_normal((100, 5)))
    back = load_policy(written(tmp_path, policy, normalizer))
    observations = [encoder.space.sample() for _ in range(4)]
    actions = act(back, observations)
    assert same(actions, act(TrainedPolicy(policy, normalizer), observations))
    assert not same(actions, act(TrainedPolicy(policy, None), observations))


def test_chosen_parts_of_observations_are_chosen_again(tmp_path: Path) -> None:
    space = Dict({"a": Box(-2, 2, (2,)), "b": Discrete(3), "words": Text(5)})
    policy = small_policy(ObservationEncoder(space, ["a"]), Discrete(2))
    back = load_policy(written(tmp_path, policy))
    assert back.policy.encoder.keys == ("a",)
    observation = {"a": np.ones(2, np.float32), "b": 1, "words": "hello"}
    assert back.act(observation) in (0, 1)


def test_observation_of_another_shape_is_refused(tmp_path: Path) -> None:
    policy = small_policy(ObservationEncoder(OBSERVATIONS["vector"]), Discrete(2))
    back = load_policy(written(tmp_path, policy))
    for observation, words in (
        (np.zeros(2, np.float32), r"shape \(2,\) and type float32; its space declares \(3,\)"),
        (np.zeros((1, 5, 3), np.float32), r"shape \(1, 5, 3\)"),
        ([0, np.nan, 1], "the observation is nan at index 1; expected finite numbers"),
        ({"a": 1}, "the observation is missing|shape"),
    ):
        with pytest.raises(rlkl.ConfigError, match=rf"^act: .*{words}") as told:
            back.act(observation)
        assert "sub-environment" not in str(told.value)
    with pytest.raises(rlkl.ConfigError, match=r"^act: the action mask allows no action$"):
        back.act(np.zeros(3, np.float32), action_mask=[0, 0])
    assert back.act([0, 0, 1]) in (0, 1)


def test_older_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    path.parent.mkdir()
    torch.save({"format": FORMAT - 1, "policy": {}, "observation_size": 4}, path)
    with pytest.raises(rlkl.ConfigError, match=rf"format {FORMAT - 1}.*older than {FORMAT}"):
        load_policy(tmp_path)


def test_checkpoint_without_a_part_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    policy = small_policy(ObservationEncoder(OBSERVATIONS["vector"]), Discrete(2))
    written(tmp_path, policy)
    whole = load_checkpoint(path)
    for part in ("policy_description", "policy", "normalizer"):
        save_checkpoint(path, {key: value for key, value in whole.items() if key != part})
        with pytest.raises(rlkl.ConfigError, match=rf"last\.pt is not .* of a run: .*{part}"):
            load_policy(tmp_path)
    save_checkpoint(path, whole)
    load_policy(tmp_path)
    with pytest.raises(rlkl.ConfigError, match=r"last\.pt is not the checkpoint of a run: KeyErr"):
        load_run(tmp_path)
    with pytest.raises(rlkl.ConfigError, match=r"last\.pt is not the checkpoint of a run: .*resu"):
        newest(tmp_path / "checkpoints")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_nonfinite_weights_are_refused(number: float, tmp_path: Path) -> None:
    policy = small_policy(ObservationEncoder(OBSERVATIONS["vector"]), Discrete(2))
    policy.actor_parameters.vector.data[3] = number
    with pytest.raises(rlkl.ConfigError, match="numbers that are not finite, so it cannot act"):
        load_policy(written(tmp_path, policy))


class Turn(gym.Env):
    """Twenty steps of which each costs 1 unless the action repeats the observation."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2, start=5)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.t = 0
        return self._look(), {}

    def _look(self) -> Any:
        self.sign = int(self.np_random.integers(2))
        return np.array([2 * self.sign - 1], np.float32)

    def step(self, action: Any) -> Any:
        reward = -float(action != 5 + self.sign)
        self.t += 1
        return self._look(), reward, self.t == 20, False, {}


def test_trained_policy_chooses_the_best_actions(tmp_path: Path) -> None:
    gym.register("Turn-v0", Turn)
    try:
        summary = rlkl.train(
            config(
                "ppo_clip",
                env=rlkl.EnvConfig("Turn-v0", 4),
                total_env_steps=4000,
                rollout_steps=64,
                normalize_observations=True,
                run_dir=str(tmp_path / "run"),
            )
        )
        assert summary.eval_return == 0.0
        policy = rlkl.load_policy(tmp_path / "run")
        assert [policy.act(np.array([x])) for x in (-1.0, 1.0)] == [5, 6]
        generator = torch.Generator().manual_seed(0)
        assert {policy.act(np.zeros(1), generator) for _ in range(500)} == {5, 6}
    finally:
        del gym.registry["Turn-v0"]


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"not a checkpoint"]
)
def test_damaged_checkpoint_is_refused(tmp_path: Path, damage: Any) -> None:
    rlkl.train(config(run_dir=str(tmp_path / "run"), total_env_steps=100))
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(rlkl.ConfigError, match=r"last\.pt is not a checkpoint that can be read"):
        rlkl.load_policy(tmp_path / "run")


def test_objects_and_newer_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    path.parent.mkdir()
    torch.save({"format": 1, "policy": Path("/")}, path)  # any object beyond tensors and numbers
    with pytest.raises(rlkl.ConfigError, match="is not a checkpoint"):
        rlkl.load_policy(tmp_path)
    torch.save({"format": 99}, path)
    with pytest.raises(rlkl.ConfigError, match="newer than"):
        rlkl.load_policy(tmp_path)
    with pytest.raises(rlkl.ConfigError, match="there is no such folder"):
        rlkl.load_policy(tmp_path / "nowhere")
