"""Checkpoints are complete at every moment, read without running code, and found or refused."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import save_checkpoint

import rlkl
from rlkl.training.checkpoint import FORMAT, load_checkpoint, newest


def test_a_checkpoint_is_whole_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "made" / "last.pt"
    save_checkpoint(path, {"number": 1})
    assert load_checkpoint(path) == {"format": FORMAT, "number": 1}
    order = []

    def full(number: int) -> None:
        order.append("synced")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(path, {"number": 2})
    assert order == ["synced"]
    assert load_checkpoint(path)["number"] == 1
    assert list(path.parent.iterdir()) == [path]


def test_file_is_synced_before_and_after_renaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(number: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(number).st_mode)
        order.append("folder" if is_folder else "file")
        sync(number)

    def renamed(self: Path, target: Path) -> Path:
        order.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    save_checkpoint(tmp_path / "last.pt", {"number": 1})
    assert order == ["file", "rename", "folder"]


class Malice:
    """Leaves a file behind if whoever reads it runs what it says."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_malice_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    path = tmp_path / "last.pt"
    torch.save({"format": FORMAT, "policy": Malice(evil)}, path)
    with pytest.raises(rlkl.ConfigError, match="not a checkpoint that can be read"):
        load_checkpoint(path)
    assert not evil.exists()
    torch.load(path, weights_only=False)
    assert evil.exists()  # so the file was malicious


class RunsCode:
    """What a malicious file would hold: to unpickle it is to call a function."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("it_ran",)


def test_code_in_a_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoints" / "last.pt"
    path.parent.mkdir()
    torch.save({"format": FORMAT, "config": RunsCode()}, path)
    for read in (lambda: load_checkpoint(path), lambda: rlkl.resume(tmp_path)):
        with pytest.raises(rlkl.ConfigError, match="something other than data") as refused:
            read()
        assert "weights_only" not in str(refused.value)
    assert not Path("it_ran").exists()
    torch.load(path, weights_only=False)  # which shows that the file is what it is said to be
    assert Path("it_ran").exists()


def test_damaged_checkpoint_is_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    state = {"weights": torch.arange(300.0), "moments": [1.5] * 40, "name": "a" * 100}
    save_checkpoint(path, state)
    written = load_checkpoint(path)
    content = path.read_bytes()
    chance = np.random.default_rng(0)
    for size in {0, 1, len(content) - 1, *chance.integers(len(content), size=60).tolist()}:
        path.write_bytes(content[:size])
        with pytest.raises(rlkl.ConfigError, match="not a checkpoint that can be read"):
            load_checkpoint(path)
    refused = 0
    for place in chance.integers(len(content), size=300):
        changed = bytearray(content)
        changed[place] ^= 1 << int(chance.integers(8))
        path.write_bytes(changed)
        try:
            back = load_checkpoint(path)
        except rlkl.ConfigError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        assert torch.equal(back.pop("weights"), written["weights"])
        assert back == {key: part for key, part in written.items() if key != "weights"}
    assert refused > 200  # the rest hit dates, padding and the like


def test_damaged_checkpoint_error_names_a_good_one(tmp_path: Path) -> None:
    for env_steps in (90, 100, 1000):
        save_checkpoint(tmp_path / f"step_{env_steps}.pt", {"number": env_steps})
    (tmp_path / "step_1000.pt").write_bytes(b"torn")
    (tmp_path / "last.pt").write_bytes(b"torn as well")
    with pytest.raises(rlkl.ConfigError, match=r"last\.pt is not .*; .*step_100\.pt can be read"):
        load_checkpoint(tmp_path / "last.pt")


def test_newest_complete_checkpoint_is_found(tmp_path: Path) -> None:
    def save(name: str, env_steps: int, *, resumable: bool = True, whole: bool = True) -> None:
        state = {"env_steps": env_steps, "resumable": resumable, "whole": whole}
        save_checkpoint(tmp_path / name, state)

    with pytest.raises(rlkl.ConfigError, match="no checkpoint from which a run can resume"):
        newest(tmp_path)
    save("step_80.pt", 80)
    save("step_200.pt", 200)
    save("last.pt", 230)
    assert newest(tmp_path)[0].name == "last.pt"
    save("last.pt", 200)  # a kill between the two
    save("step_300.pt", 300)
    assert newest(tmp_path)[0].name == "step_300.pt"
    (tmp_path / "step_300.pt").write_bytes(b"torn")
    path, state, notes = newest(tmp_path)
    assert (path.name, state["env_steps"]) == ("last.pt", 200)
    save("last.pt", 330, resumable=False)
    path, state, notes = newest(tmp_path)
    assert (path.name, state["env_steps"]) == ("step_200.pt", 200)
    assert "step_300.pt is not a checkpoint that can be read" in notes[0]
    assert "the last 130 environment steps will be repeated" in notes[1]
    command = f"rlkl resume {tmp_path.parent} exact=false"
    assert notes[1].endswith(f"to continue from last.pt, with other results: {command}")
    assert newest(tmp_path, exact=False)[0].name == "last.pt"
    save("last.pt", 330, resumable=False, whole=False)
    path, state, notes = newest(tmp_path, exact=False)
    assert (path.name, "exact=false" in notes[1]) == ("step_200.pt", False)
    path, state, notes = newest(tmp_path, lambda state: "seed=1" * (state["env_steps"] == 200))
    assert path.name == "step_80.pt"
    assert notes[1].endswith("step_200.pt is of another run, with seed=1")
