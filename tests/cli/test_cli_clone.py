"""`rlkl clone` on the command line: its keys, those of the new run, and what it prints."""

import json
from functools import partial
from pathlib import Path

import pytest
from cloning_data import config_for
from commands import exit_code

import rlkl
from rlkl.utils.untrusted_files import read_yaml


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of an iteration, in the working directory."""
    monkeypatch.chdir(tmp_path)
    rlkl.train(config_for("CartPole-v1", run_dir="run", gamma=0.9, total_env_steps=32))
    return tmp_path


run = partial(exit_code, "clone")


def test_keys_of_both_configs_are_taken(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(
        "run", "run_dir=out", "episodes=4", "epochs=1", "learning_rate=1e-2", "patience=null",
        "policy.actor_hidden_sizes=[4]", "seed=3", "env.kwargs.sutton_barto_reward=true",
    )  # fmt: skip
    assert code == 0
    config = read_yaml(trained / "out" / "config.yaml")
    assert config["policy"]["actor_hidden_sizes"] == [4]
    assert (config["seed"], config["gamma"]) == (3, 0.9)
    assert config["env"]["kwargs"] == {"sutton_barto_reward": True}
    settings = json.loads((trained / "out" / "summary.json").read_text())["clone"]
    assert (settings["episodes"], settings["epochs"]) == (4, 1)
    assert (settings["learning_rate"], settings["patience"]) == (0.01, None)
    printed = capsys.readouterr()
    first, *numbers, last = printed.out.splitlines()
    assert first.startswith("policy of epoch ")
    assert [line.split()[0] for line in numbers][-1] == "held_out/explained_variance"
    assert (last, printed.err) == ("out", "")


def test_progress_is_told_on_standard_error(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "env_steps=40", "epochs=2", "logger.progress=plain") == 0
    first, *epochs = capsys.readouterr().err.splitlines()
    assert first.startswith("run: ")
    assert " episodes of 40 steps, of which " in first
    assert all(len(line) <= 80 for line in epochs)
    starts = [line.partition(":")[0] for line in epochs if not line.startswith("  ")]
    assert starts == ["epoch 1", "epoch 2"] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("epochs=3",), "epochs=3: expected a run's folder or a Minari data set first"),
        (("run", "epoch=3"), "epoch=3: there is no key 'epoch' (did you mean epochs"),
        (
            ("run", "policy.encoder_kwargs.width=3"),
            "policy.encoder_kwargs: changes nothing without",
        ),
        (("run", "epochs=1,2"), "epochs=1,2: expected key=value"),
        (("run", "policy=gru"), "policy=gru: a clone of a run takes keys with one value each"),
        (("run", "env.id=Acrobot-v1"), "run has observations Box("),
        (("run", "run_dir=run"), "run_dir=run exists already"),
        (("run", "init_from=run"), "init_from=run: a clone is fitted to data alone"),
        (("run", "reference.run_dir=run"), "reference=run: a clone is fitted to data alone"),
        (("run", "--seed=1"), "--seed=1: there is no such flag"),
        (("nothing",), "nothing: there is no such run, and no Minari data set of this name"),
        ((".",), ". is neither the folder of a run nor that of a Minari data set"),
    ],
)
def test_bad_requests_are_one_line(
    trained: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(trained.rglob("*"))
    assert run(*arguments) == 2
    assert capsys.readouterr().err.startswith(f"rlkl: {message}")
    assert sorted(trained.rglob("*")) == before
