"""Load trained policies from checkpoints."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from rlkl.engines.make import make_engine
from rlkl.envs.actions import mask_rows
from rlkl.envs.ids import check_module
from rlkl.envs.make import EnvConfig
from rlkl.envs.observations import ACTION_MASK, ObservationEncoder, Observations, normalized
from rlkl.envs.spaces import describe_space, described_space
from rlkl.models.policy import Policy, PolicyConfig
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.training import evaluation
from rlkl.training.archive import check_described
from rlkl.training.checkpoint import checkpoint_path, folder_of, load_checkpoint, taking_from
from rlkl.training.evaluation import MAX_EPISODE_STEPS, Evaluation
from rlkl.utils.config_upgrades import upgrade_section
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError
from rlkl.utils.seeding import RandomStreams
from rlkl.utils.streams import tell
from rlkl.utils.validation import check_range


class TrainedPolicy:
    """A trained policy that acts on raw observations.

    Args:
        policy: the networks.
        normalizer: of observations, if training normalized them.
    """

    def __init__(self, policy: Policy, normalizer: ObservationNormalizer | None) -> None:
        self.policy = policy
        self.engine = make_engine(policy)
        self.normalizer = normalizer
        self._states: Tensor | None = None
        self._generator = torch.Generator(policy.device)
        self._generator.seed()
        keys, encoder = policy.config.actor_observation_keys, policy.encoder
        every = (*encoder.vector_leaves, *encoder.image_leaves.values())
        self._unseen = [leaf.name for leaf in every if keys and not any(map(leaf.is_below, keys))]

    @property
    def states(self) -> Tensor | None:
        """The memory's states, `[N, M]`, one row for each observation; None at the start.

        They can be read, stored and set.
        """
        return self._states

    @states.setter
    def states(self, states: Tensor | None) -> None:
        if states is not None and states.shape != (len(states), self.policy.state_size):
            raise ConfigError(
                f"states of shape {tuple(states.shape)}: expected [N, {self.policy.state_size}]"
            )
        self._states = states

    def reset(self, ended: Any | None = None) -> None:
        """Reset the memory; call this at the start of each episode if the policy has one.

        `ended` says in which rows of a batch, bool `[N]`; None for all.
        """
        if ended is None:
            self._states = None
        elif self._states is not None:
            self._states = self.policy.forget(self._states, np.asarray(ended, np.bool_))

    @torch.no_grad()
    def act(
        self,
        observation: Any,
        generator: Generator | None = None,
        action_mask: Any | None = None,
        *,
        deterministic: bool | None = None,
    ) -> Any:
        """Return an action for the environment, or those of a batch of observations.

        Args:
            observation: raw, as the environment returns it; or N of them, as a vector environment
                returns them. Parts that only the critic saw may be missing.
            generator: random numbers for sampled actions.
            action_mask: which actions are allowed, as the environment returns it; of a batch a mask
                for each observation.
            deterministic: true for the most probable action, or the mean of a Gaussian; false for a
                sampled one, without a generator by random numbers of its own; None for true
                without a generator and false with one.

        Raises:
            ConfigError: the observation or the mask does not fit the spaces of training, or the
                memory has states of another number of observations.
        """
        policy, count = self.policy, self._count(observation)
        encoded = self._encoded(observation, action_mask, count)
        seen = policy.tensors(normalized(encoded, self.normalizer))
        rows = 1 if count is None else count
        states = policy.initial_state(rows) if self._states is None else self._states
        if policy.state_size and len(states) != rows:
            raise ConfigError(
                f"act: {rows} observations, but the memory has the states of {len(states)}; call "
                "reset first"
            )
        distribution, after = self.engine.step(seen, states)
        self._states = after if policy.state_size else None
        if generator is None if deterministic is None else deterministic:
            chosen = distribution.mode()
        else:
            chosen = distribution.sample(generator or self._generator)
        actions = policy.decoder(chosen.cpu().numpy())
        return actions[0] if count is None else actions

    def _count(self, observation: Any) -> int | None:
        """Return the number of observations of a batch; None for a single one."""
        encoder = self.policy.encoder
        for leaf in (*encoder.vector_leaves, *encoder.image_leaves.values()):
            try:
                part = leaf.select(observation)
                if np.ndim(part) == len(leaf.shape) + 1:
                    return len(part)
            except (LookupError, TypeError, ValueError):
                continue
        return None

    def _encoded(
        self, observation: Any, action_mask: Any | None, count: int | None
    ) -> Observations:
        encoder, decoder = self.policy.encoder, self.policy.decoder
        is_masked = isinstance(observation, dict) and ACTION_MASK in observation
        if action_mask is None and is_masked and ACTION_MASK not in encoder.keys and encoder.keys:
            action_mask = observation[ACTION_MASK]
        try:
            encoded = encoder.encode(observation, "the observation", count, self._unseen)
            if action_mask is not None:
                masks = [action_mask] if count is None else list(action_mask)
                none = np.zeros(len(masks), np.bool_)
                encoded[ACTION_MASK] = mask_rows(decoder.space, masks, none, "the observation")
        except BrokenEnvironmentError as error:  # the caller passed it, not an environment
            text = str(error).removeprefix("the observation: ")
            if count is None:
                text = text.replace(" of sub-environment 0", "")
            text = text.replace("sub-environment", "row")
            raise ConfigError(f"act: {text}") from None
        return encoded


def describe_policy(policy: Policy) -> dict[str, Any]:
    """Return what `load_policy` needs besides the weights, as plain numbers, lists and strings."""
    return {
        "config": asdict(policy.config),
        "observation_space": describe_space(policy.encoder.space),
        "observation_keys": list(policy.encoder.keys),
        "action_space": describe_space(policy.decoder.space),
    }


def check_fits(state: dict[str, Any], algo: str, policy: Policy) -> None:
    """Check that a learner's state is of this algorithm and of a policy like this one.

    Raises:
        ConfigError: it is of another algorithm, policy or environment.
    """
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
    """A trained policy at a number of steps, and the settings with which its run evaluates it."""

    policy: TrainedPolicy
    env: EnvConfig
    env_steps: int
    threads: int
    max_episode_steps: int


def load_run(run_dir: str | Path, checkpoint: str = "last") -> TrainedRun:
    """Load the policy of a run as `load_policy` does, and what is needed to evaluate it."""
    path = checkpoint_path(run_dir, checkpoint)
    state = load_checkpoint(path)
    with taking_from(path):
        config = state["config"]
        env = EnvConfig(**config["env"])
        threads = config["threads"]
        if not isinstance(threads, int) or not 1 <= threads <= 1024:
            raise ValueError(f"threads={threads}; expected 1 to 1024")
        limit = int(config.get("eval_max_episode_steps", MAX_EPISODE_STEPS))
        check_range("eval_max_episode_steps", limit, at_least=1)
        return TrainedRun(policy_from(state), env, int(state["env_steps"]), threads, limit)


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
        run_dir: the run's folder, or a checkpoint.
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
    run = load_run(run_dir, checkpoint)
    changed = changed_env(run.env, id=env, kwargs=kwargs, num_envs=num_envs)
    if note := check_module(changed.id, folder_of(run_dir), is_confirmed=env is not None):
        tell(note)
    limit = run.max_episode_steps if max_episode_steps is None else max_episode_steps
    check_range("max_episode_steps", limit, at_least=1)
    run = replace(run, env=changed, max_episode_steps=limit)
    return run_episodes(run, num_episodes, seed, "sampled" if sampled else "deterministic")


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


def load_policy(run_dir: str | Path, checkpoint: str = "last") -> TrainedPolicy:
    """Load the policy of a run.

    Args:
        run_dir: the run's folder, or a checkpoint.
        checkpoint: `last`, or `best` for the policy with the best return.

    Raises:
        ConfigError: the checkpoint is missing or cannot be read.
    """
    path = checkpoint_path(run_dir, checkpoint)
    state = load_checkpoint(path)
    with taking_from(path):
        return policy_from(state)


def policy_from(
    state: dict[str, Any], device: torch.device | str = "cpu", engine: str | None = None
) -> TrainedPolicy:
    """Return the policy of a checkpoint, on a device and with another `policy.engine` if given."""
    description = state["policy_description"]
    check_described(description, state["policy"])
    encoder = ObservationEncoder(
        described_space(description["observation_space"]), description["observation_keys"]
    )
    config = PolicyConfig(**upgrade_section("policy", description["config"]))
    keys = config.actor_observation_keys, config.critic_observation_keys
    size = max(encoder.view(part, "observation_keys").vector_size for part in keys)
    check_described(description, state["policy"], size)
    action_space = described_space(description["action_space"])
    config = config if engine is None else replace(config, engine=engine)
    policy = Policy(config, encoder, action_space, torch.Generator(), device)
    policy.load_state_dict(state["policy"])
    normalizer = None
    if state["normalizer"] is not None:
        normalizer = ObservationNormalizer((encoder.vector_size,), is_measured=encoder.is_measured)
        normalizer.load_state_dict(state["normalizer"])
    numbers: list[Tensor] = [policy.actor_parameters.vector, policy.critic_parameters.vector]
    if normalizer is not None:
        numbers += [torch.as_tensor(normalizer.mean), torch.as_tensor(normalizer.scale)]
    if not all(bool(part.isfinite().all()) for part in numbers):
        raise ConfigError(
            "the policy has numbers that are not finite, so it cannot act; use an earlier "
            "checkpoint of the run"
        )
    return TrainedPolicy(policy, normalizer)
