"""`rlkl bench`: the command line, and files with results."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import exit_code
from fake_device import fake_device
from measurements import measured

from rlkl.cli.compose_tools import load_works
from rlkl.cli.schema import options, register_schemas
from rlkl.tools.bench import work
from rlkl.tools.bench.clock import PHASES, Measurement
from rlkl.tools.bench.compare import MeasurementError
from rlkl.tools.bench.libraries import train_config
from rlkl.tools.bench.work import PEERS, BenchConfig, Case, cases_of
from rlkl.utils import validation

TINY = [
    "num_envs=[2]", "rollout_steps=8", "minibatch_size=8", "warmup_env_steps=1", "env_steps=1",
    "repetitions=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(config: BenchConfig, case: Case) -> Measurement:
        raise MeasurementError("was run")

    monkeypatch.setattr("rlkl.cli.bench.run_in_process", run)


bench = partial(exit_code, "bench")


BAD = {
    "work=ppo_cartpol": "did you mean ppo_cartpole",
    "work=[ppo_cartpole,scal]": "did you mean scale",
    "work=[]": "expected one of",
    "work=scale,algorithms": "write several values as [a,b]",
    "~work": "expected key=value",
    "peers=[skr]": "did you mean skrl",
    "peers=skrl": "expected a list",
    "algos=[ppo]": "expected one of",
    "algos=[]": "at least one",
    "env_id=CartPol-v1": "did you mean CartPole-v1",
    "num_envs=[0]": "at least 1",
    "minibatch_size=100": "does not divide the rollout of 1024 rows",
    "repetitions=0": "at least 1",
    "repetition=3": "did you mean repetitions",
    "learning_rate=0": "above 0",
    "env_steps=many": "expected a whole number",
    "output=nowhere/results": "there is no folder nowhere",
    "device=cuda:99": "cannot be used here",
    "beside_cpu=true": "set device=cuda",
    "backend=tensr": "did you mean tensor",
    "x=[": "not an override",
    "--fast": "there is no such flag",
}


@pytest.mark.usefixtures("no_measurements")
@pytest.mark.parametrize("override", BAD)
def test_bad_command_line_prints_one_line(
    override: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert bench(override) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("rlkl: ")
    assert printed.err.count("\n") == 1
    assert BAD[override] in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_measurements")
@pytest.mark.parametrize("suffix", ["md", "json"])
def test_results_are_not_overwritten(
    suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    existing = tmp_path / f"mine.{suffix}"
    existing.write_text("existing")
    assert bench("output=mine") == 2
    assert f"mine.{suffix} exists already" in capfd.readouterr().err
    assert existing.read_text() == "existing"


def test_missing_peer_fails_only_if_requested(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    only = {"stable_baselines3": object()}
    monkeypatch.setattr(work.importlib.util, "find_spec", only.get)
    assert bench("peers=[sb3,skrl]") == 2
    error = capfd.readouterr().err
    assert "skrl" in error
    assert "'rlkl[bench]'" in error
    cases, left_out = cases_of(BenchConfig())
    names = ["rlkl ppo_clip", "sb3 ppo_clip", "upper_bound", "upper_bound_sync"]
    assert [str(case) for case in cases] == names
    assert "skrl: not installed; the extra 'bench' has it" in left_out


def test_help_lists_works_and_peers(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--help") == 0
    printed = capsys.readouterr().out
    for name, description in options("bench").items():
        assert description, f"{name} has no description in its first comment"
        assert f"  {name} " in printed
        assert description in " ".join(printed.split())
    assert all(peer in printed for peer in PEERS)


def test_failure_does_not_stop_other_cases(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run(config: BenchConfig, case: Case) -> Measurement:
        if case.library == "upper_bound":
            raise MeasurementError("ValueError: no [x]")
        return measured(10.0, phases=dict.fromkeys(PHASES, 1.0), rollout_megabytes=1.0)

    monkeypatch.setattr("rlkl.cli.bench.run_in_process", run)
    assert bench("peers=[]", "output=results") == 1
    printed = capsys.readouterr()
    assert "failed: ValueError: no [x]" in printed.out
    assert "upper_bound_sync" in printed.out
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["command"] == "rlkl bench 'peers=[]' output=results"
    errors = {r["case"]["library"]: r["error"] for r in report["works"][0]["results"]}
    assert errors == {"rlkl": "", "upper_bound": "ValueError: no [x]", "upper_bound_sync": ""}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_works_need_a_gpu(capfd: pytest.CaptureFixture[str]) -> None:
    assert bench("work=gpu") == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("rlkl: device=cuda cannot be used here: ")
    assert printed.err.count("\n") == 1


def test_device_is_measured_beside_the_cpu() -> None:
    with fake_device() as device:
        config = BenchConfig(device=device, beside_cpu=True, num_envs=[2])
        cases, left_out = cases_of(config)
    assert [str(case) for case in cases] == ["rlkl ppo_clip cuda:0", "rlkl ppo_clip cpu"]
    assert left_out == []
    on_device, on_cpu = (train_config(config, case, "run") for case in cases)
    assert (on_device.device, on_cpu.device) == (device, "cpu")
    config = BenchConfig(device="cpu", beside_cpu=True)
    assert [str(case) for case in cases_of(config)[0]] == ["rlkl ppo_clip cpu"]


def test_work_of_missing_environment_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register_schemas()
    (config,) = load_works(["work=gpu_halfcheetah", "device=cpu"])
    monkeypatch.setattr(validation.importlib.util, "find_spec", lambda name: None)
    cases, (reason,) = cases_of(config)
    assert cases == []
    assert reason.startswith("env.id=HalfCheetah-v5 needs the package mujoco")
    assert bench("work=gpu_halfcheetah", "device=cpu") == 0
    assert f"left out: {reason}" in capsys.readouterr().out


def test_works_for_gpus_train_as_described() -> None:
    register_schemas()
    works = {config.work: config for config in load_works(["work=gpu", "device=cpu"])}
    runs = {
        name: train_config(config, Case("rlkl", config.num_envs[0], config.algos[-1], "cpu"), "x")
        for name, config in works.items()
    }
    tensors, pixels = runs["gpu_cartpole"], runs["gpu_pong"]
    assert (tensors.env.backend, tensors.env.num_envs, tensors.rollout_steps) == (
        "tensor",
        4096,
        32,
    )
    assert tensors.algo.name == "trpo"
    assert (pixels.env.frame_stack, pixels.rollout_steps) == (4, 128)
    assert pixels.policy.share_encoder
    assert runs["gpu_gru"].policy.memory == "gru"
    cheetah = runs["gpu_halfcheetah"]
    assert (cheetah.env.num_envs, cheetah.rollout_steps) == (64, 64)
    assert cheetah.critic.num_epochs * cheetah.critic.num_minibatches == 320


@pytest.mark.slow
def test_works_for_gpus_run_on_the_cpu(tmp_path: Path) -> None:
    assert bench("work=[gpu_cartpole,gpu_gru]", "device=cpu", *TINY, "output=results") == 0
    works = json.loads((tmp_path / "results.json").read_text())["works"]
    results = [result for one in works for result in one["results"]]
    names = [(result["case"]["algo"], result["case"]["device"]) for result in results]
    assert names == [("ppo_clip", "cpu"), ("trpo", "cpu"), ("ppo_clip", "cpu")]
    for result in results:
        (measurement,) = result["measurements"]
        assert measurement["iterations"] == 10
        assert measurement["env_steps"] == 160
        assert all(seconds > 0 for seconds in measurement["phases"].values())


@pytest.mark.slow
def test_rlkl_and_upper_bounds_are_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench(*TINY, "peers=[]", "output=results") == 0
    assert "rlkl ppo_clip" in capfd.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.md"]
    results = json.loads((tmp_path / "results.json").read_text())["works"][0]["results"]
    found = {result["case"]["library"]: result["measurements"] for result in results}
    assert list(found) == ["rlkl", "upper_bound", "upper_bound_sync"]
    for (measurement,) in found.values():
        assert measurement["iterations"] == 10
        # Ten rollouts of 2 × 8 rows; autoreset steps do not count.
        assert 120 <= measurement["env_steps"] <= 160
        assert 0 < measurement["start_megabytes"] <= measurement["peak_megabytes"]
        assert measurement["startup_seconds"] > 0
    (own,) = found["rlkl"]
    assert list(own["phases"]) == list(PHASES)
    assert all(seconds > 0 for seconds in own["phases"].values())
    assert sum(own["phases"].values()) == pytest.approx(own["seconds"])
    assert own["rollout_megabytes"] > 0
    assert found["upper_bound_sync"][0]["env_steps"] == 160
