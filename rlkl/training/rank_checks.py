"""What several ranks must have in common, and each rank's share of a run."""

import zlib
from dataclasses import asdict, replace
from typing import Any

from rlkl.envs.make import EnvConfig, choose_backend
from rlkl.envs.wrappers import without_videos
from rlkl.models.policy import Policy
from rlkl.training.config import TrainConfig, leaves
from rlkl.training.summary import versions
from rlkl.utils.errors import ConfigError, RankError
from rlkl.utils.ranks import Ranks


def env_of_rank(config: EnvConfig, ranks: Ranks) -> EnvConfig:
    """Return the config of one rank's sub-environments.

    Raises:
        ConfigError: the sub-environments cannot be split evenly, or not at all.
    """
    size, total = ranks.size, config.num_envs
    if size == 1:
        return config
    if total % size:
        fitting = [n for n in (total // size * size, -(-total // size) * size) if n]
        raise ConfigError(
            f"env.num_envs={total} cannot be split evenly among {size} ranks; expected "
            f"{' or '.join(map(str, fitting))}"
        )
    backend = choose_backend(config)
    if backend == "tensor":
        raise ConfigError(
            f"env.backend=tensor: its sub-environments cannot be split among {size} ranks; use one "
            "process, or env.backend=sync"
        )
    if backend == "native":
        if config.backend == "native":
            raise ConfigError(
                "env.backend=native: all its sub-environments draw from one generator, so ranks "
                "cannot split them; use env.backend=sync"
            )
        backend = "sync"
    # RecordVideo wraps the first of all sub-environments, which rank 0 has.
    wrappers = without_videos(config.wrappers) if ranks.rank else config.wrappers
    return replace(config, num_envs=total // size, backend=backend, wrappers=wrappers)


def check_same_run(ranks: Ranks, config: TrainConfig) -> None:
    """Raise ConfigError, which says what differs, unless all ranks have one config and versions."""
    if ranks.size == 1:
        return
    parts = dict(leaves(asdict(config)))
    parts |= {f"version of {name}": text for name, text in versions().items()}
    all_parts = ranks.gather({key: str(value) for key, value in parts.items()})
    for rank, other in enumerate(all_parts):
        for key, value in all_parts[0].items():
            if other.get(key) != value:
                raise ConfigError(
                    f"{key}: rank 0 has {value}, rank {rank} has {other.get(key)}; start all "
                    "ranks with the same command and the same packages"
                )


def check_same_parameters(
    ranks: Ranks, policy: Policy, iteration: int, attributes: dict[str, Any]
) -> None:
    """Raise RankError unless all ranks have the same parameters, bit for bit, and attributes."""
    if ranks.size == 1:
        return
    vectors = (policy.actor_parameters.vector, policy.critic_parameters.vector)
    sums = [zlib.crc32(v.detach().cpu().numpy().tobytes()) for v in vectors]
    all_of = ranks.gather((sums, str(attributes)))
    for rank, (other, other_attributes) in enumerate(all_of):
        if other_attributes != all_of[0][1]:
            raise RankError(
                f"ranks 0 and {rank} have set different attributes of environments before "
                f"iteration {iteration}: set_attr reaches those of one rank, and callbacks are "
                "called on rank 0 alone; use one process"
            )
        if other != all_of[0][0]:
            raise RankError(
                f"ranks 0 and {rank} have different parameters after iteration {iteration}: all "
                "ranks must make the same update; is the device, or an objective of your own, not "
                "deterministic?"
            )
