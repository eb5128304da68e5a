"""Resuming: to the bits of a run that was never stopped, and in one line where it cannot be."""

import errno
import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked_python
import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from learning_loop import CORE, config_of, iterate
from made_runs import save_checkpoint
from same_runs import assert_same_run, rows

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.cli import main
from rlkl.training.checkpoint import load_checkpoint, numbered
from rlkl.training.evaluation import Evaluation
from rlkl.training.learner import Learner
from rlkl.training.report import Report
from rlkl.utils.atomic_files import FolderLock
from rlkl.utils.errors import BrokenEnvironmentError

QUIET = rlkl.LoggerConfig(tensorboard=False, progress="none")


class Screen(gym.Env[Any, Any]):
    """An image that shows how many steps the episode has, and chance; unknown to rlkl."""

    observation_space = gym.spaces.Box(0, 255, (4, 4), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def _look(self) -> Any:
        image = self.np_random.integers(0, 256, (4, 4)).astype(np.uint8)
        image[0] = self.t
        return image

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.t = 0
        return self._look(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        ended = bool(self.np_random.random() < 0.1)
        return self._look(), float(action), ended, self.t == 12, {}


class TellingScreen(Screen):
    """The same, but that its state can be had."""

    def get_state(self) -> Any:
        return {"t": self.t}

    def set_state(self, state: Any) -> None:
        self.t = state["t"]


class Tires(gym.Wrapper[Any, Any, Any, Any]):
    """Rewards less with every episode, and says how many there were."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.episodes = np.zeros(1)

    def reset(self, **given: Any) -> Any:
        self.episodes[0] += 1
        return self.env.reset(**given)

    def step(self, action: Any) -> Any:
        observation, reward, *rest = self.env.step(action)
        return observation, float(reward) / float(self.episodes[0]), *rest

    def get_state(self) -> Any:
        return self.episodes

    def set_state(self, state: Any) -> None:
        self.episodes = state


@pytest.fixture(autouse=True)
def screen() -> Iterator[None]:
    gym.register("ResumedScreen-v0", Screen)
    gym.register("ResumedTelling-v0", lambda: Tires(TellingScreen()), max_episode_steps=9)
    yield
    del gym.registry["ResumedScreen-v0"], gym.registry["ResumedTelling-v0"]


SMALL = rlkl.PolicyConfig([8], [8], image_features=8)
WORLDS: dict[str, dict[str, Any]] = {
    "cartpole": {"env": rlkl.EnvConfig("CartPole-v1", 8)},
    "pendulum": {
        "env": rlkl.EnvConfig("Pendulum-v1", 2),
        "normalize_observations": True,
        "scale_rewards": True,
    },
    "cheetah": {"env": rlkl.EnvConfig("HalfCheetah-v5", 2), "scale_rewards": True},
    "image": {"env": rlkl.EnvConfig("ResumedScreen-v0", 2), "policy": SMALL, "scale_rewards": True},
    "own": {"env": rlkl.EnvConfig("ResumedTelling-v0", 2), "policy": SMALL},
    "memory": {
        "env": rlkl.EnvConfig("CartPole-v1", 2),
        "policy": replace(SMALL, memory="gru", memory_size=8),
    },
    "memory_of_images": {
        "env": rlkl.EnvConfig("ResumedScreen-v0", 2),
        "policy": replace(SMALL, memory="lstm", memory_size=8),
    },
    "walker": {"env": rlkl.EnvConfig("BipedalWalker-v3", 2)},
    "processes": {"env": rlkl.EnvConfig("CartPole-v1", 2, "async"), "normalize_observations": True},
}
FIRST = {
    ("ppo_kl", "cartpole"), ("trpo", "pendulum"), ("ppo_clip", "image"), ("trpo", "memory"),
}  # fmt: skip
CASES = [
    pytest.param(algo, world, marks=() if (algo, world) in FIRST else pytest.mark.slow)
    for algo in ALGORITHMS
    for world in (WORLDS if algo in CORE else ("cartpole", "pendulum"))
]


def config(run_dir: Path, algo: str = "ppo_clip", **changes: Any) -> rlkl.TrainConfig:
    settings: dict[str, Any] = {
        "algo": config_of(algo, num_epochs=2, num_minibatches=2),
        "critic": rlkl.CriticConfig(num_epochs=1, num_minibatches=2),
        "env": rlkl.EnvConfig("CartPole-v1", 2),
        "policy": SMALL,
        "rollout_steps": 8,
        "eval_episodes": 2,
        "logger": QUIET,
        "checkpoint": rlkl.CheckpointConfig(interval=2),
        "run_dir": str(run_dir),
    }
    settings |= changes
    size = settings["env"].num_envs * settings["rollout_steps"]
    return rlkl.TrainConfig(**{"total_env_steps": 7 * size - size // 2} | settings)


class Falls:
    """A logger that ends the run at an iteration, before anything of it is kept."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.left = at
        self.error = error

    def log(self, report: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error

    def close(self, status: str) -> None:
        pass


def broken(config: rlkl.TrainConfig, at: int) -> Path:
    """Begin a run that is lost in an iteration."""
    with pytest.raises(RuntimeError, match="power"):
        rlkl.Trainer(config).train(loggers=[Falls(at, RuntimeError("the power went"))])
    return Path(str(config.run_dir))


@pytest.mark.parametrize(("algo", "world"), CASES)
def test_lost_run_resumes_with_the_same_bits(algo: str, world: str, tmp_path: Path) -> None:
    if world in ("cheetah", "walker"):
        pytest.importorskip({"cheetah": "mujoco", "walker": "Box2D"}[world])
    rlkl.train(config(tmp_path / "whole", algo, **WORLDS[world]))
    run = broken(config(tmp_path / "lost", algo, **WORLDS[world]), at=6)
    assert len(rows(run)) == 6  # of which two are behind the checkpoint
    summary = rlkl.resume(run)
    assert (summary.status, summary.iterations) == ("finished", 7)
    assert_same_run(tmp_path / "whole", run)


@pytest.mark.slow
def test_run_lost_at_any_iteration_resumes_exactly(tmp_path: Path) -> None:
    rlkl.train(config(tmp_path / "whole"))
    for at in (1, 2, 4, 5, 7):
        run = broken(config(tmp_path / f"lost-{at}"), at)
        rlkl.resume(run)
        assert_same_run(tmp_path / "whole", run)
    run = broken(config(tmp_path / "often"), 3)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="again"):
            rlkl.resume(run, loggers=[Falls(3, RuntimeError("again"))])
    rlkl.resume(run)
    assert_same_run(tmp_path / "whole", run)


@pytest.mark.parametrize("world", ["cartpole", "image"])
def test_a_run_that_was_interrupted_goes_on(world: str, tmp_path: Path) -> None:
    class Interrupts(Falls):
        def log(self, *_: Any) -> None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    rlkl.train(config(tmp_path / "whole", **WORLDS[world]))
    trainer = rlkl.Trainer(config(tmp_path / "stopped", **WORLDS[world]))
    summary = trainer.train(loggers=[Interrupts(3, SystemExit())])
    assert (summary.status, summary.reason, summary.iterations) == ("stopped", "interrupted", 3)
    state = load_checkpoint(tmp_path / "stopped" / "checkpoints" / "last.pt")
    assert state["iterations"] == 3
    assert state["resumable"] == (world == "cartpole")
    rlkl.resume(tmp_path / "stopped")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_resume_skips_a_damaged_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rlkl.train(config(tmp_path / "whole"))
    plain = replace(QUIET, progress="plain")
    run = broken(config(tmp_path / "lost", logger=plain), at=6)
    newest, older, *_ = numbered(run / "checkpoints")
    for path in (newest, run / "checkpoints" / "last.pt"):
        path.write_bytes(path.read_bytes()[:-9])
    capsys.readouterr()
    rlkl.resume(run)
    printed = capsys.readouterr().out
    assert f"{newest} is not a checkpoint that can be read" in printed
    assert f"resumed from {older}" in printed
    assert_same_run(tmp_path / "whole", run)


def test_resume_cuts_a_half_written_row(tmp_path: Path) -> None:
    rlkl.train(config(tmp_path / "whole"))
    run = broken(config(tmp_path / "lost"), at=6)
    for name in ("metrics.csv", "episodes.csv"):
        with (run / name).open("a") as file:
            file.write("99,0.12")
    kept = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text("".join(kept.splitlines(keepends=True)[:3]))
    with pytest.raises(rlkl.ConfigError, match=r"metrics\.csv has 2 rows .* checkpoint's 4 rows"):
        rlkl.resume(run)
    (run / "metrics.csv").write_text(kept)
    rlkl.resume(run)
    assert_same_run(tmp_path / "whole", run)


def test_checkpoints_are_kept_by_the_rule(tmp_path: Path) -> None:
    checkpoint = rlkl.CheckpointConfig(interval=2, keep=2)
    trainer = rlkl.Trainer(config(tmp_path / "run", checkpoint=checkpoint))
    means: dict[int, float] = {}

    class Watches(Falls):
        def log(self, report: Any) -> None:
            self.left += 1
            means[self.left] = report.scalars["return/train"]

    trainer.train(loggers=[Watches(0, SystemExit())])
    folder = tmp_path / "run" / "checkpoints"
    assert [load_checkpoint(path)["iterations"] for path in numbered(folder)] == [6, 4]
    assert load_checkpoint(folder / "last.pt")["iterations"] == 7
    best = max((k for k in means if not math.isnan(means[k])), key=lambda k: means[k])
    assert load_checkpoint(folder / "best.pt")["iterations"] == best
    names = {path.name for path in folder.iterdir()}
    assert names == {"last.pt", "best.pt", *(path.name for path in numbered(folder))}


def test_checkpoints_recreate_only_environments_without_state(
    tmp_path: Path,
) -> None:
    def weights(world: str, interval: int | None) -> torch.Tensor:
        trainer = rlkl.Trainer(
            config(
                tmp_path / f"{world}-{interval}",
                checkpoint=rlkl.CheckpointConfig(interval),
                **WORLDS[world],
            )
        )
        assert ("environments reset every" in trainer.learner.title) == (world == "image")
        trainer.train()
        return trainer.policy.actor_parameters.vector.detach().clone()

    assert torch.equal(weights("cartpole", 2), weights("cartpole", None))
    assert not torch.equal(weights("image", 2), weights("image", None))
    resolved = yaml.safe_load((tmp_path / "image-None" / "config.yaml").read_text())
    assert resolved["checkpoint"]["interval"] == 10


@pytest.mark.parametrize(
    ("total_env_steps", "rollout_steps", "limit", "interval"),
    [
        (100_000, 128, None, 39),  # of 391 iterations of 2 environments
        (1_000, 128, None, 10),
        (10_000_000, 128, None, 100),
        (100_000, 128, 1000, 39),
        (1_000, 128, 1000, 16),  # 2 × 1000 steps
        (1_000, 16, 100_000, 100),
    ],
)
def test_interval_is_a_tenth_where_episodes_are_cut(
    total_env_steps: int, rollout_steps: int, limit: int | None, interval: int, tmp_path: Path
) -> None:
    gym.spec("ResumedScreen-v0").max_episode_steps = limit
    changes = {"rollout_steps": rollout_steps, "checkpoint": rlkl.CheckpointConfig()}
    given = config(tmp_path, **WORLDS["image"], **changes, total_env_steps=total_env_steps)
    learner = Learner(given)
    assert learner.checkpoint_interval == interval
    assert learner.resolved_config.checkpoint.interval == interval
    learner.close()


def test_own_environments_resume_from_their_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(interval: int) -> torch.Tensor:
        checkpoint = rlkl.CheckpointConfig(interval)
        given = config(tmp_path / f"{interval}", checkpoint=checkpoint, **WORLDS["own"])
        trainer = rlkl.Trainer(given)
        assert "environments reset every" not in trainer.learner.title
        trainer.train()
        return trainer.policy.actor_parameters.vector.detach().clone()

    assert torch.equal(weights(1), weights(50))  # checkpoints change nothing
    run = broken(config(tmp_path / "lost", **WORLDS["own"]), at=6)
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.name != ".lock"}
    with monkeypatch.context() as patch:
        patch.delattr(TellingScreen, "set_state")
        patch.delattr(TellingScreen, "get_state")
        with pytest.raises(rlkl.ConfigError, match=r"set_state\(\) of TellingScreen .*fix it, or"):
            rlkl.resume(run)
    assert {path: path.read_bytes() for path in run.rglob("*.*") if path.name != ".lock"} == before

    given: list[Any] = []

    def get_state(self: TellingScreen) -> Any:
        given.append(self.t)
        return {"t": self.t} if len(given) < 9 else {self.t}

    monkeypatch.setattr(TellingScreen, "get_state", get_state)
    with pytest.raises(BrokenEnvironmentError, match=r"get_state\(\) of TellingScreen returned"):
        rlkl.train(config(tmp_path / "fails", **WORLDS["own"]))
    assert numbered(tmp_path / "fails" / "checkpoints")
    summary = json.loads((tmp_path / "fails" / "summary.json").read_text())
    assert (summary["status"], "builtins.set" in summary["reason"]) == ("failed", True)
    monkeypatch.setattr(TellingScreen, "get_state", lambda self: {self.t})
    with pytest.raises(rlkl.ConfigError, match=r"^env\.id=ResumedTelling-v0: get_state\(\) of"):
        rlkl.train(config(tmp_path / "refused", **WORLDS["own"]))
    assert not (tmp_path / "refused").exists()


def test_checkpoint_without_environment_state_recreates_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.delattr(TellingScreen, "set_state")
        rlkl.train(config(run, **WORLDS["own"]))
    learner = Learner(config(run, **WORLDS["own"]))
    path = numbered(run / "checkpoints")[0]
    before, recreated = learner.envs, []
    monkeypatch.setattr(
        learner, "recreate_environments", lambda: recreated.append(learner.envs is before)
    )
    learner.load_state_dict(load_checkpoint(path))
    assert recreated == [True]
    learner.envs.close()


def test_cut_episodes_count_only_for_reward_scale() -> None:
    learner = Learner(config(Path("nowhere"), **WORLDS["image"]))
    learner.iterate()
    collector, scaler = learner.collector, learner.reward_scaler
    assert collector._lengths_under_way.any()
    assert scaler is not None
    assert scaler._returns.any()
    learner.recreate_environments()
    assert not collector._lengths_under_way.any()
    assert not scaler._returns.any()
    rollout, _ = iterate(learner)
    assert rollout.begins[0].all()
    (image,) = rollout.observations.values()
    learner.recreate_environments()
    (other,) = learner.collector.collect().observations.values()
    assert not np.array_equal(other[0], image[0])


REFUSED = {
    "env.id=Pendulum-v1": "keeps env.id=CartPole-v1",
    "policy.actor_gain=3": "policy.actor_gain",
    "algo=trpo": "takes keys with one value each",
    "algo.name=trpo": "keeps algo.name=ppo_clip",
    "algo.max_kl=1": "has no such key",
    "seed=4": "keeps seed=0",
    "env.num_envs=4": "keeps env.num_envs=2",
    "env.kwargs.x=4": "cannot add env.kwargs.x",
    "rollout_steps=4": "keeps rollout_steps=8",
    "scale_rewards=true": "keeps scale_rewards=False",
    "run_dir=elsewhere": "keeps run_dir",
    "device=cuda": "keeps device=cpu",
    "total_env_stps=5": "did you mean total_env_steps",
    "total_env_steps=1,2": "takes keys with one value each",
    "total_env_steps=-5": "at least 1",
    "algo.learning_rate=fast": "algo.learning_rate=fast: expected a number",
}


def test_fixed_settings_cannot_change_on_resume(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = broken(config(tmp_path / "lost"), at=6)
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.name != ".lock"}
    for change, words in REFUSED.items():
        with pytest.raises(SystemExit) as end:
            main(["resume", str(run), change])
        assert end.value.code == 2
        errors = capfd.readouterr().err
        assert errors.count("\n") == 1
        assert words in errors, change
    after = {path: path.read_bytes() for path in run.rglob("*.*") if path.name != ".lock"}
    assert before == after


def test_finished_run_continues_with_a_larger_budget(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = rlkl.train(config(tmp_path / "run"))
    original = (tmp_path / "run" / "config.yaml").read_bytes()

    def command(*arguments: str) -> Any:
        with pytest.raises(SystemExit) as end:
            main(["resume", str(tmp_path / "run"), *arguments])
        return end.value.code

    assert command() == 2
    errors = capfd.readouterr().err
    assert f"finished, with {summary.env_steps} environment steps" in errors
    assert f"total_env_steps={2 * summary.env_steps}" in errors
    more = ("total_env_steps=400", "algo.learning_rate=0.001", "logger.progress=plain")
    assert command(*more) == 0
    printed = capfd.readouterr().out
    assert "algo.learning_rate: 0.001, was 0.0007" in printed
    assert (tmp_path / "run" / "config.yaml").read_bytes() == original
    (entry,) = yaml.safe_load((tmp_path / "run" / "resumed.yaml").read_text())
    assert entry["changed"]["total_env_steps"] == {"before": 104, "now": 400}
    steps = [int(row["env_steps"]) for row in rows(tmp_path / "run")]
    assert steps == sorted(set(steps))
    assert steps[-1] >= 400
    end = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert end["env_steps"] == steps[-1]
    assert end["wall_seconds"] > summary.wall_seconds
    # What was changed holds when it is resumed again.
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt")["config"]["total_env_steps"] == 400


@pytest.mark.slow
def test_folder_without_run_or_in_use_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(rlkl.ConfigError, match="there is no such folder"):
        rlkl.resume(tmp_path / "nowhere")
    with pytest.raises(rlkl.ConfigError, match="no checkpoint from which a run can resume"):
        rlkl.resume(tmp_path)
    for arguments, code in ((["--help"], 0), ([], 0), (["seed=1"], 2)):
        with pytest.raises(SystemExit) as end:
            main(["resume", *arguments])
        assert end.value.code == code
    run = broken(config(tmp_path / "lost"), at=3)
    lock = FolderLock(run)
    code = f"import rlkl; rlkl.resume({str(run)!r})"
    done = forked_python.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"is in use by process {os.getpid()}; wait until it has ended" in done.stderr
    lock.release()


def test_an_evaluation_that_fails_costs_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rlkl.train(config(tmp_path / "whole"))

    def fails(self: Learner, stop: Any) -> Evaluation:
        raise RuntimeError("no evaluation today")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="today"):
        patch.setattr(Learner, "evaluate", fails)
        rlkl.train(config(tmp_path / "run"))
    assert len(rows(tmp_path / "run")) == 7
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    # What was missing is made good: the evaluation, and no step more.
    summary = rlkl.resume(tmp_path / "run")
    whole = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert (summary.status, summary.iterations) == ("finished", 7)
    assert summary.eval_return == whole["eval_return"]


@pytest.mark.parametrize("eval_interval", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_final_evaluation_stopped_or_killed_is_made_up(
    eval_interval: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With 8 environments and 3 episodes, the backend that `auto` takes depends on the number.
    settings: dict[str, Any] = {
        "env": rlkl.EnvConfig("CartPole-v1", 8),
        "eval_episodes": 3,
        "eval_interval": eval_interval,
    }
    rlkl.train(config(tmp_path / "whole", **settings))
    evaluate = Learner.evaluate

    def watched(learner: Learner, stop: Any) -> Evaluation:
        if learner.env_steps < learner.config.total_env_steps:
            return evaluate(learner, stop)
        shutil.copytree(tmp_path / "stopped", tmp_path / "killed")  # as SIGKILL would leave it
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(learner, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "evaluate", watched)
        summary = rlkl.train(config(tmp_path / "stopped", **settings))
    assert (summary.status, summary.iterations, summary.eval_return) == ("stopped", 7, None)
    assert len(rows(tmp_path / "stopped")) == 6
    for name in ("stopped", "killed"):
        assert rlkl.resume(tmp_path / name).status == "finished"
        assert_same_run(tmp_path / "whole", tmp_path / name)
    assert rlkl.load_policy(tmp_path / "killed", "best")


def test_best_policy_belongs_to_the_kept_rows(tmp_path: Path) -> None:
    run = broken(config(tmp_path / "run"), at=6)
    folder = run / "checkpoints"
    best = load_checkpoint(folder / "best.pt")
    save_checkpoint(folder / "best.pt", best | {"env_steps": 96})  # of the sixth iteration
    seen: list[int] = []

    class Looks(Falls):
        def log(self, report: Any) -> None:
            seen.append(load_checkpoint(folder / "best.pt")["env_steps"])

    rlkl.resume(run, lambda before: replace(before, gamma=0.9), loggers=[Looks(0, SystemExit())])
    assert seen[0] <= 64
    assert load_checkpoint(folder / "best.pt.abandoned-1")["env_steps"] == 96
    means = {int(row["env_steps"]): float(row["return/train"] or "-inf") for row in rows(run)}
    kept = load_checkpoint(folder / "best.pt")
    assert kept["env_steps"] == max(means, key=lambda steps: means[steps])
    assert kept["run"]["best"] == max(means.values())


@pytest.mark.parametrize("what", ["checkpoint", "row"])
def test_full_disk_gives_one_line_and_keeps_files(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rlkl.train(config(tmp_path / "whole"))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(path: Path, content: bytes) -> None:
        if path.name != "step_0.pt" and "step_" in path.name and len(started) > 0:
            raise full
        started.append(path)
        original(path, content)

    started: list[Path] = []
    from rlkl.training import checkpoint_writer as module
    from rlkl.training.loggers import CSVLogger
    from rlkl.training.run_folder import FolderError

    original = module.write_durably
    with monkeypatch.context() as patch, pytest.raises(FolderError) as told:
        if what == "checkpoint":
            patch.setattr(module, "write_durably", write)
        else:
            log = CSVLogger.log

            def fails(self: CSVLogger, report: Report) -> None:
                if report.env_steps > 100:
                    raise full
                log(self, report)

            patch.setattr(CSVLogger, "log", fails)
        rlkl.train(config(tmp_path / "run"))
    message = str(told.value)
    assert "\n" not in message
    assert "cannot be written to: No space left on device" in message
    assert f"rlkl resume {tmp_path / 'run'}" in message
    kept = numbered(tmp_path / "run" / "checkpoints")[0]
    assert str(kept) in message
    load_checkpoint(kept)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "No space left" in summary["reason"]
    rlkl.resume(tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_another_policy_or_algorithm_is_refused_with_words(tmp_path: Path) -> None:
    state = Learner(config(tmp_path)).state_dict()
    with pytest.raises(rlkl.ConfigError, match="of algo=ppo_clip, not of trpo"):
        Learner(config(tmp_path, "trpo")).load_state_dict(state)
    wide = replace(SMALL, actor_hidden_sizes=[9])
    with pytest.raises(rlkl.ConfigError, match=r"of another policy: .*\[8\].*\[9\]"):
        Learner(config(tmp_path, policy=wide)).load_state_dict(state)
    other = rlkl.EnvConfig("Acrobot-v1", 2)
    with pytest.raises(rlkl.ConfigError, match="of another observation_space"):
        Learner(config(tmp_path, env=other)).load_state_dict(state)


def test_the_curve_of_tensorboard_goes_on(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = rlkl.LoggerConfig(progress="none", histogram_interval=2)
    run = broken(config(tmp_path / "lost", logger=logger), at=6)
    # Events are in files named after the second in which they began.
    (first,) = run.glob("events.*")
    first.rename(first.with_name("events.out.tfevents.0000000001.x"))
    rlkl.resume(run)
    events = EventAccumulator(str(run), {"histograms": 0}).Reload()
    expected = [(int(row["env_steps"]), float(row["kl/old_new"])) for row in rows(run)]
    found = [(event.step, event.value) for event in events.Scalars("kl/old_new")]
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected])
    assert len(events.Histograms("kl/histogram")) == 4
    mean = events.Scalars("run/kl_old_new")[-1].value
    assert mean == pytest.approx(np.mean([value for _, value in expected]))


def test_a_run_may_be_moved(tmp_path: Path) -> None:
    rlkl.train(config(tmp_path / "whole"))
    run = broken(config(tmp_path / "lost"), at=5)
    shutil.move(run, tmp_path / "moved")
    rlkl.resume(tmp_path / "moved")
    assert_same_run(tmp_path / "whole", tmp_path / "moved")
