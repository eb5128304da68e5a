"""Checkpoints: a policy read back acts as it did, in every kind of space, or says why it cannot."""

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from learning_loop import small_policy
from torch import Generator

import rlkl
from rlkl.envs.observations import ObservationEncoder
from rlkl.models.policy import Policy
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.training.checkpoint import FORMAT, load_checkpoint, newest, save_checkpoint
from rlkl.training.trained_policy import TrainedPolicy, describe_policy, load_policy, load_run

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
    "box_of_state": (Box(-1, 1, (2,)), {"state_dependent_std": True}),
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
def test_a_policy_read_back_acts_as_it_did(action: str, observation: str, tmp_path: Path) -> None:
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


def test_a_checkpoint_is_plain_data(tmp_path: Path) -> None:
    for space, _ in ACTIONS.values():
        policy = small_policy(ObservationEncoder(OBSERVATIONS["nested"]), space, image_features=4)
        description = describe_policy(policy)
        assert json.loads(json.dumps(description)) == description


@pytest.mark.parametrize("memory", ["gru", "lstm"])
@pytest.mark.parametrize("share", [False, True])
def test_a_memory_goes_on_until_it_is_reset(memory: str, share: bool, tmp_path: Path) -> None:
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
def test_a_mask_is_obeyed(space: Any, mask: Any, allowed: Any, tmp_path: Path) -> None:
    encoder = ObservationEncoder(OBSERVATIONS["vector"])
    back = load_policy(written(tmp_path, small_policy(encoder, space, actor_gain=3.0)))
    observations = [encoder.space.sample() for _ in range(40)]
    mask = tuple(map(np.array, mask)) if isinstance(mask, tuple) else np.array(mask, np.int8)
    assert all(allowed(a) for a in act(back, observations, action_mask=mask))
    assert not all(allowed(a) for a in act(back, observations))


def test_a_normalizer_comes_back_with_its_policy(tmp_path: Path) -> None:
    encoder = ObservationEncoder(Dict({"a": Box(-2, 2, (2,)), "b": Discrete(3)}))
    policy = small_policy(encoder, Box(-9, 9, (1,)), actor_gain=3.0)
    normalizer = ObservationNormalizer((5,), is_measured=encoder.is_measured)
    normalizer.update(3 + 5 * np.random.default_rng(0).standard_normal((100, 5)))
    back = load_policy(written(tmp_path, policy, normalizer))
    observations = [encoder.space.sample() for _ in range(4)]
    actions = act(back, observations)
    assert same(actions, act(TrainedPolicy(policy, normalizer), observations))
    assert not same(actions, act(TrainedPolicy(policy, None), observations))


def test_parts_that_were_chosen_are_chosen_again(tmp_path: Path) -> None:
    space = Dict({"a": Box(-2, 2, (2,)), "b": Discrete(3), "words": Text(5)})
    policy = small_policy(ObservationEncoder(space, ["a"]), Discrete(2))
    back = load_policy(written(tmp_path, policy))
    assert back.policy.encoder.keys == ("a",)
    observation = {"a": np.ones(2, np.float32), "b": 1, "words": "hello"}
    assert back.act(observation) in (0, 1)


def test_an_observation_of_another_shape_is_refused(tmp_path: Path) -> None:
    policy = small_policy(ObservationEncoder(OBSERVATIONS["vector"]), Discrete(2))
    back = load_policy(written(tmp_path, policy))
    for observation, words in (
        (np.zeros(2, np.float32), r"shape \(2,\) and type float32; its space declares \(3,\)"),
        (np.zeros((5, 3), np.float32), r"shape \(5, 3\)"),
        ([0, np.nan, 1], "the observation is nan at index 1; expected finite numbers"),
        ({"a": 1}, "the observation is missing|shape"),
    ):
        with pytest.raises(rlkl.ConfigError, match=rf"^act: .*{words}") as told:
            back.act(observation)
        assert "sub-environment" not in str(told.value)
    with pytest.raises(rlkl.ConfigError, match=r"^act: the action mask allows no action$"):
        back.act(np.zeros(3, np.float32), action_mask=[0, 0])
    assert back.act([0, 0, 1]) in (0, 1)


