"""Where experiments begin: a trained policy, and batches that it collects standing still."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from rlkl.envs.ids import check_module
from rlkl.rollouts.rollout import Batch, make_batch
from rlkl.tools.experiments.base import Tell, TrainingExperimentConfig
from rlkl.training.checkpoint import checkpoint_path, folder_of, load_checkpoint, taking_from
from rlkl.training.config import TrainConfig, saved_config
from rlkl.training.evaluation import evaluate
from rlkl.training.trainer import Trainer
from rlkl.utils.streams import tell
from rlkl.utils.validation import check_range


@dataclass(frozen=True)
class StartConfig(TrainingExperimentConfig):
    """Settings of every experiment that moves one policy in several ways.

    Attributes:
        checkpoint: folder of a run whose policy to begin with, or one of its checkpoints; null
            trains policies.
        seeds: how many policies are trained, with the seeds `train.seed` and those behind it; a
            checkpoint is one policy whatever this says.
        batches: how many each policy collects, each with updates of its own.
    """

    checkpoint: str | None = None
    seeds: int = 5
    batches: int = 2

    def __post_init__(self) -> None:
        check_range("seeds", self.seeds, at_least=1, at_most=10_000)
        check_range("batches", self.batches, at_least=1, at_most=10_000)


def starting_policies(config: StartConfig, tell: Tell) -> Iterator[Trainer]:
    """Yield each trained or restored policy, and close its environments afterwards."""
    if config.checkpoint is not None:
        makers = [partial(restored, config.checkpoint)]
    else:
        first = config.train.seed
        seeds = range(first, first + config.seeds)
        makers = [partial(trained, replace(config.train, seed=seed), tell) for seed in seeds]
    for make in makers:
        trainer = make()
        try:
            yield trainer
        finally:
            trainer.close()


def trained(config: TrainConfig, tell: Tell) -> Trainer:
    """Train to the end of the budget, in memory."""
    trainer = Trainer(config)
    while trainer.env_steps < config.total_env_steps:
        trainer.iterate()
    tell(
        f"{config.algo.name} on {config.env.id}, seed {config.seed}: "
        f"{trainer.env_steps} environment steps, return {trainer.return_mean:.1f}"
    )
    return trainer


def restored(run_dir: str) -> Trainer:
    """Build the trainer of a run, its policy and statistics as the run left them.

    Raises:
        ConfigError: the folder has no checkpoint that can be read.
    """
    path = checkpoint_path(run_dir)
    state = load_checkpoint(path)
    with taking_from(path):
        config = saved_config(state["config"])
        if told := check_module(config.env.id, folder_of(run_dir)):
            tell(told)
        trainer = Trainer(config)
        try:
            trainer.load_policy(state)
        except BaseException:
            trainer.close()
            raise
    return trainer


def batches(trainer: Trainer, count: int) -> Iterator[Batch]:
    """Collect successive batches by a policy that does not learn from them.

    The caller may move the actor in between, if it moves it back.
    """
    config = trainer.config
    for _ in range(count):
        yield make_batch(
            trainer.collector.collect(),
            trainer.policy,
            config.gamma,
            config.gae_lambda,
            trainer.reward_scaler,
            config.clip_rewards,
        )


def sampled_return(trainer: Trainer, episodes: int) -> float:
    """Return the mean return of episodes with sampled actions, whose chance is always the same.

    The same policy gets the same number, however often it is asked for.
    """
    config, streams = trainer.config, trainer.streams
    return evaluate(
        trainer.policy,
        replace(config.env, num_envs=episodes),
        episodes,
        streams.integers("evaluation", episodes),
        streams.torch("evaluation actions", trainer.policy.device),
        trainer.normalizer,
    ).mean_return


def actor(trainer: Trainer) -> torch.Tensor:
    """Return the actor's parameters, which may be written to, `[n]`."""
    return trainer.policy.actor_parameters.vector.data
