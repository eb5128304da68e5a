"""Two ranks of torchrun with an environment and networks of the user train as one process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_callbacks import rows_of, summary_of

DOCS = Path(__file__).parents[2] / "docs"
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
ENV, NETWORKS = "env.id=my_package.envs:make_env", "policy.module=my_networks"
SETTINGS = [
    *(ENV, "env.num_envs=4", "env.backend=sync", "rollout_steps=32", "total_env_steps=256"),
    *(NETWORKS, "policy.encoder=residual", "policy.encoder_kwargs.width=8", "policy.engine=torch"),
    *("threads=1", "algo.learning_rate_schedule=constant", "eval_episodes=0", "logger=quiet"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the modules of the pages about environments and networks."""
    text = (DOCS / "own_environments.md").read_text()
    file = r"<!-- file: my_package/envs.py -->\n```python\n(.*?)```"
    (environment,) = re.findall(file, text, re.DOTALL)
    networks = re.findall(r"```python\n(.*?)```", (DOCS / "own_networks.md").read_text(), re.DOTALL)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "envs.py").write_text(environment)
    (tmp_path / "my_networks.py").write_text(networks[0])
    return tmp_path


def run(folder: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(DOCS.parent)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_ranks_train_own_parts_as_one(folder: Path) -> None:
    run(folder, "rlkl", "train", *SETTINGS, "run_dir=one", "total_env_steps=512")
    run(folder, *TORCHRUN, "rlkl", "train", *SETTINGS, "run_dir=two")
    run(folder, *TORCHRUN, "rlkl", "resume", "two", ENV, NETWORKS, "total_env_steps=512")
    assert summary_of(folder / "two")["exact"]
    one, two = rows_of(folder / "one"), rows_of(folder / "two")
    assert [row["env_steps"] for row in two] == ["128", "256", "384", "512"]
    for row, other in zip(one, two, strict=True):
        assert row["return/train"] == other["return/train"]
        assert float(row["kl/old_new"]) == pytest.approx(float(other["kl/old_new"]), rel=1e-4)
