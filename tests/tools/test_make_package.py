"""`rlkl package`: the folder it makes, its scores, and what it refuses before it makes one."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

import rlkl
from rlkl.cli import main
from rlkl.tools import packaging
from rlkl.tools.model_card import changed_settings, score_cells
from rlkl.training.config import TrainConfig
from rlkl.training.trained_policy import load_run
from rlkl.utils.errors import ConfigError

if importlib.util.find_spec("safetensors") is None:
    pytest.skip("needs the extra safetensors", allow_module_level=True)

EXPORT = ("onnx", "onnxscript", "onnxruntime")
needs_export = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, EXPORT)), reason="needs the extra export"
)
SCORED = {"num_episodes": 4, "seed": 3, "onnx": False}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run on Pendulum."""
    folder = tmp_path_factory.mktemp("packaging") / "run"
    config = rlkl.TrainConfig(
        env=rlkl.EnvConfig("Pendulum-v1", 2, wrappers=[{"TimeLimit": {"max_episode_steps": 20}}]),
        total_env_steps=400,
        rollout_steps=50,
        eval_episodes=0,
        normalize_observations=True,
        seed=5,
        algo=rlkl.PPOClipConfig(num_minibatches=2, clip_ratio=0.3),
        logger=rlkl.LoggerConfig(tensorboard=False, progress="none"),
        run_dir=str(folder),
    )
    rlkl.train(config)
    return folder


@pytest.fixture(scope="module")
def packaged(trained: Path) -> Path:
    return rlkl.package(trained, trained.parent / "my package", **SCORED)


def test_package_has_four_files_at_most(packaged: Path) -> None:
    names = {path.name for path in packaged.iterdir()}
    assert names == {"README.md", "policy.safetensors", "policy.yaml"}
    assert [path.name for path in packaged.parent.iterdir() if "partial" in path.name] == []


def test_evaluation_repeats_the_score_exactly(trained: Path, packaged: Path) -> None:
    scores = yaml.safe_load((packaged / "policy.yaml").read_text())["evaluation"]
    assert (scores["episodes"], scores["seed"]) == (4, 3)
    for kind, sampled in (("deterministic", False), ("sampled", True)):
        of_package = rlkl.evaluate(packaged, 4, seed=3, sampled=sampled)
        of_run = rlkl.evaluate(trained, 4, seed=3, sampled=sampled)
        assert of_package == of_run
        assert scores[kind]["mean"] == of_package.mean_return
        assert scores[kind]["unended"] == 0


def test_card_shows_the_scores(packaged: Path) -> None:
    scores = yaml.safe_load((packaged / "policy.yaml").read_text())["evaluation"]
    card = (packaged / "README.md").read_text()
    for kind in ("deterministic", "sampled"):
        assert f"| {kind} | {' | '.join(score_cells(scores[kind]))} |" in card
    assert card.startswith("# ppo_clip on Pendulum-v1\n")
    assert "with `ppo_clip` for 400 environment steps.\n" in card
    assert "    rlkl evaluate 'my package' --episodes 4 --seed 3\n" in card
    assert 'rlkl.load_policy("my package")' in card
    assert "| observations normalized | yes |" in card
    assert "    algo.clip_ratio: 0.3\n" in card
    assert f"| trained with | rlkl {rlkl.__version__}, python" in card


def test_package_names_no_folder_of_the_run(trained: Path, packaged: Path) -> None:
    for path in packaged.iterdir():
        assert str(trained.parent).encode() not in path.read_bytes()
    config = yaml.safe_load((packaged / "policy.yaml").read_text())["config"]
    assert config["total_env_steps"] == 400
    assert not {"run_dir", "logger"} & set(config)


def test_unended_episodes_are_counted(trained: Path, tmp_path: Path) -> None:
    run = load_run(trained)
    short = SimpleNamespace(**vars(run) | {"max_episode_steps": 7})
    path = packaging.package_run(short, trained, tmp_path / "new", 2, 0, onnx=False)  # type: ignore[arg-type]
    assert load_run(path).max_episode_steps == 7
    card = (path / "README.md").read_text()
    assert "did not end within 7 steps, left out above: 2 deterministic, 2 sampled." in card
    assert "| deterministic | - | - to - |" in card


def test_package_without_scores_says_so(trained: Path, tmp_path: Path) -> None:
    path = rlkl.package(trained, tmp_path / "new", num_episodes=0, onnx=False, checkpoint="best")
    assert "Not evaluated: " in (path / "README.md").read_text()
    assert load_run(path).checkpoint == "best"
    assert load_run(path).env_steps == load_run(trained, "best").env_steps


def test_existing_folder_is_never_overwritten(
    trained: Path, packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging, "load_changed_run", lambda *_, **__: pytest.fail("too late"))
    before = {path: path.read_bytes() for path in packaged.iterdir()}
    with pytest.raises(ConfigError, match="exists already and is not overwritten"):
        rlkl.package(trained, packaged, **SCORED)
    (trained.parent / "empty").mkdir(exist_ok=True)
    with pytest.raises(ConfigError, match="exists already and is not overwritten"):
        rlkl.package(trained, trained.parent / "empty", **SCORED)
    assert {path: path.read_bytes() for path in packaged.iterdir()} == before


