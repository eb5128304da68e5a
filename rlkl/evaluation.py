"""How good a policy is in fresh environments."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator

from rlkl.envs import EnvConfig, make_vector_env
from rlkl.normalization import ObservationNormalizer
from rlkl.policy import Policy
from rlkl.spaces import normalized
from rlkl.statistics import bootstrap_interval, interquartile_mean, mean, pooled
from rlkl.validation import check_range


@dataclass(frozen=True)
class Evaluation:
    """Episodes of a policy that stands still.

    Attributes:
        returns: undiscounted sums of raw rewards, one for each episode.
        lengths: in environment steps.
    """

    returns: list[float]
    lengths: list[int]

    @property
    def mean_return(self) -> float:
        """The mean over episodes."""
        return float(np.mean(self.returns))

    def statistics(self, seed: int = 0) -> dict[str, float | None]:
        """Return what the episodes come to; None for what takes two of them, where there is one.

        Args:
            seed: of the bootstrap behind `mean_low` and `mean_high`, a 95% interval of the mean.
        """
        returns, several = np.array(self.returns), len(self.returns) > 1
        generator = np.random.default_rng(seed)
        low, high = None, None
        if several:
            low, high = map(float, bootstrap_interval([returns], pooled(mean), generator))
        return {
            "mean": self.mean_return,
            "mean_low": low,
            "mean_high": high,
            "interquartile_mean": float(interquartile_mean(returns)),
            "standard_deviation": float(returns.std(ddof=1)) if several else None,
            "min": float(returns.min()),
            "max": float(returns.max()),
            "mean_length": float(np.mean(self.lengths)),
        }


@torch.no_grad()
def evaluate(
    policy: Policy,
    config: EnvConfig,
    num_episodes: int,
    seeds: list[int],
    generator: Generator | None = None,
    normalizer: ObservationNormalizer | None = None,
) -> Evaluation:
    """Run whole episodes in environments of their own.

    Each environment contributes its first episodes, a number fixed beforehand: taking those that
    end first would favour short ones.

    Args:
        policy: acts.
        config: of the environments; at most `num_episodes` of them are made.
        num_episodes: how many episodes count.
        seeds: of the environments, at least as many as are made.
        generator: source of sampled actions; None takes the most probable action instead.
        normalizer: of observations; its statistics stand still.
    """
    check_range("num_episodes", num_episodes, at_least=1)
    num_envs = min(config.num_envs, num_episodes)
    envs = make_vector_env(replace(config, num_envs=num_envs))
    quota = np.full(num_envs, num_episodes // num_envs)
    quota[: num_episodes % num_envs] += 1
    reward_sums, lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
    evaluation = Evaluation([], [])
    try:
        observations = envs.reset(seeds[:num_envs])
        states = policy.initial_state(num_envs)
        while quota.any():
            seen = policy.tensors(normalized(observations, normalizer))
            distribution, states = policy.step(seen, states)
            actions = distribution.mode() if generator is None else distribution.sample(generator)
            step = envs.step(policy.decoder(actions.cpu().numpy()))
            observations = step.observations
            states = policy.forget(states, step.begins)
            reward_sums += step.rewards * step.is_transition
            lengths += step.is_transition
            ended = np.flatnonzero(step.terminated | step.truncated)
            for i in ended:
                if quota[i] > 0:
                    quota[i] -= 1
                    evaluation.returns.append(float(reward_sums[i]))
                    evaluation.lengths.append(int(lengths[i]))
            reward_sums[ended] = 0
            lengths[ended] = 0
    finally:
        envs.close()
    return evaluation
