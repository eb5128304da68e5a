"""`logger.info_keys`: means over steps and over episode ends, in the report and the logs."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from informed_tensors import InformedTensors
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_callbacks import TINY, rows_of, tiny

import rlkl
from rlkl.rollouts.joined import joined
from rlkl.rollouts.rollout import Episode
from rlkl.training.learner import Learner
from rlkl.training.run import Run
from rlkl.training.running_means import InfoTracker, info_numbers

nan = np.nan


class Rolled:
    """What the tracker reads of a rollout."""

    def __init__(self, infos: Any, is_transition: Any, ends: Any, kind: Any = np.array) -> None:
        self.infos, self.is_transition, self.ends = map(kind, (infos, is_transition, ends))


# Two steps of two sub-environments; the second of the first one is an autoreset step.
SPEED = [[[1.0], [2.0]], [[100.0], [nan]]]
STEPS, ENDS = [[True, True], [False, True]], [[True, False], [False, True]]


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_means_are_over_transitions(kind: Any) -> None:
    found = InfoTracker(["speed"]).add(Rolled(SPEED, STEPS, ENDS, kind))
    assert found == {"info/speed": 1.5}


def test_last_numbers_are_of_a_hundred_episodes() -> None:
    tracker = InfoTracker(["speed:last"])
    assert tracker.add(Rolled(SPEED, STEPS, ENDS)) == {"info/speed_last": 1.0}
    assert tracker.add(Rolled(SPEED, STEPS, [[True, True]] * 2)) == {
        "info/speed_last": pytest.approx(4 / 3)
    }
    fives = Rolled([[[5.0]]] * 98, [[True]] * 98, [[True]] * 98)
    # The first of 101 is dropped.
    assert tracker.add(fives)["info/speed_last"] == pytest.approx((1 + 2 + 98 * 5) / 100)
    other = InfoTracker(["speed:last", "other:last"])
    other.load_state_dict(tracker.state_dict())
    assert other.state_dict() == {"info/speed_last": [1, 2, *[5] * 98], "info/other_last": []}


def test_iteration_without_numbers_has_none() -> None:
    found = InfoTracker(["speed", "is_success"]).add(Rolled([[[nan, 1.0]]], [[True]], [[False]]))
    assert np.isnan([found["info/speed"], found["info/success_rate"]]).all()


def test_numbers_of_autoreset_steps_are_not_seen() -> None:
    tracker = InfoTracker(["speed"])
    found = tracker.add(Rolled([[[nan], [nan]], [[100.0], [nan]]], STEPS, ENDS))
    assert np.isnan(found["info/speed"])
    assert tracker.warning("Walk-v0").endswith("with the key speed so far")


def test_success_without_a_form_is_a_rate() -> None:
    tags = [number.tag for number in info_numbers(["is_success", "is_success:mean"])]
    assert tags == ["info/success_rate", "info/is_success"]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["a b"], "logger.info_keys=a b: expected a key of infos, such as speed"),
        (["a:max"], "logger.info_keys=a:max: expected"),
        (["a,b"], "expected a key"),
        (["größe"], "expected a key"),
        ([""], "expected a key"),
        (["a", "a:mean"], "logger.info_keys=a:mean: info/a is there already"),
        (["a:last", "a_last"], "info/a_last is there already"),
    ],
)
def test_unusable_keys_are_refused(entries: list[str], words: str) -> None:
    with pytest.raises(rlkl.ConfigError, match=words):
        rlkl.LoggerConfig(info_keys=entries)


class Walk(gym.Env[Any, Any]):
    """Episodes of 2 to 5 steps, by the seed; every second one is a success."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    episodes = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.length = 0, int(self.np_random.integers(2, 6))
        self.episodes += 1
        return np.zeros(1, "f4"), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        ended = self.steps == self.length
        info = {"is_success": ended and self.episodes % 2 == 0, "length": self.length}
        return np.zeros(1, "f4"), 1.0, ended, False, info

    def get_state(self) -> dict[str, Any]:
        state = self.np_random.bit_generator.state["state"]
        return {
            "all": [self.steps, self.length, self.episodes],
            "random": [*map(str, state.values())],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.steps, self.length, self.episodes = state["all"]
        known = self.np_random.bit_generator.state
        known["state"] = dict(zip(("state", "inc"), map(int, state["random"]), strict=True))
        self.np_random.bit_generator.state = known


gym.register("SmallWalk-v0", entry_point=Walk)


def walking(run: Path, keys: list[str], **settings: Any) -> rlkl.TrainConfig:
    logger = rlkl.LoggerConfig(progress="none", info_keys=keys)
    env = replace(TINY["env"], id="SmallWalk-v0")
    return tiny(run, env=env, logger=logger, eval_episodes=0, **settings)


def test_numbers_reach_the_logs(tmp_path: Path) -> None:
    run = tmp_path / "run"
    rlkl.train(walking(run, ["is_success", "length:last"]))
    rows = rows_of(run)
    assert list(rows[0])[-2:] == ["info/success_rate", "info/length_last"]
    # Both sub-environments succeed in every second episode, beginning with the second.
    episodes = [line.split(",") for line in (run / "episodes.csv").read_text().splitlines()[1:]]
    lengths = [int(episode[2]) for episode in episodes]
    for row in rows:
        count = int(float(row["episode/count"]))
        assert float(row["info/length_last"]) == pytest.approx(np.mean(lengths[:count][-100:]))
        assert abs(float(row["info/success_rate"]) - 0.5) <= 1 / count
    events = EventAccumulator(str(run))
    events.Reload()
    shown = [scalar.value for scalar in events.Scalars("info/success_rate")]
    assert shown == pytest.approx([float(row["info/success_rate"]) for row in rows])


def test_other_results_do_not_change(tmp_path: Path) -> None:
    for name, keys in (("with", ["length"]), ("without", [])):
        rlkl.train(walking(tmp_path / name, keys))
    with_, without = (rows_of(tmp_path / name) for name in ("with", "without"))
    for row, plain in zip(with_, without, strict=True):
        assert float(row.pop("info/length")) > 0
        kept = {key for key in plain if not key.startswith("time/")}
        assert {key: row[key] for key in kept} == {key: plain[key] for key in kept}


def test_ranks_join_their_numbers(tmp_path: Path) -> None:
    with closing(Learner(walking(tmp_path, ["length"]))) as learner:
        parts = [learner.collector.collect() for _ in range(2)]
    whole = joined(parts).infos
    assert whole is not None
    assert whole.shape == (16, 4, 1)
    np.testing.assert_array_equal(whole[:, 2:], parts[1].infos)
    np.testing.assert_array_equal(whole[:, :2], parts[0].infos)


class Interrupts:
    """Fails at an iteration."""

    def log(self, report: rlkl.Report) -> None:
        if report.env_steps == 96:
            raise RuntimeError("the power went")

    def close(self, status: str) -> None:
        pass


def test_resumed_run_has_the_same_numbers(tmp_path: Path) -> None:
    keys = ["is_success", "length"]
    whole = walking(tmp_path / "whole", keys, checkpoint=rlkl.CheckpointConfig(interval=1))
    rlkl.train(whole)
    cut = replace(whole, run_dir=str(tmp_path / "cut"))
    with pytest.raises(RuntimeError, match="power"):
        rlkl.train(cut, loggers=[Interrupts()])
    rlkl.resume(tmp_path / "cut")
    for key in ("info/success_rate", "info/length"):
        first, second = ([row[key] for row in rows_of(tmp_path / n)] for n in ("whole", "cut"))
        assert first == second
        assert all(first)


def test_unseen_key_is_reported_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    summary = rlkl.train(walking(tmp_path / "run", ["length", "lenght", "is_succes:last"]))
    assert summary.status == "finished"
    assert capfd.readouterr().err == (
        "rlkl: logger.info_keys: no info of SmallWalk-v0 has had a number with the key lenght, "
        "is_succes so far\n"
    )
    assert {row["info/lenght"] for row in rows_of(tmp_path / "run")} == {""}


def test_resumed_run_waits_for_an_episode_end(capfd: pytest.CaptureFixture[str]) -> None:
    tracker = SimpleNamespace(count=3, longest=9)  # episodes ended before the run was resumed
    infos, config = InfoTracker(["is_success"]), rlkl.TrainConfig()
    run = Run.__new__(Run)
    run.learner = SimpleNamespace(tracker=tracker, infos=infos, config=config, env_steps=8)  # type: ignore[assignment]
    run._last_episode_end, run._warned_of_endless_episodes = 0, False
    run._warn(rlkl.Report(8, {}, {}))
    assert capfd.readouterr().err == ""
    run._warn(rlkl.Report(16, {}, {}, (Episode(16, 1.0, 5),)))
    assert "a number with the key is_success so far" in capfd.readouterr().err


def test_tensor_run_averages_numbers(tmp_path: Path) -> None:
    gym.register("SmallInformedTensors-v0", vector_entry_point=lambda num_envs: InformedTensors())
    logger = rlkl.LoggerConfig(progress="none", info_keys=["speed", "is_success", "speed:last"])
    env = rlkl.EnvConfig("SmallInformedTensors-v0", 2, "tensor")
    config = tiny(tmp_path / "run", env=env, logger=logger, rollout_steps=3, eval_episodes=0)
    rlkl.train(replace(config, total_env_steps=12))
    (first, second) = rows_of(tmp_path / "run")
    assert first["info/speed"] == second["info/speed"] == "20.0"
    assert (first["info/success_rate"], second["info/speed_last"]) == ("1.0", "30.0")
