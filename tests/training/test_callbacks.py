"""Callbacks: when they are called, what they log, how they end a run, and how they fail."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from several_ranks import on_ranks

import rlkl
from rlkl.training.callbacks import CallbackError
from rlkl.training.checkpoint import load_checkpoint
from rlkl.training.report import Report, check_own_tag

TINY: dict[str, Any] = {
    "algo": rlkl.PPOClipConfig(num_epochs=1, num_minibatches=1),
    "env": rlkl.EnvConfig("CartPole-v1", num_envs=2, backend="sync"),
    "policy": rlkl.PolicyConfig(actor_hidden_sizes=[4], critic_hidden_sizes=[4]),
    "critic": rlkl.CriticConfig(num_epochs=1, num_minibatches=1),
    "rollout_steps": 16,
    "total_env_steps": 128,
    "eval_episodes": 1,
    "eval_max_episode_steps": 50,
    "logger": rlkl.LoggerConfig(tensorboard=False, progress="none"),
}


def tiny(run_dir: Path, **settings: Any) -> rlkl.TrainConfig:
    """Return the config of a run of 4 iterations of 32 steps."""
    return rlkl.TrainConfig(**TINY | {"run_dir": str(run_dir)} | settings)


def rows_of(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def summary_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


class Diary(rlkl.Callback):
    """Notes every event."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_run_begin(self, learner: Any, run_dir: Path) -> None:
        self.events.append(("begin", learner.iterations, run_dir.is_dir()))

    def on_rollout(self, learner: Any, rollout: Any) -> None:
        self.events.append(("rollout", learner.iterations, rollout.rewards.shape))

    def on_update(self, learner: Any, report: Report) -> None:
        self.events.append(("update", learner.iterations, report.env_steps))

    def on_evaluation(self, learner: Any, report: Report, evaluation: Any) -> None:
        shown = report.scalars["return/eval"] == evaluation.mean_return
        self.events.append(("evaluation", learner.iterations, shown))

    def on_run_end(self, learner: Any, summary: rlkl.Summary) -> None:
        self.events.append(("end", learner.iterations, summary.status))


def test_events_come_in_order(tmp_path: Path) -> None:
    diary = Diary()
    config = tiny(tmp_path / "run", total_env_steps=96, eval_interval=2)
    rlkl.train(config, callbacks=[diary])
    each: Callable[[int], list[Any]] = lambda i: [  # noqa: E731
        ("rollout", i - 1, (16, 2)),
        ("update", i, 32 * i),
    ]
    assert diary.events == [
        ("begin", 0, True),
        *each(1),
        *each(2),
        ("evaluation", 2, True),
        *each(3),
        ("evaluation", 3, True),
        ("end", 3, "finished"),
    ]


class Solved(rlkl.Callback):
    """Ends the run in an event of an iteration."""

    def __init__(self, method: str, at: int) -> None:
        def stop(learner: Any, *given: Any) -> rlkl.Stop | None:
            return rlkl.Stop("solved") if learner.iterations >= at else None

        setattr(self, method, stop)


@pytest.mark.parametrize(
    ("method", "interval"), [("on_update", 0), ("on_evaluation", 1), ("on_update", 2)]
)
def test_stop_finishes_with_an_evaluation(tmp_path: Path, method: str, interval: int) -> None:
    run = tmp_path / "run"
    diary = Diary()
    summary = rlkl.train(tiny(run, eval_interval=interval), callbacks=[Solved(method, 2), diary])
    assert (summary.status, summary.reason, summary.iterations) == ("finished", "solved", 2)
    assert summary.eval_return is not None
    assert len(rows_of(run)) == 2
    assert float(rows_of(run)[-1]["return/eval"]) == summary.eval_return
    assert [event[:2] for event in diary.events if event[0] == "evaluation"][-1] == (
        "evaluation",
        2,
    )
    assert diary.events[-1] == ("end", 2, "finished")
    assert summary_of(run)["reason"] == "solved"


def test_ended_run_is_finished_until_its_budget_grows(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = tiny(run)
    rlkl.train(config, callbacks=[Solved("on_update", 1)])
    expected = r"is finished, with 32 environment steps \(solved\); .* total_env_steps=256$"
    with pytest.raises(rlkl.ConfigError, match=expected):
        rlkl.resume(run)
    summary = rlkl.resume(run, lambda before: replace(before, total_env_steps=160))
    assert (summary.status, summary.reason, summary.env_steps) == ("finished", "", 160)


def test_stop_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="expected a reason"):
        rlkl.Stop(" ")


