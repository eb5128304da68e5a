"""The config of a run, and what of it may change when the run is resumed."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rlkl.algos import ALGORITHMS
from rlkl.algos.base import AlgoConfig, recomputes_advantages
from rlkl.algos.critic import CriticConfig
from rlkl.algos.natural_gradient import check_separate_encoder
from rlkl.algos.ppo_clip import PPOClipConfig
from rlkl.envs.make import EnvConfig
from rlkl.models.policy import PolicyConfig
from rlkl.training.checkpoint import CheckpointConfig
from rlkl.training.evaluation import MAX_EPISODE_STEPS
from rlkl.training.loggers import LoggerConfig
from rlkl.training.reference import ReferenceConfig
from rlkl.training.resource_checks import check_memory, check_processes
from rlkl.utils.config_upgrades import upgrade_config, upgrade_section
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import check_fields, limited, plain_data
from rlkl.utils.validation import check_choice, check_divides, check_range, check_text, seconds_of


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on.

    Attributes:
        algo: the policy-optimizer, chosen by the type of its config.
        env: the environments.
        policy: the networks.
        critic: how the critic is fitted, the same for every algorithm.
        logger: what is written and shown.
        checkpoint: when checkpoints are written.
        total_env_steps: the training budget; the rollout that reaches it is the last.
        rollout_steps: T, steps of each sub-environment in one rollout.
        gamma: discount factor.
        gae_lambda: λ of generalised advantage estimation.
        anneal: follow the schedules of step sizes; false makes every schedule `constant`.
        bootstrap_truncated: returns of truncated episodes include the value of their last
            observation; false treats truncated episodes as terminated.
        normalize_observations: by running moments that are updated between iterations.
        clip_observations: normalized observations are clipped to ± this many standard deviations.
        scale_rewards: by the running standard deviation of the discounted return.
        clip_rewards: clip the rewards of the batch to ± this, as is usual on Atari; null for no
            clipping. Reported returns are always raw.
        seed: of all random numbers.
        device: of the networks: cpu, cuda, cuda:1, ...
        threads: for torch and NumPy; small networks rarely gain from more.
        stop_at_return: the run ends when `return/train`, the mean return of the last 100 training
            episodes, reaches this value; null for no such end.
        stop_after: the run ends after this wall time: seconds, or such as `30m`, `2h`, `1d`; null
            for no such end.
        max_bad_updates: number of consecutive reverted updates (with a number that is infinite or
            NaN) that ends the run.
        eval_episodes: episodes with deterministic actions after training; 0 for none.
        eval_max_episode_steps: limit of an evaluation episode. One that reaches it counts as not
            ended, and its return is in no mean.
        eval_interval: iterations between two evaluations, the best of which is saved as
            `checkpoints/best.pt`; with 0 only the final policy is evaluated, and `best.pt` is
            chosen by training return.
        reference: a fixed policy that the policy stays near.
        init_from: the folder of a run, or one of its checkpoints, whose policy, critic and
            normalizers a new run starts with; null for new ones.
        run_dir: the run's folder; null for runs/<env>/<algo>/<date-time>-seed<seed>.
    """

    algo: AlgoConfig = field(default_factory=PPOClipConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    total_env_steps: int = limited(100_000, at_least=1, at_most=10**15)
    rollout_steps: int = limited(128, at_least=1)
    gamma: float = limited(0.99, at_least=0, at_most=1)
    gae_lambda: float = limited(0.95, at_least=0, at_most=1)
    anneal: bool = True
    bootstrap_truncated: bool = True
    normalize_observations: bool = False
    clip_observations: float = limited(10.0, above=0)
    scale_rewards: bool = False
    clip_rewards: float | None = limited(None, above=0)
    seed: int = limited(0, at_least=0)
    device: str = "cpu"
    threads: int = limited(1, at_least=1, at_most=1024)
    stop_at_return: float | None = None
    stop_after: str | None = None
    max_bad_updates: int = limited(3, at_least=1)
    eval_episodes: int = limited(20, at_least=0, at_most=10**6)
    eval_max_episode_steps: int = limited(MAX_EPISODE_STEPS, at_least=1)
    eval_interval: int = limited(0, at_least=0)
    run_dir: str | None = None
    init_from: str | None = None

    def __post_init__(self) -> None:
        self._make_parts()
        if isinstance(self.stop_after, int | float) and not isinstance(self.stop_after, bool):
            object.__setattr__(self, "stop_after", f"{self.stop_after:g}")
        check_fields(self)
        if self.stop_at_return is not None:
            check_range("stop_at_return", self.stop_at_return)
        if self.stop_after is not None:
            seconds_of("stop_after", self.stop_after)
        self._check_annealing()
        check_separate_encoder(self.algo, self.policy)
        self._check_recomputation()
        self._check_own_critic()
        if self.clip_observations != TrainConfig.clip_observations and not (
            self.normalize_observations
        ):
            raise ConfigError(
                f"clip_observations={self.clip_observations:g}: only normalized observations are "
                "clipped; set normalize_observations=true, or leave it out"
            )
        if self.eval_interval and not self.eval_episodes:
            raise ConfigError(
                f"eval_interval={self.eval_interval}: there is nothing to evaluate with "
                "eval_episodes=0; set eval_episodes=20"
            )
        for key in ("run_dir", "init_from"):
            if (path := getattr(self, key)) is not None:
                check_text(key, path)
        processes = self.env.num_envs if self.env.backend == "async" else 0
        check_processes(processes)
        check_memory(self.rollout_steps, self.env.num_envs, self.policy, processes=processes)
        for part in ("algo", "critic"):
            parts = getattr(getattr(self, part), "num_minibatches", 1)
            size = self.rollout_steps * self.env.num_envs
            made = f"rollout_steps={self.rollout_steps} × env.num_envs={self.env.num_envs}"
            check_divides(f"{part}.num_minibatches", parts, size, f"the batch of {size} ({made})")

    def _check_own_critic(self) -> None:
        if self.critic.normalize_values and self.policy.actor_critic:
            raise ConfigError(
                "critic.normalize_values=true is not possible with policy.actor_critic="
                f"{self.policy.actor_critic}: it rescales the output layer of rlkl's critic; use "
                "policy.encoder, or leave it out"
            )

    def _check_recomputation(self) -> None:
        if not recomputes_advantages(self.algo):
            return
        start = "algo.recompute_advantages=true is not possible with"
        if self.policy.memory != "none":
            raise ConfigError(
                f"{start} policy.memory={self.policy.memory}: the stored memory states are those "
                "of the old critic; leave one of them out"
            )
        if self.critic.worker == "always":
            raise ConfigError(
                f"{start} critic.worker=always: the updates of actor and critic take turns; use "
                "critic.worker=auto"
            )

    def _make_parts(self) -> None:
        """Make the parts that are given by name, and check the types of all parts."""
        env: Any = self.env
        algo: Any = self.algo
        if isinstance(env, str) or (callable(env) and env is not EnvConfig):
            object.__setattr__(self, "env", EnvConfig(env))
        if isinstance(self.reference, str):
            object.__setattr__(self, "reference", ReferenceConfig(self.reference))
        if isinstance(algo, str):
            check_choice("algo", algo, ALGORITHMS)
            object.__setattr__(self, "algo", ALGORITHMS[algo].config())
        names = {
            "env": " or an environment's id",
            "algo": " or an algorithm's name",
            "reference": " or a run's folder",
        }
        parts: dict[str, type[Any]] = {"algo": AlgoConfig, **PARTS}
        for key, kind in parts.items():
            value = getattr(self, key)
            if not isinstance(value, kind):
                raise ConfigError(f"{key}={value!r}: expected {kind.__name__}{names.get(key, '')}")

    def _check_annealing(self) -> None:
        schedules = {
            key: value
            for part in ("algo", "critic")
            for key, value in leaves(asdict(getattr(self, part)), f"{part}.")
            if key.endswith("_schedule")
        }
        for part in ("algo", "critic"):
            warmup = getattr(getattr(self, part), "learning_rate_warmup", 0.0)
            if warmup and not self.anneal:
                raise ConfigError(
                    f"{part}.learning_rate_warmup={warmup:g}: with anneal=false no learning rate "
                    "changes; leave one of them out"
                )
        if not self.anneal and set(schedules.values()) == {"constant"}:
            raise ConfigError(
                f"anneal=false: changes nothing, no schedule is linear; expected one of "
                f"{', '.join(schedules)} to be linear, or leave it out"
            )


FIXED_KEYS = (
    "algo.name", "algo.kl_coefficient", "env", "policy", "rollout_steps", "normalize_observations",
    "scale_rewards", "critic.normalize_values", "seed", "device", "eval_interval", "run_dir",
    "init_from", "reference",
)  # fmt: skip
"""Keys that a resumed run cannot change: another value would define another run, or do nothing."""

FREE_OF_FIXED = ("policy.module",)  # keys below these that it can change

AUTOMATIC_VALUES = {"env.backend": "auto", "policy.engine": "auto", "checkpoint.interval": None}
"""Keys with the value that lets rlkl choose; `config.yaml` has the choice."""

END_KEYS = ("total_env_steps", "stop_at_return", "stop_after")
"""Keys that say when a run ends; with a change of one a finished run continues."""

OUTPUT_KEYS = ("logger", "run_dir")
"""Keys that say where and what a run writes; they do not change its results."""

PARTS: dict[str, type[Any]] = {
    "env": EnvConfig,
    "policy": PolicyConfig,
    "critic": CriticConfig,
    "logger": LoggerConfig,
    "checkpoint": CheckpointConfig,
    "reference": ReferenceConfig,
}


def saved_config(saved: dict[str, Any]) -> TrainConfig:
    """Return the config of a checkpoint, which is plain data.

    Raises:
        ConfigError: it has other keys than the config of this version of rlkl.
    """
    try:
        saved = {"reference": {}} | saved  # older runs have none
        parts = {key: kind(**upgrade_section(key, saved[key])) for key, kind in PARTS.items()}
        algo = ALGORITHMS[saved["algo"]["name"]].config(**saved["algo"])
        return TrainConfig(**saved | parts | {"algo": algo})
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"the run was configured for another version of rlkl ({error}); resume it with that one"
        ) from error


