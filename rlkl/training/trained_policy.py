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

    def reset(self) -> None:
        """Reset the memory; call this at the start of each episode if the policy has one."""
        self._states = None

    @torch.no_grad()
    def act(
        self, observation: Any, generator: Generator | None = None, action_mask: Any | None = None
    ) -> Any:
        """Return an action for the environment.

        Args:
            observation: raw, as the environment returns it.
            generator: random numbers for a sampled action; None for the deterministic action.
            action_mask: which actions are allowed, as the environment returns it.

        Raises:
            ConfigError: the observation or the mask does not fit the spaces of training.
        """
        policy = self.policy
        encoded = self._encoded(observation, action_mask)
        seen = policy.tensors(normalized(encoded, self.normalizer))
        states = policy.initial_state(1) if self._states is None else self._states
        distribution, self._states = self.engine.step(seen, states)
        chosen = distribution.mode() if generator is None else distribution.sample(generator)
        return policy.decoder(chosen.cpu().numpy())[0]

    def _encoded(self, observation: Any, action_mask: Any | None) -> Observations:
        encoder, decoder = self.policy.encoder, self.policy.decoder
        is_masked = isinstance(observation, dict) and ACTION_MASK in observation
        if action_mask is None and is_masked and ACTION_MASK not in encoder.keys and encoder.keys:
            action_mask = observation[ACTION_MASK]
        try:
            encoded = encoder.stack([observation], "the observation")
            if action_mask is not None:
                none = np.zeros(1, np.bool_)
                encoded[ACTION_MASK] = mask_rows(
                    decoder.space, [action_mask], none, "the observation"
                )
        except BrokenEnvironmentError as error:  # the caller passed it, not an environment
            text = str(error).removeprefix("the observation: ").replace(" of sub-environment 0", "")
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
        return TrainedRun(_policy_from(state), env, int(state["env_steps"]), threads, limit)


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
        return _policy_from(state)


def _policy_from(state: dict[str, Any]) -> TrainedPolicy:
    description = state["policy_description"]
    check_described(description, state["policy"])
    encoder = ObservationEncoder(
        described_space(description["observation_space"]), description["observation_keys"]
    )
    check_described(description, state["policy"], encoder.vector_size)
    config = PolicyConfig(**upgrade_section("policy", description["config"]))
    action_space = described_space(description["action_space"])
    policy = Policy(config, encoder, action_space, torch.Generator())
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