def test_an_older_format_is_refused_with_words(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    path.parent.mkdir()
    torch.save({"format": FORMAT - 1, "policy": {}, "observation_size": 4}, path)
    with pytest.raises(rlkl.ConfigError, match=rf"format {FORMAT - 1}.*older than {FORMAT}"):
        load_policy(tmp_path)


def test_a_checkpoint_is_whole_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "made" / "last.pt"
    save_checkpoint(path, {"number": 1})
    assert load_checkpoint(path) == {"format": FORMAT, "number": 1}
    order = []

    def full(number: int) -> None:
        order.append("synced")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(path, {"number": 2})
    assert order == ["synced"]
    assert load_checkpoint(path)["number"] == 1
    assert list(path.parent.iterdir()) == [path]


def test_what_is_renamed_is_on_the_disk_before_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(number: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(number).st_mode)
        order.append("folder" if is_folder else "file")
        sync(number)

    def renamed(self: Path, target: Path) -> Path:
        order.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    save_checkpoint(tmp_path / "last.pt", {"number": 1})
    assert order == ["file", "rename", "folder"]


class Malice:
    """Leaves a file behind if whoever reads it runs what it says."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_malice_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    path = tmp_path / "last.pt"
    torch.save({"format": FORMAT, "policy": Malice(evil)}, path)
    with pytest.raises(rlkl.ConfigError, match="not a checkpoint that can be read"):
        load_checkpoint(path)
    assert not evil.exists()
    torch.load(path, weights_only=False)
    assert evil.exists()  # so the file was malicious


class RunsCode:
    """What a malicious file would hold: to unpickle it is to call a function."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("it_ran",)


def test_code_in_a_checkpoint_is_not_run_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoints" / "last.pt"
    path.parent.mkdir()
    torch.save({"format": FORMAT, "config": RunsCode()}, path)
    for read in (lambda: load_checkpoint(path), lambda: rlkl.resume(tmp_path)):
        with pytest.raises(rlkl.ConfigError, match="something other than data") as refused:
            read()
        assert "weights_only" not in str(refused.value)
    assert not Path("it_ran").exists()
    torch.load(path, weights_only=False)  # which shows that the file is what it is said to be
    assert Path("it_ran").exists()


def test_what_is_cut_off_or_changed_is_never_taken_for_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    state = {"weights": torch.arange(300.0), "moments": [1.5] * 40, "name": "a" * 100}
    save_checkpoint(path, state)
    written = load_checkpoint(path)
    content = path.read_bytes()
    chance = np.random.default_rng(0)
    for size in {0, 1, len(content) - 1, *chance.integers(len(content), size=60).tolist()}:
        path.write_bytes(content[:size])
        with pytest.raises(rlkl.ConfigError, match="not a checkpoint that can be read"):
            load_checkpoint(path)
    refused = 0
    for place in chance.integers(len(content), size=300):
        changed = bytearray(content)
        changed[place] ^= 1 << int(chance.integers(8))
        path.write_bytes(changed)
        try:
            back = load_checkpoint(path)
        except rlkl.ConfigError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        assert torch.equal(back.pop("weights"), written["weights"])
        assert back == {key: part for key, part in written.items() if key != "weights"}
    assert refused > 200  # the rest hit dates, padding and the like


def test_a_damaged_checkpoint_names_a_good_one_beside_it(tmp_path: Path) -> None:
    for env_steps in (90, 100, 1000):
        save_checkpoint(tmp_path / f"step_{env_steps}.pt", {"number": env_steps})
    (tmp_path / "step_1000.pt").write_bytes(b"torn")
    (tmp_path / "last.pt").write_bytes(b"torn as well")
    with pytest.raises(rlkl.ConfigError, match=r"last\.pt is not .*; .*step_100\.pt can be read"):
        load_checkpoint(tmp_path / "last.pt")


def test_the_newest_checkpoint_that_can_be_gone_on_from_is_found(tmp_path: Path) -> None:
    def save(name: str, env_steps: int, *, resumable: bool = True, whole: bool = True) -> None:
        state = {"env_steps": env_steps, "resumable": resumable, "whole": whole}
        save_checkpoint(tmp_path / name, state)

    with pytest.raises(rlkl.ConfigError, match="no checkpoint from which a run can resume"):
        newest(tmp_path)
    save("step_80.pt", 80)
    save("step_200.pt", 200)
    save("last.pt", 230)
    assert newest(tmp_path)[0].name == "last.pt"
    save("last.pt", 200)  # a kill between the two
    save("step_300.pt", 300)
    assert newest(tmp_path)[0].name == "step_300.pt"
    (tmp_path / "step_300.pt").write_bytes(b"torn")
    path, state, notes = newest(tmp_path)
    assert (path.name, state["env_steps"]) == ("last.pt", 200)
    save("last.pt", 330, resumable=False)
    path, state, notes = newest(tmp_path)
    assert (path.name, state["env_steps"]) == ("step_200.pt", 200)
    assert "step_300.pt is not a checkpoint that can be read" in notes[0]
    assert "the last 130 environment steps will be repeated" in notes[1]
    command = f"rlkl resume {tmp_path.parent} exact=false"
    assert notes[1].endswith(f"to continue from last.pt, inexactly: {command}")
    assert newest(tmp_path, exact=False)[0].name == "last.pt"
    save("last.pt", 330, resumable=False, whole=False)
    path, state, notes = newest(tmp_path, exact=False)
    assert (path.name, "exact=false" in notes[1]) == ("step_200.pt", False)
    path, state, notes = newest(tmp_path, lambda state: "seed=1" * (state["env_steps"] == 200))
    assert path.name == "step_80.pt"
    assert notes[1].endswith("step_200.pt is of another run, with seed=1")


def test_what_can_be_read_and_is_no_run_is_refused_with_words_by_whoever_takes_from_it(
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
def test_weights_that_are_not_finite_are_refused(number: float, tmp_path: Path) -> None:
    policy = small_policy(ObservationEncoder(OBSERVATIONS["vector"]), Discrete(2))
    policy.actor_parameters.vector.data[3] = number
    with pytest.raises(rlkl.ConfigError, match="numbers that are not finite, so it cannot act"):
        load_policy(written(tmp_path, policy))