def test_folder_made_meanwhile_is_kept(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new"
    monkeypatch.setattr(packaging, "load_package", lambda partial: path.mkdir())
    with pytest.raises(ConfigError, match="exists already and is not overwritten"):
        rlkl.package(trained, path, num_episodes=0, onnx=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]
    assert list(path.iterdir()) == []


def test_package_that_cannot_be_loaded_is_removed(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging, "weights_of", lambda trained: b"")
    with pytest.raises(ConfigError, match=r"policy\.safetensors: "):
        rlkl.package(trained, tmp_path / "new", num_episodes=0, onnx=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("run", "output", "words"),
    [
        ("run", "no/such", "there is no folder .*no; create it first"),
        ("my package", "new", "is a package already; copy the folder"),
        ("missing", None, "missing: there is no such folder"),
        ("missing", "new", "missing: there is no such folder"),
        ("run", " ", "output=' ': expected at least one character"),
    ],
)
def test_wrong_folders_are_refused(
    run: str, output: str | None, words: str, packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(packaged.parent)
    with pytest.raises(ConfigError, match=words):
        rlkl.package(run, output, **SCORED)
    assert not (packaged.parent / "new").exists()


@pytest.mark.parametrize(("package", "extra"), [("safetensors",) * 2, ("onnxscript", "export")])
def test_missing_extra_is_named(
    package: str, extra: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else object()
    )
    with pytest.raises(ConfigError, match=rf"pip install 'rlkl\[{extra}\]'") as refused:
        rlkl.package(trained, tmp_path / "new")
    assert ("; or leave it out: --onnx no" in str(refused.value)) == (extra == "export")
    assert not (tmp_path / "new").exists()


def test_settings_that_differ_are_listed() -> None:
    from dataclasses import asdict

    config = TrainConfig(algo=rlkl.TRPOConfig(max_kl=0.5), env="Acrobot-v1", gamma=0.9)
    assert changed_settings(asdict(config)) == {
        "algo.name": "trpo", "algo.max_kl": 0.5, "env.id": "Acrobot-v1", "gamma": 0.9,
    }  # fmt: skip


def test_command_packages_and_evaluates(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: Any) -> str:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        assert end.value.code == 0
        return capsys.readouterr().out

    path = tmp_path / "handed_on"
    printed = run(
        "package", trained, "--output", path, "--onnx", "no", "--episodes", 2, "--seed", 1
    ).splitlines()
    assert printed[-1] == str(path)
    assert [line.split()[0] for line in printed[:-1]] == [
        "README.md", "policy.safetensors", "policy.yaml",
    ]  # fmt: skip
    shutil.move(path, tmp_path / "elsewhere")
    of_package, of_run = (
        run("evaluate", folder, "--episodes", 2, "--seed", 1)
        for folder in (tmp_path / "elsewhere", trained)
    )
    assert of_package == of_run
    assert "Pendulum-v1, checkpoint last at 400 environment steps" in of_package


def test_own_callable_is_called_only_if_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made_elsewhere.py").write_text(
        "import gymnasium\ndef make():\n    return gymnasium.make('Pendulum-v1')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    packed = rlkl.package(trained, tmp_path / "new", env="made_elsewhere:make", **SCORED)
    assert (
        "The code of the environment is not in this folder." in (packed / "README.md").read_text()
    )
    with pytest.raises(ConfigError, match="it is run only if you name it too"):
        rlkl.evaluate(packed, 1)
    assert len(rlkl.evaluate(packed, 1, env="made_elsewhere:make").returns) == 1


@needs_export
@pytest.mark.slow
def test_onnx_model_acts_and_names_no_path(trained: Path, tmp_path: Path) -> None:
    import onnxruntime

    path = rlkl.package(trained, tmp_path / "new", num_episodes=0)
    model = (path / "policy.onnx").read_bytes()
    assert b"site-packages" not in model
    assert b"packaging" not in model  # pytest's folder
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    observation = np.array([[0.6, -0.8, 1.5]], np.float32)
    action = session.run(["action"], {"vector": observation})[0]
    np.testing.assert_allclose(action[0], rlkl.load_policy(path).act(observation[0]), rtol=1e-5)
    assert "| output | `action` | tensor(float) ['batch', 1] |" in (path / "README.md").read_text()


def test_description_of_a_package_is_json_like(packaged: Path) -> None:
    content = yaml.safe_load((packaged / "policy.yaml").read_text())
    assert json.loads(json.dumps(content)) == content
    assert set(content) == {
        "format", "rlkl", "checkpoint", "env_steps", "env", "threads", "max_episode_steps",
        "policy", "run", "config", "evaluation",
    }  # fmt: skip
