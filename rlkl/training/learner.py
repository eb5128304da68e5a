"""Build the parts of a run, iterate them, and save and load their state."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import torch

from rlkl.algos import make_policy_optimizer
from rlkl.algos.critic import CriticFit
from rlkl.algos.parallel_critic import Updates
from rlkl.engines.make import make_engine
from rlkl.envs.actions import ActionDecoder
from rlkl.envs.make import episode_limit, make_training_env
from rlkl.envs.snapshots import packed, unpacked
from rlkl.models.policy import Policy
from rlkl.models.policy_description import describe_policy
from rlkl.rollouts.batch import Batch
from rlkl.rollouts.make import (
    BatchMaker,
    collector_for,
    for_arrays,
    make_normalizer,
    make_reward_scaler,
)
from rlkl.training.config import TrainConfig
from rlkl.training.diagnostics import diagnose
from rlkl.training.evaluation import Evaluation, evaluate
from rlkl.training.nonfinite_guard import NonfiniteGuard
from rlkl.training.rank_checks import check_same_parameters, check_same_run, env_of_rank
from rlkl.training.reference import Reference
from rlkl.training.report import Report, scalars_of
from rlkl.training.resource_checks import check_memory, checked_device
from rlkl.training.running_means import EpisodeTracker, InfoTracker
from rlkl.training.trained_policy import check_fits
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError
from rlkl.utils.ranks import join_ranks
from rlkl.utils.seeding import RandomStreams
from rlkl.utils.thread_limit import ThreadLimit


class Learner:
    """Builds and iterates the parts of a run; writes and prints nothing.

    On several ranks, all methods except `evaluate` and `state_dict` are collective.

    Attributes:
        ranks: the processes that train together.
        envs: of this process; `set_attr`, `get_attr` and `call` reach all sub-environments.
        resets_at_checkpoints: whether environments are recreated at checkpoints, because they
            cannot be restored.
        on_rollout: called with each rollout before the update.

    Raises:
        ConfigError: the environment, the device or the algorithm cannot be used.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.ranks = join_ranks()
        check_same_run(self.ranks, config)
        self._env_config = env_of_rank(config.env, self.ranks)
        self.infos = InfoTracker(config.logger.info_keys)
        self.thread_limit = ThreadLimit(config.threads)
        with ExitStack() as opened:
            opened.callback(self.thread_limit.release)
            self.streams = RandomStreams(config.seed)

            def make() -> torch.device:
                has_own = config.device == "cuda" and self.ranks.size > 1  # a GPU for each rank
                name = f"cuda:{self.ranks.local_rank}" if has_own else config.device
                device = checked_device(name)
                self.envs = make_training_env(self._env_config, device, self.infos.keys)
                self.envs.ranks = self.ranks.size
                opened.callback(lambda: self.envs.close())  # noqa: PLW0108 (those of then)
                return device

            device = self.ranks.together(make)[self.ranks.rank]
            self._build(device)
            opened.callback(self.updates.close)
            self._opened = opened.pop_all()
        self.iterations = 0
        self.tracker = EpisodeTracker()
        self.on_rollout: Callable[[Any], None] = lambda rollout: None
        self.reference: Reference | None = None

    def _build(self, device: torch.device) -> None:
        config, streams, envs = self.config, self.streams, self.envs
        num_envs = config.env.num_envs
        row = sum(array.nbytes for array in envs.encoder.empty(1, 1).values())
        outputs = ActionDecoder(envs.action_space, config.policy.box_distribution).parameter_size
        check_memory(config.rollout_steps, num_envs, config.policy, row, action_parameters=outputs)
        initialization = streams.torch("initialization")
        self.policy = Policy(config.policy, envs.encoder, envs.action_space, initialization, device)
        is_tensor = envs.backend == "tensor"
        reason = "environments of tensors need torch" * is_tensor
        self.engine = make_engine(self.policy, self.ranks, reason)
        self.policy_optimizer = make_policy_optimizer(
            config.algo, self.engine, streams.torch("policy minibatches", device)
        )
        self.critic_fit = CriticFit(
            config.critic, self.engine, streams.torch("critic minibatches", device)
        )
        size = config.rollout_steps * num_envs
        self.updates = Updates(self.policy_optimizer, self.critic_fit, size)
        self.normalizer = (
            make_normalizer(envs, config.env.id, config.clip_observations)
            if config.normalize_observations
            else None
        )
        self.reward_scaler = (
            make_reward_scaler(envs, num_envs, config.gamma) if config.scale_rewards else None
        )
        learners = {"policy_optimizer": self.policy_optimizer, "critic_fit": self.critic_fit}
        if self.reward_scaler is not None:
            learners["reward_scaler"] = self.reward_scaler
        self.guard = NonfiniteGuard(
            self.engine, learners, config.algo.ratio_bounds, config.max_bad_updates
        )
        self.collector = collector_for(envs)(
            envs,
            self.engine,
            config.rollout_steps,
            streams.torch("actions", device),
            streams.integers("environments", num_envs),
            self.normalizer,
            self.ranks,
        )
        try:
            self.resets_at_checkpoints = envs.state() is None
        except BrokenEnvironmentError as error:
            raise ConfigError(str(error)) from error

    @property
    def resolved_config(self) -> TrainConfig:
        """The config with the chosen values in place of `auto` and null."""
        config = self.config
        return replace(
            config,
            env=replace(config.env, backend=self.envs.backend),
            checkpoint=replace(config.checkpoint, interval=self.checkpoint_interval),
            policy=replace(config.policy, engine=self.engine.name),
        )

    @property
    def title(self) -> str:
        """One line: algorithm, environment × number (backend), device and engine."""
        config, engine = self.config, self.engine
        backend = self.envs.backend + ", auto" * (config.env.backend == "auto")
        name = {"numpy": "NumPy", "torch": "torch"}[engine.name]
        reason = f" ({engine.reason})" if engine.reason else ""
        every = f"; environments reset every {self.checkpoint_interval} iterations"
        resets = f"{every}, after checkpoints" * self.resets_at_checkpoints
        return (
            f"{config.algo.name} on {config.env.id} × {config.env.num_envs} ({backend}), "
            f"{config.device}, {name} engine{reason}{resets}"
        )

    @property
    def env_steps(self) -> int:
        """Environment steps so far."""
        return self.collector.env_steps

    def iterate(self) -> Report:
        """Collect one rollout, update the policy and the critic, and return the report.

        Raises:
            BadUpdatesError: `max_bad_updates` updates in a row were reverted.
        """
        config, start = self.config, time.perf_counter()
        used = min(1.0, self.env_steps / config.total_env_steps)  # of the training budget
        progress = used if config.anneal else 0.0
        rollout = self.collector.collect()
        collected = time.perf_counter()
        self.on_rollout(rollout)

        self.guard.remember()
        if self.reward_scaler is not None:
            self.reward_scaler.update(rollout.rewards, rollout.ends, rollout.is_transition)
        maker = BatchMaker(
            rollout, self.engine, config.gamma, config.gae_lambda, self.reward_scaler,
            config.clip_rewards, self.critic_fit.value_normalizer, config.bootstrap_truncated,
        )  # fmt: skip
        batch = maker.make()
        if self.reference is not None:
            batch = self.reference.added(batch, rollout.raw_transitions)
        prepared = time.perf_counter()

        outcomes = self.updates.update(batch, progress, maker.recompute)  # of policy and of critic
        updated = time.perf_counter()

        compared, histograms, bad = self.guard.check(rollout, batch, outcomes, self.iterations + 1)
        if self.reference is not None:
            compared |= self.reference.metrics(batch, adapts=bad is None)
        if bad is None:
            self._adapt(rollout, batch, compared["kl/old_new"])
        self.iterations += 1
        interval = config.logger.diagnosis_interval
        if bad is None and interval and self.iterations % interval == 0:
            compared |= diagnose(self.engine, batch)
        check_same_parameters(self.ranks, self.policy, self.iterations, self.envs.attributes)
        self.tracker.add(rollout.episodes)
        compared |= self.infos.add(rollout)
        end = time.perf_counter()
        times = {
            "time/collect": collected - start,
            "time/prepare": prepared - collected,
            "time/update": updated - prepared,
            "time/report": end - updated,
            "time/env_steps_per_second": rollout.num_transitions / (end - start),
        }
        of_policy, of_critic = (outcome.metrics for outcome in outcomes)
        scalars = scalars_of(of_policy, of_critic, compared, self.tracker.metrics(), times)
        return Report(self.env_steps, scalars, histograms, rollout.episodes, bad)

    def _adapt(self, rollout: Any, batch: Batch, kl: float) -> None:
        """Adapt coefficients and statistics, which are constant during an update."""
        self.policy_optimizer.adapt(kl)
        self.critic_fit.adapt(batch)
        # Updated only now, so that π_old and π_θ see the same normalized observations.
        if self.normalizer is not None and rollout.raw_vectors is not None:
            self.normalizer.update(rollout.raw_transitions)

    def close(self) -> None:
        """Close the environments and end the worker processes; once, however often it is called."""
        self._opened.close()

    def evaluate(self, stop: Callable[[], bool] = lambda: False) -> Evaluation:
        """Run `eval_episodes` episodes with deterministic actions and the same seeds every time.

        Raises:
            EvaluationStoppedError: `stop`, which is called at each step, returned True.
        """
        config = self.resolved_config  # with the backend of training, also in a resumed run
        return evaluate(
            self.engine,
            config.env,
            config.eval_episodes,
            self.streams.integers("evaluation", config.eval_episodes),
            normalizer=for_arrays(self.normalizer),
            max_episode_steps=config.eval_max_episode_steps,
            stop=stop,
        )

    @property
    def checkpoint_interval(self) -> int:
        """Iterations between two checkpoints; `CheckpointConfig` describes the default."""
        config = self.config
        if config.checkpoint.interval is not None:
            return config.checkpoint.interval
        if not self.resets_at_checkpoints:
            return 50
        tenth = config.total_env_steps // (10 * config.rollout_steps * config.env.num_envs)
        two_episodes = math.ceil(2 * episode_limit(config.env) / config.rollout_steps)
        return min(100, max(10, tenth, two_episodes))

    def recreate_environments(self) -> None:
        """Recreate the environments, with seeds from the run's seed and the iteration.

        A reset is not enough: some, such as BipedalWalker, are not reproducible once used.
        """
        attributes, env = self.envs.attributes, replace(self._env_config, backend=self.envs.backend)
        self.envs.close()
        self.envs = make_training_env(env, self.policy.device, self.infos.keys)
        self.envs.ranks = self.ranks.size
        self.envs.restore_attributes(attributes)
        seeds = self.streams.integers(f"environments {self.iterations}", self.config.env.num_envs)
        self.collector.restart(self.envs, seeds)
        if self.reward_scaler is not None:
            self.reward_scaler.reset_returns()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next iterations depend on, and what `load_policy` needs.

        It is plain data: tensors, numbers, strings, and lists and dicts of them.
        """
        return {
            "config": asdict(self.resolved_config),
            "policy_description": describe_policy(self.policy),
            **self.policy_state(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "critic_fit": self.critic_fit.state_dict(),
            "collector": self.collector.state_dict(),
            **self.tracker.state_dict(),
            "infos": self.infos.state_dict(),
            **({} if self.reference is None else {"reference": self.reference.state_dict()}),
            "bad_updates_in_a_row": self.guard.in_a_row,
            "env_attributes": packed(self.envs.attributes),
        }

    def policy_state(self) -> dict[str, Any]:
        """Return the part of `state_dict` that defines the policy, and when it was reached."""
        return {
            "policy": self.policy.state_dict(),
            "normalizer": self.normalizer and self.normalizer.state_dict(),
            "reward_scaler": self.reward_scaler and self.reward_scaler.state_dict(),
            "env_steps": self.env_steps,
            "iterations": self.iterations,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned; the next iterations are then bit-for-bit identical.

        Environments that cannot be restored are recreated, as they were when the state was saved.

        Raises:
            ConfigError: the state is of another algorithm, policy or environment.
        """
        self.load_policy(state)
        if "reference" in state:
            self.set_reference(state["reference"])
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.critic_fit.load_state_dict(state["critic_fit"])
        self.envs.restore_attributes(unpacked(state.get("env_attributes")))
        try:
            self.collector.load_state_dict(state["collector"])
        except BrokenEnvironmentError as error:
            raise ConfigError(f"{error}; fix it, or start a new run") from error
        self.iterations = int(state["iterations"])
        self.tracker.load_state_dict(state)
        self.infos.load_state_dict(state.get("infos", {}))
        self.guard.in_a_row = int(state["bad_updates_in_a_row"])
        if state["collector"]["under_way"] is None and self.iterations:
            self.recreate_environments()

    def set_reference(self, state: dict[str, Any]) -> None:
        """Stay near the policy of a state, as `config.reference` says; once."""
        self.reference = Reference(
            self.config.reference, state, self.engine, self.policy_optimizer, self.ranks
        )

    def load_policy(self, state: dict[str, Any]) -> None:
        """Load only the networks and the statistics of observations and rewards from a state.

        Raises:
            ConfigError: the state is of another algorithm, policy or environment.
        """
        check_fits(state, self.config.algo.name, self.policy)
        self.policy.load_state_dict(state["policy"])
        if self.normalizer is not None:
            self.normalizer.load_state_dict(state["normalizer"])
        if self.reward_scaler is not None:
            self.reward_scaler.load_state_dict(state["reward_scaler"])
