"""Load, evaluate and change the trained policies of runs and of packages."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rlkl.engines.acting import TrainedPolicy, policy_from
from rlkl.engines.policy_package import is_package, load_package, reading_package
from rlkl.envs.ids import check_module
from rlkl.envs.make import EnvConfig
from rlkl.models.policy import Policy, PolicyConfig
from rlkl.models.policy_description import describe_policy
from rlkl.training import evaluation
from rlkl.training.checkpoint import folder_of, state_of_run
from rlkl.training.evaluation import MAX_EPISODE_STEPS, Evaluation
from rlkl.utils.config_upgrades import upgrade_section
from rlkl.utils.errors import ConfigError
from rlkl.utils.seeding import RandomStreams
from rlkl.utils.streams import tell
from rlkl.utils.validation import check_range

ACTIONS = ("deterministic", "sampled")
"""The most probable action of each state (for a Gaussian its mean), or a sampled one."""


def check_fits(state: dict[str, Any], algo: str, policy: Policy) -> None:
    """Raise ConfigError unless a state is of this algorithm, and of a policy like this one."""
    if (other := state["config"]["algo"]["name"]) != algo:
        raise ConfigError(f"the checkpoint is of algo={other}, not of {algo}; start a new run")
    ours, theirs = describe_policy(policy), dict(state["policy_description"])
    saved = PolicyConfig(**upgrade_section("policy", theirs["config"]))
    # Neither changes the networks.
    theirs["config"] = asdict(saved) | {k: ours["config"][k] for k in ("engine", "module")}
    for part, value in theirs.items():
        if value != ours[part]:
            raise ConfigError(
                f"the checkpoint is of another {'policy' if part == 'config' else part}: "
                f"{value}, but here it is {ours[part]}; start a new run"
            )


@dataclass(frozen=True)
class TrainedRun:
    """A trained policy at a number of steps, and the settings with which its run evaluates it.

    `config` is that of the run, as plain data, and `checkpoint` the name of the policy's.
    """

    policy: TrainedPolicy
    env: EnvConfig
    env_steps: int
    threads: int
    max_episode_steps: int
    checkpoint: str = "last"
    config: dict[str, Any] = field(default_factory=dict)


def load_run(run_dir: str | Path, checkpoint: str = "last") -> TrainedRun:
    """Load the policy of a run or a package, and what is needed to evaluate it."""
    if is_package(run_dir):
        policy, content = load_package(run_dir, checkpoint)
        with reading_package(run_dir):
            return _trained_run(policy, content)
    with state_of_run(run_dir, checkpoint) as state:
        config = state["config"]
        content = config | {
            "env_steps": state["env_steps"],
            "max_episode_steps": config.get("eval_max_episode_steps", MAX_EPISODE_STEPS),
            "checkpoint": checkpoint,
            "config": config,
        }
        return _trained_run(policy_from(state), content)


def _trained_run(policy: TrainedPolicy, content: dict[str, Any]) -> TrainedRun:
    env, threads = EnvConfig(**content["env"]), content["threads"]
    if not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise ValueError(f"threads={threads}; expected 1 to 1024")
    limit = int(content["max_episode_steps"])
    check_range("eval_max_episode_steps", limit, at_least=1)
    steps, checkpoint, config = (content[key] for key in ("env_steps", "checkpoint", "config"))
    return TrainedRun(policy, env, int(steps), threads, limit, str(checkpoint), config)


def evaluate(
    run_dir: str | Path,
    num_episodes: int = 100,
    *,
    checkpoint: str = "last",
    sampled: bool = False,
    seed: int = 0,
    env: Any = None,
    kwargs: dict[str, Any] | None = None,
    num_envs: int | None = None,
    max_episode_steps: int | None = None,
) -> Evaluation:
    """Run episodes of a run's policy in new environments, made as in training.

    Args:
        run_dir: the folder of a run or a package, or a checkpoint.
        num_episodes: number of episodes.
        checkpoint: `last`, or `best` for the policy with the best return.
        sampled: sample actions, instead of the deterministic ones.
        seed: of environments and actions.
        env: another id, callable or environment; also the run's own `module:function`, since what
            a run's folder names is called only if you name it too.
        kwargs: arguments of the environment's constructor to change.
        num_envs: sub-environments that are stepped together.
        max_episode_steps: limit of each episode, in environment steps.

    Raises:
        ConfigError: the checkpoint or the environment cannot be used.
    """
    run = load_changed_run(
        run_dir, checkpoint, max_episode_steps, id=env, kwargs=kwargs, num_envs=num_envs
    )
    return run_episodes(run, num_episodes, seed, "sampled" if sampled else "deterministic")


def load_changed_run(
    run_dir: str | Path, checkpoint: str, max_episode_steps: int | None = None, **changes: Any
) -> TrainedRun:
    """Load a run or a package to make its environments, with changes as in `changed_env`.

    An `id` among them also confirms the run's own callable.
    """
    run = load_run(run_dir, checkpoint)
    changed = changed_env(run.env, **changes)
    is_confirmed = changes.get("id") is not None
    if note := check_module(changed.id, folder_of(run_dir), is_confirmed=is_confirmed):
        tell(note)
    limit = run.max_episode_steps if max_episode_steps is None else max_episode_steps
    check_range("max_episode_steps", limit, at_least=1)
    return replace(run, env=changed, max_episode_steps=limit)


def changed_env(config: EnvConfig, **changes: Any) -> EnvConfig:
    """Return the environments of a run with changes, of which None is none.

    `kwargs` are added to those of the run. With another environment or wrappers, the backend is
    chosen again.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    if "kwargs" in given:
        given["kwargs"] = config.kwargs | given["kwargs"]
    if {"id", "wrappers"} & set(given):
        given = {"backend": "auto"} | given
    return replace(config, **given)


def run_episodes(run: TrainedRun, num_episodes: int, seed: int, actions: str) -> Evaluation:
    """Evaluate a run's policy in environments that depend only on the seed."""
    streams = RandomStreams(seed)
    return evaluation.evaluate(
        run.policy.engine,
        run.env,
        num_episodes,
        # These streams are not those of a training run with the same seed.
        streams.integers("fresh environments", num_episodes),
        streams.torch("fresh actions") if actions == "sampled" else None,
        run.policy.normalizer,
        run.max_episode_steps,
    )
