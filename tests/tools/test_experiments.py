"""`rlkl show`: its command line, and the files that it writes."""

import csv
import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from commands import exit_code
from experiment_configs import TINY

from rlkl.cli.compose_tools import load_experiment
from rlkl.cli.schema import register_schemas
from rlkl.tools.experiments import (
    EXPERIMENTS,
    beta,
    clip,
    collapse,
)
from rlkl.training.trainer import train


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


show = partial(exit_code, "show")


BAD = {
    "colapse": "did you mean collapse",
    "geometry klx=1": "there is no key 'klx'",
    "geometry pointts=9": "did you mean points",
    "geometry env=cartpole": "expected one of output, kl, points",
    "geometry kl=2": "at most 1",
    "geometry kl=much": "expected a number",
    "geometry points=10,20": "write several values as [a,b]",
    "geometry --fast": "there is no such flag",
    "directions steps=3": "expected one of output",
    "estimators kl_min=1 kl_max=0.5": "above 1",
    "collapse batchs=3": "did you mean batches",
    "collapse batches=0": "at least 1",
    "collapse env=cartpol": "did you mean cartpole",
    "collapse env.id=CartPol-v1": "did you mean CartPole-v1",
    "collapse run_dir=x": "output=DIR",
    "collapse logger.progress=none": "output=DIR",
    "collapse checkpoint=x seed=1": "seed=1: the run in checkpoint=x has its own settings",
    "collapse checkpoint=nowhere": "there is no such folder",
    "clip learning_rates=[]": "at least one number",
    "clip learning_rates=[-1]": "above 0",
    "clip epochs=many": "expected a whole number",
    "beta algo=trpo": "algo=ppo_kl",
    "beta targets=[0]": "above 0",
    "beta targets=0.01": "expected a list",
    "beta algo.target_kl=0.1": "targets=[0.1]",
    "fine_tuning first_env_steps=0": "at least 1",
    "fine_tuning kl_coefficients=[-1]": "at least 0",
    "geometry output=taken": "taken is a file",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_command_line_prints_one_line(
    arguments: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("")
    assert show(*arguments.split()) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("rlkl: ")
    assert printed.err.count("\n") == 1
    assert BAD[arguments] in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_missing_matplotlib_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    assert show("geometry") == 2
    assert "pip install 'rlkl[plots]'" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_show_writes_files_and_overwrites_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert show("geometry", "points=8", "output=out") == 0
    printed = capfd.readouterr().out
    assert "σ = 0.4" in printed
    assert " to 9.34" in printed
    names = ["geometry.csv", "geometry.png", "geometry.svg"]
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(files) == names
    with (tmp_path / "out" / "geometry.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["panel", "center", "curve", "x", "y", "kl", "distance"]
    assert len(rows) == 6 * 3 * 9
    assert {round(float(row["kl"]), 9) for row in rows if row["curve"] == "equal KL"} == {0.05}

    (tmp_path / "out" / "geometry.csv").unlink()
    assert show("geometry", "output=out") == 2
    assert "geometry.png exists already" in capfd.readouterr().err
    assert not (tmp_path / "out" / "geometry.csv").exists()
    assert (tmp_path / "out" / "geometry.png").read_bytes() == files["geometry.png"]


def test_default_output_is_a_new_folder(tmp_path: Path) -> None:
    assert show("geometry", "points=8") == 0
    (folder,) = (tmp_path / "runs" / "show").iterdir()
    assert folder.name.startswith("geometry-")
    assert len(list(folder.iterdir())) == 3


def test_training_keys_reach_the_experiment() -> None:
    register_schemas()
    found = load_experiment("clip", ["env=cartpole", "env.kwargs.render_mode=null", "epochs=3"])
    assert isinstance(found, clip.ClipConfig)
    assert (found.train.env.id, found.train.total_env_steps) == ("CartPole-v1", 50_000)
    assert found.train.env.kwargs == {"render_mode": None}
    assert (found.epochs, found.seeds, found.batches) == (3, 5, 2)
    steady = load_experiment("beta", ["algo.learning_rate_schedule=constant", "seed=4"])
    assert isinstance(steady, beta.BetaConfig)
    for _, config in beta.variants(steady):
        assert config.seed == 4
        assert getattr(config.algo, "learning_rate_schedule", None) == "constant"


@pytest.mark.slow
def test_collapse_starts_from_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(collapse, "SWEEPS", {"trpo": collapse.SWEEPS["trpo"]})
    train(replace(TINY, run_dir=str(tmp_path / "run"), eval_episodes=1))
    capfd.readouterr()
    keys = ["checkpoint=run", "batches=1", "episodes=2", "sizes_per_decade=1", "output=out"]
    assert show("collapse", *keys) == 0
    assert capfd.readouterr().err == "batch 1 of 1\n"
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_help_lists_experiments_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert show("--help") == 0
    printed = capsys.readouterr().out
    for name, experiment in EXPERIMENTS.items():
        assert f"  {name} " in printed
        assert experiment.purpose in " ".join(printed.split())
    assert "targets=[0.003,0.01,0.03]" in printed
    assert "checkpoint=null" in printed
