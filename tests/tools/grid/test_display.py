"""The display of a grid: progress read from files, and lines that fit a terminal."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import rlkl
from rlkl.tools.grid.call import Status, new_call
from rlkl.tools.grid.display import Display, Grid, Job, ending


def job(name: str, status: str, made: int, total: int = 1000, before: int = 0) -> Job:
    config = rlkl.TrainConfig(run_dir=name, total_env_steps=total)
    return Job(name, [], config, Status(status), made, before)


def test_overview_counts_jobs_and_steps() -> None:
    jobs = [job("a", "finished", 1024), job("b", "running", 500, before=100),
            job("c", "failed", 300), job("d", "waiting", 0)]  # fmt: skip
    before = [job(f"{steps}", "finished", steps, steps, steps) for steps in (3000, 4000)]
    grid = Grid("mine", [*before, *jobs])
    assert grid.progress == (7000 + 1000 + 500 + 0) / 10_000
    assert grid.overview(10.0) == " 85%  3 done, 1 running, 1 failed, 1 waiting"
    # 1,724 steps in 20 seconds, and 1,500 left.
    assert grid.seconds_left(30.0) == pytest.approx(1500 * 20 / 1724)
    assert grid.overview(30.0).endswith("1 waiting  about 0:00:17 left")
    jobs[3].status = Status("stopped")
    assert grid.overview(30.0) == (
        " 85%  3 done, 1 running, 1 failed, 1 stopped, 0 waiting  about 0:00:06 left"
    )


@pytest.mark.parametrize("name", ["first", "a_rather_long_name_of_a_grid"])
def test_display_fits_eighty_columns(name: str, tmp_path: Path) -> None:
    long = "ppo_kl-cartpole-algo.target_kl_0.02-total_env_steps_3500-seed3"
    jobs = [job(long, "running", 500_000, total=1_000_000), job("b", "waiting", 0)]
    jobs[0].return_mean = "-1234.5"
    grid = Grid(name, jobs)
    grid.overview(0.0)
    display = Display(grid, new_call(tmp_path / name), "live")
    display._console = Console(width=80, file=io.StringIO())
    display._console.print(display._table())
    lines = display._console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80
    assert "1 running, 0 failed, 1 waiting" in lines[1]
    assert "50%  500,000 steps  return -1234.5" in lines[2]


def test_progress_is_read_from_last_complete_row(tmp_path: Path) -> None:
    read = Job("a", ["seed=0"], rlkl.TrainConfig(run_dir=str(tmp_path)))
    read.read_progress()
    assert (read.env_steps, read.return_mean) == (0, "")
    lines = ["env_steps,return/train,kl/old_new"]
    metrics = tmp_path / "metrics.csv"
    for end, expected in (
        ("\n", (0, "")),
        ("\n128,9.5,0.1\n", (128, "9.5")),
        ("\n128,9.5,0.1\n256,,0.2\n", (256, "")),
        ("\n128,9.5,0.1\n256,7.5,0.2\n384,1", (256, "7.5")),
        ("\n" + "".join(f"{n},{n}.5,0.25\n" for n in range(2000)), (1999, "1999.5")),
    ):
        metrics.write_text(lines[0] + end)
        read.read_progress()
        assert (read.env_steps, read.return_mean) == expected
    for damage in ("xx\0,3\n", "a,b,c\n"):
        metrics.write_text(f"{lines[0]}\n128,9.5,0.1\n{damage}")
        read.read_progress()
        assert (read.env_steps, read.return_mean) == expected  # unchanged


def test_ending_shows_reason_or_results(tmp_path: Path) -> None:
    config = rlkl.TrainConfig(run_dir=str(tmp_path))
    failed = Job("a-seed0", [], config, Status("failed", "RuntimeError: no"))
    assert ending(failed) == "failed    a-seed0  RuntimeError: no"
    finished = Job("a-seed0", [], config, Status("finished"))
    summary = {"status": "finished", "env_steps": 1, "return_mean": 12.34,
               "eval_return": None, "wall_seconds": 5.4}  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert ending(finished) == "finished  a-seed0  return 12.3  5 s"
