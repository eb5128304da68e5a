"""What a stranger's run folder holds is data: nothing outside it is written, no code of it runs."""

import importlib
import os
import shutil
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

import rlkl
from rlkl.cli import main
from rlkl.envs import ids as env_ids
from rlkl.training.run_folder import clean_up
from rlkl.training.trainer import complete
from rlkl.utils.atomic_files import FolderTakenError

SMALL: dict[str, Any] = {
    "env": rlkl.EnvConfig("CartPole-v1", 2),
    "policy": rlkl.PolicyConfig([8], [8]),
    "algo": rlkl.PPOClipConfig(num_epochs=1, num_minibatches=1),
    "critic": rlkl.CriticConfig(num_epochs=1, num_minibatches=1),
    "checkpoint": rlkl.CheckpointConfig(interval=2),
    "logger": rlkl.LoggerConfig(progress="none"),
    "rollout_steps": 8,
    "total_env_steps": 64,
    "eval_episodes": 0,
}


class Calls:
    """A logger that calls something once, in the third iteration."""

    def __init__(self, what: Any) -> None:
        self.what, self.iterations = what, 0

    def log(self, report: Any) -> None:
        self.iterations += 1
        if self.iterations == 3:
            self.what()

    def close(self, status: str) -> None:
        pass


def lost() -> None:
    raise RuntimeError("the power went")


def break_off(run: Path) -> Path:
    """Make a run that broke off behind its first checkpoints."""
    with pytest.raises(RuntimeError, match="power"):
        rlkl.Trainer(rlkl.TrainConfig(run_dir=str(run), **SMALL)).train([Calls(lost)])
    return run


@cache
def _unfinished() -> "TemporaryDirectory[str]":
    folder = TemporaryDirectory()
    break_off(Path(folder.name, "run"))
    return folder


def unfinished(run: Path) -> Path:
    """Copy a run of `break_off`."""
    return Path(shutil.copytree(f"{_unfinished().name}/run", run))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


WRITTEN = [
    ".lock",
    "metrics.csv",
    "episodes.csv",
    "summary.json",
    "resumed.yaml",
    "config.yaml",
    "events.out.tfevents.1.x",
    "checkpoints/last.pt",
    "checkpoints/step_32.pt",
]


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
@pytest.mark.parametrize("name", WRITTEN)
def test_resume_refuses_files_that_are_links_or_pipes(name: str, kind: str, tmp_path: Path) -> None:
    run = unfinished(tmp_path / "run")
    victim = tmp_path / "start-up"
    if kind == "link":
        victim.write_text("mine")
    path = run / name
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(victim)
    before = contents(run)
    words = "not a file" if kind == "pipe" else "a symbolic link"
    with pytest.raises(rlkl.ConfigError, match=rf"/{name} is {words}: replace it with a real file"):
        rlkl.resume(run)
    assert contents(run) == before
    assert victim.exists() == (kind == "link")
    if kind == "link":
        assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["checkpoints", "bad_updates"])
def test_resume_refuses_folders_that_are_links(name: str, tmp_path: Path) -> None:
    run = unfinished(tmp_path / "run")
    elsewhere = tmp_path / "elsewhere"
    if name == "checkpoints":
        (run / name).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (run / name).symlink_to(elsewhere)
    before = contents(elsewhere)
    with pytest.raises(
        rlkl.ConfigError, match=rf"/{name} is a symbolic link: replace it with a real folder"
    ):
        rlkl.resume(run)
    assert contents(elsewhere) == before


def test_resume_writes_through_no_planted_link(tmp_path: Path) -> None:
    run = unfinished(tmp_path / "run")
    victim = tmp_path / "start-up"
    victim.write_text("mine")
    for name in ("summary.json", "resumed.yaml", "checkpoints/last.pt", "checkpoints/step_64.pt"):
        (run / f"{name}.partial").symlink_to(victim)
    assert rlkl.resume(run).status == "finished"
    assert victim.read_text() == "mine"


