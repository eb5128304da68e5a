"""Evaluate a policy in new environments."""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Generator

from rlkl.engines.base import Engine
from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.observations import normalized
from rlkl.envs.spaces import describe_space
from rlkl.envs.vector_env import Step, VectorEnvironment
from rlkl.envs.wrappers import without_videos
from rlkl.models.policy import Policy
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.numerics.statistics import bootstrap_interval, interquartile_mean, mean, pooled
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_range

MAX_EPISODE_STEPS = 30_000
"""Default limit of an evaluation episode, in environment steps; Atari's own limit is 27,000."""


STATISTICS = (
    "mean", "mean_low", "mean_high", "interquartile_mean", "standard_deviation",
    "min", "max", "mean_length",
)  # fmt: skip
"""Keys of `Evaluation.statistics`, in the order of their table."""


class EvaluationStoppedError(Exception):
    """The user stopped an evaluation."""


@dataclass(frozen=True)
class Evaluation:
    """Episodes of a fixed policy.

    Attributes:
        returns: undiscounted sums of raw rewards, one for each episode that ended.
        lengths: of the same episodes, in environment steps.
        unended: sums of rewards of the episodes that reached the limit.
    """

    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    unended: list[float] = field(default_factory=list)

    @property
    def mean_return(self) -> float:
        """The mean over the episodes that ended; NaN if none did."""
        return float(np.mean(self.returns)) if self.returns else math.nan

    def warning(self, max_episode_steps: int, key: str) -> str:
        """Return one line about the episodes that did not end; `key` is the limit's setting."""
        cut, ended = len(self.unended), len(self.returns)
        if not cut:
            return ""
        within = f"within {max_episode_steps:,} steps ({key})"
        if not ended:
            return f"none of {cut} evaluation episodes ended {within}, so there is no mean return"
        return (
            f"{cut} of {cut + ended} evaluation episodes did not end {within}; the mean is that of "
            f"the {ended} that ended"
        )

    def statistics(self, seed: int = 0) -> dict[str, float | None]:
        """Return statistics of the episodes that ended; None where there are too few episodes.

        The seed is that of the bootstrap for `mean_low` and `mean_high`, a 95% interval of the
        mean.
        """
        found: dict[str, float | None] = dict.fromkeys(STATISTICS)
        returns = np.array(self.returns)
        if self.returns:
            found["mean"] = self.mean_return
            found["interquartile_mean"] = float(interquartile_mean(returns))
            found["min"], found["max"] = float(returns.min()), float(returns.max())
            found["mean_length"] = float(np.mean(self.lengths))
        if len(self.returns) > 1:
            generator = np.random.default_rng(seed)
            interval = bootstrap_interval([returns], pooled(mean), generator)
            found["mean_low"], found["mean_high"] = map(float, interval)
            found["standard_deviation"] = float(returns.std(ddof=1))
        return found


@torch.no_grad()
def evaluate(
    engine: Engine,
    config: EnvConfig,
    num_episodes: int,
    seeds: list[int],
    generator: Generator | None = None,
    normalizer: ObservationNormalizer | None = None,
    max_episode_steps: int = MAX_EPISODE_STEPS,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Run complete episodes in new environments.

    The number of episodes of each sub-environment is fixed in advance: taking those that end first
    would favour short episodes. After an episode reaches `max_episode_steps`, its sub-environment
    waits for the others, and all are reset. If no episode has ended by then, the evaluation stops.
    Wrappers that record videos are left out.

    Args:
        engine: of the policy.
        config: of the environments; at most `num_episodes` sub-environments are made.
        num_episodes: total number of episodes.
        seeds: of the sub-environments, at least as many as are made.
        generator: random numbers for sampled actions; None for deterministic actions.
        normalizer: of observations; its statistics are not updated.
        max_episode_steps: limit of each episode, in environment steps.
        stop: called at each step.

    Raises:
        ConfigError: the environments have other spaces than the policy.
        EvaluationStoppedError: `stop` returned True.
    """
    check_range("num_episodes", num_episodes, at_least=1)
    policy, num_envs = engine.policy, min(config.num_envs, num_episodes)
    seeds, episodes = seeds[:num_envs], _Episodes(num_episodes, num_envs, max_episode_steps)
    config = replace(config, num_envs=num_envs, wrappers=without_videos(config.wrappers))
    with closing(make_vector_env(config)) as envs:
        _check_spaces(policy, envs)
        while episodes.quota.any():
            observations = envs.reset(seeds)
            seeds = [seed + 1 for seed in seeds]  # for the next reset, after the limit was reached
            states = policy.initial_state(num_envs)
            episodes.begin()
            while episodes.counts.any():
                if stop():
                    raise EvaluationStoppedError
                seen = policy.tensors(normalized(observations, normalizer))
                distribution, states = engine.step(seen, states)
                chosen = distribution.sample(generator) if generator else distribution.mode()
                step = envs.step(policy.decoder(chosen.cpu().numpy()))
                observations = step.observations
                states = policy.forget(states, step.begins)
                episodes.add(step)
            if not episodes.found.returns:
                break
    return episodes.found


class _Episodes:
    """Collects a fixed number of episodes of each of N sub-environments.

    Attributes:
        found: the episodes so far.
        quota: how many are still missing, `[N]`.
        counts: where the current episode is one of them, `[N]`.
    """

    def __init__(self, num_episodes: int, num_envs: int, max_episode_steps: int) -> None:
        self.found, self._limit = Evaluation(), max_episode_steps
        self.quota = np.full(num_envs, num_episodes // num_envs)
        self.quota[: num_episodes % num_envs] += 1

    def begin(self) -> None:
        """Begin new episodes, after a reset of all sub-environments."""
        self.counts = self.quota > 0
        self._reward_sums = np.zeros(len(self.quota))
        self._lengths = np.zeros(len(self.quota), np.int64)

    def add(self, step: Step) -> None:
        """Add a step of all sub-environments."""
        self._reward_sums += step.rewards * step.is_transition
        self._lengths += step.is_transition
        over = step.terminated | step.truncated
        ended, cut = self.counts & over, self.counts & ~over & (self._lengths >= self._limit)
        self.found.returns.extend(self._reward_sums[ended].tolist())
        self.found.lengths.extend(self._lengths[ended].tolist())
        self.found.unended.extend(self._reward_sums[cut].tolist())
        self.quota -= ended | cut
        self.counts &= ~cut & (self.quota > 0)
        self._reward_sums[over] = 0
        self._lengths[over] = 0


def _check_spaces(policy: Policy, envs: VectorEnvironment) -> None:
    encoders = policy.encoder, envs.encoder
    seen, returned = (
        {key: (array.shape, array.dtype) for key, array in encoder.empty(1).items()}
        for encoder in encoders
    )
    actions = [describe_space(space) for space in (policy.decoder.space, envs.action_space)]
    if seen != returned or actions[0] != actions[1]:
        raise ConfigError(
            f"env.id={envs.name}: the policy was trained with observations {policy.encoder.space} "
            f"and actions {policy.decoder.space}, but this environment has {envs.encoder.space} "
            f"and {envs.action_space}"
        )
