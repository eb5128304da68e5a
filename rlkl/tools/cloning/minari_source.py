"""Demonstrations of a Minari data set."""

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkl.envs.actions import mask_rows
from rlkl.envs.make import EnvConfig
from rlkl.envs.observations import ACTION_MASK, ObservationEncoder
from rlkl.models.policy import Policy
from rlkl.tools.cloning.config import CloneConfig
from rlkl.tools.cloning.demonstrations import Demonstrations, check_spaces, joined, samples_of
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError
from rlkl.utils.untrusted_files import read_bytes
from rlkl.utils.validation import check_installed, described

METADATA = "metadata.json"
MOST_METADATA = 2**26
"""Bytes of this file; the bounds of a space of images take a megabyte."""


def find_data_set(name: str) -> Path | None:
    """Return the folder with the metadata of a data set, by its id or folder; None without one.

    Minari keeps data sets in `$MINARI_DATASETS_PATH`, by default ~/.minari/datasets.
    """
    root = Path(os.environ.get("MINARI_DATASETS_PATH", Path.home() / ".minari" / "datasets"))
    folders = (Path(name), Path(name) / "data", root / name / "data")
    return next((folder for folder in folders if (folder / METADATA).is_file()), None)


class MinariSource:
    """The episodes of a Minari data set.

    Attributes:
        name: its id or folder, as the user typed it.
        folder: with its files, from `find_data_set`.
        env: the environment in which it was recorded; None if it does not say.

    Raises:
        ConfigError: it cannot be read, or the package is missing.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        check_installed("minari", "minari", f"{name}, a Minari data set,")
        content = read_bytes(folder / METADATA, at_most=MOST_METADATA)
        minari = importlib.import_module("minari")  # an optional package

        with self._reading():
            # Without its spaces, Minari would make the environment, by the code that it names.
            if not {"observation_space", "action_space"} <= set(json.loads(content)):
                raise ValueError("it does not store its spaces; record it with a newer Minari")
            self._data: Any = minari.MinariDataset(folder)
        spec = self._data.env_spec
        self.env = None if spec is None else EnvConfig(spec.id, kwargs=dict(spec.kwargs))
        self.folder = folder

    @property
    def train(self) -> TrainConfig:
        """Rlkl's defaults in the environment of the data set.

        Raises:
            ConfigError: the data set does not say which it is.
        """
        if self.env is None:
            raise ConfigError(
                f"{self.name} does not say in which environment it was recorded; name it: env.id=ID"
            )
        return TrainConfig(env=self.env)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            text = f"{self.name} cannot be read as a Minari data set: {described(error)}"
            raise ConfigError(text) from error

    def demonstrations(self, learner: Learner, config: CloneConfig) -> Demonstrations:
        """Read the first episodes for a learner of a new run.

        Raises:
            ConfigError: the spaces are not those of its environment, or the data is empty or
                broken.
        """
        policy, masked = learner.policy, bool(getattr(learner.envs, "shows_masks", False))
        theirs = ObservationEncoder(self._data.observation_space, policy.encoder.keys)
        check_spaces(self.name, theirs, self._data.action_space, policy)
        parts, steps = [], 0
        try:
            for episode in self._episodes(config.episodes):
                if config.env_steps is not None and steps >= config.env_steps:
                    break
                if len(episode):
                    parts.append(_demonstration(episode, policy, masked))
                    steps += len(episode)
        except BrokenEnvironmentError as error:
            text = str(error).replace("sub-environment", "step")
            raise ConfigError(f"{self.name}, {text}") from error
        if not parts:
            raise ConfigError(f"{self.name} is empty; expected at least two episodes")
        return joined(parts)

    def _episodes(self, most: int | None) -> Iterator[Any]:
        episodes = iter(self._data.iterate_episodes(self._data.episode_indices[:most]))
        while True:
            with self._reading():
                episode = next(episodes, None)
            if episode is None:
                return
            yield episode


def _demonstration(episode: Any, policy: Policy, masked: bool) -> Demonstrations:
    """Turn an episode into demonstrations.

    Raises:
        BrokenEnvironmentError: it does not fit its spaces.
    """
    where, steps = f"episode {episode.id}", len(episode)
    encoded = policy.encoder(episode.observations, where)
    if masked:
        encoded[ACTION_MASK] = _masks(episode, policy, where)
    actions = np.asarray(episode.actions)
    for part, rows, expected in (
        ("observations", len(next(iter(encoded.values()))), steps + 1),
        ("actions", len(actions), steps),
    ):
        if rows != expected:
            raise BrokenEnvironmentError(
                f"{where}: it has {rows} {part} and {steps} rewards; expected {expected}"
            )
    _check_actions(policy, actions, where)
    rewards = np.asarray(episode.rewards, np.float64)
    if not np.isfinite(rewards).all():
        raise BrokenEnvironmentError(f"{where}: a reward is not finite")
    final = {key: rows[-1:] for key, rows in encoded.items() if key != ACTION_MASK}
    return Demonstrations(
        {key: rows[:-1] for key, rows in encoded.items()},
        final,
        samples_of(policy.decoder, actions),
        rewards,
        np.array([steps]),
        np.array([bool(episode.terminations[-1])]),
        np.zeros((steps, 0), np.float32),
    )


def _check_actions(policy: Policy, actions: NDArray[Any], where: str) -> None:
    """Raise unless the actions have the shape of the space and are finite, or choices of it."""
    decoder = policy.decoder
    space = decoder.space
    fits = actions.shape[1:] == (space.shape or ()) and actions.dtype.kind in "biuf"
    if fits and decoder.is_continuous:
        fits = bool(np.isfinite(actions).all())
    elif fits:
        fits = all(space.contains(action) for action in actions.astype(space.dtype))
    if not fits:
        raise BrokenEnvironmentError(f"{where}: an action is not in its space {space}")


def _masks(episode: Any, policy: Policy, where: str) -> NDArray[np.bool_]:
    """Return the action masks of all observations of an episode; the last may allow nothing."""
    observations, infos = episode.observations, episode.infos or {}
    is_part = isinstance(observations, dict) and ACTION_MASK not in policy.encoder.keys
    masks = observations.get(ACTION_MASK) if is_part else None
    masks = infos.get(ACTION_MASK) if masks is None else masks
    if masks is None:
        raise BrokenEnvironmentError(
            f"{where}: the environment has action masks, and the data has none; record it with "
            "DataCollector(env, record_infos=True)"
        )
    rows = list(zip(*masks, strict=True)) if isinstance(masks, tuple) else list(masks)
    ignored = np.zeros(len(rows), np.bool_)
    ignored[-1] = True
    return mask_rows(policy.decoder.space, rows, ignored, where)
