"""Start a new run, with the policy, the critic and the statistics of another if it is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from typing import Any

from rlkl.envs.observations import ObservationEncoder
from rlkl.envs.spaces import describe_space, described_space
from rlkl.models.policy import Policy, PolicyConfig
from rlkl.models.policy_description import check_described
from rlkl.training.checkpoint import state_of_run
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.utils.config_upgrades import upgrade_section
from rlkl.utils.errors import ConfigError

MEANING = (
    "activation", "memory", "share_encoder", "box_distribution", "scale_actions",
    "state_dependent_std", "pixel_scale", "actor_layer_norm", "critic_layer_norm",
    "actor_observation_keys", "critic_observation_keys", "encoder", "actor_head", "actor_critic",
)  # fmt: skip
"""Settings that decide what a policy's parameters mean; the shapes say the rest."""


def start(config: TrainConfig) -> Learner:
    """Return the learner of a new run, which starts from `init_from` if there is one.

    Raises:
        ConfigError: the run cannot be started, or what it starts from does not fit.
    """
    learner = Learner(config)
    with closing_on_error(learner):
        if config.init_from is not None:
            _start_from(learner, config.init_from)
        if config.reference.run_dir is not None:
            _stay_near(learner, config.reference.run_dir)
    return learner


@contextmanager
def closing_on_error(learner: Learner) -> Iterator[None]:
    """Close a learner if the block fails."""
    try:
        yield
    except BaseException:
        learner.close()
        raise


def _start_from(learner: Learner, run_dir: str) -> None:
    with state_of_run(run_dir) as state:
        policy = learner.policy
        check_described(state["policy_description"], state["policy"])
        differences = chain(
            observation_differences(state["policy_description"], policy),
            _policy_differences(state, policy),
            _statistics_differences(state, learner.config),
        )
        for what, theirs, ours in differences:
            raise ConfigError(f"init_from={run_dir}: {what} is {theirs} there, and {ours} here")
        policy.load_state_dict(state["policy"])
        if learner.normalizer is not None:
            learner.normalizer.load_state_dict(state["normalizer"])
        if learner.reward_scaler is not None:
            learner.reward_scaler.moments.load_state_dict(state["reward_scaler"])
        if learner.critic_fit.value_normalizer is not None:
            moments = learner.critic_fit.value_normalizer.moments
            moments.load_state_dict(state["critic_fit"]["returns"])


def _stay_near(learner: Learner, run_dir: str) -> None:
    with state_of_run(run_dir) as state:
        check_described(state["policy_description"], state["policy"])
        config = upgrade_section("policy", state["policy_description"]["config"])
        if config["memory"] != "none":
            raise ConfigError(
                f"reference={run_dir}: its policy is recurrent, and batches do not contain its "
                "states; use the run of a policy without a memory"
            )
        policy = learner.policy
        kind = asdict(policy.config)
        settings = [
            (f"policy.{key}", config[key], kind[key])
            for key in ("box_distribution", "scale_actions")
            if policy.decoder.is_continuous and config[key] != kind[key]
        ]
        differences = observation_differences(state["policy_description"], policy)
        for what, theirs, ours in chain(differences, settings):
            raise ConfigError(f"reference={run_dir}: {what} is {theirs} there, and {ours} here")
        learner.set_reference(state)


def observation_differences(
    description: dict[str, Any], policy: Policy
) -> Iterator[tuple[str, Any, Any]]:
    """Yield how observations and actions of a described policy differ: what, there, and here.

    Bounds of observations do not matter: no network sees them.
    """
    space = described_space(description["observation_space"])
    theirs, ours = ObservationEncoder(space, description["observation_keys"]), policy.encoder
    for what, there, here in (
        ("the observation's vector (columns of each part)", theirs.columns, ours.columns),
        ("the observation's images", theirs.images, ours.images),
        ("what of it is normalized", theirs.is_measured.tolist(), ours.is_measured.tolist()),
        ("the action space", description["action_space"], describe_space(policy.decoder.space)),
    ):
        if there != here:
            yield what, there, here


def _policy_differences(state: dict[str, Any], policy: Policy) -> Iterator[tuple[str, Any, Any]]:
    saved = upgrade_section("policy", state["policy_description"]["config"])
    theirs, ours = asdict(PolicyConfig(**saved)), asdict(policy.config)
    for key in MEANING:
        if theirs[key] != ours[key]:
            yield f"policy.{key}", theirs[key], ours[key]
    for whose, parameters in policy.state_dict().items():
        shapes, theirs_of = (
            {name: list(tensor.shape) for name, tensor in tensors.items()}
            for tensors in (parameters, state["policy"][whose])
        )
        for name in shapes | theirs_of:
            there, here = theirs_of.get(name, "missing"), shapes.get(name, "missing")
            if there != here:
                yield f"the shape of {name} of the {whose}", there, here


def _statistics_differences(
    state: dict[str, Any], config: TrainConfig
) -> Iterator[tuple[str, Any, Any]]:
    """Yield normalizers of the saved run that this run has not, and the reverse.

    Without them the networks see, or their values mean, something else.
    """
    for key, there, here in (
        ("normalize_observations", state["normalizer"] is not None, config.normalize_observations),
        ("scale_rewards", state["reward_scaler"] is not None, config.scale_rewards),
        ("critic.normalize_values", "returns" in state["critic_fit"],
         config.critic.normalize_values),
    ):  # fmt: skip
        if there != here:
            yield key, str(there).lower(), str(here).lower()
