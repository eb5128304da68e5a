"""`rlkl bench`: the command line, and files with results."""

import json
from pathlib import Path

import pytest
from measurements import measured

from rlkl.cli import main
from rlkl.cli.schema import options
from rlkl.tools.bench import work
from rlkl.tools.bench.clock import PHASES, Measurement
from rlkl.tools.bench.compare import MeasurementError
from rlkl.tools.bench.work import PEERS, BenchConfig, Entry, participants

TINY = [
    "num_envs=[2]", "rollout_steps=8", "minibatch_size=8", "warmup_env_steps=1", "env_steps=1",
    "repetitions=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(config: BenchConfig, entry: Entry) -> Measurement:
        raise MeasurementError("was run")

    monkeypatch.setattr("rlkl.cli.bench.run_in_process", run)


def bench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


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
    entries, left_out = participants(BenchConfig())
    names = ["rlkl ppo_clip", "sb3 ppo_clip", "upper_bound", "upper_bound_sync"]
    assert [str(entry) for entry in entries] == names
    assert "skrl: not installed; the extra 'bench' has it" in left_out


def test_help_lists_works_and_peers(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--help") == 0
    printed = capsys.readouterr().out
    for name, description in options("bench").items():
        assert description, f"{name} has no description in its first comment"
        assert f"  {name} " in printed
        assert description in " ".join(printed.split())
    assert all(peer in printed for peer in PEERS)


def test_failure_does_not_stop_other_participants(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run(config: BenchConfig, entry: Entry) -> Measurement:
        if entry.contestant == "upper_bound":
            raise MeasurementError("ValueError: no [x]")
        return measured(10.0, phases=dict.fromkeys(PHASES, 1.0), rollout_megabytes=1.0)

    monkeypatch.setattr("rlkl.cli.bench.run_in_process", run)
    assert bench("peers=[]", "output=results") == 1
    printed = capsys.readouterr()
    assert "failed: ValueError: no [x]" in printed.out
    assert "upper_bound_sync" in printed.out
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["command"] == "rlkl bench 'peers=[]' output=results"
    errors = {r["entry"]["contestant"]: r["error"] for r in report["works"][0]["results"]}
    assert errors == {"rlkl": "", "upper_bound": "ValueError: no [x]", "upper_bound_sync": ""}


@pytest.mark.slow
def test_rlkl_and_upper_bounds_are_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench(*TINY, "peers=[]", "output=results") == 0
    assert "rlkl ppo_clip" in capfd.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.md"]
    results = json.loads((tmp_path / "results.json").read_text())["works"][0]["results"]
    found = {result["entry"]["contestant"]: result["measurements"] for result in results}
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
