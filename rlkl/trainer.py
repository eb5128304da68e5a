"""From a config to a trained policy: builds the parts and runs the loop."""

import math
import platform
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from rlkl.algos import make_policy_optimizer
from rlkl.algos.base import AlgoConfig, Metrics
from rlkl.algos.natural_gradient import check_separate_encoder
from rlkl.algos.ppo_clip import PPOClipConfig
from rlkl.checkpoint import describe_policy, save_checkpoint
from rlkl.collector import Collector
from rlkl.critic import CriticConfig, CriticFit
from rlkl.diagnostics import complete, report
from rlkl.envs import EnvConfig, make_vector_env
from rlkl.evaluation import evaluate
from rlkl.loggers import (
    CSVLogger,
    Logger,
    LoggerConfig,
    TensorBoardLogger,
    as_yaml,
    make_run_dir,
    write_json,
)
from rlkl.normalization import ObservationNormalizer, RewardScaler
from rlkl.policy import Policy, PolicyConfig
from rlkl.progress import make_progress, print_summary
from rlkl.randomness import RandomStreams
from rlkl.rollout import Rollout, make_batch
from rlkl.validation import ConfigError, check_range
from rlkl.version import __version__


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on.

    Attributes:
        algo: the policy-optimizer; the type of the dataclass chooses it.
        env: which environments.
        policy: the networks.
        critic: how values are fitted, the same for every algorithm.
        logger: what is written and shown.
        total_env_steps: the training budget; the rollout that reaches it is the last.
        rollout_steps: T, steps of each environment in one rollout.
        gamma: discount factor.
        gae_lambda: λ of generalised advantage estimation.
        normalize_observations: by running moments that move between iterations.
        scale_rewards: by the running standard deviation of the discounted return.
        clip_rewards: the rewards that are learned from are kept within ± this, as is usual on
            Atari; null leaves them. Reported returns are always raw.
        seed: of everything random.
        device: of the networks: cpu, cuda, cuda:1, ...
        threads: that torch and NumPy compute with; networks of this size rarely gain from more.
        eval_episodes: episodes with the most probable actions after training; 0 for none.
        run_dir: the run's folder; null for runs/<env>/<algo>/<date-time>-seed<seed>.
    """

    algo: AlgoConfig = field(default_factory=PPOClipConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    total_env_steps: int = 100_000
    rollout_steps: int = 128
    gamma: float = 0.99
    gae_lambda: float = 0.95
    normalize_observations: bool = False
    scale_rewards: bool = False
    clip_rewards: float | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    eval_episodes: int = 20
    run_dir: str | None = None

    def __post_init__(self) -> None:
        check_range("total_env_steps", self.total_env_steps, at_least=1)
        check_range("rollout_steps", self.rollout_steps, at_least=1)
        check_range("gamma", self.gamma, at_least=0, at_most=1)
        check_range("gae_lambda", self.gae_lambda, at_least=0, at_most=1)
        if self.clip_rewards is not None:
            check_range("clip_rewards", self.clip_rewards, above=0)
        check_separate_encoder(self.algo, self.policy)
        check_range("seed", self.seed, at_least=0)
        check_range("threads", self.threads, at_least=1)
        check_range("eval_episodes", self.eval_episodes, at_least=0)
        for part in ("algo", "critic"):
            parts = getattr(getattr(self, part), "num_minibatches", 1)
            size = self.rollout_steps * self.env.num_envs
            if size % parts:
                fitting = [n for n in range(1, size + 1) if size % n == 0]
                near = sorted(sorted(fitting, key=lambda n: abs(n - parts))[:2])
                raise ConfigError(
                    f"{part}.num_minibatches={parts} does not divide the batch of {size} "
                    f"(rollout_steps={self.rollout_steps} × env.num_envs={self.env.num_envs}); "
                    f"the nearest that do: {' and '.join(map(str, near))}"
                )


@dataclass
class Summary:
    """What a run came to: the content of `summary.json`.

    Attributes:
        status: `finished`, `stopped` (by the user) or `failed`.
        reason: why it stopped or failed, else empty.
        env_steps: made.
        iterations: made.
        episodes: finished while training.
        return_mean: training return, last 100 episodes; None before the first.
        return_best: the best such mean at the end of an iteration.
        eval_return: mean return of the evaluation after training.
        wall_seconds: of training, from its first environment step; evaluation is not counted.
        env_steps_per_second: over that time.
        seed, algo, env_id: what was run.
        versions: of rlkl and of what it stands on.
        git_revision: of rlkl's own checkout, if it is one.
    """

    status: str
    reason: str
    env_steps: int
    iterations: int
    episodes: int
    return_mean: float | None
    return_best: float | None
    eval_return: float | None
    wall_seconds: float
    env_steps_per_second: float | None
    seed: int
    algo: str
    env_id: str
    versions: dict[str, str]
    git_revision: str | None


class Trainer:
    """Builds every part of a run, and runs it. Nothing is written before `train`.

    Args:
        config: what to run.

    Raises:
        ConfigError: the environment, the device or the algorithm cannot be had.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        torch.set_num_threads(config.threads)
        threadpool_limits(config.threads, "blas")  # NumPy's products
        device = _checked_device(config.device)
        self.streams = RandomStreams(config.seed)
        self.envs = make_vector_env(config.env)
        try:
            self._build(device)
        except BaseException:
            self.envs.close()
            raise
        self.iterations = 0
        self.episodes = 0
        self.wall_seconds = 0.0
        self.evaluation_seconds = 0.0
        self.recent_returns: deque[float] = deque(maxlen=100)
        self.recent_lengths: deque[int] = deque(maxlen=100)
        self.return_best = -math.inf

    def _build(self, device: torch.device) -> None:
        config, streams = self.config, self.streams
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
        self.normalizer = self._normalizer() if config.normalize_observations else None
        self.reward_scaler = (
            RewardScaler(config.env.num_envs, config.gamma) if config.scale_rewards else None
        )
        self.collector = Collector(
            self.envs,
            self.policy,
            config.rollout_steps,
            streams.torch("actions", device),
            streams.integers("environments", config.env.num_envs),
            self.normalizer,
        )

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
        """The config with the backend and the way to differentiate that `auto` stood for."""
        config = self.config
        by_hand = self.policy.by_hand is not None
        return replace(
            config,
            env=replace(config.env, backend=self.envs.backend),
            policy=replace(config.policy, differentiation="by_hand" if by_hand else "autograd"),
        )

    @property
    def title(self) -> str:
        """What is run and how, in a line."""
        config, policy = self.config, self.policy
        chosen = f" (env.backend={config.env.backend})" * (config.env.backend == "auto")
        way = "by hand" if policy.by_hand else "by autograd"
        why = f" ({policy.autograd_reason})" * bool(policy.autograd_reason)
        return (
            f"{config.algo.name} on {config.env.id} × {config.env.num_envs}, stepped by "
            f"{self.envs.backend}{chosen}, differentiated {way}{why}"
        )

    @property
    def env_steps(self) -> int:
        """Environment steps made so far."""
        return self.collector.env_steps

    @property
    def return_mean(self) -> float:
        """Mean training return of the last 100 episodes; NaN before the first."""
        return float(np.mean(self.recent_returns)) if self.recent_returns else math.nan

    def iterate(self) -> tuple[Rollout, Metrics, dict[str, torch.Tensor]]:
        """Collect one rollout, learn from it, and report.

        Returns:
            The rollout, the scalars of the report and its histograms.
        """
        config, start = self.config, time.perf_counter()
        progress = min(1.0, self.env_steps / config.total_env_steps)
        rollout = self.collector.collect()
        collected = time.perf_counter()
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
        metrics = self.policy_optimizer.update(batch, progress)
        metrics |= self.critic_fit.update(batch, progress)
        updated = time.perf_counter()
        compared, histograms = report(self.policy, batch, config.algo.ratio_bounds)
        if self.normalizer is not None and rollout.raw_vectors is not None:
            self.normalizer.update(rollout.raw_vectors[rollout.is_transition])
        self.iterations += 1
        self.episodes += len(rollout.episodes)
        self.recent_returns.extend(episode.reward_sum for episode in rollout.episodes)
        self.recent_lengths.extend(episode.length for episode in rollout.episodes)
        if self.recent_returns:
            self.return_best = max(self.return_best, self.return_mean)
        metrics |= compared | {
            "return/train": self.return_mean,
            "episode/length": float(np.mean(self.recent_lengths or math.nan)),
            "episode/count": float(self.episodes),
            "time/collect": collected - start,
            "time/prepare": prepared - collected,
            "time/update": updated - prepared,
            "time/report": time.perf_counter() - updated,
            "time/env_steps_per_second": float(rollout.is_transition.sum())
            / (time.perf_counter() - start),
        }
        return rollout, complete(metrics), histograms

    def train(self, also: Sequence[Logger] = ()) -> Summary:
        """Run to the end of the budget, and write the run's folder.

        Ctrl-C (SIGINT) and SIGTERM end the run after the iteration under way, with status
        `stopped`; a second one ends it at once.

        Args:
            also: loggers that are told of everything, behind those of the config.

        Returns:
            What the run came to; an exception is raised again after `summary.json` tells of it.
        """
        config = self.config
        run_dir = make_run_dir(config.run_dir, config.env.id, config.algo.name, config.seed)
        resolved = self.resolved_config
        (run_dir / "config.yaml").write_text(as_yaml(asdict(resolved)))
        loggers: list[Logger] = [CSVLogger(run_dir)]
        if config.logger.tensorboard:
            loggers.append(TensorBoardLogger(run_dir, resolved))
        loggers += also
        display = make_progress(config.logger.progress, self.title, config.total_env_steps)
        status, reason, eval_return = "failed", "", None
        start = time.perf_counter()
        try:
            with display, _stop_signal() as stop:
                while self.env_steps < config.total_env_steps and not stop.is_set():
                    rollout, metrics, histograms = self.iterate()
                    display.show(self.env_steps, metrics)
                    if self.env_steps >= config.total_env_steps and config.eval_episodes:
                        eval_return = metrics["return/eval"] = self.evaluate()
                    for logger in loggers:
                        logger.log_episodes(rollout.episodes)
                        logger.log(self.env_steps, metrics, histograms)
            stopped = self.env_steps < config.total_env_steps
            status, reason = ("stopped", "interrupted") if stopped else ("finished", "")
        except KeyboardInterrupt:
            status, reason = "stopped", "interrupted twice"
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.wall_seconds = time.perf_counter() - start - self.evaluation_seconds
            for logger in loggers:
                logger.close(status)
            self.envs.close()
            summary = self._summary(status, reason, eval_return)
            save_checkpoint(run_dir / "checkpoints" / "last.pt", self.state_dict())
            write_json(run_dir / "summary.json", asdict(summary))
            if config.logger.progress != "none":
                print_summary(asdict(summary), run_dir)
        return summary

    def evaluate(self) -> float:
        """Return the mean return of `eval_episodes` episodes with the most probable actions."""
        start, count = time.perf_counter(), self.config.eval_episodes
        seeds = self.streams.integers("evaluation", count)
        evaluation = evaluate(
            self.policy, self.config.env, count, seeds, normalizer=self.normalizer
        )
        self.evaluation_seconds += time.perf_counter() - start
        return evaluation.mean_return

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every part that learns, and what `load_policy` needs."""
        return {
            "config": asdict(self.resolved_config),
            "policy_description": describe_policy(self.policy),
            "policy": self.policy.state_dict(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "critic_fit": self.critic_fit.state_dict(),
            "normalizer": self.normalizer and self.normalizer.state_dict(),
            "reward_scaler": self.reward_scaler and self.reward_scaler.state_dict(),
            "env_steps": self.env_steps,
            "iterations": self.iterations,
            "episodes": self.episodes,
        }

    def _summary(self, status: str, reason: str, eval_return: float | None) -> Summary:
        any_episode = bool(self.recent_returns)
        return Summary(
            status=status,
            reason=reason,
            env_steps=self.env_steps,
            iterations=self.iterations,
            episodes=self.episodes,
            return_mean=self.return_mean if any_episode else None,
            return_best=self.return_best if any_episode else None,
            eval_return=eval_return,
            wall_seconds=self.wall_seconds,
            env_steps_per_second=self.env_steps / self.wall_seconds if self.wall_seconds else None,
            seed=self.config.seed,
            algo=self.config.algo.name,
            env_id=self.config.env.id,
            versions={
                "rlkl": __version__,
                "python": platform.python_version(),
                **{package.__name__: package.__version__ for package in (torch, gymnasium, np)},
            },
            git_revision=_git_revision(),
        )


def train(config: TrainConfig) -> Summary:
    """Train a policy: `Trainer(config).train()`."""
    return Trainer(config).train()


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device={name} cannot be used: {reason}; device=cpu always can"
        ) from error
    return device


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into an event, and leave the next to Python."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    before: dict[int, Any] = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }

    def note(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(number, before[number])

    try:
        for number in before:
            signal.signal(number, note)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _git_revision() -> str | None:
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