def changes(before: TrainConfig, after: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Return the keys in which two configs differ, with the old and the new value.

    Raises:
        ConfigError: a resumed run cannot change one of them.
    """
    # Empty dicts are ignored: a key that is added below one is the only difference.
    old, new = (
        {key: value for key, value in leaves(asdict(config)) if value != {}}
        for config in (before, after)
    )
    changed = _differing(old, new)
    for key, (was, would_be) in changed.items():
        if _is_in(FIXED_KEYS, key) and key not in FREE_OF_FIXED:
            fixed = f"keeps {key}={was}" if key in old else f"cannot add {key}"
            raise ConfigError(
                f"{key}={would_be}: a resumed run {fixed}; leave it out, or start a new run"
            )
    return changed


def differences(saved: dict[str, Any], config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Return the keys in which a wanted run differs from a `config.yaml`, with both values."""
    old = dict(leaves(upgrade_config(saved)))
    new = dict(leaves(plain_data(asdict(config))))
    defaults = dict(leaves(plain_data(asdict(TrainConfig(algo=type(config.algo)())))))
    # Keys that did not exist when the run was made have their defaults.
    old |= {key: defaults[key] for key in new if key in defaults and key not in old}
    if old["policy.image_encoder"] == "nature_or_small" and config.policy.image_encoder == "auto":
        old["policy.image_encoder"] = "auto"  # "nature_or_small" is what `auto` meant then
    return {
        key: values
        for key, values in _differing(old, new).items()
        if not _is_in(OUTPUT_KEYS, key)
        and not (key in AUTOMATIC_VALUES and new.get(key) == AUTOMATIC_VALUES[key])
    }


def another_run(saved: dict[str, Any], config: dict[str, Any]) -> str:
    """Return how a checkpoint's config shows that it is not of the run in a `config.yaml`."""
    old = dict(leaves(upgrade_config(saved)))
    new = dict(leaves(plain_data(upgrade_config(config))))
    for key in old.keys() & new.keys():
        free = (*OUTPUT_KEYS, *FREE_OF_FIXED, "policy.engine")
        is_fixed = _is_in(FIXED_KEYS, key) and key not in free
        if is_fixed and old[key] != new[key]:
            return f"{key}={new[key]}, and config.yaml has {key}={old[key]}"
    return ""


def _differing(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)}


def _is_in(keys: tuple[str, ...], key: str) -> bool:
    """Return whether the keys name a key or its section."""
    return key in keys or key.partition(".")[0] in keys


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and values of a plain config; an empty dict is a value."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
