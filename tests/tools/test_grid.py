"""Grids: names, display, and jobs that fail, are killed, are stopped and resume."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import joblib
import pytest
import yaml
from rich.console import Console
from same_runs import assert_same_run

import rlkl
from rlkl.cli import grid_launch, grid_line, main
from rlkl.cli.grid import _settle_orphaned_jobs
from rlkl.cli.schema import register_schemas
from rlkl.tools.grid.call import Status, new_call
from rlkl.tools.grid.display import Display, Grid, Job, ending

REPOSITORY = Path(rlkl.__file__).parent.parent
TINY = ["total_env_steps=300", "rollout_steps=16", "eval_episodes=2"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rlkl"])
    register_schemas()


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert isinstance(end.value.code, int)
    return end.value.code


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
    _, jobs = grid_line.request_jobs(grid_line.read_line(["algo=glob(mine_*)"]), [tmp_path])
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
    assert line.jobs.overrides == ["seed=1,2"]
    assert line.launching == ["hydra/launcher=joblib", "hydra.launcher.n_jobs=3"]
    assert (line.name, line.batch) == ("g", 5)


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
    for name in {**grid_launch.HYDRA_LAUNCHERS, **grid_launch.RLKL_LAUNCHERS}:
        extra = grid_launch.HYDRA_LAUNCHERS[grid_launch.RLKL_LAUNCHERS.get(name, name)]
        if not extra or find_spec(f"hydra_plugins.hydra_{extra}_launcher"):
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


def test_calls_have_separate_folders_and_stop_requests(tmp_path: Path) -> None:
    call, other = new_call(tmp_path / "grid"), new_call(tmp_path / "grid")
    assert call.folder != other.folder
    assert call.status("trpo-seed0") == Status("waiting")
    call.write_status("trpo-seed0", Status("failed", "a reason"))
    assert call.status("trpo-seed0") == Status("failed", "a reason")
    config = rlkl.TrainConfig(algo=rlkl.TRPOConfig(max_kl=1 / 3), gamma=0.1, run_dir="here")
    call.write_config("trpo-seed0", config)
    assert call.config("trpo-seed0") == config
    assert [call.stop_requests(), other.stop_requests()] == [0, 0]
    for expected in (1, 2, 3, 3):
        call.request_stop()
        assert call.stop_requests() == expected
    assert other.stop_requests() == 0


def job(name: str, status: str, made: int, total: int = 1000, before: int = 0) -> Job:
    return Job(name, name, Path(name), total, Status(status), made, before)


def test_overview_counts_jobs_and_steps() -> None:
    jobs = [job("a", "finished", 1024), job("b", "running", 500, before=100),
            job("c", "failed", 300), job("d", "waiting", 0)]  # fmt: skip
    grid = Grid("mine", jobs, finished_before=[3000, 4000])
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
    grid = Grid(name, jobs, finished_before=[])
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
    read = Job("a", "seed=0", tmp_path, 1000)
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


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (True, Status("stopped", "interrupted")),
        (False, Status("failed", "the launcher's worker that waited for it died")),
    ],
)
def test_orphaned_job_is_stopped_only_on_request(
    *, stop: bool, expected: Status, tmp_path: Path
) -> None:
    call = new_call(tmp_path)
    call.write_status("seed0", Status("running"))
    if stop:
        call.request_stop()
    (tmp_path / "seed0").mkdir()
    _settle_orphaned_jobs(call, [Job("seed0", "seed=0", tmp_path / "seed0", 100)])
    assert call.status("seed0") == expected


def test_ending_shows_reason_or_results(tmp_path: Path) -> None:
    failed = Job("a-seed0", "", tmp_path, 1, Status("failed", "RuntimeError: no"))
    assert ending(failed) == "failed    a-seed0  RuntimeError: no"
    finished = Job("a-seed0", "", tmp_path, 1, Status("finished"))
    summary = {"status": "finished", "env_steps": 1, "return_mean": 12.34,
               "eval_return": None, "wall_seconds": 5.4}  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert ending(finished) == "finished  a-seed0  return 12.3  5 s"


def test_finished_grid_is_kept_and_other_config_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = ["train", "-m", "seed=0,1", "grid=mine", "hydra.launcher.n_jobs=2", *TINY]
    assert run(*line) == 0
    printed = capfd.readouterr().out
    assert "grid runs/grids/mine: 2 jobs: 0 already finished, 0 to resume, 2 to start" in printed
    assert "  finished  seed1  return " in printed
    assert printed.endswith("grid mine: 2 finished\n")
    log = (tmp_path / "runs/grids/mine/seed0/log.txt").read_text()
    assert "ppo_clip on CartPole-v1" in log
    assert "finished" in log
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    assert run(*line) == 0
    assert "2 already finished" in capfd.readouterr().out
    assert run(*line, "gamma=0.5") == 2
    error = capfd.readouterr().err
    assert "runs/grids/mine/seed0 was trained with gamma=0.99" in error
    assert "but gamma=0.5 is requested" in error
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == before


# Slow tests: commands in separate processes.


def start(folder: Path, *arguments: str, python: str = sys.executable) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    return subprocess.Popen(
        [python, "-m", "rlkl", "train", "-m", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    printed, errors = process.communicate(timeout=240)
    return process.returncode, printed, errors


def wait_until(what: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline, "not reached in two minutes"
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def iterations(run_dir: Path) -> int:
    metrics = run_dir / "metrics.csv"
    return metrics.read_text().count("\n") - 1 if metrics.exists() else 0


SHORT = ["seed=0,1", "grid=g", "total_env_steps=40000", "eval_episodes=2"]
LONG = ["seed=0,1", "grid=g", "total_env_steps=50000", "eval_episodes=2", "checkpoint.interval=5"]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of LONG, each by a single command."""
    folder = tmp_path_factory.mktemp("single")
    overrides = [text for text in LONG if not text.startswith(("seed", "grid"))]
    for seed in (0, 1):
        subprocess.run(
            [sys.executable, "-m", "rlkl", "train", f"seed={seed}", f"run_dir=seed{seed}",
             *overrides],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=True,
            capture_output=True,
        )  # fmt: skip
    return folder


