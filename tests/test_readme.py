"""The README's library example runs, and the page on new algorithms adds one by three edits."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from engines_available import ENGINES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


PAGE = (ROOT / "docs" / "adding_an_algorithm.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def python(*arguments: str, folder: Path, path: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_library_example_trains_in_ten_lines(tmp_path: Path) -> None:
    (example,) = blocks(README, "python")
    code = [line for line in example.splitlines() if line]
    assert len(code) <= 10
    shorter = example.replace("50_000", "5_000")
    assert shorter != example
    shorter += "import sys; assert 'hydra' not in sys.modules and 'omegaconf' not in sys.modules\n"
    printed = python("-c", shorter, folder=tmp_path)
    assert json.loads((tmp_path / "my_run" / "summary.json").read_text())["status"] == "finished"
    assert printed.splitlines()[-1] in ("0", "1")


@pytest.mark.slow
def test_new_algorithm_needs_two_files_and_one_line(tmp_path: Path) -> None:
    module, line = blocks(PAGE, "python")
    (config,) = blocks(PAGE, "yaml")
    for part in ("rlkl", "configs"):
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "rlkl" / "algos" / "ppo_kl_hinge.py").write_text(module)
    (tmp_path / "configs" / "algo" / "ppo_kl_hinge.yaml").write_text(config)
    registry = tmp_path / "rlkl" / "algos" / "__init__.py"
    text = registry.read_text()
    first = "from rlkl.algos import "
    opening = "ALGORITHMS: dict[str, Algorithm] = {\n"
    text = text.replace(opening, opening + line)
    registry.write_text(text.replace(first, f"from rlkl.algos import ppo_kl_hinge\n{first}", 1))
    rows = []
    for engine in ENGINES:
        arguments = ["algo=ppo_kl_hinge", "total_env_steps=2000", "eval_episodes=1", "threads=1"]
        arguments += [f"policy.engine={engine}", f"run_dir={engine}"]
        python("-m", "rlkl", "train", *arguments, folder=tmp_path, path=tmp_path)
        summary = json.loads((tmp_path / engine / "summary.json").read_text())
        assert (summary["status"], summary["algo"]) == ("finished", "ppo_kl_hinge")
        with (tmp_path / engine / "metrics.csv").open() as file:
            rows.append(next(csv.DictReader(file)))
    # The first update starts from the same batch, so it agrees to rounding.
    assert float(rows[0]["kl/old_new"]) > 1e-4
    assert float(rows[-1]["kl/old_new"]) == pytest.approx(float(rows[0]["kl/old_new"]), rel=1e-2)
    help_text = python("-m", "rlkl", "train", "--help", folder=tmp_path, path=tmp_path)
    assert "PPO with a KL penalty above a bound." in help_text
