"""Check that the machine has the device, the memory and the processes that a run needs."""

import os
import re
import resource
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from rlkl.models.policy import PolicyConfig
from rlkl.utils.errors import ConfigError

TRANSITION_BYTES = 64
"""Memory of a transition without its observation, in the rollout and in the batch."""

PARAMETER_BYTES = 16  # memory of a parameter, its gradient and Adam's two moments, in float32

SUBPROCESS_BYTES = 4 * 2**20
"""Memory of a sub-environment in its own process: pages that a forked Python has written to."""

SUBPROCESS_FILES = 2
"""Open files of the trainer per sub-environment process: its pipe and its sentinel."""

MOST_PROCESSES = 4096  # upper limit, above the number of cores of any machine
DEVICES = re.compile(r"cpu(:0)?|(cuda|mps|xpu)(:\d+)?")  # names of devices that rlkl accepts

GATES = {"none": 0, "gru": 3, "lstm": 4}
CONTROL_GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Files of Linux with the memory limit of a container."""


def machine_memory() -> int:
    """Return the memory that processes can use, in bytes, without swap."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    texts = [path.read_text().strip() for path in CONTROL_GROUP_LIMITS if path.is_file()]
    return min([physical, *(int(text) for text in texts if text.isdecimal())])


def check_memory(
    rollout_steps: int,
    num_envs: int,
    policy: PolicyConfig | None = None,
    observation_bytes: int = 4,
    processes: int = 0,
    action_parameters: int = 0,
) -> None:
    """Check that a lower bound of a run's memory fits into the machine's memory.

    Args:
        rollout_steps: T.
        num_envs: N.
        policy: the networks; None to ignore them.
        observation_bytes: size of one encoded observation; the rollout and the batch store it.
        processes: number of sub-environments with their own process.
        action_parameters: P, size of the actor's output for one observation.

    Raises:
        ConfigError: it does not fit; the message names the setting that needs most.
    """
    rows = rollout_steps * num_envs
    needs = {
        f"rollout_steps={rollout_steps} with num_envs={num_envs}": rows
        * (TRANSITION_BYTES + 2 * observation_bytes),
        # The action noise of a rollout, and the distributions of the batch.
        f"the action space, of {action_parameters} numbers for each observation,": rows
        * 8
        * action_parameters,
        f"env.num_envs={processes}, each in its own process": processes * SUBPROCESS_BYTES,
    }
    if policy is not None:
        for key in ("encoder_hidden_sizes", "actor_hidden_sizes", "critic_hidden_sizes"):
            sizes = getattr(policy, key)
            part = f"policy.{key} of {len(sizes)} layers, the widest with {max(sizes, default=0)}"
            needs[part] = PARAMETER_BYTES * sum(a * b for a, b in pairwise(sizes))
        networks = 1 if policy.share_encoder else 2
        needs[f"policy.memory_size={policy.memory_size}"] = (
            PARAMETER_BYTES * networks * GATES[policy.memory] * policy.memory_size**2
        )
    available, needed = machine_memory(), sum(needs.values())
    if needed > available:
        raise ConfigError(
            f"{max(needs, key=lambda part: needs[part])}: needs at least {_gibibytes(needed)} of "
            f"memory, but this machine has {_gibibytes(available)}; expected less"
        )


def check_processes(count: int) -> None:
    """Check that the system allows one process for each of `count` sub-environments."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    users, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = {"rlkl": MOST_PROCESSES}
    limits |= {"ulimit -n": files // SUBPROCESS_FILES} if files != resource.RLIM_INFINITY else {}
    limits |= {"ulimit -u": users} if users != resource.RLIM_INFINITY else {}
    for name, most in limits.items():
        if count > most:
            raise ConfigError(
                f"env.num_envs={count}: with env.backend=async each sub-environment has its own "
                f"process, and {name} allows {most}; expected fewer, or env.backend=shared, which "
                "uses one process per core"
            )


def _gibibytes(size: int) -> str:
    return f"{size // 2**30} GiB" if size >= 2**36 else f"{size / 2**30:.2g} GiB"


def checked_device(name: str) -> torch.device:
    """Return a device after checking that it can be used."""
    if not DEVICES.fullmatch(name):
        hint = " (did you mean cuda?)" if name.lower().startswith(("gpu", "cuda")) else ""
        raise ConfigError(
            f"device={name} cannot be used: expected cpu, cuda, cuda:1, ..., mps or xpu{hint}; "
            "device=cpu always works"
        )
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = re.split(r"\. |\n", str(error))[0]
        if isinstance(error, NotImplementedError):  # its message names an operation
            reason = f"this torch has no {name.partition(':')[0]}"
        raise ConfigError(
            f"device={name} cannot be used here: {reason}; device=cpu always works"
        ) from error
    return device


class DeviceMemoryError(Exception):
    """A device ran out of memory in a run of a `TrainConfig`; the message names what filled it."""

    def __init__(self, error: torch.OutOfMemoryError, config: Any, parameters: int) -> None:
        steps, num_envs = config.rollout_steps, config.env.num_envs
        super().__init__(
            f"{str(error).split('. ', maxsplit=1)[0]}: a batch has {steps * num_envs:,} steps "
            f"(rollout_steps={steps} × env.num_envs={num_envs}), a minibatch "
            f"1/{getattr(config.algo, 'num_minibatches', 1)} of them, and the networks "
            f"{parameters:,} parameters; expected fewer steps or sub-environments, more "
            "algo.num_minibatches, or smaller networks"
        )
