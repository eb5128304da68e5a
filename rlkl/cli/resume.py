"""`rlkl resume`: goes on with a run that was stopped or killed, in its folder."""

from functools import partial
from pathlib import Path

from rlkl.cli.compose import CommandLine, overridden, register_schemas
from rlkl.training.trainer import resume
from rlkl.utils.validation import ConfigError

HELP = """usage: rlkl resume RUN_DIR [KEY=VALUE ...]

Continues a run from the newest checkpoint in its folder, with the same bits as
if nothing had stopped it. What may change is given as for rlkl train:
total_env_steps, eval_episodes, logger.*, checkpoint.*, and hyperparameters such
as algo.learning_rate; environment, networks and seed may not.

Where environments cannot be restored, steps since the last checkpoint are
repeated. exact=false continues from last.pt instead, with environments reset
there: other bits, no step repeated.

  rlkl resume runs/CartPole-v1/ppo_clip/2026-01-01_12-00-00-seed0
  rlkl resume my_run total_env_steps=500000 algo.learning_rate=1e-4
  rlkl resume my_run exact=false"""


def main(arguments: list[str]) -> int:
    """Resume; return the exit code."""
    if not arguments or {"--help", "-h"} & set(arguments):
        print(HELP)
        return 0
    run_dir, *overrides = arguments
    if "=" in run_dir and not Path(run_dir).is_dir():
        raise ConfigError(f"{run_dir}: expected the run's folder first; see rlkl resume --help")
    exact = _exact([text for text in overrides if text.startswith("exact=")])
    overrides = [text for text in overrides if not text.startswith("exact=")]
    register_schemas()
    overrides = CommandLine(overrides).normalized()
    summary = resume(run_dir, partial(overridden, overrides=overrides), exact=exact)
    return 130 if summary.status == "stopped" else 0


def _exact(given: list[str]) -> bool:
    values = {"exact=true": True, "exact=false": False}
    for text in given:
        if text.lower() not in values:
            raise ConfigError(f"{text}: expected exact=true or exact=false")
    return values[given[-1].lower()] if given else True
