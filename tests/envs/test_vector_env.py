"""One contract whatever steps the environments, and every broken promise caught with one line."""

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice, pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import small_environments
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from small_environments import Moment, moments

import rlkl.envs.shared_memory_env
from rlkl.cli import main
from rlkl.envs import checks as guard
from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.spaces import ACTION_MASK, VECTOR, Observations
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.utils.validation import BrokenEnvironmentError, ConfigError

BACKENDS = ("sync", "shared", "async", "native")
PROCESSES = {"sync": 0, "shared": 1, "async": 2}
"""How many step two copies, this one not counted."""


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share the copies between this process and another, whatever machine this is."""
    monkeypatch.setattr(rlkl.envs.shared_memory_env, "usable_cores", lambda: 2)


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """End a test that waits for an answer that will never come."""

    def ring(*_: Any) -> None:
        raise TimeoutError("hung for a minute")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class Transition(NamedTuple):
    before: Moment
    reward: float
    ending: tuple[bool, bool]
    after: Moment


def moment_of(observations: Observations, row: int, shows: str) -> Moment:
    """Read where a copy is, and check that all parts of its observation say the same."""
    found = []
    if shows in ("vector", "dict"):
        *code, copy, episode, t = observations[VECTOR][row].tolist()
        assert code == ([float(k == copy) for k in range(3)] if shows == "dict" else [])
        found.append(Moment(int(copy), int(episode), int(t)))
    if shows in ("image", "dict"):
        image = observations["image" if shows == "image" else "image/view"][row]
        assert image.shape == (1, 3, 2)
        assert image.dtype == np.uint8
        assert not image[0, :, 0].any()
        found.append(Moment(*image[0, :, 1].tolist()))
    assert set(found) == {found[0]}
    return found[0]


def small(backend: str, shows: str = "vector", masks: str = "none", **more: Any) -> EnvConfig:
    keys = ["where", "what", "view"] if shows == "dict" else []
    env_id = "SmallNative-v0" if backend == "native" else "SmallCounter-v0"
    kwargs = {"shows": shows, "masks": masks}
    return EnvConfig(env_id, 3, backend, observation_keys=keys, kwargs=kwargs, **more)


def life(
    envs: VectorEnvironment, shows: str, masks: str, steps: int
) -> tuple[list[list[Transition]], int]:
    """Step three copies; return the transitions of each, and how many rows only reset."""
    generator = np.random.default_rng(0)
    lived: list[list[Transition]] = [[], [], []]
    seen = envs.reset([0, 1, 2])
    assert (masks != "none") == envs.shows_masks == (ACTION_MASK in seen)
    begins, resets = np.ones(3, np.bool_), 0
    for _ in range(steps):
        befores = [moment_of(seen, i, shows) for i in range(3)]
        actions = generator.integers(0, 3, 3)
        step = envs.step(actions)
        ended = step.terminated | step.truncated
        for i, before in enumerate(befores):
            assert begins[i] == (before.t == 0)
            # In a terminal state, where nothing is allowed, no action is taken.
            if masks != "none" and not any(before.ending()):
                np.testing.assert_array_equal(seen[ACTION_MASK][i], before.mask())
            if not step.is_transition[i]:
                assert step.begins[i]
                assert not ended[i]
                resets += 1
                continue
            final = np.flatnonzero(step.final_envs == i)
            after = moment_of(step.observations, i, shows)
            if len(final):
                assert ended[i]
                assert step.begins[i]
                after = moment_of(step.final_observations, final[0], shows)
            ending = (bool(step.terminated[i]), bool(step.truncated[i]))
            assert after.ending() == ending
            assert step.rewards[i] == after.reward(actions[i])
            lived[i].append(Transition(before, step.rewards[i] - actions[i], ending, after))
        seen, begins = step.observations, step.begins
    return lived, resets


@pytest.mark.parametrize("shows", ["vector", "dict", "image"])
@pytest.mark.parametrize(
    ("backend", "masks"),
    # A native form has no copies with methods.
    [
        pair
        for pair in product(BACKENDS, ["none", "info", "method"])
        if pair != ("native", "method")
    ],
)
def test_the_same_episodes_are_lived_through_whatever_steps_them(
    backend: str, shows: str, masks: str
) -> None:
    envs = make_vector_env(small(backend, shows, masks))
    assert (envs.backend, envs.num_envs) == (backend, 3)
    lived, resets = life(envs, shows, masks, 40)
    envs.close()
    for copy, transitions in enumerate(lived):
        path = list(islice(moments(copy), 60))
        expected = [
            Transition(before, after.reward(0), after.ending(), after)
            for before, after in pairwise(path)
            if after.t > 0
        ]
        assert transitions == expected[: len(transitions)]
        assert len({t.before.episode for t in transitions}) > 7
    # The one mode tells of each episode's end in the row that ends it, the other in the next one.
    assert resets == (0 if backend != "native" else 120 - sum(map(len, lived)))
    assert (resets > 20) == (backend == "native")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_reset_from_outside_begins_anew(backend: str) -> None:
    envs = make_vector_env(small(backend, masks="info"))
    envs.reset([0, 1, 2])
    for _ in range(3):
        step = envs.step(np.zeros(3, np.int64))
    assert step.terminated[0]
    again = envs.reset([2, 0, 1])
    assert again[VECTOR].tolist() == [[2, 0, 0], [0, 0, 0], [1, 0, 0]]
    step = envs.step(np.zeros(3, np.int64))
    assert step.is_transition.all()
    assert not step.begins.any()
    assert step.observations[VECTOR][:, 2].tolist() == [1, 1, 1]
    envs.close()


@pytest.mark.parametrize("backend", PROCESSES)
def test_stacked_frames_are_the_last_ones_and_never_those_of_another_episode(backend: str) -> None:
    envs = make_vector_env(small(backend, frame_stack=3))
    assert envs.encoder.vector_size == 9
    seen = envs.reset([0, 1, 2])
    assert seen[VECTOR].reshape(3, 3, 3)[:, :, 2].tolist() == [[0, 0, 0]] * 3
    ages = []
    for _ in range(4):
        step = envs.step(np.zeros(3, np.int64))
        ages.append(step.observations[VECTOR].reshape(3, 3, 3)[0].tolist())
    # Copy 0 ends after 3 steps: (copy, episode, step) of three frames, oldest first.
    assert ages == [
        [[0, 0, 0], [0, 0, 0], [0, 0, 1]],
        [[0, 0, 0], [0, 0, 1], [0, 0, 2]],
        [[0, 1, 0], [0, 1, 0], [0, 1, 0]],
        [[0, 1, 0], [0, 1, 0], [0, 1, 1]],
    ]
    assert step.final_envs.tolist() == [1]
    finals = step.final_observations[VECTOR].reshape(3, 3)
    assert finals.tolist() == [[1, 0, 2], [1, 0, 3], [1, 0, 4]]
    envs.close()

    envs = make_vector_env(small(backend, "image", frame_stack=3))
    assert envs.encoder.images == {"image": (3, 3, 2)}
    envs.reset([0, 1, 2])
    envs.step(np.zeros(3, np.int64))
    step = envs.step(np.zeros(3, np.int64))
    assert step.observations["image"][2, :, :, 1].tolist() == [[2, 0, 0], [2, 0, 1], [2, 0, 2]]
    envs.close()


class Fixed(gym.Env[Any, Any]):
    """Shows nothing but its masks, one after the other."""

    observation_space = Box(0, 1, (1,))

    def __init__(self, action_space: gym.Space[Any], masks: list[Any]) -> None:
        self.action_space, self.masks, self.received = action_space, masks, []
        self.t = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.t = 0
        return np.zeros(1, np.float32), {"action_mask": self.masks[0]} if self.masks else {}

    def step(self, action: Any) -> Any:
        self.t += 1
        mask = self.masks[self.t]
        info = {} if mask is None else {"action_mask": mask}
        return np.zeros(1, np.float32), 0.0, self.t == len(self.masks) - 1, False, info


def fixed(
    space: gym.Space[Any], masks: list[Any], mode: AutoresetMode = AutoresetMode.SAME_STEP
) -> VectorEnvironment:
    return VectorEnvironment(SyncVectorEnv([lambda: Fixed(space, masks)] * 2, autoreset_mode=mode))


def test_masks_of_every_action_space_come_through_the_info() -> None:
    for space, mask, expected in [
        (Discrete(3), np.int8([0, 1, 1]), [0, 1, 1]),
        (MultiDiscrete([2, 3]), (np.int8([1, 0]), np.int8([1, 1, 0])), [1, 0, 1, 1, 0]),
        (MultiDiscrete([2, 3]), [True, False, True, True, False], [1, 0, 1, 1, 0]),
        (MultiBinary(2), np.int8([2, 1]), [1, 1, 0, 1]),
    ]:
        envs = fixed(space, [mask, mask])
        assert envs.reset([0, 0])[ACTION_MASK].astype(int).tolist() == [expected] * 2
        step = envs.step(np.zeros((2, *space.shape), np.int64))
        assert step.observations[ACTION_MASK].astype(int).tolist() == [expected] * 2


class TwiceMasked(Fixed):
    """Calls its mask by both names; the plural one says the opposite."""

    def reset(self, **given: Any) -> Any:
        observation, info = super().reset(**given)
        return observation, {"action_masks": 1 - info["action_mask"]} | info

    def step(self, action: Any) -> Any:
        *seen, info = super().step(action)
        return *seen, {"action_masks": 1 - info["action_mask"]} | info


def test_of_two_masks_the_singular_one_counts() -> None:
    envs = VectorEnvironment(
        SyncVectorEnv(
            [lambda: TwiceMasked(Discrete(2), [np.int8([1, 0])] * 3)] * 2,
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
    )
    assert envs.reset([0, 0])[ACTION_MASK].tolist() == [[True, False]] * 2
    step = envs.step(np.zeros(2, np.int64))
    assert step.observations[ACTION_MASK].tolist() == [[True, False]] * 2


def test_a_mask_that_allows_nothing_is_refused_but_in_a_final_state() -> None:
    nothing, some = np.zeros(2, np.int8), np.int8([1, 0])
    actions = np.zeros(2, np.int64)
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        envs = fixed(Discrete(2), [some, some, nothing], mode)
        envs.reset([0, 0])
        masks = [envs.step(actions).observations[ACTION_MASK].tolist() for _ in range(4)]
        assert masks[0] == [[True, False]] * 2
        assert masks[2] == [[True, False]] * 2
        envs = fixed(Discrete(2), [some, nothing, some], mode)
        envs.reset([0, 0])
        with pytest.raises(BrokenEnvironmentError, match="copy 0 allows no action"):
            envs.step(actions)
    with pytest.raises(BrokenEnvironmentError, match="copy 0 allows no action"):
        fixed(Discrete(2), [nothing]).reset([0, 0])


def test_a_mask_that_comes_no_more_is_missed() -> None:
    envs = fixed(Discrete(2), [np.int8([1, 0]), None, None])
    envs.reset([0, 0])
    with pytest.raises(BrokenEnvironmentError, match="mask that came with reset is missing"):
        envs.step(np.zeros(2, np.int64))


def test_without_masks_none_are_shown_and_a_box_has_none() -> None:
    envs = fixed(Discrete(2), [])
    assert set(envs.reset([0, 0])) == {VECTOR}
    assert not envs.shows_masks
    with pytest.raises(BrokenEnvironmentError, match="which have none"):
        fixed(Box(0, 1, (2,)), [np.ones(2)]).reset([0, 0])


@pytest.mark.parametrize("backend", PROCESSES)
def test_taxis_masks_are_the_moves_that_change_something(backend: str) -> None:
    envs = make_vector_env(EnvConfig("Taxi-v4", 3, backend))
    table = gym.make("Taxi-v4").unwrapped.P
    seen, generator = envs.reset([1, 2, 3]), np.random.default_rng(0)
    masked = 0
    for _ in range(220):
        for code, mask in zip(seen[VECTOR], seen[ACTION_MASK], strict=True):
            (state,) = np.flatnonzero(code)
            moves = [table[state][action][0][1] != state for action in range(6)]
            assert mask.tolist() == moves
            masked += 6 - sum(moves)
        actions = np.array([generator.choice(np.flatnonzero(mask)) for mask in seen[ACTION_MASK]])
        step = envs.step(actions)
        seen = step.observations
    assert masked > 300
    assert step.begins.shape == (3,)
    envs.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_step_returned_is_written_by_no_later_step(backend: str) -> None:
    envs = make_vector_env(small(backend, masks="info"))
    envs.reset([0, 1, 2])
    steps = [envs.step(np.zeros(3, np.int64)) for _ in range(8)]
    envs.close()
    for earlier, later in pairwise(steps):
        for name in ("rewards", "terminated", "truncated", "begins"):
            assert not np.shares_memory(getattr(earlier, name), getattr(later, name))
        for key, rows in earlier.observations.items():
            assert not np.shares_memory(rows, later.observations[key])
        if np.shares_memory(earlier.is_transition, later.is_transition):
            assert not earlier.is_transition.flags.writeable
            assert earlier.is_transition.all()


def test_modes_that_do_not_reset_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected NEXT_STEP or SAME_STEP"):
        fixed(Discrete(2), [], AutoresetMode.DISABLED)


# Trouble

TROUBLES = {
    "nan": r"the observation of 'a' of copy 1 is nan in place 1; expected finite numbers",
    "inf": "the observation of 'a' of copy 1 is inf",
    "shape": r"step failed: .* of 'a' has shape \(1,\) and type float32; .* declares \(2,\)",
    "shape of several": r"step failed: .* of 'm' has shape \(1,\)",
    "type": "step failed: .* of 'a' has .* type complex128; .* float32",
    "words": "step failed: .* of 'a' has .* type <U1; .* float32",
    "part of a number": "step failed: .* of 'd' has .* type float64; .* int64",
    "number": r"an observation of 'd' of copy 1 is 3, outside its space Discrete\(3\)",
    "missing": "step failed: KeyError: 'd'",
    "reward": "the reward of copy 1 is nan; expected a finite number",
    "reward inf": "the reward of copy 1 is inf; expected a finite number",
    "reward words": "step failed: .* 'much'",
    "step": "step failed: RuntimeError: the motor burnt out",
    "local exception": "step failed: LocalError: of a kind that no other process knows",
    "two words": "step failed: TwoWordsError: this and that",
    "reset": "step failed: ValueError: no way to begin",
    "first reset": "reset failed: ValueError: no way to begin",
    "killed": "step failed: the process of a copy died",
}
CASES = [
    (kind, backend)
    for kind in TROUBLES
    for backend in PROCESSES
    if (kind, backend) != ("killed", "sync")
]


def in_trouble(kind: str, backend: str, after: int) -> EnvConfig:
    kwargs = {"kind": kind, "after": after}
    return EnvConfig("SmallTrouble-v0", 2, backend, kwargs=kwargs)


def processes_of(envs: VectorEnvironment) -> list[int]:
    return [process.pid for process in getattr(envs._envs.unwrapped, "processes", [])]


def assert_gone(processes: list[int]) -> None:
    assert not any(Path("/proc", str(number)).exists() for number in processes)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("kind", "backend"), CASES)
@pytest.mark.parametrize("after", [0, 2, 4], ids=["at once", "at an end", "later"])
def test_every_broken_promise_ends_in_one_line_and_leaves_nothing_behind(
    kind: str, backend: str, after: int, capfd: pytest.CaptureFixture[str]
) -> None:
    envs = make_vector_env(in_trouble(kind, backend, after))
    processes = processes_of(envs)
    assert len(processes) == PROCESSES[backend]
    made = -1
    with pytest.raises(BrokenEnvironmentError, match=TROUBLES[kind]) as caught:
        envs.reset([0, 1])
        for made in range(9):  # noqa: B007
            envs.step(np.zeros(2, np.int64))
    # An episode has 3 steps, and the reset that fails is the first one after the trouble began.
    reset_fails = -1 if kind == "first reset" else {0: 2, 2: 2, 4: 5}[after]
    assert made == (reset_fails if "reset" in kind else after)
    message = str(caught.value)
    assert message.startswith("env.id=SmallTrouble-v0: ")
    assert "\n" not in message
    envs.close()
    envs.close()
    assert_gone(processes)
    assert capfd.readouterr() == ("", "")


def test_the_environments_own_exception_is_the_cause() -> None:
    envs = make_vector_env(in_trouble("step", "sync", 0))
    envs.reset([0, 1])
    with pytest.raises(BrokenEnvironmentError) as caught:
        envs.step(np.zeros(2, np.int64))
    causes, error = [], caught.value
    while error is not None:
        causes.append(type(error))
        error = error.__cause__
    assert causes[-1] is RuntimeError


@pytest.mark.parametrize(("backend", "number"), [("async", 0), ("async", 1), ("shared", 0)])
@pytest.mark.parametrize("next_call", ["step", "reset", "close"])
def test_a_process_that_is_killed_between_steps_is_noticed(
    next_call: str, backend: str, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    envs = make_vector_env(in_trouble("none", backend, 0))
    processes = processes_of(envs)
    envs.reset([0, 1])
    envs.step(np.zeros(2, np.int64))
    os.kill(processes[number], signal.SIGKILL)
    time.sleep(0.05)
    if next_call != "close":
        given: Any = np.zeros(2, np.int64) if next_call == "step" else [0, 1]
        with pytest.raises(BrokenEnvironmentError, match=f"{next_call} failed: the process of a"):
            getattr(envs, next_call)(given)
        assert_gone(processes)
    envs.close()
    assert_gone(processes)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", ["shared", "async"])
def test_processes_end_when_healthy_environments_are_closed(backend: str) -> None:
    envs = make_vector_env(in_trouble("none", backend, 0))
    processes = processes_of(envs)
    envs.reset([0, 1])
    envs.close()
    assert_gone(processes)


def test_gymnasiums_own_messages_are_as_loud_as_before() -> None:
    level = gym.logger.min_level
    envs = make_vector_env(in_trouble("step", "sync", 0))
    envs.reset([0, 1])
    assert gym.logger.min_level == level
    with pytest.raises(BrokenEnvironmentError):
        envs.step(np.zeros(2, np.int64))
    assert gym.logger.min_level == level


# A user's own environment, through the command

OWN = Path(small_environments.__file__).read_text()
TINY = [
    "env.num_envs=2", "rollout_steps=8", "eval_episodes=0", "algo.num_minibatches=1",
    "critic.num_minibatches=1", "total_env_steps=48",
]  # fmt: skip


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Write a module that registers environments, as a user's own package would."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "own"
    folder.mkdir()
    name = f"own_{tmp_path.name.replace('-', '_')}"
    text = OWN.replace("Small{name}-v0", "Own{name}-v0").replace("SmallNative", "OwnNative")
    # The seeds of a run are large; whatever they are, some copy breaks.
    text = text.replace("seed == self.copy", "True")
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    before = dict(gym.registry)
    yield name
    sys.modules.pop(name, None)
    gym.registry.clear()
    gym.registry.update(before)


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        ("nan", "sync"),
        ("step", "sync"),
        ("step", "async"),
        ("reset", "async"),
        ("killed", "async"),
        ("step", "shared"),
        ("reset", "shared"),
    ],
)
def test_a_run_that_breaks_says_so_in_one_line_and_keeps_what_it_has(
    kind: str,
    backend: str,
    own_module: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlkl"])
    env_id = f"{own_module}:OwnTrouble-v0"
    given = [f"env.id={env_id}", f"env.kwargs.kind='{kind}'", "env.kwargs.after=19"]
    with pytest.raises(SystemExit) as end:
        main(["train", "run_dir=run", f"env.backend={backend}", *given, *TINY])
    assert end.value.code == 1
    errors = capfd.readouterr().err
    assert errors.startswith(f"rlkl: BrokenEnvironmentError: env.id={env_id}: ")
    assert errors.count("\n") == 1
    assert "Traceback" not in errors
    assert not multiprocessing.active_children()

    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["reason"].startswith(f"BrokenEnvironmentError: env.id={env_id}: ")
    assert summary["env_id"] == env_id
    # Two rollouts of 8 steps of 2 copies were learned from before the 20th step of a copy.
    assert summary["iterations"] == 2
    with (run / "metrics.csv").open() as file:
        assert [row["env_steps"] for row in csv.DictReader(file)] == ["16", "32"]
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert state["iterations"] == 2


@pytest.mark.parametrize("backend", PROCESSES)
@pytest.mark.parametrize(
    ("kind", "words"),
    [("first reset", "reset failed: ValueError: no way to begin"), ("nan", "of copy 0 is nan")],
)
def test_a_run_that_cannot_begin_creates_nothing(
    kind: str,
    words: str,
    backend: str,
    own_module: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    env_id = f"{own_module}:OwnTrouble-v0"
    trouble = [f"env.kwargs.kind='{kind}'", "env.kwargs.after=-1"]
    given = [f"env.id={env_id}", *trouble, f"env.backend={backend}"]
    with pytest.raises(SystemExit) as end:
        main(["train", "run_dir=run", *given, *TINY])
    assert end.value.code == 1
    errors = capfd.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert not multiprocessing.active_children()


def test_an_environment_of_ones_own_is_found_on_the_path_and_gets_its_arguments(
    own_module: str, tmp_path: Path
) -> None:
    arguments = ["run_dir=run", "logger.progress=none", "logger.tensorboard=false", *TINY]
    env_id = f"env.id={own_module}:OwnCounter-v0"
    done = subprocess.run(
        [sys.executable, "-m", "rlkl", "train", env_id, "env.kwargs.shows=image",
         "env.kwargs.masks=method", *arguments],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "own"), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["env_steps"]) == ("finished", 48)


class InPlace(gym.Env[Any, Any]):
    """Counts the steps of an episode of four in one array, as many simulators do."""

    observation_space, action_space = Box(0, 9, (2,)), Discrete(2)

    def __init__(self) -> None:
        self.shown = np.zeros(2, np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.shown[:] = 0
        return self.shown, {}

    def step(self, action: Any) -> Any:
        self.shown += 1
        return self.shown, 1.0, False, bool(self.shown[0] == 4), {}


gym.register("InPlace-v0", InPlace)


@pytest.mark.parametrize("backend", ["sync", "shared", "async"])
@pytest.mark.parametrize("frames", [1, 3])
def test_observations_changed_in_place_are_copied(backend: str, frames: int) -> None:
    envs = make_vector_env(EnvConfig("InPlace-v0", 3, backend, frame_stack=frames))
    try:
        envs.reset([0, 1, 2])
        for _ in range(3):
            step = envs.step(np.zeros(3, np.int64))
        last = [[3, 3]] if frames == 1 else [[1, 1], [2, 2], [3, 3]]
        assert step.observations[VECTOR].reshape(3, frames, 2).tolist() == [last] * 3
        step = envs.step(np.zeros(3, np.int64))
        final = [[4, 4]] if frames == 1 else [[2, 2], [3, 3], [4, 4]]
        assert step.final_observations[VECTOR].reshape(3, frames, 2).tolist() == [final] * 3
        assert not step.observations[VECTOR].any()
    finally:
        envs.close()


class MaskPart(small_environments.Counter):
    """Shows its mask beside the rest, as PettingZoo does."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Dict(
            observation=self.observation_space, action_mask=Box(0, 1, (3,), np.int8)
        )

    def show(self) -> tuple[Any, dict[str, Any]]:
        shown, info = super().show()
        return {"observation": shown, "action_mask": self.now.mask()}, info


