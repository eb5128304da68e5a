"""Updates of every policy-optimizer compared with those of other libraries.

Stable-Baselines3, sb3-contrib and Tianshou get our initial weights and our rollout, and compute
values, advantages, losses and steps with their own code. Only their random numbers are replaced by
ours. Everything is in float64, so correct results differ only by rounding.
"""

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from learning_loop import as_inputs
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.base import AlgoConfig, Metrics
from rlkl.algos.critic import CriticConfig, CriticFit
from rlkl.algos.npg import NPGConfig
from rlkl.algos.ppo_clip import PPOClipConfig
from rlkl.algos.trpo import TRPOConfig
from rlkl.algos.vanilla_pg import VanillaPGConfig
from rlkl.engines.make import make_engine
from rlkl.envs.observations import VECTOR
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.models.policy import Policy, PolicyConfig
from rlkl.numerics.advantages import generalized_advantages
from rlkl.rollouts.batch import Batch
from rlkl.rollouts.collector import Collector
from rlkl.rollouts.make import make_batch
from rlkl.rollouts.rollout import Rollout
from rlkl.utils.seeding import RandomStreams

INSTALL = "the other libraries are not installed: pip install -e '.[test]'"

GAMMA, GAE_LAMBDA = 0.98, 0.9
ROLLOUT_STEPS, NUM_ENVS = 64, 2
NUM_EPOCHS, NUM_MINIBATCHES = 4, 4
LEARNING_RATE = 3e-3
CG_ITERATIONS = 10


