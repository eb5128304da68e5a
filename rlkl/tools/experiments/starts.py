"""Starting points of experiments: trained policies and the batches that they collect."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch

from rlkl.algos import make_policy_optimizer
from rlkl.algos.base import AlgoConfig, PolicyOptimizer
from rlkl.envs.ids import check_module
from rlkl.rollouts.batch import Batch
from rlkl.rollouts.make import make_batch
from rlkl.tools.experiments.base import Tell, TrainingExperimentConfig
from rlkl.tools.rows import Row, Rows
from rlkl.training.checkpoint import checkpoint_path, folder_of, state_of_run
from rlkl.training.config import TrainConfig, saved_config
from rlkl.training.evaluation import evaluate
from rlkl.training.learner import Learner
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import limited
from rlkl.utils.streams import tell


@dataclass(frozen=True)
class StartConfig(TrainingExperimentConfig):
    """Settings of experiments that update a trained policy in several ways.

    Attributes:
        checkpoint: run folder, or one of its checkpoints, with the policy; null trains policies.
        seeds: number of trained policies; the first has `train.seed`, the others the seeds after
            it. Without effect if `checkpoint` is set.
        batches: batches per policy; all updates are made on each.
    """

    checkpoint: str | None = None
    seeds: int = limited(5, at_least=1, at_most=10_000)
    batches: int = limited(2, at_least=1, at_most=10_000)


def starting_policies(config: StartConfig, tell: Tell) -> Iterator[Learner]:
    """Yield each trained or restored policy, and close its environments afterwards."""
    train, path = config.train, config.checkpoint
    seeds = range(train.seed, train.seed + config.seeds)
    made = (trained(replace(train, seed=seed), tell) for seed in seeds)
    for learner in made if path is None else [restored(path)]:
        with closing(learner):
            yield learner


def from_each_policy(
    updates: Callable[[Learner, Any, Tell], Iterator[Row]], config: StartConfig, tell: Tell
) -> Rows:
    """Train or restore policies, then make all updates from each of them."""
    learners = starting_policies(config, tell)
    return [row for learner in learners for row in updates(learner, config, tell)]


def iterations(learner: Learner, tags: dict[str, str]) -> Iterator[Row]:
    """Train until `total_env_steps`; yield a row of each iteration, with a tag for each key."""
    while learner.env_steps < learner.config.total_env_steps:
        scalars = learner.iterate().scalars
        yield {"env_steps": learner.env_steps} | {key: scalars[tag] for key, tag in tags.items()}


def trained(config: TrainConfig, tell: Tell) -> Learner:
    """Train until `total_env_steps`, without a run folder."""
    learner = Learner(config)
    while learner.env_steps < config.total_env_steps:
        learner.iterate()
    tell(
        f"{config.algo.name} on {config.env.id}, seed {config.seed}: "
        f"{learner.env_steps} environment steps, return {learner.tracker.return_mean:.1f}"
    )
    return learner


def restored(run_dir: str) -> Learner:
    """Return the learner of a run with its last policy and statistics."""
    try:
        path = checkpoint_path(run_dir)
    except ConfigError as error:
        raise ConfigError(
            f"checkpoint={error}; expected the folder of a run, or one of its checkpoints"
        ) from None
    with state_of_run(path) as state:
        config = saved_config(state["config"])
        if warning := check_module(config.env.id, folder_of(run_dir)):
            tell(warning)
        learner = Learner(config)
        try:
            learner.load_policy(state)
        except BaseException:
            learner.close()
            raise
    return learner


def batches(learner: Learner, count: int) -> Iterator[Batch]:
    """Collect successive batches; the caller restores an actor that it changes in between."""
    config = learner.config
    scaling = learner.reward_scaler, config.clip_rewards, None, config.bootstrap_truncated
    for _ in range(count):
        rollout = learner.collector.collect()
        yield make_batch(rollout, learner.engine, config.gamma, config.gae_lambda, *scaling)


def new_optimizer(learner: Learner, config: AlgoConfig, batch: int) -> PolicyOptimizer:
    """Return an optimizer whose stream of minibatches has the number of the batch."""
    generator = learner.streams.torch(f"minibatches {batch}", learner.policy.device)
    return make_policy_optimizer(config, learner.engine, generator)


def sampled_return(learner: Learner, episodes: int) -> float:
    """Return the mean return of episodes with sampled actions.

    Seeds and action noise are always the same, so the result depends only on the policy.
    """
    env = replace(learner.config.env, num_envs=episodes)
    seeds = learner.streams.integers("evaluation", episodes)
    generator = learner.streams.torch("evaluation actions", learner.policy.device)
    found = evaluate(learner.engine, env, episodes, seeds, generator, learner.normalizer)
    return found.mean_return


def actor(learner: Learner) -> torch.Tensor:
    """Return the actor's writable parameters, `[n]`."""
    return learner.policy.actor_parameters.vector.data