gym.register("MaskPart-v0", MaskPart)


@pytest.mark.parametrize("backend", ["sync", "shared", "async"])
def test_a_mask_in_the_observation_is_the_mask(backend: str) -> None:
    envs = make_vector_env(EnvConfig("MaskPart-v0", 2, backend))
    try:
        seen = envs.reset([0, 1])
        assert seen[VECTOR].shape == (2, 3)
        assert seen["action_mask"].tolist() == [[False, True, True], [True, False, True]]
        seen = envs.step(np.array([1, 0])).observations
        assert seen["action_mask"].tolist() == [[True, False, True], [True, True, False]]
    finally:
        envs.close()


def test_a_mask_that_comes_with_steps_alone_is_refused() -> None:
    class Late(small_environments.Counter):
        def show(self) -> tuple[Any, dict[str, Any]]:
            shown, _ = super().show()
            return shown, {"action_mask": self.now.mask()} if self.now.t else {}

    gym.register("Late-v0", Late)
    envs = make_vector_env(EnvConfig("Late-v0", 1, "sync"))
    del gym.registry["Late-v0"]
    envs.reset([0])
    with pytest.raises(BrokenEnvironmentError, match="came with a step and none with reset"):
        envs.step(np.array([0]))


def test_a_mask_that_one_environment_leaves_out_is_missed() -> None:
    class Forgets(small_environments.Counter):
        def show(self) -> tuple[Any, dict[str, Any]]:
            shown, info = super().show()
            return shown, {} if self.copy and self.t else info

    gym.register("Forgets-v0", Forgets)
    envs = make_vector_env(EnvConfig("Forgets-v0", 2, "sync", kwargs={"masks": "info"}))
    del gym.registry["Forgets-v0"]
    envs.reset([0, 1])
    with pytest.raises(BrokenEnvironmentError, match="is missing from a step"):
        envs.step(np.array([1, 0]))


