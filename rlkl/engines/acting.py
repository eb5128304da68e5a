"""Act with a trained policy, made from its description, weights and normalizer."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from rlkl.engines.make import make_engine
from rlkl.envs.actions import mask_rows
from rlkl.envs.observations import ACTION_MASK, ObservationEncoder, Observations, normalized
from rlkl.envs.spaces import described_space
from rlkl.models.policy import Policy, PolicyConfig
from rlkl.models.policy_description import check_described
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.utils.config_upgrades import upgrade_section
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError


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
        clip = float(state["normalizer"].get("clip", 10.0))  # older runs have no other
        normalizer = ObservationNormalizer((encoder.vector_size,), clip, encoder.is_measured)
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
