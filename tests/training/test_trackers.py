"""Trackers: what W&B, MLflow and Trackio get, read back from their own files, and how they fail."""

import importlib.util
import json
import math
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_callbacks import rows_of, tiny
from test_example_pages import programs_of, run_program

import rlkl
from rlkl.training import trackers
from rlkl.training.report import Report
from rlkl.training.trackers import TrackerLogger

HAS_WANDB, HAS_MLFLOW, HAS_TRACKIO = (
    importlib.util.find_spec(name) for name in ("wandb", "mlflow", "trackio")
)
needs_wandb = pytest.mark.skipif(HAS_WANDB is None, reason="needs the extra wandb")
needs_mlflow = pytest.mark.skipif(HAS_MLFLOW is None, reason="needs the extra mlflow")
needs_trackio = pytest.mark.skipif(HAS_TRACKIO is None, reason="needs the extra trackio")


def logger_of(tracker: str, **settings: Any) -> rlkl.LoggerConfig:
    return rlkl.LoggerConfig(tensorboard=False, progress="none", tracker=tracker, **settings)


class Recorder:
    """A tracker that fails at an iteration."""

    run_id = "abc"

    def __init__(self, fails_at: int = -1) -> None:
        self.fails_at = fails_at
        self.calls: list[Any] = []

    def log(self, scalars: dict[str, float], report: Report) -> None:
        if report.env_steps == self.fails_at:
            raise ConnectionError("the server\nis gone")
        self.calls.append((report.env_steps, scalars))

    def save(self, files: list[Path]) -> None:
        self.calls.append([path.name for path in files])

    def close(self, status: str) -> None:
        self.calls.append(status)


def test_numbers_that_apply_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "last.pt").touch()
    recorder = Recorder()
    logger = TrackerLogger("mlflow", recorder, [tmp_path / "last.pt", tmp_path / "best.pt"])
    logger.log(Report(32, {"kl/k1": 0.5, "kl/k2": math.nan}, {}))
    logger.close("stopped")
    assert recorder.calls == [(32, {"kl/k1": 0.5}), ["last.pt"], "stopped"]


def test_failure_is_one_line_and_the_last(capfd: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(fails_at=64)
    logger = TrackerLogger("mlflow", recorder, [])
    for env_steps in (32, 64, 96):
        logger.log(Report(env_steps, {}, {}))
    logger.close("finished")
    assert recorder.calls == [(32, {})]
    assert capfd.readouterr().err == (
        "rlkl: logger.tracker=mlflow: ConnectionError: the server is gone; training continues "
        "without it\n"
    )


def test_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(rlkl.ConfigError, match=r"needs the package wandb, .*'rlkl\[wandb\]'"):
        rlkl.train(tiny(tmp_path / "run", logger=logger_of("wandb")))
    assert not (tmp_path / "run").exists()


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(rlkl.ConfigError, match=r"logger\.tracker=wand: .*did you mean wandb"):
        logger_of("wand")
    with pytest.raises(rlkl.ConfigError, match=r"track_checkpoints=true: there is no tracker"):
        logger_of("none", track_checkpoints=True)


def test_tracker_that_cannot_start_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*given: Any) -> Any:
        raise OSError("no route")

    monkeypatch.setitem(trackers.KINDS, "mlflow", fails)
    monkeypatch.setattr(trackers, "check_installed", lambda *given: None)
    summary = rlkl.train(tiny(tmp_path / "run", logger=logger_of("mlflow")))
    assert summary.status == "finished"
    assert "logger.tracker=mlflow: OSError: no route; training" in capfd.readouterr().err