def test_columns_of_rewards_are_rows_and_words_are_named() -> None:
    class Columns(gym.vector.SyncVectorEnv):
        rewards: Any = np.ones((2, 1))

        def step(self, actions: Any) -> Any:
            observations, _, terminated, *rest = super().step(actions)
            return observations, self.rewards, terminated[:, None], *rest

    columns = Columns([InPlace] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    envs = VectorEnvironment(columns)
    envs.reset([0, 1])
    step = envs.step(np.zeros(2, np.int64))
    assert (step.rewards.shape, step.terminated.shape) == ((2,), (2,))
    columns.rewards = np.array(["1.0", "2.0"])
    with pytest.raises(BrokenEnvironmentError, match=r"reward has shape .* expected numbers"):
        envs.step(np.zeros(2, np.int64))
    wide = VectorEnvironment(Columns([InPlace] * 3, autoreset_mode=AutoresetMode.NEXT_STEP))
    wide.reset([0, 1, 2])
    with pytest.raises(BrokenEnvironmentError, match="one for each of 3"):
        wide.step(np.zeros(3, np.int64))


def test_left_out_parts_are_not_stacked() -> None:
    kwargs = {"shows": "dict"}
    config = EnvConfig("SmallCounter-v0", 1, "sync", 2, ["what", "where"], kwargs)
    envs = make_vector_env(config)
    with pytest.raises(ConfigError, match=r"observations Text.* are not supported"):
        make_vector_env(EnvConfig("SmallCounter-v0", 1, "sync", 2, [], kwargs))
    assert envs.reset([0])[VECTOR].shape == (1, 2 * 3 + 2 * 3)
    envs.close()


class Leaving(gym.Env[Any, Any]):
    """Leaves in a way that no environment should.

    Args:
        kind: `close`, `close exit` or `hang`, when it is closed, or what its third step calls.
    """

    observation_space, action_space = Box(0, 9, (1,)), Discrete(2)

    def __init__(self, kind: str, owner: int = 0) -> None:
        self.kind, self.owner, self.t = kind, owner, 0
        if kind == "init":
            sys.exit(0)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        if self.t == 3:
            if self.kind == "exit":
                sys.exit(0)
            if self.kind == "generator":
                raise GeneratorExit
            if self.kind == "os":
                os._exit(7)
        return np.zeros(1, np.float32), 1.0, self.t % 9 == 0, False, {}

    def close(self) -> None:
        if self.kind == "close":
            raise ValueError("stuck")
        if self.kind == "close exit":
            sys.exit(0)
        if self.kind == "hang" and os.getpid() != self.owner:
            time.sleep(1000)


gym.register("Leaving-v0", Leaving)

LEAVING = pytest.mark.parametrize("backend", ["sync", "shared", "async"])


def left(kind: str, backend: str, tmp_path: Path, **given: Any) -> int:
    """Train in the environment, and return the exit code."""
    kwargs = [f"env.kwargs.{key}={value}" for key, value in given.items()]
    settings = ["total_env_steps=64", "rollout_steps=8", "env.num_envs=4", "eval_episodes=2"]
    with pytest.raises(SystemExit) as end:
        main(["train", "env.id=Leaving-v0", f"env.kwargs.kind={kind}", f"env.backend={backend}",
              *kwargs, *settings, "logger=csv", "checkpoint.interval=9",
              f"run_dir={tmp_path / 'run'}"])  # fmt: skip
    assert isinstance(end.value.code, int)
    return end.value.code


def summary_in(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_text())
    return found


@LEAVING
@pytest.mark.parametrize("kind", ["close", "close exit"])
def test_a_failing_close_is_told_and_changes_nothing(
    kind: str, backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    guard._REPORTED.clear()
    assert left(f"'{kind}'", backend, tmp_path) == 0
    assert summary_in(tmp_path)["status"] == "finished"
    told = capfd.readouterr().err
    assert "rlkl: env.id=Leaving-v0: close failed: " in told
    assert "Traceback" not in told
    assert not multiprocessing.active_children()


def test_a_close_without_end_is_ended(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    guard._REPORTED.clear()
    assert left("hang", "async", tmp_path, owner=os.getpid()) == 0
    assert "close failed: TimeoutError: it takes more than" in capfd.readouterr().err
    assert not multiprocessing.active_children()


@LEAVING
@pytest.mark.parametrize(
    ("kind", "words"), [("exit", "it called sys.exit(0)"), ("generator", "GeneratorExit")]
)
def test_an_environment_cannot_end_a_run_well(
    kind: str, words: str, backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert left(kind, backend, tmp_path) == 1
    summary = summary_in(tmp_path)
    assert summary["status"] == "failed"
    assert f"env.id=Leaving-v0: step failed: {words}" in summary["reason"]
    assert words in capfd.readouterr().err


@LEAVING
def test_an_exit_while_it_is_made_is_refused(
    backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert left("init", backend, tmp_path) == 2
    assert "could not be made: SystemExit: 0" in capfd.readouterr().err


def test_the_exit_code_of_a_dead_process_is_told(tmp_path: Path) -> None:
    assert left("os", "async", tmp_path) == 1
    assert "the process of a copy died (exit code 7)" in summary_in(tmp_path)["reason"]


@pytest.mark.parametrize("backend", ["shared", "async"])
def test_processes_of_environments_ignore_sigterm(backend: str) -> None:
    envs = make_vector_env(EnvConfig("CartPole-v1", 3, backend))
    try:
        envs.reset([0, 1, 2])
        for process in envs._envs.unwrapped.processes:
            os.kill(process.pid, signal.SIGTERM)
            os.kill(process.pid, signal.SIGHUP)
        assert envs.step(np.zeros(3, np.int64)).rewards.tolist() == [1, 1, 1]
    finally:
        envs.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("backend", ["shared", "async"])
def test_processes_end_with_a_script_that_closes_nothing(backend: str, tmp_path: Path) -> None:
    code = (
        "from rlkl.envs.make import EnvConfig, make_vector_env\n"
        f"envs = make_vector_env(EnvConfig('CartPole-v1', 3, '{backend}'))\n"
        "envs.reset([0, 1, 2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


SCRIPT = """
import multiprocessing, sys
import gymnasium as gym, numpy as np
import rlkl
from rlkl.envs.make import EnvConfig, make_vector_env

class Mine(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}
    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}

def main():
    gym.register("Mine-v0", Mine)
    envs = make_vector_env(EnvConfig("Mine-v0", 2, sys.argv[2]))
    envs.reset([0, 1])
    print(envs.step(np.zeros(2, np.int64)).rewards.tolist())
    envs.close()

if __name__ == "__main__" or sys.argv[3] == "bare":
    multiprocessing.set_start_method(sys.argv[1], force=True)
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("backend", ["shared", "async"])
def test_spawned_processes_know_a_scripts_environment(
    method: str, backend: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", method, backend]
    given: dict[str, Any] = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run([*command, "guarded"], check=False, **given)
    assert (done.stdout, done.returncode) == ("[1.0, 1.0]\n", 0), done.stderr
    bare = subprocess.run([*command, "bare"], check=False, **given)
    assert bare.returncode == 1
    assert 'train below: if __name__ == "__main__":' in bare.stderr.splitlines()[-1]
