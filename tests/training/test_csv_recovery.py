"""What `resume` finds in a damaged folder: looked at before anything is written, and never lost."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from made_runs import save_checkpoint
from test_strangers import SMALL, Calls, contents, lost, unfinished

import rlkl
from rlkl.cli import main
from rlkl.training.checkpoint import load_checkpoint, numbered

MANY = {**SMALL, "total_env_steps": 400, "checkpoint": rlkl.CheckpointConfig(interval=2)}


def half_done(run: Path) -> Path:
    """Make a run with a dozen episodes, which broke off behind a checkpoint."""
    logger = Calls(lost)
    logger.iterations = -18
    with pytest.raises(RuntimeError, match="power"):
        rlkl.Trainer(rlkl.TrainConfig(run_dir=str(run), **MANY)).train([logger])
    return run


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return half_done(tmp_path_factory.mktemp("half") / "run")


def of_older_version(run: Path) -> Path:
    for path in (run / "checkpoints").glob("*.pt"):
        state = load_checkpoint(path)
        del state["run"]["files"], state["whole"], state["run"]["exact"]
        save_checkpoint(path, state)
    return run


def with_byte(place: int, byte: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:place] + byte + content[place + 1 :]


def lines_without(number: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        return b"".join(lines[:number] + lines[number + 1 :])

    return change


def with_quote(content: bytes) -> bytes:
    """Turn the first digit of the third row into a quote, as one flipped bit does of a `2`."""
    place = [i for i, byte in enumerate(content) if byte == 10][2] + 1
    return content[:place] + b'"' + content[place + 1 :]


def with_garbage(content: bytes) -> bytes:
    place = [i for i, byte in enumerate(content) if byte == 10][3] - 2
    return with_byte(place, b"\xff")(content)


def with_other_digit(content: bytes) -> bytes:
    place = [i for i, byte in enumerate(content) if byte == 10][1] - 2
    assert content[place : place + 1].isdigit()
    return with_byte(place, b"1" if content[place : place + 1] != b"1" else b"2")(content)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "a quote": (with_quote, "is damaged in line 4"),
    "garbage": (with_garbage, "is damaged in line 4"),
    "missing": (lambda content: None, r"has 0 rows and ends at 0 environment steps"),
    "emptied": (lambda content: b"", r"has 0 rows and ends at 0 environment steps"),
    "cut": (lambda content: content[: len(content) // 2], "rows and ends at"),
    "a row less": (lines_without(2), "rows"),
    "another header": (lambda content: b"x" + content, "has other columns"),
    "another digit": (with_other_digit, "has other rows than when the checkpoint was written"),
}
OLDER = [kind for kind in DAMAGE if kind != "another digit"]


@pytest.mark.parametrize("name", ["metrics.csv", "episodes.csv"])
@pytest.mark.parametrize(
    ("kind", "older"),
    [(kind, False) for kind in DAMAGE]
    + [pytest.param(kind, True, marks=pytest.mark.slow) for kind in OLDER],
)
def test_damaged_rows_are_refused_and_nothing_is_written(
    kind: str, older: bool, name: str, half: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(half, run)
    if older:
        of_older_version(run)
    change, says = DAMAGE[kind]
    whole = (run / name).read_bytes()
    damaged = change(whole)
    if damaged is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(damaged)
    before = contents(run)
    with pytest.raises(rlkl.ConfigError, match=rf"/{name} .*{says}") as refused:
        rlkl.resume(run)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(f"rlkl resume {run} exact=false")
    assert contents(run) == before
    if kind == "cut":
        (run / name).write_bytes(whole)
        assert rlkl.resume(run).exact


def test_damaged_csv_keeps_its_good_rows(tmp_path: Path) -> None:
    run = half_done(tmp_path / "run")
    lines = with_quote((run / "episodes.csv").read_bytes()).splitlines(keepends=True)
    lines.insert(6, b"1,1.0,1\r\n")  # from before the row in front of it
    damaged = b"".join(lines)
    (run / "episodes.csv").write_bytes(damaged)
    steps = [row.split(b",")[0] for row in damaged.splitlines()[1:]]
    summary = rlkl.resume(run, exact=False)
    assert (summary.status, summary.exact) == ("finished", False)
    assert (run / "episodes.csv.damaged-1").read_bytes() == damaged
    kept = [row.split(b",")[0] for row in (run / "episodes.csv").read_bytes().splitlines()[1:]]
    number = load_checkpoint(run / "checkpoints/last.pt")["episodes"]
    assert len(kept) == number - 1
    assert kept[:2] == steps[:2]
    assert kept[2] == steps[3]
    assert json.loads((run / "summary.json").read_text())["exact"] is False
    (entry,) = yaml.safe_load((run / "resumed.yaml").read_text())
    assert entry["exact"] is False
    # What was inexact once stays so.
    longer = lambda config: replace(config, total_env_steps=450)  # noqa: E731
    assert not rlkl.resume(run, longer).exact


def test_an_older_checkpoint_resumes_as_it_did(tmp_path: Path) -> None:
    run = of_older_version(half_done(tmp_path / "run"))
    rlkl.train(rlkl.TrainConfig(run_dir=str(tmp_path / "whole"), **MANY))
    assert rlkl.resume(run).exact
    rows = [(path / "episodes.csv").read_bytes() for path in (run, tmp_path / "whole")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("content", ["", "- env_steps: [", "a: 1", "\x00"])
def test_a_damaged_record_of_resumes_is_set_aside(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = unfinished(tmp_path / "run")
    (run / "resumed.yaml").write_text(content)
    loud = lambda config: replace(config, logger=rlkl.LoggerConfig(progress="plain"))  # noqa: E731
    assert rlkl.resume(run, loud).status == "finished"
    assert (run / "resumed.yaml.damaged-1").read_text() == content
    assert len(yaml.safe_load((run / "resumed.yaml").read_text())) == 1
    assert "renamed to resumed.yaml.damaged-1" in capsys.readouterr().out


def test_checkpoints_of_another_seed_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = unfinished(tmp_path / "run")
    other = tmp_path / "other"
    rlkl.train(rlkl.TrainConfig(run_dir=str(other), seed=3, **SMALL))
    (other / "checkpoints/step_64.pt").rename(run / "checkpoints/step_64.pt")
    loud = lambda config: replace(config, logger=rlkl.LoggerConfig(progress="plain"))  # noqa: E731
    assert rlkl.resume(run, loud).status == "finished"
    printed = capsys.readouterr().out
    assert "step_64.pt is of another run, with seed=3, and config.yaml has seed=0" in printed
    rlkl.train(rlkl.TrainConfig(run_dir=str(tmp_path / "whole"), **SMALL))
    ours, whole = (
        load_checkpoint(path / "checkpoints/last.pt") for path in (run, tmp_path / "whole")
    )
    assert ours["recent_returns"] == whole["recent_returns"]
    (run / "config.yaml").write_bytes((other / "config.yaml").read_bytes())
    with pytest.raises(
        rlkl.ConfigError, match=r"no checkpoint .* seed=0, and config.yaml has seed=3"
    ):
        rlkl.resume(run)


def test_damaged_config_is_reported_and_checkpoint_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = unfinished(tmp_path / "run")
    (run / "config.yaml").write_text("[")
    loud = lambda config: replace(config, logger=rlkl.LoggerConfig(progress="plain"))  # noqa: E731
    assert rlkl.resume(run, loud).status == "finished"
    assert "config.yaml cannot be read: line 1: " in capsys.readouterr().out
    assert (run / "config.yaml").read_text() == "["


class Unknown(gym.Env[Any, Any]):
    """Its state cannot be read."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        return self.np_random.random(2).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        seen = self.np_random.random(2).astype(np.float32)
        return seen, float(action), bool(self.np_random.random() < 0.2), False, {}


