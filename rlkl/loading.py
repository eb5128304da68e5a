"""Load a trained policy; without training code, if it is a package."""

from pathlib import Path

from rlkl.engines.acting import TrainedPolicy, policy_from
from rlkl.engines.policy_package import is_package, load_package


def load_policy(run_dir: str | Path, checkpoint: str = "last") -> TrainedPolicy:
    """Load the policy of a run, or a packaged one.

    A package is loaded without importing rlkl's training code and without reading a pickle.

    Args:
        run_dir: the folder of a run or a package, or a checkpoint.
        checkpoint: `last`, or `best` for the policy with the best return. A package has only one.

    Raises:
        ConfigError: the checkpoint or the package is missing or cannot be read.
    """
    if is_package(run_dir):
        return load_package(run_dir, checkpoint)[0]
    from rlkl.training.checkpoint import state_of_run  # noqa: PLC0415

    with state_of_run(run_dir, checkpoint) as state:
        return policy_from(state)
