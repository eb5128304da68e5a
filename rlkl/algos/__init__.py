"""The policy-optimizers by name: one line of `ALGORITHMS` each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Generator

from rlkl.algos import npg, ppo_clip, ppo_kl, trpo, vanilla_pg
from rlkl.algos.base import AlgoConfig, PolicyOptimizer
from rlkl.models.policy import Policy
from rlkl.utils.validation import ConfigError


@dataclass(frozen=True)
class Algorithm:
    """An entry of the registry.

    Attributes:
        config: the dataclass of its hyperparameters, whose defaults carry its name.
        make: config, policy and generator to the policy-optimizer.
    """

    config: type[AlgoConfig]
    make: Callable[[Any, Policy, Generator], PolicyOptimizer]


ALGORITHMS: dict[str, Algorithm] = {
    "vanilla_pg": Algorithm(vanilla_pg.VanillaPGConfig, vanilla_pg.make),
    "ppo_clip": Algorithm(ppo_clip.PPOClipConfig, ppo_clip.make),
    "ppo_kl": Algorithm(ppo_kl.PPOKLConfig, ppo_kl.make),
    "ppo_kl_fixed": Algorithm(ppo_kl.PPOKLFixedConfig, ppo_kl.make),
    "trpo": Algorithm(trpo.TRPOConfig, trpo.make),
    "npg": Algorithm(npg.NPGConfig, npg.make),
}


def make_policy_optimizer(
    config: AlgoConfig, policy: Policy, generator: Generator
) -> PolicyOptimizer:
    """Make the policy-optimizer that a config belongs to.

    Args:
        config: hyperparameters of one of `ALGORITHMS`.
        policy: whose actor it moves.
        generator: source of all its randomness.

    Raises:
        ConfigError: the config's name is not that of its own algorithm.
    """
    algorithm = ALGORITHMS.get(config.name)
    if algorithm is None or type(config) is not algorithm.config:
        raise ConfigError(
            f"algo.name={config.name}: set by the choice of the algorithm, not by hand; use "
            f"algo=NAME with one of {', '.join(ALGORITHMS)}"
        )
    return algorithm.make(config, policy, generator)