@pytest.fixture
def unknown() -> Iterator[rlkl.EnvConfig]:
    gym.register("Unknown-v0", Unknown)
    yield rlkl.EnvConfig("Unknown-v0", 2)
    del gym.registry["Unknown-v0"]


def test_on_request_a_stopped_run_repeats_no_step(
    unknown: rlkl.EnvConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    loud = rlkl.LoggerConfig(progress="plain", tensorboard=False)
    config = rlkl.TrainConfig(
        run_dir=str(run),
        **{**SMALL, "env": unknown, "logger": loud, "checkpoint": rlkl.CheckpointConfig(100)},
    )
    with pytest.raises(RuntimeError, match="power"):
        rlkl.Trainer(config).train([Calls(lost)])  # in the third iteration of four
    state = load_checkpoint(run / "checkpoints/last.pt")
    assert (state["env_steps"], state["resumable"], state["whole"]) == (48, False, False)
    save_checkpoint(run / "checkpoints/last.pt", state | {"whole": True})  # as Ctrl-C leaves it
    before = (run / "metrics.csv").read_bytes().splitlines()
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["resume", str(run), "exact=false"])
    assert end.value.code == 0
    assert "last.pt, at 48 environment steps" in capsys.readouterr().out
    after = (run / "metrics.csv").read_bytes().splitlines()
    assert after[:4] == before[:4]
    assert [line.split(b",")[0] for line in after[1:]] == [b"16", b"32", b"48", b"64"]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["exact"], summary["env_steps"], summary["status"]) == (False, 64, "finished")
    # The state that it began with is one to resume from.
    assert [path.name for path in numbered(run / "checkpoints")] == ["step_48.pt", "step_0.pt"]
    assert load_checkpoint(run / "checkpoints/step_48.pt")["resumable"]


def test_exact_takes_true_and_false_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["resume", "nowhere", "exact=perhaps"])
    assert end.value.code == 2
    assert "exact=perhaps: expected exact=true or exact=false" in capsys.readouterr().err
