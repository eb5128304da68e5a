"""Runs of several ranks equal runs of one, resume bit for bit, and end together."""

import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen, run
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from learning_loop import config_of
from several_ranks import on_ranks

from rlkl.envs.make import EnvConfig
from rlkl.models.policy import PolicyConfig
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.training.loggers import LoggerConfig
from rlkl.training.rank_checks import check_same_parameters, env_of_rank
from rlkl.training.trainer import Trainer
from rlkl.utils.errors import RankError
from rlkl.utils.ranks import ALONE, Ranks
from rlkl.utils.seeding import RandomStreams

UPDATES = 5
GRU = {"memory": "gru", "memory_size": 8}
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ppo_clip": ("ppo_clip", "CartPole-v1", {}),
    "ppo_kl with early stop": ("ppo_kl", "CartPole-v1", {}),
    "trpo": ("trpo", "Pendulum-v1", {}),
    "trpo with a memory": ("trpo", "CartPole-v1", GRU),
    "ppo_clip with a memory": ("ppo_clip", "Pendulum-v1", GRU),
}


def config_for(name: str) -> TrainConfig:
    """Return the config of a run of 4 sub-environments and 5 updates of 128 steps."""
    algo, env_id, settings = RUNS[name]
    return TrainConfig(
        algo=config_of(algo, num_epochs=3),
        env=EnvConfig(id=env_id, num_envs=4, backend="sync"),
        policy=PolicyConfig(engine="torch", actor_hidden_sizes=[16], **settings),
        rollout_steps=32,
        total_env_steps=UPDATES * 128,
        normalize_observations=True,
        scale_rewards=True,
        threads=1,
        logger=LoggerConfig(progress="none"),
    )


def state_of(learner: Learner) -> dict[str, Any]:
    """Return parameters, statistics and the last episode numbers of a learner."""
    assert learner.normalizer is not None
    assert learner.reward_scaler is not None
    return {
        "actor": learner.policy.actor_parameters.vector.detach().numpy().copy(),
        "critic": learner.policy.critic_parameters.vector.detach().numpy().copy(),
        "normalizer": learner.normalizer.moments.mean.copy(),
        "rewards": np.array(learner.reward_scaler.moments.squares),
        "episodes": np.array([learner.tracker.count, learner.tracker.return_mean]),
        "steps": np.array(learner.env_steps),
    }


def trained(ranks: Ranks, name: str) -> dict[str, Any]:
    """Train without a stop, and again from the state after 3 updates; return both results."""
    config = config_for(name)
    learner = Learner(config)
    assert learner.ranks == ranks
    states = []
    for _ in range(UPDATES):
        learner.iterate()
        states.append(pickle.loads(pickle.dumps(learner.state_dict())))
    learner.close()
    resumed = Learner(config)
    resumed.load_state_dict(states[2])
    for _ in range(UPDATES - 3):
        resumed.iterate()
    resumed.close()
    return {"whole": state_of(learner), "resumed": state_of(resumed), "saved": states[2]}


def all_trained(ranks: Ranks) -> dict[str, dict[str, Any]]:
    """Run every case, on several ranks at once."""
    return {name: trained(ranks, name) for name in RUNS}


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """Return the results of each of two ranks."""
    return on_ranks(2, tmp_path_factory.mktemp("ranks"), all_trained)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_train_as_one(name: str, on_two: list[dict[str, dict[str, Any]]]) -> None:
    alone, first = trained(ALONE, name)["whole"], on_two[0][name]["whole"]
    for part, value in alone.items():
        np.testing.assert_allclose(first[part], value, rtol=1e-5, atol=1e-5, err_msg=part)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_ranks_resume_bit_for_bit(name: str, on_two: list[dict[str, dict[str, Any]]]) -> None:
    for rank in on_two:
        for part, value in rank[name]["whole"].items():
            np.testing.assert_array_equal(rank[name]["resumed"][part], value, err_msg=part)
            np.testing.assert_array_equal(on_two[0][name]["whole"][part], value, err_msg=part)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_one_process_resumes_two_ranks(name: str, on_two: list[dict[str, dict[str, Any]]]) -> None:
    learner = Learner(config_for(name))
    learner.load_state_dict(on_two[0][name]["saved"])
    for _ in range(UPDATES - 3):
        learner.iterate()
    learner.close()
    for part, value in state_of(learner).items():
        expected = on_two[0][name]["whole"][part]
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5, err_msg=part)


