"""Where a run stands, and what is missing of it done: nothing twice, nothing overwritten."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from same_runs import assert_same_run
from test_resume import broken, config

import rlkl
from rlkl.training.config import differences
from rlkl.training.run_status import ForeignFolderError, Standing, set_aside, standing
from rlkl.training.trainer import complete
from rlkl.utils.atomic_files import FolderLock, FolderTakenError, make_locked_folder
from rlkl.utils.field_types import plain_data


def written(run_dir: Path, given: rlkl.TrainConfig, **summary: object) -> None:
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(yaml.safe_dump(asdict(given)))
    if summary:
        (run_dir / "summary.json").write_text(json.dumps(summary))


def content(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_folder_says_where_its_run_stands(tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = config(run)
    steps = given.total_env_steps
    assert standing(run, given) is Standing.MISSING
    make_locked_folder(run)
    (run / "log.txt").write_text("what it printed\n")
    assert standing(run, given) is Standing.MISSING
    for name, summary, expected in (
        ("killed", {}, Standing.UNFINISHED),
        ("stopped", {"status": "stopped", "env_steps": steps - 1}, Standing.UNFINISHED),
        ("failed", {"status": "failed", "env_steps": steps}, Standing.UNFINISHED),
        ("finished", {"status": "finished", "env_steps": steps}, Standing.FINISHED),
    ):
        written(tmp_path / name, given, **summary)
        assert standing(tmp_path / name, given) is expected
    (tmp_path / "finished" / "summary.json").write_text('{"status": "fini')
    assert standing(tmp_path / "finished", given) is Standing.UNFINISHED
    for damaged in ("{}", "[]", '{"status": "finished", "env_steps": null}'):
        (tmp_path / "finished" / "summary.json").write_text(damaged)
        assert standing(tmp_path / "finished", given) is Standing.UNFINISHED


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(ForeignFolderError, match="exists already and is not the folder of a run"):
        standing(run, config(run))
    with pytest.raises(ForeignFolderError):
        complete(config(run))
    assert list(run.iterdir()) == []
    (run / "config.yaml").write_text("nothing but words")
    with pytest.raises(rlkl.ConfigError, match=r"config\.yaml is not the config of a run"):
        standing(run, config(run))
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(rlkl.ConfigError, match=r"config\.yaml cannot be read"):
        standing(run, config(run))


def test_another_config_is_refused_and_what_was_left_open_is_not(tmp_path: Path) -> None:
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
        assert standing(run, alike) is Standing.UNFINISHED
    for other, said in (
        (replace(left_open, gamma=0.5), "gamma=0.99, but gamma=0.5 is requested; use"),
        (replace(left_open, gamma=0.5, seed=7), "and 1 more keys differ"),
        (replace(left_open, env=replace(given.env, backend="sync")), r"env\.backend=native"),
        (replace(left_open, env=replace(given.env, kwargs={"a": 1})), r"env\.kwargs"),
    ):
        with pytest.raises(rlkl.ConfigError, match=said):
            standing(run, other)


def test_what_cannot_go_on_is_kept_aside(tmp_path: Path) -> None:
    make_locked_folder(tmp_path / "run")
    run = tmp_path / "run"
    for name in ("log.txt", "config.yaml"):
        (run / name).write_text(name)
    (run / "checkpoints").mkdir()
    set_aside(run)
    set_aside(run)
    (run / "config.yaml").write_text("the second")
    set_aside(run)
    assert {str(path.relative_to(run)) for path in run.rglob("*")} == {
        ".lock", "log.txt", "before-1", "before-1/config.yaml", "before-1/checkpoints",
        "before-2", "before-2/config.yaml",
    }  # fmt: skip
    assert (run / "before-1" / "config.yaml").read_text() == "config.yaml"


def test_a_run_is_completed_from_wherever_it_stands(tmp_path: Path) -> None:
    alone = config(tmp_path / "alone")
    rlkl.train(alone)
    told: list[Path] = []

    begun = config(tmp_path / "begun")
    summary = complete(begun, claimed=told.append)
    assert told == [tmp_path / "begun"]
    assert_same_run(tmp_path / "alone", tmp_path / "begun")

    before = content(tmp_path / "begun")
    assert complete(begun) == summary
    assert content(tmp_path / "begun") == before

    lost = config(tmp_path / "lost")
    broken(lost, at=5)
    complete(lost)
    assert_same_run(tmp_path / "alone", tmp_path / "lost")
    assert (tmp_path / "lost" / "resumed.yaml").exists()

    early = config(tmp_path / "early")
    written(tmp_path / "early", early)  # killed before its first checkpoint
    complete(early)
    assert_same_run(tmp_path / "alone", tmp_path / "early")
    assert (tmp_path / "early" / "before-1" / "config.yaml").exists()


@contextmanager
def someone_else_in(folder: Path) -> Iterator[int]:
    """Let another process have the lock of a folder."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        lock = FolderLock(folder)  # lives as long as its name
        os.write(writer, b"!" if lock else b"")
        os.close(writer)
        signal.pause()
    os.read(reader, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_nobody_completes_what_another_process_is_at(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_locked_folder(run)
    told: list[Path] = []
    with (
        someone_else_in(run) as child,
        pytest.raises(FolderTakenError, match=f"in use by process {child}"),
    ):
        complete(config(run), claimed=told.append)
    assert told == []
    assert {path.name for path in run.iterdir()} == {".lock"}


def test_a_folder_never_appears_without_its_lock(tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    make_locked_folder(run)
    assert [path.name for path in run.iterdir()] == [".lock"]
    (run / "config.yaml").write_text("here")
    make_locked_folder(run)  # somebody was faster
    assert {path.name for path in run.iterdir()} == {".lock", "config.yaml"}
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_older_folder_lacks_keys_and_is_no_other_run(tmp_path: Path) -> None:
    wanted = config(tmp_path / "run")
    saved = plain_data(asdict(wanted))
    del saved["eval_max_episode_steps"]
    assert differences(saved, wanted) == {}
    assert list(differences(saved, replace(wanted, eval_max_episode_steps=9))) == [
        "eval_max_episode_steps"
    ]
    saved["env"]["kwargs"] = {"a": 1}
    assert list(differences(saved, wanted)) == ["env.kwargs.a"]
