"""`rlkl evaluate`, and evaluation while training: the episodes of a policy that stands still."""

import csv
import json
import math
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import forked_python
import gymnasium as gym
import numpy as np
import pytest
import torch
from commands import exit_code
from gymnasium.spaces import Box, Discrete
from made_runs import save_checkpoint
from scipy import stats
from small_environments import Endless

import rlkl
from rlkl.cli.evaluate import run_episodes
from rlkl.engines.make import make_engine
from rlkl.envs.observations import ObservationEncoder
from rlkl.models.policy import Policy
from rlkl.training.checkpoint import load_checkpoint
from rlkl.training.evaluation import Evaluation, EvaluationStoppedError, evaluate
from rlkl.training.trained_policy import load_run
from rlkl.utils.seeding import RandomStreams

ROOT = Path(__file__).parents[2]


def tiny(run_dir: Path, **settings: Any) -> rlkl.TrainConfig:
    known: dict[str, Any] = {
        "total_env_steps": 400,
        "rollout_steps": 32,
        "eval_episodes": 3,
        "env": rlkl.EnvConfig(num_envs=2),
        "algo": rlkl.PPOClipConfig(num_minibatches=2),
        "logger": rlkl.LoggerConfig(tensorboard=False, progress="none"),
    }
    return rlkl.TrainConfig(run_dir=str(run_dir), **(known | settings))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on CartPole, with a normalizer."""
    run_dir = tmp_path_factory.mktemp("evaluate") / "run"
    rlkl.train(tiny(run_dir, normalize_observations=True))
    return run_dir


run = partial(exit_code, "evaluate")


def test_the_statistics_of_episodes() -> None:
    returns = [3.0, 1.0, 2.0, 50.0, 4.0]
    found = Evaluation(returns, [1, 2, 3, 4, 6]).statistics()
    low, high = found.pop("mean_low"), found.pop("mean_high")
    assert found == {
        "mean": 12.0,
        "interquartile_mean": 3.0,
        "standard_deviation": pytest.approx(np.sqrt((81 + 121 + 100 + 1444 + 64) / 4)),
        "min": 1.0,
        "max": 50.0,
        "mean_length": 3.2,
    }
    expected = stats.bootstrap(
        (returns,), np.mean, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (low, high) == pytest.approx(expected, abs=0.9)


def test_one_episode_has_neither_deviation_nor_interval() -> None:
    found = Evaluation([7.0], [7]).statistics()
    assert [key for key, value in found.items() if value is None] == [
        "mean_low", "mean_high", "standard_deviation",
    ]  # fmt: skip


def test_the_table_and_the_file_tell_the_same(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*.*")}
    assert run(trained, "--episodes", 6, "--seed=4", "--output", tmp_path / "file.json") == 0
    first, heading, *rows, name = capsys.readouterr().out.splitlines()
    assert first == (
        "CartPole-v1, checkpoint last at 448 environment steps, 6 episodes of each, seed 4"
    )
    for column in ("mean", "95% interval", "interquartile mean", "std", "min", "max"):
        assert column in heading
    assert name == str(tmp_path / "file.json")
    kept = json.loads((tmp_path / "file.json").read_text())
    assert (kept["env_id"], kept["env_steps"], kept["seed"]) == ("CartPole-v1", 448, 4)
    assert list(kept["actions"]) == [row.split()[0] for row in rows] == ["deterministic", "sampled"]
    for row, found in zip(rows, kept["actions"].values(), strict=True):
        assert len(found["returns"]) == 6
        assert found["returns"] == found["lengths"]
        assert row.split()[1] == f"{np.mean(found['returns']):.6g}"
        assert row.split()[-1] == f"{np.mean(found['lengths']):.6g}"
        assert f"{found['mean_low']:.6g} to {found['mean_high']:.6g}" in row
    assert kept["actions"]["deterministic"]["returns"] != kept["actions"]["sampled"]["returns"]
    assert {path: path.read_bytes() for path in trained.rglob("*.*")} == before


def test_evaluation_episodes_depend_on_the_seed_alone(trained: Path) -> None:
    known = load_run(trained)
    first, again, other = (run_episodes(known, 4, seed, "sampled").returns for seed in (0, 0, 1))
    assert first == again != other
    trainer = rlkl.Trainer(tiny(Path("unused"), eval_episodes=4))
    trainer.learner.envs.close()
    assert known.policy.normalizer is not None
    # As the run of the same seed would be evaluated at its end: other episodes.
    trainer.policy.load_state_dict(known.policy.policy.state_dict())
    trainer.learner.normalizer = known.policy.normalizer
    assert trainer.learner.evaluate().mean_return != np.mean(
        run_episodes(known, 4, 0, "deterministic").returns
    )


def test_the_policy_sees_what_it_saw_in_training(trained: Path) -> None:
    known = load_run(trained)
    env = gym.make("CartPole-v1")
    for seed in range(2):
        found = run_episodes(known, 1, seed, "deterministic")
        (env_seed,) = RandomStreams(seed).integers("fresh environments", 1)
        observation, _ = env.reset(seed=env_seed)
        length, over = 0, False
        while not over:
            action = known.policy.act(observation)
            observation, _, terminated, truncated, _ = env.step(action)
            length, over = length + 1, terminated or truncated
        assert found.lengths == [length]
        assert found.returns == [length]


BAD: dict[str, str] = {
    "nowhere": "nowhere: there is no such folder",
    "empty": "empty is not the folder of a run",
    "unfinished": "has no checkpoints/last.pt: a run writes it when it ends",
    "damaged": "is not a checkpoint that can be read",
    "bare --checkpoint best": "has no checkpoints/best.pt: no episode had ended",
    "run --checkpoint first": "expected one of last, best",
    "run --episodes 0": "at least 1",
    "run --episodes many": "expected a whole number",
    "run --seed -1": "at least 0",
    "run --actions random": "expected one of deterministic, sampled",
    "run --sed 3": "did you mean --seed",
    "run --seed": "--seed: expected one argument",
    "run episodes=3": "episodes=3: expected one of env.id",
    "--seed 1": "got nothing",
    "run --output file.json": "it exists already",
    "run --output file.txt": "ends in .json",
    "run --output none/file.json": "there is no folder none",
}


@pytest.mark.parametrize("arguments", BAD)
def test_impossible_evaluation_gives_one_line_and_code_2(
    arguments: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").touch()
    (tmp_path / "damaged" / "checkpoints").mkdir(parents=True)
    (tmp_path / "damaged" / "checkpoints" / "last.pt").write_text("no")
    (tmp_path / "run").symlink_to(trained)
    shutil.copytree(trained, tmp_path / "bare")
    (tmp_path / "bare" / "checkpoints" / "best.pt").unlink()
    (tmp_path / "file.json").touch()
    before = sorted(tmp_path.rglob("*"))
    assert run(*arguments.split()) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("rlkl: ")
    assert printed.err.count("\n") == 1
    assert BAD[arguments] in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_help_shows_examples_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], []):
        assert run(*arguments) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("usage: rlkl evaluate RUN_DIR [KEY=VALUE ...] [FLAG ...]\n")
        assert "  --episodes N  " in printed
        assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.slow
def test_the_script_is_the_same_command(trained: Path) -> None:
    script = [sys.executable, ROOT / "scripts" / "evaluate.py", trained, "--episodes", "1"]
    done = forked_python.run(script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "deterministic" in done.stdout


def test_best_policy_is_evaluated_on_request(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    trainer = rlkl.Trainer(tiny(folder, seed=9, normalize_observations=True))
    trainer.learner.envs.close()
    save_checkpoint(folder / "checkpoints" / "best.pt", trainer.learner.state_dict())
    assert (load_run(folder).env_steps, load_run(folder, "best").env_steps) == (448, 0)
    best, last = rlkl.load_policy(folder, "best"), rlkl.load_policy(folder)
    expected = trainer.policy.state_dict()["actor"]
    for name, parameter in best.policy.state_dict()["actor"].items():
        assert np.array_equal(parameter, expected[name])
    assert best.policy.actor_parameters.vector.ne(last.policy.actor_parameters.vector).any()


def metrics_of(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_spare_episodes_are_spread_over_environments() -> None:
    encoder = ObservationEncoder(Box(-np.inf, np.inf, (3,)))
    policy = Policy(rlkl.PolicyConfig(), encoder, Discrete(3), torch.Generator())
    config = rlkl.EnvConfig("SmallCounter-v0", num_envs=3, backend="sync")
    found = evaluate(make_engine(policy), config, 5, [0, 1, 2])
    # Sub-environments 0 and 1 give two episodes each, sub-environment 2 one: of 3 and 4, of 4
    # and 3, and of 5 steps (PLANS).
    assert sorted(found.lengths) == [3, 3, 4, 4, 5]
    # The reward of a step is above 200 in sub-environment 2, and below in the others.
    assert sum(value > 200 * n for value, n in zip(found.returns, found.lengths, strict=True)) == 1


def endless(num_envs: int, episodes: int, seeds: list[int], **given: Any) -> Evaluation:
    encoder = ObservationEncoder(Endless.observation_space)
    policy = Policy(rlkl.PolicyConfig(), encoder, Endless.action_space, torch.Generator())
    return evaluate(
        make_engine(policy),
        rlkl.EnvConfig("SmallEndless-v0", num_envs, "sync"),
        episodes,
        seeds,
        **given,
    )


def test_episodes_without_end_are_counted_apart() -> None:
    found = endless(3, 6, [0, 1, 2], max_episode_steps=5)
    # The first sub-environment meets the limit; reset with seed 1 it ends after a step.
    assert (sorted(found.returns), found.unended) == ([1, 1, 1, 2, 2], [5])
    assert found.mean_return == pytest.approx(7 / 5)
    assert found.warning(5, "--max-steps") == (
        "1 of 6 evaluation episodes did not end within 5 steps (--max-steps); the mean is that of "
        "the 5 that ended"
    )
    assert endless(2, 4, [1, 2], max_episode_steps=2).warning(2, "") == ""


def test_no_episode_ends_and_no_more_begin() -> None:
    found = endless(2, 6, [0, 3], max_episode_steps=4)
    assert (found.returns, found.unended) == ([], [4, 4])
    assert math.isnan(found.mean_return)
    assert set(found.statistics().values()) == {None}
    assert "none of 2 evaluation episodes ended within 4 steps" in found.warning(4, "x")


def test_evaluation_ends_when_told_to() -> None:
    with pytest.raises(EvaluationStoppedError):
        endless(1, 1, [0], stop=iter([False] * 5 + [True]).__next__)


def test_limit_of_steps_is_the_runs_or_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rlkl.train(tiny(tmp_path / "run", eval_max_episode_steps=9, eval_episodes=0))
    run(tmp_path / "run", "--episodes", 2)
    assert "did not end within 9 steps" in (told := capsys.readouterr().err) or "none of 2" in told
    run(tmp_path / "run", "--episodes", 2, "--max-steps", 10_000)
    assert capsys.readouterr().err == ""


def test_evaluation_while_training_changes_no_bit_of_it(tmp_path: Path) -> None:
    for interval in (0, 1):
        rlkl.train(tiny(tmp_path / str(interval), eval_interval=interval, seed=3))
    rows = [metrics_of(tmp_path / name) for name in "01"]
    assert len(rows[0]) == len(rows[1]) == 7
    for without, with_ in zip(*rows, strict=True):
        for tag, text in without.items():
            if not tag.startswith("time/") and (tag != "return/eval" or text):
                assert with_[tag] == text, tag
    states = [load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in "01"]
    for network in ("actor", "critic"):
        for name, tensor in states[0]["policy"][network].items():
            assert tensor.equal(states[1]["policy"][network][name])


def test_without_interval_only_the_end_is_evaluated(trained: Path) -> None:
    rows = metrics_of(trained)
    assert [bool(row["return/eval"]) for row in rows] == [False] * 6 + [True]
    means = {int(row["env_steps"]): float(row["return/train"] or "-inf") for row in rows}
    best = max(means, key=lambda steps: means[steps])
    assert load_run(trained, "best").env_steps == best
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["return_best"] == means[best]


def test_episodes_do_not_depend_on_the_backend() -> None:
    trainer = rlkl.Trainer(tiny(Path("unused"), env=rlkl.EnvConfig("CartPole-v1", 3)))
    seeds = [1, 2, 3]
    for backend in ("native", "sync"):
        env = rlkl.EnvConfig("CartPole-v1", 3, backend)
        result = evaluate(make_engine(trainer.policy), env, 8, seeds)
        assert len(result.returns) == len(result.lengths) == 8
        assert result.returns == [float(length) for length in result.lengths]
        assert result == evaluate(make_engine(trainer.policy), env, 8, seeds)
