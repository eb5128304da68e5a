"""The parts of a run, what one iteration of them is, and their whole state."""

import math
import re
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import gymnasium
import torch

from rlkl.algos import make_policy_optimizer
from rlkl.algos.base import Metrics
from rlkl.algos.critic import CriticFit
from rlkl.algos.parallel_critic import Updates
from rlkl.envs.make import make_vector_env
from rlkl.envs.spaces import ActionDecoder
from rlkl.models.policy import Policy, PolicyConfig
from rlkl.numerics.normalization import ObservationNormalizer, RewardScaler
from rlkl.rollouts.collector import Collector
from rlkl.rollouts.rollout import Rollout, make_batch
from rlkl.training.checkpoint import describe_policy
from rlkl.training.config import TrainConfig
from rlkl.training.diagnostics import complete
from rlkl.training.evaluation import Evaluation, evaluate
from rlkl.training.nonfinite_guard import Safeguard
from rlkl.training.resource_checks import check_memory
from rlkl.utils.saved_keys import as_meant
from rlkl.utils.seeding import RandomStreams
from rlkl.utils.thread_limit import ThreadLimit
from rlkl.utils.validation import BrokenEnvironmentError, ConfigError


class Learner:
    """Builds every part of a run and iterates them; writes nothing.

    Args:
        config: what to run.

    Raises:
        ConfigError: the environment, the device or the algorithm cannot be used.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.thread_limit = ThreadLimit(config.threads)
        with ExitStack() as undone:
            undone.callback(self.thread_limit.release)
            device = _checked_device(config.device)
            self.streams = RandomStreams(config.seed)
            self.envs = make_vector_env(config.env)
            undone.callback(self.envs.close)
            self._build(device)
            undone.pop_all()
        self.iterations = 0
        self.episodes = 0
        self.recent_returns: deque[float] = deque(maxlen=100)
        self.recent_lengths: deque[int] = deque(maxlen=100)
        self.return_best = -math.inf

    def _build(self, device: torch.device) -> None:
        config, streams = self.config, self.streams
        row = sum(array.nbytes for array in self.envs.encoder.empty(1, 1).values())
        decoder = ActionDecoder(self.envs.action_space, config.policy.box_distribution)
        check_memory(
            config.rollout_steps,
            config.env.num_envs,
            config.policy,
            row,
            action_parameters=decoder.parameter_size,
        )
        self.policy = Policy(
            config.policy,
            self.envs.encoder,
            self.envs.action_space,
            streams.torch("initialization"),
            device,
        )
        self.policy_optimizer = make_policy_optimizer(
            config.algo, self.policy, streams.torch("policy minibatches", device)
        )
        self.critic_fit = CriticFit(
            config.critic, self.policy, streams.torch("critic minibatches", device)
        )
        self.updates = Updates(
            self.policy_optimizer, self.critic_fit, config.rollout_steps * config.env.num_envs
        )
        self.normalizer = self._normalizer() if config.normalize_observations else None
        self.reward_scaler = (
            RewardScaler(config.env.num_envs, config.gamma) if config.scale_rewards else None
        )
        self.safeguard = Safeguard(
            self.policy,
            self.policy_optimizer,
            self.critic_fit,
            self.reward_scaler,
            config.algo.ratio_bounds,
            config.max_bad_updates,
        )
        self.collector = Collector(
            self.envs,
            self.policy,
            config.rollout_steps,
            streams.torch("actions", device),
            streams.integers("environments", config.env.num_envs),
            self.normalizer,
        )
        try:
            self._begins_anew = self.envs.state() is None
        except BrokenEnvironmentError as error:
            raise ConfigError(str(error)) from error

    def _normalizer(self) -> ObservationNormalizer:
        encoder = self.envs.encoder
        if not encoder.is_measured.any():
            raise ConfigError(
                f"normalize_observations=true: {self.config.env.id} shows nothing to normalise but "
                "images, which policy.pixel_scale scales, or one-hot codes; leave it out"
            )
        return ObservationNormalizer((encoder.vector_size,), is_measured=encoder.is_measured)

    @property
    def resolved_config(self) -> TrainConfig:
        """The config with what `auto` and null stood for: of the backend, the checkpoints, ..."""
        config = self.config
        by_hand = self.policy.by_hand is not None
        return replace(
            config,
            env=replace(config.env, backend=self.envs.backend),
            checkpoint=replace(config.checkpoint, interval=self.checkpoint_interval),
            policy=replace(config.policy, differentiation="by_hand" if by_hand else "autograd"),
        )

    @property
    def title(self) -> str:
        """What is run and how, in a line."""
        config, policy = self.config, self.policy
        chosen = " (auto)" * (config.env.backend == "auto")
        way = "analytic gradients" if policy.by_hand else "autograd"
        cuts = (
            f"; environments reset every {self.checkpoint_interval} iterations, after checkpoints"
            if self.begins_anew
            else ""
        )
        why = f" ({policy.autograd_reason})" * bool(policy.autograd_reason)
        return (
            f"{config.algo.name} on {config.env.id} × {config.env.num_envs}, "
            f"{self.envs.backend} environments{chosen}, {way}{why}{cuts}"
        )

    @property
    def env_steps(self) -> int:
        """Environment steps made so far."""
        return self.collector.env_steps

    @property
    def return_mean(self) -> float:
        """Mean training return of the last 100 episodes; NaN before the first."""
        return _mean(self.recent_returns)

    def iterate(self) -> tuple[Rollout, Metrics, dict[str, torch.Tensor]]:
        """Collect one rollout, learn from it, and report.

        Returns:
            The rollout, the scalars of the report and its histograms.
        """
        config, start = self.config, time.perf_counter()
        progress = min(1.0, self.env_steps / config.total_env_steps) if config.anneal else 0.0
        rollout = self.collector.collect()
        collected = time.perf_counter()
        self.safeguard.remember()
        if self.reward_scaler is not None:
            self.reward_scaler.update(rollout.rewards, rollout.ends, rollout.is_transition)
        batch = make_batch(
            rollout,
            self.policy,
            config.gamma,
            config.gae_lambda,
            self.reward_scaler,
            config.clip_rewards,
        )
        prepared = time.perf_counter()
        metrics = self.updates.update(batch, progress)
        updated = time.perf_counter()
        compared, histograms = self.safeguard.report(rollout, batch, metrics, self.iterations + 1)
        applied = self.safeguard.in_a_row == 0
        if applied:
            self.policy_optimizer.adapt(compared["kl/old_new"])
        if self.normalizer is not None and rollout.raw_vectors is not None and applied:
            self.normalizer.update(rollout.raw_vectors[rollout.is_transition])
        self.iterations += 1
        self.episodes += len(rollout.episodes)
        self.recent_returns.extend(episode.reward_sum for episode in rollout.episodes)
        self.recent_lengths.extend(episode.length for episode in rollout.episodes)
        return_mean = self.return_mean
        if self.recent_returns:
            self.return_best = max(self.return_best, return_mean)
        metrics |= compared | {
            "return/train": return_mean,
            "episode/length": _mean(self.recent_lengths),
            "episode/count": float(self.episodes),
            "time/collect": collected - start,
            "time/prepare": prepared - collected,
            "time/update": updated - prepared,
            "time/report": time.perf_counter() - updated,
            "time/env_steps_per_second": float(rollout.is_transition.sum())
            / (time.perf_counter() - start),
        }
        return rollout, complete(metrics), histograms

    def close(self) -> None:
        """Close the environments, and end the processes that were begun."""
        with ExitStack() as every:
            every.callback(self.thread_limit.release)
            every.callback(self.envs.close)
            every.callback(self.updates.close)

    def evaluate(self, stop: Callable[[], bool] = lambda: False) -> Evaluation:
        """Return `eval_episodes` episodes with deterministic actions, always the same ones.

        Args:
            stop: asked at each step whether to give up.

        Raises:
            EvaluationStoppedError: `stop` said so.
        """
        # The resolved config has the backend of training: a resumed run knows no other.
        config = self.resolved_config
        return evaluate(
            self.policy,
            config.env,
            config.eval_episodes,
            self.streams.integers("evaluation", config.eval_episodes),
            normalizer=self.normalizer,
            max_episode_steps=config.eval_max_episode_steps,
            stop=stop,
        )

    @property
    def begins_anew(self) -> bool:
        """Whether the environments are recreated after each checkpoint: they cannot be restored.

        A resumed run could not continue the episodes under way, so no run does.
        """
        return self._begins_anew

    @property
    def checkpoint_interval(self) -> int:
        """Iterations from one checkpoint to the next.

        Where episodes are cut at checkpoints the default is a tenth of the budget, so that a run
        that is stopped repeats no more than that; but it leaves room for two episodes of the
        longest kind, and is 10 to 100.
        """
        config = self.config
        if config.checkpoint.interval is not None:
            return config.checkpoint.interval
        if not self.begins_anew:
            return 50
        tenth = config.total_env_steps // (10 * config.rollout_steps * config.env.num_envs)
        spec = gymnasium.registry.get(config.env.id.rpartition(":")[2])
        longest = config.env.kwargs.get("max_episode_steps") or getattr(
            spec, "max_episode_steps", None
        )
        return min(100, max(10, tenth, math.ceil(2 * (longest or 0) / config.rollout_steps)))

    def begin_anew(self) -> None:
        """Recreate the environments, with seeds that depend on the run's seed and the moment.

        A reset would not do: some, such as BipedalWalker, do not repeat themselves from a seed once
        they have been used.
        """
        self.envs.close()
        self.envs = make_vector_env(self.resolved_config.env)
        name = f"environments {self.iterations}"
        seeds = self.streams.integers(name, self.envs.num_envs)
        self.collector.begin_anew(self.envs, seeds)
        if self.reward_scaler is not None:
            self.reward_scaler.begin_anew()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next iteration depends on, and what `load_policy` needs.

        It is plain data: tensors, numbers, strings, and lists and dicts of them.
        """
        return {
            "config": asdict(self.resolved_config),
            "policy_description": describe_policy(self.policy),
            **self.policy_state(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "critic_fit": self.critic_fit.state_dict(),
            "collector": self.collector.state_dict(),
            "episodes": self.episodes,
            "recent_returns": list(self.recent_returns),
            "recent_lengths": list(self.recent_lengths),
            "return_best": self.return_best,
            "bad_updates_in_a_row": self.safeguard.in_a_row,
        }

    def policy_state(self) -> dict[str, Any]:
        """Return the part of `state_dict` that makes a policy what it is, and when it was."""
        return {
            "policy": self.policy.state_dict(),
            "normalizer": self.normalizer and self.normalizer.state_dict(),
            "reward_scaler": self.reward_scaler and self.reward_scaler.state_dict(),
            "env_steps": self.env_steps,
            "iterations": self.iterations,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, to the same bits.

        Environments that cannot be restored are recreated, as they were when the state was taken.

        Raises:
            ConfigError: the state is that of another algorithm, policy or environment.
        """
        self.load_policy(state)
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.critic_fit.load_state_dict(state["critic_fit"])
        try:
            self.collector.load_state_dict(state["collector"])
        except BrokenEnvironmentError as error:
            raise ConfigError(f"{error}; mend it, or begin a new run") from error
        self.iterations = int(state["iterations"])
        self.episodes = int(state["episodes"])
        self.recent_returns.extend(state["recent_returns"])
        self.recent_lengths.extend(state["recent_lengths"])
        self.return_best = float(state["return_best"])
        self.safeguard.in_a_row = int(state["bad_updates_in_a_row"])
        if state["collector"]["under_way"] is None and self.iterations:
            self.begin_anew()

    def load_policy(self, state: dict[str, Any]) -> None:
        """Take the networks and the statistics of observations and rewards alone from a state.

        Raises:
            ConfigError: the state is that of another algorithm, policy or environment.
        """
        self._check_fits(state)
        self.policy.load_state_dict(state["policy"])
        for statistics, key in (
            (self.normalizer, "normalizer"),
            (self.reward_scaler, "reward_scaler"),
        ):
            if statistics is not None:
                statistics.load_state_dict(state[key])

    def _check_fits(self, state: dict[str, Any]) -> None:
        def described(description: dict[str, Any]) -> dict[str, Any]:
            # The same networks, whichever way they are differentiated.
            config = asdict(PolicyConfig(**as_meant("policy", description["config"])))
            return description | {"config": config | {"differentiation": None}}

        algo = state["config"]["algo"]["name"]
        if algo != self.config.algo.name:
            raise ConfigError(
                f"the checkpoint is of algo={algo}, not of {self.config.algo.name}; begin a new run"
            )
        theirs = described(state["policy_description"])
        ours = described(describe_policy(self.policy))
        for part, was in theirs.items():
            if was != ours[part]:
                raise ConfigError(
                    f"the checkpoint is of another {'policy' if part == 'config' else part}: "
                    f"{was}, and here it is {ours[part]}; begin a new run"
                )


DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Kinds that people have; torch knows names of many more."""


def _checked_device(name: str) -> torch.device:
    if name.partition(":")[0] not in DEVICES:
        hint = " (did you mean cuda?)" if name.lower().startswith(("gpu", "cuda")) else ""
        raise ConfigError(
            f"device={name} cannot be used: expected cpu, cuda, cuda:1, ..., mps or xpu{hint}; "
            "device=cpu always can"
        )
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = re.split(r"\. |\n", str(error))[0]
        raise ConfigError(
            f"device={name} cannot be used here: {reason}; device=cpu always can"
        ) from error
    return device


def _mean(numbers: Collection[float]) -> float:
    """Return the mean of a few numbers, NaN of none, in a tenth of the time that an array takes."""
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