class Target(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Three-dimensional actions, better the closer they are to the observation."""

    observation_space = gym.spaces.Box(-10, 10, (3,))
    action_space = gym.spaces.Box(-10, 10, (3,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        reward = -float(np.square(action - self._observation).sum())
        return self._observe(), reward, False, False, {}

    def _observe(self) -> NDArray[np.float32]:
        self._observation = self.np_random.standard_normal(3, np.float32)
        return self._observation


ENVS: dict[str, Callable[[], gym.Env[Any, Any]]] = {
    "CartPole": lambda: gym.make("CartPole-v1"),
    "Pendulum": lambda: gym.make("Pendulum-v1"),
    "Target": Target,
    "CartPole of 20 steps": lambda: gym.make("CartPole-v1", max_episode_steps=20),
    "Target of 20 steps": lambda: gym.wrappers.TimeLimit(Target(), 20),
}


def collector(env: str, seed: int, dtype: torch.dtype) -> Collector:
    streams = RandomStreams(seed)
    envs = VectorEnvironment(
        SyncVectorEnv([ENVS[env]] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    )
    # A first policy that depends on the state and is not of unit variance.
    config = PolicyConfig(actor_gain=1.0, log_std=-0.5, scale_actions=False)
    weights = streams.torch("weights")
    policy = Policy(config, envs.encoder, envs.action_space, weights, dtype=dtype)
    seeds = streams.integers("envs", NUM_ENVS)
    return Collector(envs, make_engine(policy), ROLLOUT_STEPS, streams.torch("actions"), seeds)


def collected(env: str) -> tuple[Policy, Rollout, Batch]:
    """Return a policy, a rollout that it collected, and our batch of it."""
    source = collector(env, seed=3, dtype=torch.float64)
    policy, rollout = source.policy, source.collect()
    source.envs.close()
    if rollout.actions.dtype == np.float64:
        # Stable-Baselines3 rounds actions to float32, so we round them first.
        rollout = replace(rollout, actions=rollout.actions.astype(np.float32))
    return policy, rollout, make_batch(rollout, make_engine(policy), GAMMA, GAE_LAMBDA)


def shuffler() -> torch.Generator:
    """Return the source of minibatches: the same for the actor, the critic and other libraries."""
    return torch.Generator().manual_seed(7)


def update_actor(policy: Policy, batch: Batch, config: AlgoConfig) -> Metrics:
    return (
        make_policy_optimizer(config, make_engine(policy), shuffler())
        .update(batch, progress=0.0)
        .metrics
    )


def update_critic(policy: Policy, batch: Batch, max_grad_norm: float | None) -> Metrics:
    config = CriticConfig(
        learning_rate=LEARNING_RATE,
        num_epochs=NUM_EPOCHS,
        num_minibatches=NUM_MINIBATCHES,
        max_grad_norm=max_grad_norm,
    )
    return CriticFit(config, make_engine(policy), shuffler()).update(batch, progress=0.0).metrics


def ppo_clip(**options: Any) -> PPOClipConfig:
    """Return our settings that correspond to `ppo_of_stable_baselines`."""
    settings: dict[str, Any] = {
        "learning_rate": LEARNING_RATE,
        "num_epochs": NUM_EPOCHS,
        "num_minibatches": NUM_MINIBATCHES,
        "max_grad_norm": None,
        "advantage_standardization": "none",
    }
    return PPOClipConfig(**settings | options)


def trpo(max_kl: float, cg_damping: float) -> TRPOConfig:
    # Other libraries try ten candidates: the full step and nine shorter ones.
    return TRPOConfig(
        max_kl=max_kl, cg_damping=cg_damping, cg_iterations=CG_ITERATIONS, max_backtracks=9
    )


def update_with_absolute_tolerance(
    policy: Policy, batch: Batch, config: TRPOConfig | NPGConfig
) -> Metrics:
    """Update the actor; conjugate gradient ends at a squared residual of 1e-10, as elsewhere."""
    start = actor(policy)
    norm = update_actor(policy, batch, config)["optim/grad_norm"]
    policy.actor_parameters.vector.data.copy_(start)
    return update_actor(policy, batch, replace(config, cg_residual_tolerance=1e-10 / norm**2))


def actor(policy: Policy) -> Tensor:
    return policy.actor_parameters.vector.detach().clone()


def critic(policy: Policy) -> Tensor:
    return policy.critic_parameters.vector.detach().clone()


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    return float(torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs))


# Stable-Baselines3 and sb3-contrib


class StableBaselines:
    """An algorithm of SB3 or sb3-contrib, with the weights and the rollout of a policy."""

    def __init__(
        self, algorithm: str, env: str, policy: Policy, rollout: Rollout, **options: Any
    ) -> None:
        package = "sb3_contrib" if algorithm == "TRPO" else "stable_baselines3"
        make = getattr(pytest.importorskip(package, reason=INSTALL), algorithm)
        from stable_baselines3.common.logger import Logger

        self.model = make("MlpPolicy", ENVS[env](), device="cpu", **options)
        self.model.set_logger(Logger(None, []))
        network = self.model.policy.double()
        # Observations are cast to float32, their own type; the layers need float64.
        network.features_extractor.register_forward_hook(lambda *args: args[-1].double())
        self._actor = [
            *([network.log_std] if hasattr(network, "log_std") else []),
            *network.mlp_extractor.policy_net.parameters(),
            *network.action_net.parameters(),
        ]
        self._critic = [
            *network.mlp_extractor.value_net.parameters(),
            *network.value_net.parameters(),
        ]
        nn.utils.vector_to_parameters(actor(policy), self._actor)
        nn.utils.vector_to_parameters(critic(policy), self._critic)
        self.buffer = self.model.rollout_buffer = self._filled(rollout)

    def _filled(self, rollout: Rollout) -> Any:
        from stable_baselines3.common.buffers import RolloutBuffer

        model, shape = self.model, rollout.rewards.shape
        assert not rollout.truncated.any(), "its advantages do not support truncation"
        spaces = model.observation_space, model.action_space
        buffer = RolloutBuffer(shape[0], *spaces, "cpu", GAE_LAMBDA, GAMMA, shape[1])
        vectors = rollout.observations[VECTOR]
        observations = torch.as_tensor(vectors[:-1]).flatten(0, 1)
        actions = torch.as_tensor(rollout.actions).flatten(0, 1)
        with torch.no_grad():
            values, log_prob, _ = model.policy.evaluate_actions(observations, actions)
            last_values = model.policy.predict_values(torch.as_tensor(vectors[-1]))
        # Replaces the buffer's own arrays, which are float32.
        buffer.observations = vectors[:-1]
        buffer.actions = rollout.actions.reshape(*shape, -1)
        buffer.rewards = rollout.rewards
        buffer.episode_starts = np.concatenate((np.zeros((1, shape[1])), rollout.ends[:-1]))
        buffer.values = values.reshape(shape).numpy()
        buffer.log_probs = log_prob.reshape(shape).numpy()
        buffer.advantages = np.zeros(shape)
        buffer.compute_returns_and_advantage(last_values, rollout.ends[-1])
        buffer.full = True
        return buffer

    def train(self) -> dict[str, Any]:
        """Run its own update with our random numbers; return its log."""
        generator = shuffler()

        def permutation(size: int) -> NDArray[np.int64]:
            rows = torch.randperm(size, generator=generator).numpy()
            # Its rows go environment by environment, ours step by step.
            return rows % NUM_ENVS * ROLLOUT_STEPS + rows // NUM_ENVS

        with (
            mock.patch.object(np.random, "permutation", permutation),
            # TRPO starts conjugate gradient from noise of size 1e-4, ours from 0.
            mock.patch.object(torch, "randn_like", torch.zeros_like),
        ):
            self.model.train()
        return dict(self.model.logger.name_to_value)

    @property
    def actor(self) -> Tensor:
        return nn.utils.parameters_to_vector(self._actor).detach()

    @property
    def critic(self) -> Tensor:
        return nn.utils.parameters_to_vector(self._critic).detach()


def ppo_of_stable_baselines(
    env: str, policy: Policy, rollout: Rollout, **options: Any
) -> StableBaselines:
    settings: dict[str, Any] = {
        "learning_rate": LEARNING_RATE,
        "n_epochs": NUM_EPOCHS,
        "batch_size": rollout.rewards.size // NUM_MINIBATCHES,
        "max_grad_norm": 1e9,
        "normalize_advantage": False,
    }
    return StableBaselines("PPO", env, policy, rollout, **settings | options)


def trpo_of_sb3_contrib(
    env: str, policy: Policy, rollout: Rollout, target_kl: float, cg_damping: float
) -> StableBaselines:
    return StableBaselines(
        "TRPO",
        env,
        policy,
        rollout,
        target_kl=target_kl,
        cg_damping=cg_damping,
        cg_max_steps=CG_ITERATIONS,
        line_search_shrinking_factor=0.8,
        line_search_max_iter=10,
        n_critic_updates=1,
    )


@pytest.mark.parametrize("env", ["CartPole", "Pendulum", "Target"])
@pytest.mark.parametrize(
    ("standardization", "entropy_coefficient", "max_grad_norm"),
    [("none", 0.0, None), ("minibatch", 0.1, 1e9)],
)
def test_ppo_clip_matches_stable_baselines3(
    env: str, standardization: str, entropy_coefficient: float, max_grad_norm: float | None
) -> None:
    policy, rollout, batch = collected(env)
    start = actor(policy)
    theirs = ppo_of_stable_baselines(
        env,
        policy,
        rollout,
        normalize_advantage=standardization == "minibatch",
        ent_coef=entropy_coefficient,
    )
    logged = theirs.train()
    # It updates actor and critic together, we one after the other. The result is the same, since
    # they share no parameter and the common gradient norm is not clipped.
    config = ppo_clip(
        advantage_standardization=standardization,
        entropy_coefficient=entropy_coefficient,
        max_grad_norm=max_grad_norm,
    )
    update_actor(policy, batch, config)
    update_critic(policy, batch, max_grad_norm)
    assert logged["train/clip_fraction"] > 0.05, "some ratios must be clipped"
    assert difference(actor(policy), start) > 0.01
    assert difference(actor(policy), theirs.actor) < 1e-10
    assert difference(critic(policy), theirs.critic) < 1e-10


# It clips the gradient of actor and critic together, we clip each separately. So with clipping, one
# of the two is compared while the other has no gradient.


@pytest.mark.parametrize("env", ["CartPole", "Pendulum", "Target"])
def test_actor_gradient_clipping_matches_stable_baselines3(env: str) -> None:
    policy, rollout, batch = collected(env)
    theirs = ppo_of_stable_baselines(env, policy, rollout, vf_coef=0.0, max_grad_norm=0.05)
    theirs.train()
    metrics = update_actor(policy, batch, ppo_clip(max_grad_norm=0.05))
    assert metrics["optim/grad_norm"] > 0.1, "the gradient must be clipped"
    assert difference(actor(policy), theirs.actor) < 1e-10


@pytest.mark.parametrize("env", ["CartPole", "Pendulum"])
def test_critic_gradient_clipping_matches_stable_baselines3(env: str) -> None:
    policy, rollout, batch = collected(env)
    theirs = ppo_of_stable_baselines(env, policy, rollout, vf_coef=0.5, max_grad_norm=0.05)
    theirs.buffer.advantages[:] = 0
    theirs.train()
    metrics = update_critic(policy, batch, max_grad_norm=0.05)
    assert metrics["value/grad_norm"] > 0.1, "the gradient must be clipped"
    assert difference(critic(policy), theirs.critic) < 1e-10
    assert difference(actor(policy), theirs.actor) == 0


@pytest.mark.parametrize("env", ["CartPole", "Pendulum", "Target"])
def test_vanilla_pg_matches_a2c_of_stable_baselines3(env: str) -> None:
    policy, rollout, batch = collected(env)
    start = actor(policy)
    theirs = StableBaselines(
        "A2C",
        env,
        policy,
        rollout,
        learning_rate=LEARNING_RATE,
        use_rms_prop=False,
        normalize_advantage=True,
        ent_coef=0.1,
        vf_coef=0.0,
        max_grad_norm=0.05,
    )
    theirs.train()
    config = VanillaPGConfig(
        learning_rate=LEARNING_RATE, entropy_coefficient=0.1, max_grad_norm=0.05
    )
    metrics = update_actor(policy, batch, config)
    assert metrics["optim/grad_norm"] > 0.1, "the gradient must be clipped"
    assert difference(actor(policy), start) > 1e-3
    assert difference(actor(policy), theirs.actor) < 1e-10


# sb3-contrib's line search bounds KL(π_new ‖ π_old), ours KL(π_old ‖ π_new), so the two may accept
# different candidates. In these cases they accept the same one.
CASE_CHANGED = "if random streams have changed, look for another case where both agree"


@pytest.mark.parametrize(
    ("max_kl", "cg_damping", "backtracks"), [(0.01, 0.1, False), (1.0, 0.003, True)]
)
def test_trpo_matches_sb3_contrib_on_discrete_actions(
    max_kl: float, cg_damping: float, backtracks: bool
) -> None:
    policy, rollout, batch = collected("CartPole")
    start = actor(policy)
    theirs = trpo_of_sb3_contrib("CartPole", policy, rollout, max_kl, cg_damping)
    theirs.train()
    metrics = update_with_absolute_tolerance(policy, batch, trpo(max_kl, cg_damping))
    assert (metrics["trust_region/backtracks"] > 0) == backtracks, CASE_CHANGED
    assert relative_difference(actor(policy) - start, theirs.actor - start) < 1e-5, CASE_CHANGED


# On a Box of D dimensions sb3-contrib averages the KL over them: its KL is ours over D, its Fisher
# matrix F/D. It solves (F/D + λI) x = g, that is (F + DλI) (x/D) = g: our direction with damping
# Dλ. It scales x to its own KL of δ, which is our KL of Dδ. So its step for δ and λ is ours for Dδ
# and Dλ, and its KL is D times as large as configured.


@pytest.mark.parametrize(
    ("target_kl", "cg_damping", "backtracks"), [(0.01, 0.01, False), (0.1, 0.01, True)]
)
def test_trpo_matches_sb3_contrib_at_threefold_kl(
    target_kl: float, cg_damping: float, backtracks: bool
) -> None:
    policy, rollout, batch = collected("Target")
    start = actor(policy)
    theirs = trpo_of_sb3_contrib("Target", policy, rollout, target_kl, cg_damping)
    theirs.train()
    metrics = update_actor(policy, batch, trpo(3 * target_kl, 3 * cg_damping))
    assert (metrics["trust_region/backtracks"] > 0) == backtracks, CASE_CHANGED
    assert relative_difference(actor(policy) - start, theirs.actor - start) < 1e-8, CASE_CHANGED


def test_trpo_keeps_kl_that_sb3_contrib_exceeds() -> None:
    policy, rollout, batch = collected("Target")
    start = actor(policy)
    theirs = trpo_of_sb3_contrib("Target", policy, rollout, 0.01, 0.01)
    logged = theirs.train()
    update_actor(policy, batch, trpo(0.01, 0.03))
    our_step, their_step = actor(policy) - start, theirs.actor - start
    assert 0.008 < float(make_engine(policy).state_kl(batch).mean()) <= 0.01
    assert relative_difference(3**0.5 * our_step, their_step) < 1e-8
    policy.actor_parameters.vector.data.copy_(theirs.actor)
    assert logged["train/kl_divergence_loss"] <= 0.01
    assert 0.024 < float(make_engine(policy).state_kl(batch).mean()) <= 0.03


def test_sb3_contrib_bounds_reverse_kl_instead() -> None:
    policy, rollout, batch = collected("Target")
    theirs = trpo_of_sb3_contrib("Target", policy, rollout, 1.0, 0.1)
    theirs.train()
    update_actor(policy, batch, trpo(3.0, 0.3))
    assert float(make_engine(policy).state_kl(batch).mean()) <= 3
    policy.actor_parameters.vector.data.copy_(theirs.actor)
    with torch.no_grad():
        new = policy.distribution(batch.inputs)
        reverse_kl = float(new.kl(policy.family(batch.old_parameters)).mean())
    assert reverse_kl <= 3
    assert float(make_engine(policy).state_kl(batch).mean()) > 4, CASE_CHANGED


# Tianshou


class TianshouActor(nn.Module):
    """A network with the interface of Tianshou's actors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, observations: NDArray[np.float32], state: None = None, info: Any = None
    ) -> tuple[Tensor, None]:
        return self.network(as_inputs(torch.as_tensor(observations).double())), state


