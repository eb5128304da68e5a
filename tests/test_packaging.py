"""The package works when it is installed as a wheel, far from the repository."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def _run(command: list[str], *, cwd: Path, pythonpath: Path | None = None) -> str:
    """Runs a command, fails the test with all its output unless it exits 0, returns stdout."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if pythonpath is not None:
        env["PYTHONPATH"] = str(pythonpath)
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0:
        pytest.fail(
            f"{' '.join(command)} exited {done.returncode}\n{done.stdout}\n{done.stderr}",
            pytrace=False,
        )
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the repository without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"]
    options = ["--no-build-isolation", "--wheel-dir", str(folder)]
    _run([*pip_wheel, *options, str(REPOSITORY)], cwd=folder)
    (built,) = folder.glob("rlkl-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed into it, and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    pip_install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    _run([*pip_install, "--target", str(target), str(wheel)], cwd=target)
    return target


def test_wheel_holds_package_and_configs_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "rlkl/__init__.py" in names
    sources = (REPOSITORY / "configs").rglob("*.yaml")
    configs = {f"rlkl/{path.relative_to(REPOSITORY).as_posix()}" for path in sources}
    assert "rlkl/configs/train.yaml" in configs
    assert configs <= set(names)
    assert {
        "rlkl/tools/playground/index.html",
        "rlkl/tools/compare/page.css",
        "rlkl/tools/compare/page.html",
        "rlkl/tools/compare/head.html",
        "rlkl/tools/compare/table.html",
        "rlkl/tools/tuning/study.html",
        "rlkl/tools/compare/page.js",
    } <= set(names)
    metadata = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    assert {name.split("/")[0] for name in names} == {"rlkl", metadata}


@pytest.mark.slow
def test_installed_package_is_the_one_imported(installed: Path, tmp_path: Path) -> None:
    code = "import rlkl; print(rlkl.__file__)"
    imported = _run([sys.executable, "-c", code], cwd=tmp_path, pythonpath=installed)
    assert Path(imported.strip()).resolve() == (installed / "rlkl" / "__init__.py").resolve()


@pytest.mark.slow
def test_installed_package_reads_its_own_configs(installed: Path, tmp_path: Path) -> None:
    # A value that only the installed copy has shows which copy is read.
    config = installed / "rlkl" / "configs" / "train.yaml"
    original = config.read_text(encoding="utf-8")
    config.write_text(f"{original}\nseed: 271828\n", encoding="utf-8")
    try:
        command = [sys.executable, "-m", "rlkl", "train", "--cfg", "job"]
        printed = _run(command, cwd=tmp_path, pythonpath=installed)
    finally:
        config.write_text(original, encoding="utf-8")
    assert "total_env_steps:" in printed
    assert "seed: 271828" in printed


@pytest.mark.slow
def test_installed_package_trains(installed: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = ["total_env_steps=2000", f"run_dir={run_dir}"]
    command = [sys.executable, "-m", "rlkl", "train", *settings]
    _run(command, cwd=tmp_path, pythonpath=installed)
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    assert isinstance(summary, dict)
    assert summary
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "training wrote elsewhere too"


@pytest.mark.slow
def test_a_system_without_posix_locks_is_told_so() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import rlkl; rlkl.train"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: rlkl runs on POSIX systems, such as Linux and macOS")
