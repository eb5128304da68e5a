"""What a run takes at least, held against what the machine has before any of it is taken."""

import os
import resource
from itertools import pairwise
from pathlib import Path

from rlkl.models.policy import PolicyConfig
from rlkl.utils.validation import ConfigError

TRANSITION_BYTES = 64
"""Of a transition beside its observation: in the rollout a reward, an action and how it ended; in
the batch the action, an advantage, a return, two values and the old distribution."""

PARAMETER_BYTES = 16
"""Of a parameter: itself, its gradient and Adam's two moments, in float32."""

COPY_BYTES = 4 * 2**20
"""Of a copy in a process of its own: what a fork of Python has written to after its first reset."""

COPY_FILES = 2
"""Open at the trainer's end for each such copy: a pipe to it, and what tells of its end."""

MOST_PROCESSES = 4096
"""More than any machine has cores for."""

GATES = {"none": 0, "gru": 3, "lstm": 4}
CONTROL_GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where Linux says how much a container may take."""


def machine_memory() -> int:
    """Return the bytes of memory that processes may take here, swap not counted."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in CONTROL_GROUP_LIMITS:
        text = path.read_text().strip() if path.is_file() else "max"
        limits += [int(text)] if text.isdecimal() else []
    return min(limits)


def check_memory(
    rollout_steps: int,
    num_envs: int,
    policy: PolicyConfig | None = None,
    observation_bytes: int = 4,
    processes: int = 0,
    action_parameters: int = 0,
) -> None:
    """Raise if a run needs more memory than the machine has, by what it needs at the very least.

    Args:
        rollout_steps: T.
        num_envs: N.
        policy: the networks; None where they are small.
        observation_bytes: of one encoded observation, which the rollout and the batch both hold.
        processes: copies of the environment that are a process each.
        action_parameters: P, numbers that the actor puts out for one observation.

    Raises:
        ConfigError: naming the setting that takes most, what it takes and what there is.
    """
    rows = rollout_steps * num_envs
    needs = {
        f"rollout_steps={rollout_steps} with num_envs={num_envs}": rows
        * (TRANSITION_BYTES + 2 * observation_bytes),
        # The noise of a rollout's actions, and the distributions of the batch.
        f"the action space, of {action_parameters} numbers for each observation,": rows
        * 8
        * action_parameters,
        f"env.num_envs={processes}, each in a process of its own": processes * COPY_BYTES,
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
    there, needed = machine_memory(), sum(needs.values())
    if needed > there:
        raise ConfigError(
            f"{max(needs, key=lambda part: needs[part])}: needs at least {_gibibytes(needed)} of "
            f"memory, and this machine has {_gibibytes(there)}; expected less"
        )


def check_processes(count: int) -> None:
    """Raise if the system lets no user have so many copies of an environment as processes.

    Args:
        count: of copies.

    Raises:
        ConfigError: naming the limit, how many it allows, and another backend.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    users, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = {"rlkl": MOST_PROCESSES}
    limits |= {"ulimit -n": files // COPY_FILES} if files != resource.RLIM_INFINITY else {}
    limits |= {"ulimit -u": users} if users != resource.RLIM_INFINITY else {}
    for name, most in limits.items():
        if count > most:
            raise ConfigError(
                f"env.num_envs={count}: with env.backend=async each copy is a process of its own, "
                f"of which {name} allows {most}; expected fewer, or env.backend=shared, which "
                "takes one for each core"
            )


def _gibibytes(size: int) -> str:
    return f"{size // 2**30} GiB" if size >= 2**36 else f"{size / 2**30:.2g} GiB"
