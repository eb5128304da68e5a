"""What the README shows is true: its library example runs, its new algorithm is three edits."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


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


def test_the_library_example_trains_a_policy_in_ten_lines_without_hydra(tmp_path: Path) -> None:
    example = blocks("python")[0]
    code = [line for line in example.splitlines() if line]
    assert len(code) <= 10
    shorter = example.replace("50_000", "5_000")
    assert shorter != example
    shorter += "import sys; assert 'hydra' not in sys.modules and 'omegaconf' not in sys.modules\n"
    printed = python("-c", shorter, folder=tmp_path)
    assert json.loads((tmp_path / "my_run" / "summary.json").read_text())["status"] == "finished"
    assert printed.splitlines()[-1] in ("0", "1")


def test_the_worked_algorithm_needs_one_file_one_yaml_and_one_line(tmp_path: Path) -> None:
    module, line = blocks("python")[1:3]
    (config,) = blocks("yaml")
    for part in ("rlkl", "configs"):
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "rlkl" / "algos" / "ppo_reverse_kl.py").write_text(module)
    (tmp_path / "configs" / "algo" / "ppo_reverse_kl.yaml").write_text(config)
    registry = tmp_path / "rlkl" / "algos" / "__init__.py"
    text = registry.read_text()
    opening = "ALGORITHMS: dict[str, Algorithm] = {\n"
    text = text.replace(opening, opening + line)
    registry.write_text(text.replace("import npg, ", "import npg, ppo_reverse_kl, "))
    arguments = ["algo=ppo_reverse_kl", "total_env_steps=500", "eval_episodes=1", "run_dir=run"]
    python("-m", "rlkl", "train", *arguments, folder=tmp_path, path=tmp_path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["algo"]) == ("finished", "ppo_reverse_kl")
    help_text = python("-m", "rlkl", "train", "--help", folder=tmp_path, path=tmp_path)
    assert "PPO with a penalty on the reverse KL." in help_text