def test_id_of_another_tracker_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids: list[str] = []

    def opened(run_dir: Path, config: rlkl.TrainConfig, run_id: str) -> Recorder:
        ids.append(run_id)
        return Recorder()

    monkeypatch.setitem(trackers.KINDS, "mlflow", opened)
    config = tiny(tmp_path / "run", logger=logger_of("mlflow"))
    for run_id in ("mlflow:a:b", "wandb:c", ""):
        trackers.open_tracker(tmp_path, config, run_id)
    assert ids == ["a:b", "", ""]


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a `.wandb` file: a LevelDB log, behind a header of 7 bytes.

    A block of 32,768 bytes has parts: 4 bytes of checksum, 2 of length, 1 of kind, the data.
    """
    block, place, parts = 32768, 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:  # the rest of the block is empty
            place += block - place % block
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            yield parts
            parts = b""


@pytest.mark.slow
@needs_wandb
@pytest.mark.filterwarnings("default")
def test_offline_files_of_wandb_have_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    rlkl.train(tiny(run, logger=logger_of("wandb", project="walking", track_checkpoints=True)))
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    records = []
    for content in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        records.append(record)
    started = next(record.run for record in records if record.HasField("run"))
    config = {item.key: json.loads(item.value_json) for item in started.config.update}
    assert (started.project, config["total_env_steps"], config["algo"]["num_epochs"]) == (
        "walking",
        128,
        1,
    )
    shown: dict[int, dict[str, Any]] = {}
    for record in records:
        if record.HasField("history"):
            items = record.history.item
            values = {item.key or "/".join(item.nested_key): item.value_json for item in items}
            shown[record.history.step.num] = values
    rows = rows_of(run)
    assert sorted(shown) == [int(row["env_steps"]) for row in rows]
    for row in rows:
        found = shown[int(row["env_steps"])]
        assert float(found["kl/old_new"]) == float(row["kl/old_new"])
        assert "kl/target" not in found  # it does not apply to PPO-clip
    assert any(record.request.HasField("log_artifact") or record.HasField("artifact")
               for record in records)  # fmt: skip


@pytest.mark.slow
@needs_mlflow
@pytest.mark.filterwarnings("default")
def test_database_of_mlflow_has_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    run = tmp_path / "run"
    logger = logger_of("mlflow", project="walking", track_checkpoints=True)
    config = tiny(run, logger=logger)
    rlkl.train(config, callbacks=[EndsAt(96)])
    rlkl.resume(run, lambda old: rlkl.TrainConfig(**vars(old) | {"total_env_steps": 160}))
    client = MlflowClient()
    experiment = client.get_experiment_by_name("walking")
    (found,) = client.search_runs([experiment.experiment_id])  # resumed in the same run
    assert found.info.status == "FINISHED"
    assert found.data.params["algo.name"] == "ppo_clip"
    assert found.data.params["env.num_envs"] == "2"
    history = {m.step: m.value for m in client.get_metric_history(found.info.run_id, "kl/k3")}
    assert history == {int(row["env_steps"]): float(row["kl/k3"]) for row in rows_of(run)}
    saved = [file.path for file in client.list_artifacts(found.info.run_id, "checkpoints")]
    assert "checkpoints/last.pt" in saved


class Draws(rlkl.Callback):
    """Logs a picture and a film."""

    def on_update(self, learner: Any, report: Report) -> None:
        report.log_image("custom/picture", np.full((4, 6, 3), 10, np.uint8))
        report.log_video("custom/film", np.full((2, 4, 6, 3), 20, np.uint8), fps=10)


@pytest.mark.slow
@needs_trackio
@pytest.mark.filterwarnings("default")
def test_database_of_trackio_has_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when trackio is imported, here
    run = tmp_path / "run"
    logger = logger_of("trackio", project="walking", track_checkpoints=True)
    rlkl.train(tiny(run, logger=logger), callbacks=[EndsAt(96), Draws()])
    rlkl.resume(run, lambda old: rlkl.TrainConfig(**vars(old) | {"total_env_steps": 160}))
    assert capfd.readouterr().out == ""  # Trackio's own lines are not shown
    with closing(sqlite3.connect(tmp_path / "walking.db")) as database:
        logged = database.execute("SELECT run_id, step, metrics FROM metrics").fetchall()
        ((config,),) = database.execute("SELECT config FROM configs").fetchall()
        ((artifact,),) = database.execute("SELECT name FROM artifacts").fetchall()
    assert len({run_id for run_id, _, _ in logged}) == 1  # resumed in the same run
    found = {step: json.loads(metrics) for _, step, metrics in logged}
    rows = rows_of(run)
    assert [*found] == [int(row["env_steps"]) for row in rows] == [32, 64, 96, 128, 160]
    for row in rows:
        shown = found[int(row["env_steps"])]
        assert shown["kl/old_new"] == float(row["kl/old_new"])
        assert "kl/target" not in shown  # it does not apply to PPO-clip
    assert json.loads(config)["env.num_envs"] == 2
    assert artifact.startswith("checkpoints-")
    for tag, shade in (("custom/picture", (10, 10, 10)), ("custom/film", (20, 20, 20))):
        with Image.open(tmp_path / "media" / found[32][tag]["file_path"]) as picture:
            assert (picture.size, picture.convert("RGB").getpixel((2, 2))) == ((6, 4), shade)


@pytest.mark.slow
@needs_mlflow
def test_program_of_the_page_of_trackers_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (program,) = programs_of("trackers.md")
    run_program(program, tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        names = database.execute("SELECT name FROM experiments").fetchall()
        logged = database.execute("SELECT step, value FROM metrics WHERE key = 'kl/old_new'")
        found = dict(logged.fetchall())
    assert ("walking",) in names
    rows = rows_of(tmp_path / "tracked")
    assert found == {int(row["env_steps"]): float(row["kl/old_new"]) for row in rows}


class EndsAt(rlkl.Callback):
    """Ends the run at a number of steps."""

    def __init__(self, env_steps: int) -> None:
        self.env_steps = env_steps

    def on_update(self, learner: Any, report: Report) -> rlkl.Stop | None:
        return rlkl.Stop("enough") if report.env_steps >= self.env_steps else None