class Breaks(gym.Env[Any, Any]):
    """Ends its process, or raises, at the tenth step of sub-environment 3."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, how: str) -> None:
        self.how, self.steps = how, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.is_last = seed == RandomStreams(0).integers("environments", 4)[3]
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.is_last and self.steps == 10:
            if self.how == "exit":
                os._exit(3)
            raise RuntimeError("the wheel came off")
        return np.zeros(1, np.float32), 0.0, False, False, {}


gym.register("Breaks-v0", Breaks)


def attempt(ranks: Ranks, change: Callable[[Ranks, TrainConfig], TrainConfig]) -> str:
    """Build and iterate a learner; return its error."""
    try:
        learner = Learner(change(ranks, config_for("ppo_clip")))
        with closing(learner):
            learner.iterate()
            if ranks.rank == 1:
                learner.policy.actor_parameters.vector.data[0] += 1
            learner.iterate()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def with_env(env: EnvConfig) -> Callable[[Ranks, TrainConfig], TrainConfig]:
    return lambda ranks, config: replace(config, env=env, normalize_observations=False)


BREAKS = EnvConfig(id="Breaks-v0", num_envs=4, backend="sync")
MISTAKES: dict[str, Callable[[Ranks, TrainConfig], TrainConfig]] = {
    "raises": with_env(replace(BREAKS, kwargs={"how": "raise"})),
    "seeds": lambda ranks, config: replace(config, seed=ranks.rank),
    "uneven": with_env(EnvConfig(num_envs=5)),
    "native": with_env(EnvConfig(num_envs=8, backend="native")),
    "numpy": lambda ranks, config: replace(config, policy=PolicyConfig(engine="numpy")),
    "changed parameters": lambda ranks, config: config,
}


def all_mistakes(ranks: Ranks) -> dict[str, str]:
    """Make every mistake, one after the other, in the same processes."""
    return {name: attempt(ranks, change) for name, change in MISTAKES.items()}


@pytest.mark.slow
def test_mistakes_name_the_rank_and_the_cause(tmp_path: Path) -> None:
    first, second = on_ranks(2, tmp_path, all_mistakes)
    own, other = second.pop("raises"), first.pop("raises")
    assert own == (
        "BrokenEnvironmentError: rank 1: env.id=Breaks-v0: step failed: RuntimeError: the wheel "
        "came off"
    )
    assert other == f"OtherRankError: rank 1: {own.replace('rank 1: ', '')}"
    assert first == second
    assert first["seeds"].startswith("ConfigError: seed: rank 0 has 0, rank 1 has 1; start all")
    assert first["uneven"] == (
        "ConfigError: env.num_envs=5 cannot be split evenly among 2 ranks; expected 4 or 6"
    )
    assert first["native"].startswith("ConfigError: env.backend=native: all its sub-environments")
    assert first["numpy"].startswith("ConfigError: policy.engine=numpy: 2 ranks share the torch")
    assert first["changed parameters"].startswith(
        "RankError: ranks 0 and 1 have different parameters after iteration 2"
    )


def test_attributes_set_on_one_rank_are_named() -> None:
    class Two(Ranks):
        """Rank 1 has set nothing."""

        def gather(self, item: Any) -> list[Any]:
            return [item, (item[0], "{}")]

    with closing(Learner(config_for("ppo_clip"))) as learner:
        two, policy = Two(size=2), learner.policy
        check_same_parameters(two, policy, 3, {})
        with pytest.raises(RankError, match="ranks 0 and 1 have set different attributes of env"):
            check_same_parameters(two, policy, 3, {"gravity": 5.0})


def test_only_the_first_rank_records() -> None:
    film = {"RecordVideo": {"video_folder": "films"}}
    env = EnvConfig("Pendulum-v1", 4, "sync", wrappers=["ClipAction", film])
    assert env_of_rank(env, Ranks(0, 2)).wrappers == ["ClipAction", film]
    assert env_of_rank(env, Ranks(1, 2)).wrappers == ["ClipAction"]


def exits(ranks: Ranks) -> str:
    """Train until the process of rank 1 ends."""
    return attempt(ranks, with_env(replace(BREAKS, kwargs={"how": "exit"})))


@pytest.mark.slow
def test_rank_that_dies_is_named(tmp_path: Path) -> None:
    first, _ = on_ranks(2, tmp_path, exits, dying=[1])
    assert first == "RankError: rank 1 ended without an error message, perhaps killed"


def fails_in_an_update(folder: Path, ranks: Ranks) -> str:
    """Train, until one rank alone raises in its second update."""
    trainer = Trainer(replace(config_for("ppo_clip"), run_dir=str(folder / "run")))
    update, updates = trainer.learner.updates.update, []

    def fail_once(*arguments: Any) -> Any:
        updates.append(arguments)
        if ranks.rank == 1 and len(updates) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return update(*arguments)

    setattr(trainer.learner.updates, "update", fail_once)  # noqa: B010
    try:
        trainer.train()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


@pytest.mark.slow
def test_rank_that_fails_alone_ends_all(tmp_path: Path) -> None:
    first, second = on_ranks(2, tmp_path, partial(fails_in_an_update, tmp_path))
    assert second.startswith("OutOfMemoryError: CUDA out of memory")
    assert first == "RankError: rank 1 ended without an error message, perhaps killed"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def torchrun(tmp_path: Path, *settings: str, flags: Sequence[str] = ()) -> "Popen[str]":
    """Start `rlkl train` on two ranks in a new session."""
    command = [*TORCHRUN, *flags, "-m", "rlkl", "train", "env=pendulum", "env.num_envs=4"]
    return Popen(
        [*command, "rollout_steps=64", "threads=1", "run_dir=run", "eval_episodes=2", *settings],
        cwd=tmp_path,
        stdout=PIPE,
        stderr=STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_rows(run_dir: Path, count: int) -> None:
    """Wait until a run has made some iterations."""
    for _ in range(600):
        time.sleep(0.2)
        file = run_dir / "metrics.csv"
        if file.exists() and len(file.read_text().splitlines()) > count:
            return
    raise AssertionError(f"{run_dir} has no {count} iterations")


def summary_of(run_dir: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


@pytest.mark.slow
def test_torchrun_trains_stops_and_resumes(tmp_path: Path) -> None:
    process = torchrun(tmp_path, "total_env_steps=100000000")
    wait_for_rows(tmp_path / "run", 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    stopped = summary_of(tmp_path / "run")
    assert (stopped["status"], stopped["reason"]) == ("stopped", "interrupted")
    total = stopped["env_steps"] + 512
    resume = [*TORCHRUN, "-m", "rlkl", "resume", "run", f"total_env_steps={total}"]
    done = run(resume, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("status") == 1  # rank 0 alone prints
    finished = summary_of(tmp_path / "run")
    assert (finished["status"], finished["env_steps"]) == ("finished", total)
    assert finished["exact"]


@pytest.mark.slow
def test_killed_rank_is_restarted(tmp_path: Path) -> None:
    settings = ("total_env_steps=5120", "checkpoint.interval=2")
    process = torchrun(tmp_path, *settings, flags=["--max-restarts=1"])
    wait_for_rows(tmp_path / "run", 4)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes():
            os.kill(int(child), signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "failed: RankError: rank 1 ended without an error message, perhaps killed" in output
    assert "resumed from" in output
    finished = summary_of(tmp_path / "run")
    assert (finished["status"], finished["env_steps"], finished["exact"]) == (
        "finished",
        5120,
        True,
    )
