"""The status of a run in its folder, and old files that are moved."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from test_resume import config

import rlkl
from rlkl.training.run_folder import ForeignFolderError, RunStatus, move_old_files, run_status
from rlkl.training.trainer import complete
from rlkl.utils.atomic_files import make_locked_folder


def written(run_dir: Path, given: rlkl.TrainConfig, **summary: object) -> None:
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(yaml.safe_dump(asdict(given)))
    if summary:
        (run_dir / "summary.json").write_text(json.dumps(summary))


def test_a_folder_says_where_its_run_stands(tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = config(run)
    steps = given.total_env_steps
    assert run_status(run, given) is RunStatus.MISSING
    make_locked_folder(run)
    (run / "log.txt").write_text("what it printed\n")
    assert run_status(run, given) is RunStatus.MISSING
    for name, summary, expected in (
        ("killed", {}, RunStatus.UNFINISHED),
        ("stopped", {"status": "stopped", "env_steps": steps - 1}, RunStatus.UNFINISHED),
        ("failed", {"status": "failed", "env_steps": steps}, RunStatus.UNFINISHED),
        ("finished", {"status": "finished", "env_steps": steps}, RunStatus.FINISHED),
    ):
        written(tmp_path / name, given, **summary)
        assert run_status(tmp_path / name, given) is expected
    (tmp_path / "finished" / "summary.json").write_text('{"status": "fini')
    assert run_status(tmp_path / "finished", given) is RunStatus.UNFINISHED
    for damaged in ("{}", "[]", '{"status": "finished", "env_steps": null}'):
        (tmp_path / "finished" / "summary.json").write_text(damaged)
        assert run_status(tmp_path / "finished", given) is RunStatus.UNFINISHED


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(ForeignFolderError, match="exists already and is not the folder of a run"):
        run_status(run, config(run))
    with pytest.raises(ForeignFolderError):
        complete(config(run))
    assert list(run.iterdir()) == []
    (run / "config.yaml").write_text("nothing but words")
    with pytest.raises(rlkl.ConfigError, match=r"config\.yaml is not the config of a run"):
        run_status(run, config(run))
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(rlkl.ConfigError, match=r"config\.yaml cannot be read"):
        run_status(run, config(run))


def test_run_with_another_config_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = config(run, env=rlkl.EnvConfig("CartPole-v1", 2))
    resolved = replace(
        given,
        env=replace(given.env, backend="native"),
        policy=replace(given.policy, engine="numpy"),
        checkpoint=replace(given.checkpoint, interval=50),
    )
    written(run, resolved)
    left_open = replace(given, checkpoint=rlkl.CheckpointConfig())
    elsewhere = replace(left_open, run_dir="elsewhere", logger=rlkl.LoggerConfig())
    for alike in (left_open, elsewhere, resolved):
        assert run_status(run, alike) is RunStatus.UNFINISHED
    for other, said in (
        (replace(left_open, gamma=0.5), "gamma=0.99, but gamma=0.5 is requested; use"),
        (replace(left_open, gamma=0.5, seed=7), "and 1 more keys differ"),
        (replace(left_open, env=replace(given.env, backend="sync")), r"env\.backend=native"),
        (replace(left_open, env=replace(given.env, kwargs={"a": 1})), r"env\.kwargs"),
    ):
        with pytest.raises(rlkl.ConfigError, match=said):
            run_status(run, other)


def test_what_cannot_go_on_is_kept_aside(tmp_path: Path) -> None:
    make_locked_folder(tmp_path / "run")
    run = tmp_path / "run"
    for name in ("log.txt", "config.yaml"):
        (run / name).write_text(name)
    (run / "checkpoints").mkdir()
    move_old_files(run)
    move_old_files(run)
    (run / "config.yaml").write_text("the second")
    move_old_files(run)
    assert {str(path.relative_to(run)) for path in run.rglob("*")} == {
        ".lock", "log.txt", "before-1", "before-1/config.yaml", "before-1/checkpoints",
        "before-2", "before-2/config.yaml",
    }  # fmt: skip
    assert (run / "before-1" / "config.yaml").read_text() == "config.yaml"


def test_a_folder_never_appears_without_its_lock(tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    make_locked_folder(run)
    assert [path.name for path in run.iterdir()] == [".lock"]
    (run / "config.yaml").write_text("here")
    make_locked_folder(run)  # somebody was faster
    assert {path.name for path in run.iterdir()} == {".lock", "config.yaml"}
    assert [path.name for path in run.parent.iterdir()] == ["run"]
