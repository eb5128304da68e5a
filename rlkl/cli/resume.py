"""`rlkl resume`: continues a run that was stopped or killed, in its folder."""

from functools import partial
from pathlib import Path

from rlkl.cli.command_line import for_hydra, parse
from rlkl.cli.compose import overridden
from rlkl.cli.flags import import_for_run
from rlkl.training.trainer import resume
from rlkl.utils.errors import ConfigError


def help_text() -> str:
    """Return the help text."""
    return """usage: rlkl resume RUN_DIR [KEY=VALUE ...]

Continues a run from the newest checkpoint in its folder; the result is
bit-for-bit identical to an uninterrupted run. KEY=VALUE changes settings, as
for rlkl train: total_env_steps, eval_episodes, logger.*, checkpoint.*, and
hyperparameters such as algo.learning_rate. Environment, networks and seed are
fixed. policy.module=NAME imports the module that registers the run's own
networks.

Where environments cannot be restored, steps since the last checkpoint are
repeated. exact=false repeats none: it continues from last.pt and resets the
environments, so the result differs.

An environment made by a callable of yours is called only if you name it:
env.id=module:function.

  rlkl resume runs/CartPole-v1/ppo_clip/2026-01-01_12-00-00-seed0
  rlkl resume my_run total_env_steps=500000 algo.learning_rate=1e-4
  rlkl resume my_run exact=false
  rlkl resume my_run env.id=my_package:make_env"""


def main(arguments: list[str]) -> int:
    """Resume; return the exit code."""
    run_dir, *overrides = arguments
    if "=" in run_dir and not Path(run_dir).is_dir():
        raise ConfigError(f"{run_dir}: expected the run's folder first; see rlkl resume --help")
    exact, env, changes = True, None, []
    for text in overrides:
        key, _, value = text.partition("=")
        if key == "exact":
            if value.lower() not in ("true", "false"):
                raise ConfigError(f"{text}: expected exact=true or exact=false")
            exact = value.lower() == "true"
        elif key == "env.id":
            env = str(parse(text).value())
        else:
            changes.append(for_hydra(text))
        if key == "policy.module" and value:
            import_for_run(value, text, Path(run_dir))
    summary = resume(run_dir, partial(overridden, overrides=changes), exact=exact, env=env)
    return 130 if summary.status == "stopped" else 0