def assert_same_as_single(grid: Path, single: Path) -> None:
    for seed in (0, 1):
        assert_same_run(grid / f"seed{seed}", single / f"seed{seed}")


@pytest.mark.slow
def test_failed_jobs_stop_no_others_and_run_again(tmp_path: Path) -> None:
    line = [
        "env.id=mortal:Mortal-v0", "env.num_envs=2", "env.backend=sync", "grid=g",
        "env.kwargs.after=0,100", "env.kwargs.ending=error,killed", *TINY,
    ]  # fmt: skip
    code, printed, errors = finish(start(tmp_path, *line, "hydra.launcher.n_jobs=2"))
    assert code == 1
    failures = errors.splitlines()
    assert len(failures) == 2, errors
    for failure, reason in zip(failures, ("the motor burnt out", "killed by SIGKILL"), strict=True):
        assert failure.startswith("rlkl: failed: ")
        assert "env.kwargs.after=100" in failure
        assert reason in failure
    grid = tmp_path / "runs" / "grids" / "g"
    assert "grid g: 2 finished, 2 failed" in printed
    assert "to complete the grid, run the same command again: rlkl train -m" in printed
    log = grid / "env.kwargs.after_100-env.kwargs.ending_error" / "log.txt"
    assert str(log.relative_to(tmp_path)) in failures[0]
    assert "the motor burnt out" in log.read_text()
    finished = {path: path.stat().st_mtime_ns for path in grid.glob("*after_0*/**/*")}
    assert len(finished) > 10

    (tmp_path / "repaired").touch()
    code, printed, errors = finish(start(tmp_path, *line))
    assert (code, errors) == (0, "")
    assert "4 jobs: 2 already finished, 2 to resume, 0 to start" in printed
    assert {path: path.stat().st_mtime_ns for path in grid.glob("*after_0*/**/*")} == finished
    for path in grid.glob("*/summary.json"):
        assert json.loads(path.read_text())["status"] == "finished"
    assert len(list(grid.glob("*/summary.json"))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_grid_equals_single_runs(number: int, tmp_path: Path, single: Path) -> None:
    grid = tmp_path / "runs" / "grids" / "g"
    process = start(tmp_path, *LONG, "hydra.launcher.n_jobs=2")
    wait_until(lambda: min(iterations(grid / "seed0"), iterations(grid / "seed1")) > 5, process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    code, printed, errors = finish(process)
    assert "Traceback" not in errors
    if number != signal.SIGKILL:
        assert code == 130
        assert "stopping: running jobs finish their iteration and save" in printed
        assert "grid g: 0 finished, 2 stopped" in printed
    wait_until_gone(tmp_path)
    for seed in (0, 1):  # even after SIGKILL of the command
        summary = json.loads((grid / f"seed{seed}" / "summary.json").read_text())
        assert (summary["status"], summary["reason"]) == ("stopped", "interrupted")
        assert 5 < summary["iterations"] < 49

    code, printed, errors = finish(start(tmp_path, *LONG))
    assert (code, errors) == (0, "")
    assert "0 already finished, 2 to resume, 0 to start" in printed
    assert_same_as_single(grid, single)
    assert (grid / "seed0" / "resumed.yaml").exists()


def wait_until_gone(folder: Path) -> None:
    """Wait until no process has a folder as its working directory."""
    deadline = time.monotonic() + 60
    while found := working_in(folder):
        assert time.monotonic() < deadline, f"left behind: {found}"
        time.sleep(0.2)


def working_in(folder: Path) -> list[tuple[int, str]]:
    """Return id and command of the other processes with a folder as their working directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        if path.name == str(os.getpid()):
            continue
        try:
            if (path / "cwd").readlink() == folder and (line := (path / "cmdline").read_text()):
                found.append((int(path.name), line.replace("\0", " ")))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_two_commands_run_each_job_once(tmp_path: Path, single: Path) -> None:
    both = [start(tmp_path, *LONG, "hydra.launcher.n_jobs=2") for _ in range(2)]
    ends = [finish(process) for process in both]
    grid = tmp_path / "runs" / "grids" / "g"
    assert_same_as_single(grid, single)
    for seed in (0, 1):
        assert not (grid / f"seed{seed}" / "resumed.yaml").exists()
        log = (grid / f"seed{seed}" / "log.txt").read_text()
        assert log.count("ppo_clip on CartPole-v1 ×") == 1
    taken = [line for _, _, errors in ends for line in errors.splitlines()]
    assert len(taken) == 2
    assert all(
        line.startswith("rlkl: taken: seed=") and "is in use by process" in line for line in taken
    )
    assert sum("2 finished" in printed.splitlines()[-1] for _, printed, _ in ends) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["slurm_rehearsal", "ray_cluster", "basic", "joblib"])
def test_launcher_runs_are_identical_to_single_runs(
    launcher: str, tmp_path: Path, single: Path
) -> None:
    extra = grid_launch.HYDRA_LAUNCHERS[grid_launch.RLKL_LAUNCHERS.get(launcher, launcher)]
    if extra and not find_spec(f"hydra_plugins.hydra_{extra}_launcher"):
        pytest.skip(f"the extra {extra!r} is not installed")
    code, printed, errors = finish(start(tmp_path, *LONG, f"hydra/launcher={launcher}"))
    assert code == 0, errors
    assert printed.endswith("grid g: 2 finished\n")
    assert_same_as_single(tmp_path / "runs" / "grids" / "g", single)
    (call,) = (tmp_path / "runs" / "grids" / "g" / "calls").iterdir()
    record = yaml.safe_load((call / "call.yaml").read_text())
    assert record["command"].endswith(f"hydra/launcher={launcher}")
    assert record["jobs"] == {"seed0": "not begun", "seed1": "not begun"}
    wait_until_gone(tmp_path)


@pytest.mark.slow
def test_job_interrupted_by_submitit_is_resumed(tmp_path: Path, single: Path) -> None:
    if not find_spec("hydra_plugins.hydra_submitit_launcher"):
        pytest.skip("the extra 'submitit' is not installed")
    grid = tmp_path / "runs" / "grids" / "g"
    process = start(tmp_path, *LONG, "hydra/launcher=slurm_rehearsal")
    wait_until(lambda: min(iterations(grid / "seed0"), iterations(grid / "seed1")) > 5, process)
    workers = [pid for pid, line in working_in(tmp_path) if "submitit.core._submit" in line]
    jobs = [int((grid / f"seed{seed}" / ".lock").read_text()) for seed in (0, 1)]
    for pid in set(workers) - set(jobs):
        os.kill(pid, signal.SIGUSR2)  # what Slurm sends before a job's time limit
    code, printed, errors = finish(process)
    assert code == 0, errors
    assert printed.endswith("grid g: 2 finished\n")
    assert_same_as_single(grid, single)
    for seed in (0, 1):
        (resumed,) = yaml.safe_load((grid / f"seed{seed}" / "resumed.yaml").read_text())
        assert resumed["checkpoint"] == "last.pt"  # saved at the interruption


@pytest.mark.slow
def test_existing_ray_cluster_is_used(tmp_path: Path) -> None:
    if not find_spec("ray"):
        pytest.skip("the extra 'ray' is not installed")
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    arguments = ["start", "--head", "--num-cpus=2", "--include-dashboard=false", "--port=0"]
    arguments.append("--disable-usage-stats")
    subprocess.run([*ray, *arguments], capture_output=True, check=True)
    try:
        line = ["hydra/launcher=ray_cluster", "hydra.launcher.ray.init.address=auto"]
        code, printed, errors = finish(start(tmp_path, *SHORT, *line))
        assert code == 0, errors
        assert printed.endswith("grid g: 2 finished\n")
    finally:
        subprocess.run([*ray, "stop", "--force"], capture_output=True, check=False)


@pytest.mark.slow
def test_single_run_imports_no_launcher(tmp_path: Path) -> None:
    code = (
        "import sys; from rlkl.cli import main\n"
        "try: main(['train', 'total_env_steps=300', 'rollout_steps=16', 'logger=quiet'])\n"
        "except SystemExit: print([n for n in ('joblib', 'submitit', 'ray') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
