"""Demonstrations of a run's policy."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlkl.envs.ids import check_module
from rlkl.envs.make import make_vector_env
from rlkl.envs.observations import ACTION_MASK, Observations, normalized
from rlkl.envs.vector_env import Step
from rlkl.tools.cloning.config import ENV_STEPS, CloneConfig
from rlkl.tools.cloning.demonstrations import (
    Demonstrations,
    check_spaces,
    have_same_samples,
    joined,
    samples_of,
)
from rlkl.training.checkpoint import folder_of, state_of_run
from rlkl.training.config import saved_config
from rlkl.training.learner import Learner
from rlkl.training.reference import ReferenceConfig
from rlkl.training.trained_policy import load_run
from rlkl.utils.seeding import RandomStreams
from rlkl.utils.streams import tell


class RunSource:
    """The policy of a run, which acts with sampled actions in new environments.

    Attributes:
        name: the run's folder or checkpoint, as typed.
        train: the config of a new run like this one.

    Raises:
        ConfigError: the checkpoint is missing or cannot be read.
    """

    def __init__(self, run_dir: str, checkpoint: str = "last") -> None:
        self.name = run_dir
        with state_of_run(run_dir, checkpoint) as state:
            config = saved_config(state["config"])
            policy = replace(config.policy, engine="auto")  # other networks may need another one
            self.train = replace(
                config, policy=policy, run_dir=None, init_from=None, reference=ReferenceConfig()
            )
        if note := check_module(self.train.env.id, folder_of(run_dir)):
            tell(note)
        self.run = load_run(run_dir, checkpoint)

    def demonstrations(self, learner: Learner, config: CloneConfig) -> Demonstrations:
        """Record episodes for a learner of a new run.

        With `episodes` each sub-environment makes a fixed number of them, since taking the first
        that end would favour short ones; one that reaches `eval_max_episode_steps` is cut, and is
        the last of its sub-environment. With `env_steps` each makes an equal number of steps, and
        its last episode is cut.

        Raises:
            ConfigError: the spaces are not those of the learner's environment.
        """
        policy, theirs = learner.policy, self.run.policy.policy
        check_spaces(self.name, theirs.encoder, theirs.decoder.space, policy)
        found = self._record(config, learner.streams)
        if have_same_samples(theirs.decoder, policy.decoder):
            return found
        actions = samples_of(policy.decoder, theirs.decoder(found.actions))
        return replace(found, actions=actions, parameters=found.parameters[:, :0])

    @torch.no_grad()
    def _record(self, config: CloneConfig, streams: RandomStreams) -> Demonstrations:
        env, trained = self.run.env, self.run.policy
        policy, generator = trained.policy, streams.torch("clone actions")
        total = config.episodes or config.env_steps or ENV_STEPS
        num_envs = min(env.num_envs, total)
        limit = self.run.max_episode_steps if config.episodes else None
        recorders = [
            _Recorder(total // num_envs + (i < total % num_envs), limit) for i in range(num_envs)
        ]
        with closing(make_vector_env(replace(env, num_envs=num_envs))) as envs:
            observations = envs.reset(streams.integers("clone environments", num_envs))
            states = policy.initial_state(num_envs)
            while any(recorder.is_open for recorder in recorders):
                seen = policy.tensors(normalized(observations, trained.normalizer))
                distribution, states = trained.engine.step(seen, states)
                actions = distribution.sample(generator).cpu().numpy()
                parameters = distribution.parameters.cpu().numpy()
                step = envs.step(policy.decoder(actions))
                for i, recorder in enumerate(recorders):
                    if recorder.is_open and step.is_transition[i]:
                        row = {key: rows[i].copy() for key, rows in observations.items()}
                        recorder.add((row, actions[i], parameters[i], step.rewards[i]), step, i)
                observations = step.observations
                states = policy.forget(states, step.begins)
        return joined([episode for recorder in recorders for episode in recorder.episodes])


class _Recorder:
    """Records episodes of one sub-environment while `is_open`.

    The quota is a number of episodes, which are cut after `limit` steps; without a limit, of steps.
    """

    def __init__(self, quota: int, limit: int | None) -> None:
        self.quota, self.limit = quota, limit
        self.episodes: list[Demonstrations] = []
        self.is_open = True
        self._rows: list[tuple[Observations, Any, NDArray[np.float32], np.float64]] = []

    def add(
        self, row: tuple[Observations, Any, NDArray[np.float32], np.float64], step: Step, env: int
    ) -> None:
        """Add a transition: observations, action, parameters and reward; and what followed it."""
        self._rows.append(row)
        is_over = bool(step.terminated[env] | step.truncated[env])
        if self.limit is None:
            self.quota -= 1
            is_cut = self.quota == 0
        else:
            self.quota -= is_over
            is_cut = not is_over and len(self._rows) >= self.limit
        if is_over or is_cut:
            self.episodes.append(self._episode(step, env))
            self._rows = []
            # After a cut the environment is within an episode, and a memory is not at its start.
            self.is_open = self.quota > 0 and not is_cut

    def _episode(self, step: Step, env: int) -> Demonstrations:
        final, place = step.observations, env
        if env in step.final_envs:  # the observations already show the next episode
            final, place = step.final_observations, int(np.argmax(step.final_envs == env))
        observations, actions, parameters, rewards = zip(*self._rows, strict=True)
        return Demonstrations(
            {key: np.stack([row[key] for row in observations]) for key in observations[0]},
            {key: rows[[place]] for key, rows in final.items() if key != ACTION_MASK},
            np.stack(actions),
            np.array(rewards, np.float64),
            np.array([len(actions)]),
            np.array([bool(step.terminated[env])]),
            np.stack(parameters),
        )
