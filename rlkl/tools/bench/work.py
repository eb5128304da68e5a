"""What the benchmark measures: a work, and who takes part in it."""

import importlib.util
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import gymnasium as gym

from rlkl.algos import ALGORITHMS
from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.training.resource_checks import check_memory
from rlkl.utils.validation import ConfigError, check_choice, check_range

RLKL = "rlkl"
ROOFS = {
    "roof": "no learning, rlkl's environments",
    "roof_sync": "no learning, SyncVectorEnv",
}
"""Random actions on the same environments: what training could reach if it cost nothing."""

PEERS = {
    "sb3": "stable_baselines3",
    "sb3_contrib": "sb3_contrib",
    "skrl": "skrl",
    "tianshou": "tianshou",
    "rsl_rl": "rsl_rl",
}
"""Other libraries, and the packages that they are imported from."""

Value = TypeVar("Value")

LEAST_ITERATIONS = 10
"""Histograms are written every ten iterations by default, so every measurement holds as many."""


@dataclass(frozen=True)
class BenchConfig:
    """A work, done alike by everyone who takes part, and how often.

    Networks are those of rlkl's default policy, two hidden layers of 64 tanh units for the actor
    and as many for the critic; there is no entropy bonus; all run on one thread of the CPU.

    Attributes:
        work: set by the choice of the work (`work=...`), never by hand.
        algos: algorithms of rlkl; `ppo_clip` and `trpo` are those that peers take part in.
        env_id: Gymnasium id.
        num_envs: copies stepped together, each number measured on its own.
        rollout_steps: T, steps of each environment in one rollout.
        minibatch_size: rows of a minibatch; a rollout with fewer is one minibatch.
        num_epochs: passes over the rollout, by the critic and by algorithms that make several.
        learning_rate: of Adam, constant.
        max_grad_norm: gradients are scaled down to this norm; null leaves them.
        value_coefficient: of the values in the joint loss that peers have for PPO; rlkl has none.
        gamma: discount factor.
        gae_lambda: λ of generalised advantage estimation.
        clip_ratio: ε of PPO-clip.
        max_kl: δ of TRPO and NPG, in nats.
        cg_iterations: products of conjugate gradient in TRPO and NPG.
        warmup_env_steps: environment steps before the measurement, at least one iteration.
        env_steps: environment steps that are measured, at least ten iterations.
        repetitions: of every measurement, each in a process of its own.
        peers: libraries to compare with; null for all that are installed.
        output: results are written to `<output>.md` and `<output>.json`; null writes nothing.
    """

    work: str = ""
    algos: list[str] = field(default_factory=lambda: ["ppo_clip"])
    env_id: str = "CartPole-v1"
    num_envs: list[int] = field(default_factory=lambda: [8])
    rollout_steps: int = 128
    minibatch_size: int = 256
    num_epochs: int = 4
    learning_rate: float = 3e-4
    max_grad_norm: float | None = 0.5
    value_coefficient: float = 0.5
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_ratio: float = 0.2
    max_kl: float = 0.01
    cg_iterations: int = 15
    warmup_env_steps: int = 2048
    env_steps: int = 32_768
    repetitions: int = 5
    peers: list[str] | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        for algo in _several("algos", self.algos):
            check_choice("algos", algo, ALGORITHMS)
        for key in ("rollout_steps", "minibatch_size"):
            check_range(key, getattr(self, key), at_least=1)
        for key in ("num_epochs", "cg_iterations", "repetitions"):
            check_range(key, getattr(self, key), at_least=1, at_most=10_000)
        for key in ("warmup_env_steps", "env_steps"):
            check_range(key, getattr(self, key), at_least=1, at_most=10**15)
        for key in ("learning_rate", "value_coefficient", "max_kl"):
            check_range(key, getattr(self, key), above=0)
        if self.max_grad_norm is not None:
            check_range("max_grad_norm", self.max_grad_norm, above=0)
        check_range("gamma", self.gamma, at_least=0, at_most=1)
        check_range("gae_lambda", self.gae_lambda, at_least=0, at_most=1)
        check_range("clip_ratio", self.clip_ratio, above=0, below=1)
        for number in _several("num_envs", self.num_envs):
            check_range("num_envs", number, at_least=1, at_most=65536)
            check_memory(self.rollout_steps, number)
            rows = self.rows(number)
            if rows % min(rows, self.minibatch_size):
                raise ConfigError(
                    f"minibatch_size={self.minibatch_size} does not divide the rollout of {rows} "
                    f"rows (rollout_steps={self.rollout_steps} × num_envs={number})"
                )
        for peer in self.peers or []:
            check_choice("peers", peer, PEERS)
        for path in self.files:
            if path.exists():
                raise ConfigError(f"output={self.output}: {path} exists already; choose another")
            if not path.parent.is_dir():
                raise ConfigError(f"output={self.output}: there is no folder {path.parent}")

    def rows(self, num_envs: int) -> int:
        """Return how many rows a rollout of so many environments has."""
        return num_envs * self.rollout_steps

    def num_minibatches(self, num_envs: int) -> int:
        """Return how many minibatches a pass over such a rollout has."""
        return max(1, self.rows(num_envs) // self.minibatch_size)

    def warmup_iterations(self, num_envs: int) -> int:
        """Return how many iterations do not count."""
        return math.ceil(self.warmup_env_steps / self.rows(num_envs))

    def measured_iterations(self, num_envs: int) -> int:
        """Return how many iterations count."""
        return max(LEAST_ITERATIONS, math.ceil(self.env_steps / self.rows(num_envs)))

    @property
    def files(self) -> list[Path]:
        """What `output` names: the Markdown and the JSON, in this order."""
        return [] if self.output is None else [Path(f"{self.output}.{x}") for x in ("md", "json")]


@dataclass(frozen=True)
class Entry:
    """One who takes part in a work.

    Attributes:
        contestant: rlkl, a peer, or one of the roofs.
        num_envs: copies stepped together.
        algo: by rlkl's name; empty for a roof.
    """

    contestant: str
    num_envs: int
    algo: str = ""

    def __str__(self) -> str:
        return f"{self.contestant} {self.algo}".rstrip()


def contest(config: BenchConfig) -> tuple[list[Entry], list[str]]:
    """Return who takes part, in the order of each repetition, and a line for each who does not.

    Raises:
        ConfigError: an environment that cannot be made, or a peer asked for by name that is not
            installed.
    """
    envs = make_vector_env(EnvConfig(id=config.env_id, num_envs=1))
    discrete = not isinstance(envs.action_space, gym.spaces.Box)
    envs.close()
    peers, absent = [], []
    for peer in PEERS if config.peers is None else config.peers:
        if importlib.util.find_spec(PEERS[peer]) is not None:
            peers.append(peer)
        elif config.peers is None:
            absent.append(f"{peer}: not installed; the extra 'bench' has it")
        else:
            raise ConfigError(
                f"peers=[{peer}] needs the package {PEERS[peer]}, which the extra 'bench' "
                "installs: pip install 'rlkl[bench]', or in a checkout "
                ".venv/bin/pip install -c constraints.txt -e '.[bench]'"
            )
    entries, left_out = [], dict.fromkeys(absent)
    for num_envs in config.num_envs:
        entries += [Entry(RLKL, num_envs, algo) for algo in config.algos]
        for algo in config.algos:
            for peer in peers:
                reason = refusal(peer, algo, discrete=discrete)
                if reason is None:
                    entries.append(Entry(peer, num_envs, algo))
                else:
                    left_out[f"{peer} {algo}: {reason}"] = None
        entries += [Entry(roof, num_envs) for roof in ROOFS]
    return entries, list(left_out)


def refusal(peer: str, algo: str, *, discrete: bool) -> str | None:
    """Return why a peer cannot do an algorithm's work as rlkl does it; None if it can.

    Args:
        peer: one of `PEERS`.
        algo: by rlkl's name.
        discrete: whether actions are anything but a Box.
    """
    if algo not in ("ppo_clip", "trpo"):
        return "peers are measured with ppo_clip and trpo alone"
    if algo == "ppo_clip":
        reasons = {"sb3_contrib": "its PPO is that of stable-baselines3"}
        if discrete:
            reasons["rsl_rl"] = "it has distributions of continuous actions alone"
    else:
        reasons = {
            "sb3": "it has no TRPO; sb3-contrib has",
            "tianshou": "its TRPO fits the critic to whole batches, never to minibatches",
            "rsl_rl": "it has no TRPO",
        }
        if discrete:
            reasons["skrl"] = "its TRPO is for continuous actions alone"
    return reasons.get(peer)


def _several(key: str, values: list[Value]) -> list[Value]:
    if not values:
        raise ConfigError(f"{key}=[]: expected at least one")
    return values
