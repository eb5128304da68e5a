"""The registry of policy-optimizers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Generator

from rlkl.algos import (
    fixpo,
    klip_ppo,
    mdpo,
    npg,
    ppo_clip,
    ppo_ewma,
    ppo_kl,
    ppo_kl_lr,
    spo,
    trpl,
    trpo,
    truly_ppo,
    vanilla_pg,
    vmpo,
)
from rlkl.algos.base import AlgoConfig, PolicyOptimizer
from rlkl.engines.base import Engine
from rlkl.utils.errors import ConfigError


@dataclass(frozen=True)
class Algorithm:
    """An entry of the registry.

    Attributes:
        config: the dataclass of its hyperparameters; its default `name` is the registered one.
        make: makes the policy-optimizer from config, engine and generator.
    """

    config: type[AlgoConfig]
    make: Callable[[Any, Engine, Generator], PolicyOptimizer]


ALGORITHMS: dict[str, Algorithm] = {
    "vanilla_pg": Algorithm(vanilla_pg.VanillaPGConfig, vanilla_pg.make),
    "ppo_clip": Algorithm(ppo_clip.PPOClipConfig, ppo_clip.make),
    "ppo_kl": Algorithm(ppo_kl.PPOKLConfig, ppo_kl.make),
    "ppo_kl_fixed": Algorithm(ppo_kl.PPOKLFixedConfig, ppo_kl.make),
    "ppo_kl_lr": Algorithm(ppo_kl_lr.PPOKLLRConfig, ppo_kl_lr.make),
    "truly_ppo": Algorithm(truly_ppo.TrulyPPOConfig, truly_ppo.make),
    "trpo": Algorithm(trpo.TRPOConfig, trpo.make),
    "npg": Algorithm(npg.NPGConfig, npg.make),
    "spo": Algorithm(spo.SPOConfig, spo.make),
    "klip_ppo": Algorithm(klip_ppo.KLipPPOConfig, klip_ppo.make),
    "mdpo": Algorithm(mdpo.MDPOConfig, mdpo.make),
    "fixpo": Algorithm(fixpo.FixPOConfig, fixpo.make),
    "trpl": Algorithm(trpl.TRPLConfig, trpl.make),
    "vmpo": Algorithm(vmpo.VMPOConfig, vmpo.make),
    "ppo_ewma": Algorithm(ppo_ewma.PPOEWMAConfig, ppo_ewma.make),
}


def make_policy_optimizer(
    config: AlgoConfig, engine: Engine, generator: Generator
) -> PolicyOptimizer:
    """Make the policy-optimizer of a config; the generator is the source of all its randomness.

    Raises:
        ConfigError: the config's name is not that of its algorithm.
    """
    algorithm = ALGORITHMS.get(config.name)
    if algorithm is None or type(config) is not algorithm.config:
        raise ConfigError(
            f"algo.name={config.name}: cannot be set; use algo=NAME with one of "
            f"{', '.join(ALGORITHMS)}"
        )
    return algorithm.make(config, engine, generator)