def gaussian(parameters: Tensor) -> Independent:
    mean, log_std = parameters.chunk(2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)


def actor_of_tianshou(algorithm: str, policy: Policy, rollout: Rollout, **options: Any) -> Tensor:
    """Return the actor's parameters after an update of one of Tianshou's algorithms."""
    # Compiling its advantages takes longer than this test.
    with mock.patch.dict(os.environ, NUMBA_DISABLE_JIT="1"):
        tianshou = pytest.importorskip("tianshou", reason=INSTALL)
    from tianshou.algorithm.algorithm_base import policy_within_training_step
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory

    discrete = rollout.actions.ndim == 2
    their_policy = ProbabilisticActorPolicy(
        actor=TianshouActor(copy.deepcopy(policy.actor)),
        dist_fn=(lambda logits: Categorical(logits=logits)) if discrete else gaussian,
        action_space=gym.spaces.Discrete(2) if discrete else Target.action_space,
        action_scaling=False,
        action_bound_method=None,
    )
    their_critic = copy.deepcopy(policy.critic)
    their_critic.register_forward_pre_hook(
        lambda _, args: (as_inputs(torch.as_tensor(args[0]).double()),)
    )
    learner = getattr(tianshou.algorithm, algorithm)(
        policy=their_policy,
        critic=their_critic,
        optim=AdamOptimizerFactory(),
        gamma=GAMMA,
        gae_lambda=GAE_LAMBDA,
        **options,
    )
    vectors = rollout.observations[VECTOR]
    following = vectors[1:].copy()
    finals = rollout.final_observations[VECTOR]
    following.reshape(rollout.rewards.size, -1)[rollout.final_rows] = finals
    buffer = tianshou.data.VectorReplayBuffer(rollout.rewards.size, NUM_ENVS)
    for t in range(ROLLOUT_STEPS):
        row = tianshou.data.Batch(
            obs=vectors[t],
            act=rollout.actions[t],
            rew=rollout.rewards[t],
            terminated=rollout.terminated[t],
            truncated=rollout.truncated[t],
            obs_next=following[t],
            info={},
        )
        buffer.add(row, buffer_ids=np.arange(NUM_ENVS))
    with policy_within_training_step(their_policy):
        learner.update(buffer, batch_size=None, repeat=1)
    return nn.utils.parameters_to_vector(their_policy.actor.parameters()).detach()


