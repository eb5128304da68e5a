"""The command line of a grid: names of jobs and folders, and overrides of the launcher."""

from dataclasses import replace
from pathlib import Path

import pytest

import rlkl
from rlkl.cli import compose, grid_line
from rlkl.cli.schema import register_schemas

register_schemas()


def named(*overrides: str) -> tuple[Path, list[str]]:
    grid_dir, jobs = grid_line.name_jobs(grid_line.read_line(list(overrides)))
    return grid_dir, list(jobs)


def test_job_names_hold_options_seed_and_swept_keys() -> None:
    folder, names = named("seed=0,1", "env=acrobot", "algo=trpo", "gamma=0.9", "grid=mine")
    assert folder == Path("runs/grids/mine")
    assert names == ["trpo-acrobot-seed0", "trpo-acrobot-seed1"]
    assert named("grid=mine", "gamma=0.9,0.95", "logger=quiet", "logger.tensorboard=false,true")[
        1
    ] == ["gamma_0.9", "gamma_0.95"]
    assert named("grid=mine")[1] == ["defaults"]
    assert named("grid=mine", "seed=1,1")[1] == ["seed1"]
    # The record of a call lies beside the files of its jobs.
    assert grid_line.job_name({"env": "env=call"}, []).startswith("job-call-")
    # Names stay distinct where characters had to be replaced.
    sizes = named("grid=mine", "policy.actor_hidden_sizes=[8,8],[88],[8]")[1]
    assert len(set(sizes)) == 3
    assert all(name.startswith("job-policy.actor_hidden_sizes_") for name in sizes)


def test_options_of_config_dirs_can_be_swept(tmp_path: Path) -> None:
    (tmp_path / "algo").mkdir()
    for name in ("mine_a", "mine_b"):
        (tmp_path / "algo" / f"{name}.yaml").write_text("defaults: [ppo_clip]\n")
    _, jobs = grid_line.load_jobs(grid_line.read_line(["algo=glob(mine_*)"]), [tmp_path])
    assert [job.name for job in jobs] == ["mine_a", "mine_b"]


def test_default_grid_name_ignores_order_and_swept_values() -> None:
    folder, _ = named("algo=trpo,npg", "seed=range(2)", "gamma=0.9")
    assert folder.parent == Path("runs/grids")
    assert folder.name.startswith("algo-seed-")
    assert named("gamma=0.9", "logger=quiet", "seed=0,1", "algo=npg,trpo")[0] == folder
    grown, names = named("algo=trpo,npg,ppo_clip", "seed=range(3)", "gamma=0.9")
    assert grown == folder
    assert {"trpo-seed1", "trpo-seed2", "ppo_clip-seed0"} < set(names)
    for other in ("gamma=0.95", "gamma=0.9 eval_episodes=3"):
        assert named("algo=trpo,npg", "seed=range(2)", *other.split())[0] != folder


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["grid=a/b"], "grid=a/b: expected a name"),
        (["grid=.hidden"], "expected a name"),
        (["grid=" + 151 * "a"], "expected a name"),
        (["hydra.sweep.dir=x"], "grid=NAME"),
        (["hydra.sweeper.max_batch_size=no"], "at least 1"),
    ],
)
def test_invalid_grid_settings_raise(overrides: list[str], message: str) -> None:
    with pytest.raises(rlkl.ConfigError, match=message):
        grid_line.read_line(overrides)


def test_launcher_overrides_are_separated_from_jobs() -> None:
    line = grid_line.read_line(
        ["seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=3", "grid=g",
         "hydra.sweeper.max_batch_size=5"]
    )  # fmt: skip
    assert line.jobs == ["seed=1,2"]
    assert line.launching == ["hydra/launcher=joblib", "hydra.launcher.n_jobs=3"]
    assert (line.name, line.batch) == ("g", 5)


@pytest.mark.parametrize(
    ("overrides", "composed"),
    [(["algo=trpo,npg", "seed=range(3)"], 2), (["seed=0,1", "run_dir='x-${seed}'"], 2)],
)
def test_seeds_are_composed_once_where_they_change_nothing(
    overrides: list[str], composed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(texts: list[str], config_dirs: list[Path]) -> rlkl.TrainConfig:
        loaded.append(texts)
        return compose.load(texts, config_dirs)

    monkeypatch.setattr(grid_line, "load", load)
    _, jobs = grid_line.load_jobs(grid_line.read_line(overrides), [])
    assert len(loaded) == composed
    for job in jobs:
        alone = compose.load(job.overrides, [])
        assert job.config == replace(alone, run_dir=job.config.run_dir)
        assert alone.run_dir in (None, job.config.run_dir)