class Counter(rlkl.Callback):
    """Logs the sum of all rewards so far, and keeps it in checkpoints."""

    tags = ("custom/rewards", "mine/half.of-it")

    def __init__(self) -> None:
        self.total, self.last = 0.0, torch.zeros(1)

    def on_rollout(self, learner: Any, rollout: Any) -> None:
        self.total += float(rollout.rewards.sum())

    def on_update(self, learner: Any, report: Report) -> None:
        report.log("custom/rewards", self.total)
        if learner.iterations % 2:
            report.log("mine/half.of-it", self.total / 2)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "last": self.last, "nested": [{"a": (1, None, "b")}]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["nested"] == [{"a": (1, None, "b")}]
        self.total = state["total"]


def test_numbers_are_columns(tmp_path: Path) -> None:
    rlkl.train(tiny(tmp_path / "run"), callbacks=[Counter()])
    rows = rows_of(tmp_path / "run")
    assert list(rows[0])[-2:] == ["custom/rewards", "mine/half.of-it"]
    # CartPole gives 1 in every step.
    assert [row["custom/rewards"] for row in rows] == ["32.0", "64.0", "96.0", "128.0"]
    assert [row["mine/half.of-it"] for row in rows] == ["16.0", "", "48.0", ""]


def test_resumed_callback_continues_from_its_state(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = tiny(run, checkpoint=rlkl.CheckpointConfig(interval=1))
    with pytest.raises(CallbackError):
        rlkl.train(config, callbacks=[Counter(), Fails("on_update", 3)])
    saved = load_checkpoint(run / "checkpoints" / "last.pt")
    assert saved["run"]["callbacks"]["Counter"]["total"] == 96.0
    rlkl.resume(run, callbacks=[Counter()])
    assert [row["custom/rewards"] for row in rows_of(run)] == ["32.0", "64.0", "96.0", "128.0"]
    assert capfd.readouterr().err == ""


def test_missing_callback_is_reported_and_its_state_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(CallbackError):
        rlkl.train(tiny(run), callbacks=[Counter(), Fails("on_update", 2)])
    rlkl.resume(run)
    told = capfd.readouterr().err
    assert "has the state of the callback Counter, which is missing here" in told
    assert [row["custom/rewards"] for row in rows_of(run)] == ["32.0", "64.0", "", ""]
    saved = load_checkpoint(run / "checkpoints" / "last.pt")
    assert saved["run"]["callbacks"]["Counter"]["total"] == 64.0


def test_late_callback_has_no_columns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    rlkl.train(tiny(run))
    seen: list[float] = []

    class Recorder:
        def log(self, report: Report) -> None:
            seen.append(report.scalars["custom/rewards"])

        def close(self, status: str) -> None:
            seen.append(-1.0)

    def longer(config: rlkl.TrainConfig) -> rlkl.TrainConfig:
        return replace(config, total_env_steps=160)

    summary = rlkl.resume(run, longer, [Recorder()], callbacks=[Counter()])
    assert (summary.status, seen) == ("finished", [32.0, -1.0])
    assert "custom/rewards" not in rows_of(run)[0]
    told = capfd.readouterr().err
    assert "metrics.csv has no columns for custom/rewards, mine/half.of-it" in told


class Fails(rlkl.Callback):
    """Raises in an event of an iteration."""

    def __init__(self, method: str, at: int, error: BaseException | None = None) -> None:
        def fail(learner: Any, *given: Any) -> None:
            if learner.iterations >= at:
                raise error or ValueError("no\nmap")

        setattr(self, method, fail)


@pytest.mark.parametrize(
    ("method", "iterations", "rows"),
    [
        ("on_run_begin", 0, 0),
        ("on_rollout", 1, 1),
        ("on_update", 2, 2),
        ("on_evaluation", 2, 2),
        ("on_run_end", 4, 4),
    ],
)
def test_failure_names_the_callback(
    tmp_path: Path, method: str, iterations: int, rows: int
) -> None:
    run = tmp_path / "run"
    config = tiny(run, eval_interval=2, checkpoint=rlkl.CheckpointConfig(interval=1))
    diary = Diary()
    fails = Fails(method, iterations)
    # on_rollout and on_run_begin are only called where a class has them
    if method == "on_rollout":
        fails = type("Fails", (Fails,), {"on_rollout": fails.on_rollout})(method, iterations)
    with pytest.raises(CallbackError) as told:
        rlkl.train(config, callbacks=[fails, diary])
    line = f"callback Fails: {method} failed: ValueError: no map"
    assert str(told.value) == line
    summary = summary_of(run)
    assert (summary["status"], summary["reason"]) == ("failed", f"CallbackError: {line}")
    assert len(rows_of(run)) == rows
    assert diary.events[-1][0] == ("end" if method != "on_run_end" else "evaluation")
    if method != "on_run_end":
        assert rlkl.resume(run).status == "finished"
        assert len(rows_of(run)) == 4


def test_exit_in_a_callback_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(CallbackError, match=r"^callback Fails: on_update failed: SystemExit: 3$"):
        rlkl.train(tiny(tmp_path / "run"), callbacks=[Fails("on_update", 1, SystemExit(3))])


def returns(value: Any) -> rlkl.Callback:
    class Odd(rlkl.Callback):
        def on_update(self, learner: Any, report: Report) -> Any:
            return value

    return Odd()


def logs(log: Callable[[Report], Any], *names: str) -> rlkl.Callback:
    class Odd(rlkl.Callback):
        tags = names

        def on_update(self, learner: Any, report: Report) -> None:
            log(report)

    return Odd()


class Holds(rlkl.Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"net": [np.zeros(2)]}


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (returns(True), "on_update returned bool; expected None, or Stop('reason')"),
        (
            logs(lambda report: report.log("custom/a", 1.0)),
            "on_update logged custom/a, which is not in its tags; write tags = ('custom/a',)",
        ),
        (logs(lambda report: report.log("kl/old_new", 1.0)), "the prefix kl/ is rlkl's own"),
        (logs(lambda report: report.log("plain", 1.0)), "tag 'plain': expected a prefix"),
        (
            logs(lambda report: report.log_image("custom/a", np.zeros((2, 2)))),
            "has shape (2, 2) and type float64; expected (H, W, 3) and uint8",
        ),
        (
            logs(lambda report: report.log_video("custom/a", np.zeros((2, 2, 3), "u1"))),
            "expected (T, H, W, 3)",
        ),
    ],
    ids=range(6),
)
def test_wrong_use_is_one_line(tmp_path: Path, callback: rlkl.Callback, message: str) -> None:
    with pytest.raises(CallbackError) as told:
        rlkl.train(tiny(tmp_path / "run"), callbacks=[callback])
    assert str(told.value).startswith("callback Odd: ")
    assert message in str(told.value)
    assert "\n" not in str(told.value)


