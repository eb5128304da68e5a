"""The libraries that do a work, and the upper bounds. Run as a program, it measures one case."""

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, fields
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from rlkl.algos import ALGORITHMS
from rlkl.algos.critic import CriticConfig
from rlkl.envs.make import make_training_env
from rlkl.models.policy import PolicyConfig
from rlkl.rollouts.rollout import Rollout
from rlkl.tools.bench import peers
from rlkl.tools.bench.clock import PHASES, Clock, Measurement, after_each_call, before_first_call
from rlkl.tools.bench.work import HIDDEN_SIZES, PEERS, SEED, BenchConfig, Case
from rlkl.training.config import TrainConfig
from rlkl.training.loggers import LoggerConfig
from rlkl.training.report import Report
from rlkl.training.trainer import Trainer


def measure(config: BenchConfig, case: Case, launched: float) -> Measurement:
    """Measure a case once; a peer must make the work's number of optimizer steps."""
    torch.set_num_threads(1)
    num_envs = case.num_envs
    clock = Clock(
        launched, config.warmup_iterations(num_envs), config.measured_iterations(num_envs)
    )
    measurement = LIBRARIES[case.library](config, case, clock)
    expected = config.num_epochs * config.num_minibatches(num_envs)
    if case.library in PEERS and measurement.optimizer_steps != expected:
        raise RuntimeError(
            f"{case} made {measurement.optimizer_steps:g} optimizer steps in an iteration; "
            f"the work has {expected}"
        )
    return measurement


def train_config(config: BenchConfig, case: Case, run_dir: str) -> TrainConfig:
    """Return the config of rlkl's run, which reports and writes as much as a user's run."""
    num_envs = case.num_envs
    shared: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "max_grad_norm": config.max_grad_norm,
        "num_epochs": config.num_epochs,
        "num_minibatches": config.num_minibatches(num_envs),
    }
    values = shared | {
        "learning_rate_schedule": "constant",
        "clip_ratio": config.clip_ratio,
        "max_kl": config.max_kl,
        "max_kl_schedule": "constant",
        "cg_iterations": config.cg_iterations,
    }
    algorithm = ALGORITHMS[case.algo].config
    known = {field.name for field in fields(algorithm)}
    iterations = config.warmup_iterations(num_envs) + config.measured_iterations(num_envs)
    policy: dict[str, Any] = {}
    if config.is_atari:
        policy = {
            "share_encoder": True,
            "shared_value_coefficient": config.value_coefficient,
            "activation": "relu",
            "actor_hidden_sizes": [],
            "critic_hidden_sizes": [],
        }
    if config.memory != "none":  # sequences of the peers end with the rollout
        policy |= {"memory": config.memory, "sequence_length": config.rollout_steps}
    assert TrainConfig().policy.actor_hidden_sizes == list(HIDDEN_SIZES)
    return TrainConfig(
        algo=algorithm(**{key: value for key, value in values.items() if key in known}),
        env=config.env(num_envs),
        policy=PolicyConfig(scale_actions=False, **policy),  # like the peers
        critic=CriticConfig(**shared),
        logger=LoggerConfig(progress="none"),
        # Autoreset steps do not count, so there may be a few iterations more than needed.
        total_env_steps=iterations * config.rows(num_envs),
        rollout_steps=config.rollout_steps,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_rewards=1.0 if config.is_atari else None,
        seed=SEED,
        eval_episodes=0,
        device=case.device or "cpu",
        run_dir=run_dir,
    )


class Recorder:
    """A logger that reports each iteration to the clock and sums the seconds of the phases."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.env_steps = 0
        self.seconds = dict.fromkeys(PHASES[:-1], 0.0)

    def log(self, report: Report) -> None:
        """Record the end of an iteration; this logger runs after all others."""
        if self.clock.is_measuring:
            for phase in self.seconds:
                self.seconds[phase] += report.scalars[f"time/{phase}"]
        self.clock.tick(report.env_steps - self.env_steps)
        self.env_steps = report.env_steps

    def close(self, status: str) -> None:
        """Do nothing."""


def _rlkl(config: BenchConfig, case: Case, clock: Clock) -> Measurement:
    sizes: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(train_config(config, case, f"{folder}/run"))
        learner = trainer.learner
        before_first_call(learner.envs, "step", clock.start)
        after_each_call(learner.collector, "collect", lambda r: sizes.append(megabytes_of(r)))
        recorder = Recorder(clock)
        trainer.train(loggers=[recorder])
    log = clock.ended - clock.started - sum(recorder.seconds.values())
    return clock.measurement(
        rollout_megabytes=max(sizes), phases=recorder.seconds | {PHASES[-1]: log}
    )


def megabytes_of(rollout: Rollout) -> float:
    """Return the size of a rollout's arrays, in megabytes (10⁶ bytes)."""
    values = [getattr(rollout, field.name) for field in fields(rollout)]
    values += [array for value in values if isinstance(value, dict) for array in value.values()]
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray | Tensor)) / 1e6


def _upper_bound(config: BenchConfig, case: Case, clock: Clock) -> Measurement:
    """Step environments with random actions; one rollout of them is drawn once and reused."""
    is_own, num_envs = case.library == "upper_bound", case.num_envs
    if is_own:
        envs: Any = make_training_env(config.env(num_envs))  # with the backend of training
        envs.reset([SEED + number for number in range(num_envs)])
        space = batch_space(envs.action_space, num_envs)
    else:
        mode = {"autoreset_mode": AutoresetMode.SAME_STEP}
        envs = gym.make_vec(config.env_id, num_envs, "sync", vector_kwargs=mode)
        envs.reset(seed=SEED)
        space = envs.action_space

    def step(actions: Any) -> int:
        result = envs.step(actions)
        return int(np.count_nonzero(result.is_transition)) if is_own else num_envs

    space.seed(SEED)
    actions = [space.sample() for _ in range(config.rollout_steps)]
    clock.start()
    for _ in range(clock.warmup + clock.measured):
        clock.tick(sum(map(step, actions)))
    return clock.measurement()


LIBRARIES: dict[str, Callable[[BenchConfig, Case, Clock], Measurement]] = {
    "rlkl": _rlkl,
    "upper_bound": _upper_bound,
    "upper_bound_sync": _upper_bound,
    "sb3": peers.stable_baselines,
    "sb3_contrib": peers.stable_baselines,
    "skrl": peers.skrl,
    "tianshou": peers.tianshou,
    "rsl_rl": peers.rsl_rl,
}


def main() -> None:
    """Measure what the only argument, a JSON object, describes, and print JSON."""
    request = json.loads(sys.argv[1])
    config, case = BenchConfig(**request["config"]), Case(**request["case"])
    with redirect_stdout(sys.stderr):  # some peers print
        measurement = measure(config, case, request["launched"])
    print(json.dumps(asdict(measurement)))


if __name__ == "__main__":
    main()
