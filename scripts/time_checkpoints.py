"""Measures the size of a checkpoint and the time to write it, read it and recreate environments.

python scripts/time_checkpoints.py env=cartpole
python scripts/time_checkpoints.py experiment=ppo_atari env=pong env.num_envs=8 rollout_steps=16
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rlkl.cli.compose import load
from rlkl.cli.schema import register_schemas
from rlkl.training.checkpoint import as_bytes, load_checkpoint
from rlkl.training.learner import Learner
from rlkl.utils.atomic_files import write_durably

REPETITIONS = 20


def milliseconds(action: Callable[[], object]) -> float:
    """Return the median duration of an action."""
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main(settings: list[str]) -> None:
    """Measure after the first iteration of a run."""
    register_schemas()
    learner = Learner(load(settings))
    learner.iterate()
    content = as_bytes(learner.state_dict())
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "last.pt")
        serialise = milliseconds(lambda: as_bytes(learner.state_dict()))
        write = milliseconds(lambda: write_durably(path, content))
        read = milliseconds(lambda: load_checkpoint(path))
    recreate = milliseconds(learner.recreate_environments)
    learner.envs.close()
    env = learner.resolved_config.env
    print(
        f"{env.id} × {env.num_envs} ({env.backend}): {len(content) / 1e6:.2f} MB, serialise "
        f"{serialise:.1f} ms, write to disk {write:.1f} ms, read and check {read:.1f} ms, "
        f"recreate environments {recreate:.1f} ms; median of {REPETITIONS}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
