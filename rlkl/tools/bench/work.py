"""A work of the benchmark, and its cases: what is measured."""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym

from rlkl.algos import ALGORITHMS
from rlkl.envs.ids import find_spec
from rlkl.envs.make import BACKENDS, EnvConfig, make_training_env, make_vector_env
from rlkl.models.recurrent import MEMORIES
from rlkl.training.resource_checks import check_memory, checked_device
from rlkl.utils.errors import ConfigError, MissingPackageError
from rlkl.utils.field_types import check_fields, limited
from rlkl.utils.validation import check_installed

RLKL = "rlkl"
HIDDEN_SIZES = (64, 64)
SEED = 0

UPPER_BOUNDS = ("upper_bound", "upper_bound_sync")
"""Random actions without learning, in rlkl's environments and in Gymnasium's SyncVectorEnv."""

PEERS = {
    "sb3": "stable_baselines3",
    "sb3_contrib": "sb3_contrib",
    "skrl": "skrl",
    "tianshou": "tianshou",
    "rsl_rl": "rsl_rl",
}
"""Other libraries and their packages."""

ATARI_STACK, ATARI_KWARGS = 4, {"repeat_action_probability": 0.0}
"""Observations are the last four frames; actions are not repeated at random."""

MIN_ITERATIONS = 10
"""Histograms are written every ten iterations by default; every measurement includes one."""


