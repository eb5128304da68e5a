"""Measures what a checkpoint costs a run: its size, its writing, and environments made anew.

python scripts/time_checkpoints.py env=cartpole
python scripts/time_checkpoints.py experiment=ppo_atari env=pong env.num_envs=8 rollout_steps=16
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rlkl.cli.compose import load, register_schemas
from rlkl.training.checkpoint import as_bytes, load_checkpoint
from rlkl.training.learner import Learner
from rlkl.utils.atomic_files import write_durably

REPETITIONS = 20


def milliseconds(action: Callable[[], object]) -> float:
    """Return the median time that something takes."""
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main(settings: list[str]) -> None:
    """Measure a run of these settings after its first iteration."""
    register_schemas()
    learner = Learner(load(settings))
    learner.iterate()
    content = as_bytes(learner.state_dict())
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "last.pt")
        made = milliseconds(lambda: as_bytes(learner.state_dict()))
        put = milliseconds(lambda: write_durably(path, content))
        read = milliseconds(lambda: load_checkpoint(path))
    anew = milliseconds(learner.begin_anew)
    learner.envs.close()
    env = learner.resolved_config.env
    print(
        f"{env.id} × {env.num_envs} ({env.backend}): {len(content) / 1e6:.2f} MB, made in "
        f"{made:.1f} ms, put on the disk in {put:.1f} ms, read and checked in {read:.1f} ms; "
        f"environments made anew in {anew:.1f} ms; median of {REPETITIONS}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