# Tianshou has a fixed damping of 0.1 and 10 conjugate-gradient steps; it rounds ratios to float32.


@pytest.mark.filterwarnings("ignore:Backtracking to step:UserWarning:tianshou")
@pytest.mark.parametrize(
    ("env", "max_kl", "backtracks"),
    [
        ("CartPole of 20 steps", 0.01, False),
        ("Target of 20 steps", 0.01, False),
        ("Target of 20 steps", 10.0, True),
    ],
)
def test_trpo_matches_tianshou(env: str, max_kl: float, backtracks: bool) -> None:
    policy, rollout, batch = collected(env)
    assert rollout.truncated.any()
    start = actor(policy)
    theirs = actor_of_tianshou("TRPO", policy, rollout, max_kl=max_kl)
    config = trpo(max_kl, cg_damping=0.1)
    metrics = update_with_absolute_tolerance(policy, batch, config)
    assert (metrics["trust_region/backtracks"] > 0) == backtracks, CASE_CHANGED
    assert relative_difference(actor(policy) - start, theirs - start) < 1e-5


@pytest.mark.parametrize("env", ["CartPole of 20 steps", "Target of 20 steps"])
def test_npg_matches_tianshou(env: str) -> None:
    policy, rollout, batch = collected(env)
    start = actor(policy)
    theirs = actor_of_tianshou("NPG", policy, rollout, trust_region_size=0.5)
    config = NPGConfig(cg_iterations=CG_ITERATIONS, cg_damping=0.1)
    metrics = update_with_absolute_tolerance(policy, batch, config)
    # With F x = g, its step is 0.5 x, and ours √(2δ / gᵀx) x, with gᵀΔθ = √(2δ gᵀx) in the metrics.
    length = 0.5 * metrics["trust_region/expected_improvement"] / (2 * metrics["kl/target"])
    assert relative_difference(length * (actor(policy) - start), theirs - start) < 1e-5