@dataclass(frozen=True)
class BenchConfig:
    """A work, which is the same for all libraries, and how often it is measured.

    Actor and critic have two hidden layers of 64 tanh units each, as in rlkl's default policy.
    On Atari they share one Nature CNN (Mnih et al. 2015) and have no further hidden layers.
    There is no entropy bonus. All run on one thread of the CPU, unless `device` is given.

    Attributes:
        work: name, set by `work=...`.
        algos: algorithms of rlkl; peers support `ppo_clip` and `trpo`.
        num_envs: numbers of sub-environments, each measured separately.
        rollout_steps: T, steps of each environment in one rollout.
        minibatch_size: rows of a minibatch; a rollout with fewer is one minibatch.
        num_epochs: passes over the rollout, of the critic and of algorithms with several.
        learning_rate: of Adam, constant.
        max_grad_norm: limit to which gradients are scaled down; null for none.
        value_coefficient: weight of the value loss in the joint PPO loss of peers.
        device: of rlkl's networks, and no other library is measured; null for the CPU and all.
        beside_cpu: measure them on the CPU too.
        backend: of rlkl's environments.
        memory: `none`, or `lstm` or `gru` of 64 units before the hidden layers of actor and critic.
        max_kl: δ of TRPO and NPG, in nats.
        cg_iterations: conjugate gradient iterations of TRPO and NPG.
        warmup_env_steps: environment steps before the measurement, at least one iteration.
        env_steps: environment steps that are measured, at least ten iterations.
        repetitions: of every measurement, each in a new process.
        peers: libraries to compare with; null for all that are installed.
        output: writes `<output>.md` and `<output>.json`; null writes nothing.
    """

    work: str = ""
    algos: list[str] = limited(["ppo_clip"], choices=ALGORITHMS)
    env_id: str = "CartPole-v1"
    device: str | None = None
    beside_cpu: bool = False
    backend: str = limited("auto", choices=BACKENDS)
    memory: str = limited("none", choices=MEMORIES)
    num_envs: list[int] = limited([8], at_least=1, at_most=65536)
    rollout_steps: int = limited(128, at_least=1)
    minibatch_size: int = limited(256, at_least=1)
    num_epochs: int = limited(4, at_least=1, at_most=10_000)
    learning_rate: float = limited(3e-4, above=0)
    max_grad_norm: float | None = limited(0.5, above=0)
    value_coefficient: float = limited(0.5, above=0)
    gamma: float = limited(0.99, at_least=0, at_most=1)
    gae_lambda: float = limited(0.95, at_least=0, at_most=1)
    clip_ratio: float = limited(0.2, above=0, below=1)
    max_kl: float = limited(0.01, above=0)
    cg_iterations: int = limited(15, at_least=1, at_most=10_000)
    warmup_env_steps: int = limited(2048, at_least=1, at_most=10**15)
    env_steps: int = limited(32_768, at_least=1, at_most=10**15)
    repetitions: int = limited(5, at_least=1, at_most=10_000)
    peers: list[str] | None = limited(None, choices=PEERS)
    output: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for key in ("algos", "num_envs"):
            if not getattr(self, key):
                raise ConfigError(f"{key}=[]: expected at least one")
        if self.beside_cpu and self.device is None:
            raise ConfigError("beside_cpu=true: there is no other device; set device=cuda")
        for number in self.num_envs:
            check_memory(self.rollout_steps, number)
            rows = self.rows(number)
            if rows % min(rows, self.minibatch_size):
                raise ConfigError(
                    f"minibatch_size={self.minibatch_size} does not divide the rollout of {rows} "
                    f"rows (rollout_steps={self.rollout_steps} × num_envs={number})"
                )
        for path in self.files:
            if path.exists():
                raise ConfigError(f"output={self.output}: {path} exists already; choose another")
            if not path.parent.is_dir():
                raise ConfigError(f"output={self.output}: there is no folder {path.parent}")

    def rows(self, num_envs: int) -> int:
        """Return the number of rows of a rollout."""
        return num_envs * self.rollout_steps

    def num_minibatches(self, num_envs: int) -> int:
        """Return the number of minibatches per epoch."""
        return max(1, self.rows(num_envs) // self.minibatch_size)

    def warmup_iterations(self, num_envs: int) -> int:
        """Return the number of iterations before the measurement."""
        return math.ceil(self.warmup_env_steps / self.rows(num_envs))

    def measured_iterations(self, num_envs: int) -> int:
        """Return the number of measured iterations."""
        return max(MIN_ITERATIONS, math.ceil(self.env_steps / self.rows(num_envs)))

    @property
    def is_atari(self) -> bool:
        """Whether the environment is a game of ALE."""
        return find_spec(self.env_id).namespace == "ALE"

    def env(self, num_envs: int) -> EnvConfig:
        """Return the config of rlkl's environments; Atari as in `env=pong`."""
        if self.is_atari:
            kwargs = dict(ATARI_KWARGS)
            return EnvConfig(self.env_id, num_envs, self.backend, ATARI_STACK, kwargs=kwargs)
        return EnvConfig(self.env_id, num_envs, self.backend)

    @property
    def files(self) -> list[Path]:
        """The Markdown file, then the JSON file."""
        return [] if self.output is None else [Path(f"{self.output}.{x}") for x in ("md", "json")]


@dataclass(frozen=True)
class Case:
    """A library, or an upper bound, that is measured on a work."""

    library: str  # rlkl, a peer or an upper bound
    num_envs: int
    algo: str = ""  # rlkl's name of it; empty for an upper bound
    device: str = ""  # empty if the work has none

    def __str__(self) -> str:
        return " ".join(filter(None, (self.library, self.algo, self.device)))


def cases_of(config: BenchConfig) -> tuple[list[Case], list[str]]:
    """Return the cases in order, and for each peer that is left out a line with the reason.

    Raises:
        ConfigError: the environment cannot be made, the device cannot be used, or a peer in
            `peers` is not installed.
    """
    if config.device is not None:
        return _on_devices(config, config.device)
    envs = make_vector_env(config.env(1))
    discrete = not isinstance(envs.action_space, gym.spaces.Box)
    envs.close()
    for peer in config.peers or []:
        check_installed(PEERS[peer], "bench", f"peers=[{peer}]")
    wanted = list(PEERS) if config.peers is None else config.peers
    peers = [peer for peer in wanted if importlib.util.find_spec(PEERS[peer]) is not None]
    left_out = [
        f"{peer}: not installed; the extra 'bench' has it" for peer in wanted if peer not in peers
    ]
    cases = []
    for num_envs in config.num_envs:
        cases += [Case(RLKL, num_envs, algo) for algo in config.algos]
        for algo in config.algos:
            for peer in peers:
                reason = refusal(
                    peer, algo, config.memory, discrete=discrete, atari=config.is_atari
                )
                if reason is None:
                    cases.append(Case(peer, num_envs, algo))
                else:
                    left_out.append(f"{peer} {algo}: {reason}")
        # Gymnasium's SyncVectorEnv would not preprocess the frames of Atari.
        bounds = UPPER_BOUNDS[:1] if config.is_atari else UPPER_BOUNDS
        cases += [Case(bound, num_envs) for bound in bounds]
    return cases, list(dict.fromkeys(left_out))


def _on_devices(config: BenchConfig, name: str) -> tuple[list[Case], list[str]]:
    """Return rlkl on a device, and on the CPU if wanted; left out without the environment."""
    device = checked_device(name)
    try:
        make_training_env(config.env(1), device).close()
    except MissingPackageError as error:
        return [], [str(error)]
    names = dict.fromkeys([name, "cpu"] if config.beside_cpu else [name])
    return [
        Case(RLKL, num_envs, algo, device)
        for num_envs in config.num_envs
        for algo in config.algos
        for device in names
    ], []


def refusal(
    peer: str, algo: str, memory: str, *, discrete: bool, atari: bool = False
) -> str | None:
    """Return why a peer cannot do a work in the same way as rlkl; None if it can."""
    if algo not in ("ppo_clip", "trpo"):
        return "peers are measured only with ppo_clip and trpo"
    if atari and (peer, algo, memory) != ("sb3", "ppo_clip", "none"):
        return "on Atari, only stable-baselines3's PPO"
    if memory != "none":
        is_recurrent_ppo = (peer, algo, memory) == ("sb3_contrib", "ppo_clip", "lstm")
        return None if is_recurrent_ppo else "with a memory, only sb3-contrib's PPO with LSTM"
    reasons = {
        ("sb3", "trpo"): "it has no TRPO; sb3-contrib has",
        ("sb3_contrib", "ppo_clip"): "its PPO is that of stable-baselines3",
        ("tianshou", "trpo"): "its TRPO fits the critic to whole batches, never to minibatches",
        ("rsl_rl", "trpo"): "it has no TRPO",
    }
    if discrete:
        reasons["rsl_rl", "ppo_clip"] = "it supports only continuous actions"
        reasons["skrl", "trpo"] = "its TRPO supports only continuous actions"
    return reasons.get((peer, algo))
