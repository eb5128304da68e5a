"""Rows and learners that several tests of experiments use."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiment_configs import TINY, silent

from rlkl.tools.experiments import directions, geometry, starts
from rlkl.tools.rows import Rows


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="package")
def curves() -> Rows:
    return geometry.calculate(geometry.GeometryConfig(kl=0.05, points=24), silent)


@pytest.fixture(scope="package")
def descents() -> Rows:
    return directions.calculate(directions.ExperimentConfig(), silent)


@pytest.fixture(scope="package")
def learner() -> Any:
    made = starts.trained(replace(TINY, rollout_steps=64, total_env_steps=256), silent)
    yield made
    made.envs.close()