# Without policy-optimizers of other libraries


def test_advantages_match_stable_baselines3() -> None:
    buffers = pytest.importorskip("stable_baselines3.common.buffers", reason=INSTALL)
    rng = np.random.default_rng(0)
    steps, num_envs = 256, 3
    rewards, values = rng.normal(size=(2, steps, num_envs))
    last_values = rng.normal(size=num_envs)
    terminated = rng.random((steps, num_envs)) < 0.05
    terminated[-1] = [False, True, False]
    space = gym.spaces.Box(-1, 1, (1,))
    buffer = buffers.RolloutBuffer(steps, space, space, "cpu", 0.95, 0.99, num_envs)
    buffer.rewards[:], buffer.values[:] = rewards, values
    buffer.episode_starts[1:] = terminated[:-1]
    buffer.compute_returns_and_advantage(torch.as_tensor(last_values), terminated[-1])
    ours = generalized_advantages(
        rewards,
        values,
        np.concatenate((values[1:], last_values[None])),
        terminated,
        np.zeros_like(terminated),
        0.99,
        0.95,
    )
    np.testing.assert_allclose(buffer.advantages, ours, rtol=0, atol=1e-5)
    np.testing.assert_allclose(buffer.returns, ours + values, rtol=0, atol=1e-5)


def trained(algorithm: str, env: str, seed: int) -> tuple[Tensor, list[Metrics]]:
    """Return all parameters and the metrics after three iterations of an algorithm."""
    source = collector(env, seed, torch.float32)
    policy, streams = source.policy, RandomStreams(seed)
    config = ALGORITHMS[algorithm].config()
    optimizer = make_policy_optimizer(
        config, make_engine(policy), streams.torch("actor minibatches")
    )
    fit = CriticFit(
        CriticConfig(num_epochs=2), make_engine(policy), streams.torch("critic minibatches")
    )
    reports = []
    for iteration in range(3):
        batch = make_batch(source.collect(), make_engine(policy), GAMMA, GAE_LAMBDA)
        reports += [
            optimizer.update(batch, iteration / 3).metrics,
            fit.update(batch, iteration / 3).metrics,
        ]
    source.envs.close()
    return torch.cat((actor(policy), critic(policy))), reports


@pytest.mark.parametrize("env", ["CartPole", "Target"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_same_seed_gives_identical_results(algorithm: str, env: str) -> None:
    runs = []
    for global_seed in (1, 2):
        # No random numbers may come from global generators.
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        runs.append(trained(algorithm, env, seed=5))
    (parameters, reports), (parameters_again, reports_again) = runs
    assert torch.equal(parameters, parameters_again)
    assert reports == reports_again


def test_another_seed_gives_other_results() -> None:
    first, second = (trained("trpo", "CartPole", seed)[0] for seed in (5, 6))
    assert not torch.equal(first, second)
