"""`rlkl resume`: goes on with a run that was stopped or killed, in its folder."""

from functools import partial

from rlkl.config import overridden, register_schemas
from rlkl.trainer import resume
from rlkl.validation import ConfigError

HELP = """usage: rlkl resume RUN_DIR [KEY=VALUE ...]

Goes on from the newest checkpoint in the folder of a run, to the same bits as if nothing had
stopped it. What may change on the way is given as for rlkl train: total_env_steps, eval_episodes,
logger.*, checkpoint.*, and hyperparameters such as algo.learning_rate; environment, networks and
seed may not.

  rlkl resume runs/CartPole-v1/ppo_clip/2026-01-01_12-00-00-seed0
  rlkl resume my_run total_env_steps=500000 algo.learning_rate=1e-4"""


def main(arguments: list[str]) -> int:
    """Resume; return the exit code."""
    if not arguments or {"--help", "-h"} & set(arguments):
        print(HELP)
        return 0
    run_dir, *overrides = arguments
    if "=" in run_dir:
        raise ConfigError(f"{run_dir}: expected the run's folder first; see rlkl resume --help")
    register_schemas()
    summary = resume(run_dir, partial(overridden, overrides=overrides))
    return 130 if summary.status == "stopped" else 0
