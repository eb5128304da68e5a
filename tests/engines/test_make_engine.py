"""Which engine a policy gets, and that training works without the NumPy engine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from engines_available import HAS_NUMPY_ENGINE
from made_batches import policy_of

import rlkl
from rlkl.engines.make import make_engine

CODE = """
import rlkl
summary = rlkl.train(rlkl.TrainConfig(
    total_env_steps=2000, eval_episodes=1, run_dir="run",
    logger=rlkl.LoggerConfig(tensorboard=False, progress="plain"),
))
try:
    rlkl.train(rlkl.TrainConfig(policy=rlkl.PolicyConfig(engine="numpy")))
except rlkl.ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_auto_is_numpy_where_possible(engine: str) -> None:
    expected = "numpy" if HAS_NUMPY_ENGINE and engine == "auto" else "torch"
    assert make_engine(policy_of("gaussian", engine=engine)).name == expected


@pytest.mark.slow
def test_training_works_without_the_numpy_engine(tmp_path: Path) -> None:
    shutil.copytree(Path(rlkl.__file__).parent, tmp_path / "rlkl")
    shutil.rmtree(tmp_path / "rlkl" / "engines" / "numpy", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    title = " ".join(done.stdout.split())
    assert "cpu, torch engine (the NumPy engine is not installed)" in title
    assert "policy.engine=numpy: the NumPy engine is not installed" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
