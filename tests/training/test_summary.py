"""The summary of a run: versions, revision and hardware."""

import platform
from pathlib import Path

import pytest
import torch

import rlkl
from rlkl.training import summary
from rlkl.training.summary import git_revision, hardware, versions


def test_versions_name_all_packages() -> None:
    found = versions()
    assert list(found) == ["rlkl", "python", "torch", "gymnasium", "numpy"]
    assert (found["rlkl"], found["torch"]) == (rlkl.__version__, str(torch.__version__))


def test_installed_package_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "rlkl" / "training"
    package.mkdir(parents=True)
    monkeypatch.setattr(summary, "__file__", str(package / "summary.py"))
    assert git_revision() is None
    (tmp_path / ".git").mkdir()  # not a repository
    assert git_revision() is None


def test_missing_git_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(summary, "__file__", str(tmp_path / "rlkl" / "training" / "summary.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision() is None


def test_hardware_names_processor_and_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nmodel name\t: A chip @ 2 GHz\nmodel name\t: Another\n"
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    assert hardware("cpu") == {"cpu": "A chip @ 2 GHz", "cpus": 6}
    assert hardware("cuda:1") == {"cpu": "A chip @ 2 GHz", "cpus": 6, "gpu": "GPU of cuda:1"}


def test_processor_is_named_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert hardware("cpu")["cpu"] == "arm"