def test_a_run_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    unfinished(tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    assert rlkl.resume(tmp_path / "link").status == "finished"


def test_resume_removes_what_killed_writers_left(tmp_path: Path) -> None:
    run = unfinished(tmp_path / "run")
    left = [run / f"summary.json.{'a' * 16}.partial", run / f"checkpoints/x.pt.{'b' * 16}.partial"]
    for path in left:
        path.write_bytes(b"half")
    rlkl.resume(run)
    assert not any(path.exists() for path in left)
    clean_up(tmp_path / "nowhere")  # as of a run without the folders


def test_two_threads_cannot_train_in_one_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    refused: list[str] = []

    def again() -> None:
        for path in (run, tmp_path / "run" / ".." / "run"):
            with pytest.raises(FolderTakenError) as error:
                rlkl.resume(path)
            refused.append(str(error.value))

    def beside() -> None:
        thread = threading.Thread(target=again)
        thread.start()
        thread.join()

    rlkl.Trainer(rlkl.TrainConfig(run_dir=str(run), **SMALL)).train([Calls(beside)])
    assert len(refused) == 2
    assert len((run / "metrics.csv").read_text().splitlines()) == 5


MODULE = """
from pathlib import Path
from tempfile import TemporaryDirectory
import gymnasium as gym
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
Path(WITNESS).touch()
gym.register("Strange-v0", CartPoleEnv, max_episode_steps=50)
"""


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run of `env.id=strange_module:Strange-v0`, whose module is not to be found any more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.setattr(env_ids, "_run_folders", set())
    gym.register("Strange-v0", CartPoleEnv, max_episode_steps=50)
    monkeypatch.setitem(sys.modules, "strange_module", types.ModuleType("strange_module"))
    env = rlkl.EnvConfig("strange_module:Strange-v0", 2)
    try:
        with pytest.raises(RuntimeError, match="power"):
            run = str(tmp_path / "run")
            rlkl.Trainer(rlkl.TrainConfig(run_dir=run, **{**SMALL, "env": env})).train(
                [Calls(lost)]
            )
        del gym.registry["Strange-v0"], sys.modules["strange_module"]
        yield tmp_path / "run"
    finally:
        gym.registry.pop("Strange-v0", None)
        sys.modules.pop("strange_module", None)


def write_module(place: Path, witness: Path) -> None:
    place.mkdir(exist_ok=True, parents=True)
    text = MODULE.replace("WITNESS", repr(str(witness)))
    (place / "strange_module.py").write_text(text)
    importlib.invalidate_caches()


USES = {
    "evaluate": ["evaluate", "run", "--episodes", "1"],
    "evaluate a checkpoint": ["evaluate", "run/checkpoints/step_32.pt", "--episodes", "1"],
    "watch": ["watch", "run", "--video", "film.gif", "--episodes", "1"],
    "resume": ["resume", "run", "logger.progress=plain"],
    "show": ["show", "clip", "checkpoint=run", "batches=1"],
}


def command(arguments: list[str]) -> Any:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


@pytest.mark.parametrize(
    "way",
    [
        "on the path",
        "the working directory",
        pytest.param("a link", marks=pytest.mark.slow),
        pytest.param("a package", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("use", USES)
def test_no_module_of_the_run_folder_is_imported(
    use: str, way: str, strange: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if use == "watch":
        pytest.importorskip("imageio")
    witness = strange.parent / "it_ran"
    place = strange / "code"
    write_module(place, witness)
    arguments = USES[use]
    if way == "on the path":
        sys.path.insert(0, str(place))
    elif way == "the working directory":
        write_module(strange, witness)
        monkeypatch.chdir(strange)
        there = [text.replace("run", "../run", 1) for text in arguments[1:]]
        arguments = [arguments[0], *there] if use != "show" else ["show", "clip", "checkpoint=."]
    elif way == "a link":
        (strange.parent / "strange_module.py").symlink_to(place / "strange_module.py")
    else:
        (strange.parent / "strange_module").symlink_to(place)
        (place / "__init__.py").write_text((place / "strange_module.py").read_text())
    importlib.invalidate_caches()
    code = command(arguments)
    assert code == 2, capsys.readouterr()
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "from which no code is run" in errors or way == "the working directory"
    assert not witness.exists()
    # Nor may any later import look there.
    assert way != "the working directory" or not {"", str(strange)} & set(sys.path)


def test_run_folder_as_namespace_package_is_refused(strange: Path) -> None:
    write_module(strange, strange.parent / "it_ran")
    for env_id in ("run.strange_module:Strange-v0", "run.code.x.strange_module:Strange-v0"):
        write_module(strange / "code" / "x", strange.parent / "it_ran")
        with pytest.raises(rlkl.ConfigError, match=r"strange_module\.py lies in the run's folder"):
            env_ids.check_module(env_id, strange)
    assert not (strange.parent / "it_ran").exists()


@pytest.mark.parametrize("use", ["evaluate", "watch", "resume"])
def test_the_module_that_is_imported_is_said(
    use: str, strange: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if use == "watch":
        pytest.importorskip("imageio")
    witness = strange.parent / "it_ran"
    write_module(strange.parent, witness)
    assert command(USES[use]) == 0
    said = f"env.id=strange_module:Strange-v0 imports strange_module from {strange.parent}/strange"
    assert said in capsys.readouterr().err
    assert witness.exists()


@pytest.mark.slow
def test_loading_and_exporting_a_policy_import_nothing(strange: Path) -> None:
    write_module(strange.parent, strange.parent / "it_ran")
    policy = rlkl.load_policy(strange)
    assert policy.act(np.zeros(4, np.float32)) in (0, 1)
    assert command(["export", "run"]) == 0
    assert (strange / "last.onnx").exists()
    assert not (strange.parent / "it_ran").exists()


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "given"])
def test_export_onto_what_exists_is_refused(
    kind: str, strange: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = strange.parent / "victim.onnx"
    if kind != "dangling":
        victim.write_text("mine")
    if kind == "file":
        (strange / "last.onnx").write_text("mine")
    elif kind != "given":
        (strange / "last.onnx").symlink_to(victim)
    assert command(["export", "run", *["--output", "victim.onnx"] * (kind == "given")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "exists already" in errors
    assert victim.exists() == (kind != "dangling")


class Wanders(CartPoleEnv):
    """Changes the working directory, as some simulators do to find their files."""

    def __init__(self) -> None:
        super().__init__()
        os.chdir("/")


@pytest.fixture
def wanders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[rlkl.EnvConfig]:
    monkeypatch.chdir(tmp_path)
    gym.register("Wanders-v0", Wanders, max_episode_steps=50)
    yield rlkl.EnvConfig("Wanders-v0", 2)
    del gym.registry["Wanders-v0"]


@pytest.mark.parametrize("typed", [None, "mine/run", "../run"])
def test_an_environment_that_changes_directory_moves_no_run(
    typed: str | None, wanders: rlkl.EnvConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    config = rlkl.TrainConfig(run_dir=typed, **{**SMALL, "env": wanders})
    assert rlkl.train(config).status == "finished"
    (run,) = (path.parent for path in tmp_path.rglob("summary.json"))
    below = here / "runs" / "Wanders-v0" / "ppo_clip"
    assert run == {"mine/run": here / "mine/run", "../run": tmp_path / "run"}.get(
        str(typed), below / run.name
    )
    assert (run / "checkpoints" / "last.pt").exists()
    assert yaml.safe_load((run / "config.yaml").read_text())["run_dir"] == typed
    monkeypatch.chdir(run.parent)
    more = lambda config: replace(config, total_env_steps=100)  # noqa: E731
    assert rlkl.resume(run.name, more).status == "finished"
    assert len((run / "metrics.csv").read_text().splitlines()) == 8


def test_a_grid_stays_where_it_was_begun(
    wanders: rlkl.EnvConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = rlkl.TrainConfig(run_dir="runs/grids/a/x", **{**SMALL, "env": wanders})
    assert complete(config).status == "finished"
    assert (tmp_path / "runs/grids/a/x/summary.json").exists()


NAMES = ["lr=3,seed=0", "-1", "a b", "caf\udce9", "ü"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_folders_of_any_name_are_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    unfinished(tmp_path / "run").rename(tmp_path / name)
    given = f"./{name}" if name.startswith("-") else name
    assert command(["resume", given, "total_env_steps=80", "logger.progress=none"]) == 0
    assert command(["evaluate", given, "--episodes", "1"]) == 0
    assert command(["watch", given, "--episodes", "1", "--video", "film.gif"]) == 0
    assert command(["export", given]) == 0
    assert (tmp_path / name / "last.onnx").exists()


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".pt"])
@pytest.mark.parametrize("use", ["evaluate", "resume", "export"])
def test_unreadable_run_folder_gives_one_line(
    use: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([use, str(tmp_path / name)]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "cannot be read: File name too long" in errors
