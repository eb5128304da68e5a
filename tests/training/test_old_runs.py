"""Run folders of version 0.1 load and resume; `data/old_runs` has one of each kind of policy."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_environments  # noqa: F401  (registers what two of the runs were trained on)
from engines_available import needs_numpy_engine

import rlkl

DATA = Path(__file__).parents[1] / "data" / "old_runs"
ACTIONS = json.loads((DATA / "actions.json").read_text())


def rows_of(run_dir: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run_dir / "metrics.csv").read_text().splitlines()))


@pytest.mark.parametrize("kind", ACTIONS)
def test_old_policy_chooses_the_same_actions(kind: str) -> None:
    policy = rlkl.load_policy(DATA / kind)
    dtype = np.uint8 if kind == "image" else np.float32
    mask = {"action_mask": np.array([1, 0, 1], np.int8)} if kind == "masked" else {}
    for observation, action in zip(
        ACTIONS[kind]["observations"], ACTIONS[kind]["actions"], strict=True
    ):
        chosen = policy.act(np.array(observation, dtype), **mask)
        np.testing.assert_allclose(chosen, action, rtol=1e-4)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in ("categorical", "gru") else pytest.mark.slow)
        for kind in ACTIONS
    ],
)
@needs_numpy_engine
def test_old_run_resumes(kind: str, tmp_path: Path) -> None:
    run_dir = tmp_path / kind
    shutil.copytree(DATA / kind, run_dir)
    kept = rows_of(run_dir)
    summary = rlkl.resume(run_dir, lambda config: replace(config, total_env_steps=400))
    assert (summary.status, summary.exact) == ("finished", True)
    rows = rows_of(run_dir)
    assert summary.iterations == len(rows) > len(kept)
    assert rows[: len(kept)] == kept
    assert [int(row["env_steps"]) for row in rows] == sorted(
        {int(row["env_steps"]) for row in rows}
    )
    assert all(0 <= float(row["kl/old_new"]) < 1 for row in rows)