def test_state_must_be_data(tmp_path: Path) -> None:
    with pytest.raises(CallbackError, match="callback Holds: state_dict has an object of type nd"):
        rlkl.train(tiny(tmp_path / "run"), callbacks=[Holds()])


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([object()], "expected objects of subclasses of rlkl.Callback, such as .* one is object"),
        ([Counter], "one is the class Counter"),
        ([logs(print, "kl/mine")], "callback Odd: tag kl/mine: the prefix kl/ is rlkl's own"),
        ([logs(print, "info/mine")], "prefix info/ is rlkl's own"),
        ([logs(print, "a,b/c")], "tag 'a,b/c': expected a prefix and a name"),
        ([Counter(), Counter()], "callback Counter: Counter logs the tag custom/rewards too"),
    ],
    ids=range(6),
)
def test_unusable_callbacks_create_nothing(
    tmp_path: Path, callbacks: list[Any], message: str
) -> None:
    with pytest.raises(rlkl.ConfigError, match=message):
        rlkl.train(tiny(tmp_path / "run"), callbacks=callbacks)
    assert not (tmp_path / "run").exists()


def test_own_tags_have_a_prefix() -> None:
    for tag in ("custom/a", "Mine/a_b/c.d-e"):
        check_own_tag(tag)
    for tag in ("time/a", "a", "/a", "a/", "a b/c", "a/ü", "a/b\n", 3):
        with pytest.raises(ValueError, match="tag"):
            check_own_tag(tag)


def train_until_solved(ranks: Any, run_dir: Path) -> tuple[Any, ...]:
    """Train on this rank; return how the run ended, and how often the callback was called."""
    diary = Diary()
    config = tiny(run_dir, env=replace(TINY["env"], num_envs=4))
    summary = rlkl.train(config, callbacks=[Solved("on_update", 1), diary])
    return summary.status, summary.reason, summary.iterations, len(diary.events)


@pytest.mark.slow
def test_all_ranks_follow_a_stop(tmp_path: Path) -> None:
    work = partial(train_until_solved, run_dir=tmp_path / "run")
    first, second = on_ranks(2, tmp_path, work)
    # begin, rollout, update, evaluation, end; and none on the second rank
    assert first == ("finished", "solved", 1, 5)
    assert second == ("finished", "solved", 1, 0)
