"""Launchers of a grid: which are installed, and how many jobs run at a time."""

from importlib.util import find_spec
from pathlib import Path

import joblib
import pytest

import rlkl
from rlkl.cli import grid_launch
from rlkl.cli.hydra_safety import PLUGINS
from rlkl.cli.schema import register_schemas

register_schemas()


@pytest.mark.parametrize(
    ("launcher", "extra"),
    [("submitit_slurm", "submitit"), ("slurm", "submitit"), ("ray", "ray"), ("ray_cluster", "ray")],
)
def test_missing_launcher_extra_is_named(
    launcher: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlkl.utils.validation.importlib.util.find_spec", lambda name: None)
    with pytest.raises(rlkl.ConfigError, match=rf"launcher={launcher} needs .*rlkl\[{extra}\]"):
        grid_launch.check_launcher([f"hydra/launcher={launcher}"], [])


def test_slurm_launcher_needs_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    if not find_spec("hydra_plugins.hydra_submitit_launcher"):
        pytest.skip("the extra 'submitit' is not installed")
    monkeypatch.setattr("shutil.which", lambda name: None)
    for name in ("slurm", "submitit_slurm"):
        with pytest.raises(rlkl.ConfigError, match="this machine has no srun"):
            grid_launch.check_launcher([f"hydra/launcher={name}"], [])
    grid_launch.check_launcher(["hydra/launcher=slurm_rehearsal"], [])


def test_installed_launchers_pass_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    (tmp_path / "own" / "hydra" / "launcher").mkdir(parents=True)
    own = tmp_path / "own" / "hydra" / "launcher"
    (own / "few.yaml").write_text("defaults:\n  - cores\n  - _self_\nn_jobs: 2\n")
    (own / "odd.yaml").write_text("_target_: os.system\n")
    checked = ["few"]
    grid_launch.check_launcher(["hydra/launcher=few"], [tmp_path / "own"])
    targets = PLUGINS["launcher"]
    for name in {**targets, **grid_launch.RLKL_LAUNCHERS}:
        target = targets[grid_launch.RLKL_LAUNCHERS.get(name, name)]
        if find_spec(".".join(target.split(".")[:2])):
            grid_launch.check_launcher([f"hydra/launcher={name}"], [])
            checked.append(name)
    assert {"basic", "joblib", "cores"} <= set(checked)
    with pytest.raises(rlkl.ConfigError, match=r"os\.system is not an installed launcher"):
        grid_launch.check_launcher(["hydra/launcher=odd"], [tmp_path / "own"])
    with pytest.raises(rlkl.ConfigError, match="n_jobs=0"):
        grid_launch.check_launcher(["hydra.launcher.n_jobs=0"], [])
    with pytest.raises(rlkl.ConfigError, match="did you mean cores"):
        grid_launch.check_launcher(["hydra/launcher=corse"], [])


@pytest.mark.parametrize(
    ("cores", "jobs", "threads", "expected"),
    [(8, 100, 1, 8), (8, 3, 1, 3), (8, 100, 3, 2), (2, 100, 4, 1), (1, 5, 1, 1)],
)
def test_parallel_jobs_fit_the_cores(
    cores: int, jobs: int, threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    assert grid_launch.jobs_at_a_time(jobs, threads) == expected
