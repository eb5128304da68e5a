"""The other libraries of the benchmark, each training a work.

They are optional and some take seconds to import, so each is imported where it is used.
"""

import math
import tempfile
from collections.abc import Callable
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import DtypeObservation
from torch import Tensor, nn

from rlkl.tools.bench.clock import Clock, Measurement, after_each_call, before_first_call
from rlkl.tools.bench.work import (
    ATARI_KWARGS,
    ATARI_STACK,
    HIDDEN_SIZES,
    SEED,
    BenchConfig,
    Case,
)


def stable_baselines(config: BenchConfig, case: Case, clock: Clock) -> Measurement:
    """Train PPO of stable-baselines3, or recurrent PPO or TRPO of sb3-contrib."""
    rows = config.rows(case.num_envs)
    policy: str = "MlpPolicy"
    network: dict[str, Any] = {"net_arch": list(HIDDEN_SIZES), "activation_fn": nn.Tanh}
    if config.is_atari:
        policy, network = "CnnPolicy", {"net_arch": []}
    if case.algo == "ppo_clip":
        make = import_module("stable_baselines3").PPO
        if config.memory != "none":
            make = import_module("sb3_contrib").RecurrentPPO
            policy, network = "MlpLstmPolicy", network | {"lstm_hidden_size": HIDDEN_SIZES[0]}
        options = {
            "n_epochs": config.num_epochs,
            "clip_range": config.clip_ratio,
            "ent_coef": 0.0,
            "vf_coef": config.value_coefficient,
            "max_grad_norm": config.max_grad_norm or math.inf,
        }
    else:
        make = import_module("sb3_contrib").TRPO
        options = {
            "cg_max_steps": config.cg_iterations,
            "target_kl": config.max_kl,
            "n_critic_updates": config.num_epochs,
        }
    if config.is_atari:
        atari = import_module("rlkl.tools.bench.sb3_atari")
        kwargs = {"stack_num": ATARI_STACK, "reward_clipping": True, **ATARI_KWARGS}
        envs = atari.AtariVecEnv(config.env_id, case.num_envs, **kwargs)
    else:
        vectors = import_module("stable_baselines3.common.env_util")
        envs = vectors.make_vec_env(config.env_id, n_envs=case.num_envs, seed=SEED)
    model = make(
        policy,
        envs,
        learning_rate=config.learning_rate,
        n_steps=config.rollout_steps,
        batch_size=min(rows, config.minibatch_size),
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        policy_kwargs=network,
        seed=SEED,
        device="cpu",
        **options,
    )
    before_first_call(model.env, "step", clock.start)
    after_each_call(model, "train", lambda _: clock.tick(rows))
    model.learn(total_timesteps=(clock.warmup + clock.measured) * rows)
    return clock.measurement()


def skrl(config: BenchConfig, case: Case, clock: Clock) -> Measurement:
    """Train PPO or TRPO of skrl."""
    torch.manual_seed(SEED)
    rows = config.rows(case.num_envs)
    raw = gym.make_vec(config.env_id, case.num_envs)
    if raw.single_observation_space.dtype != np.float32:
        raw = DtypeObservation(raw, np.float32)  # its models accept nothing else
    wrappers = import_module("skrl.envs.wrappers.torch")
    envs = wrappers.wrap_env(raw, wrapper="gymnasium", verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        agent = _skrl_agent(config, case, envs, folder)
        before_first_call(envs, "step", clock.start)
        after_each_call(agent, "update", lambda _: clock.tick(rows))
        trainers = import_module("skrl.trainers.torch")
        trainers.SequentialTrainer(
            env=envs,
            agents=agent,
            cfg={
                "timesteps": (clock.warmup + clock.measured) * config.rollout_steps,
                "headless": True,
                "disable_progressbar": True,
                "close_environment_at_exit": False,
            },
        ).train()
        agent.writer.close()
    return clock.measurement()


def _skrl_agent(config: BenchConfig, case: Case, envs: Any, folder: str) -> Any:
    models = import_module("skrl.utils.model_instantiators.torch")
    spaces = {
        "observation_space": envs.observation_space,
        "state_space": envs.state_space,
        "action_space": envs.action_space,
        "device": "cpu",
    }
    layers = list(HIDDEN_SIZES)
    network = [{"name": "net", "input": "OBSERVATIONS", "layers": layers, "activations": "tanh"}]
    discrete = isinstance(envs.action_space, gym.spaces.Discrete)
    make_policy = models.categorical_model if discrete else models.gaussian_model
    policy = make_policy(**spaces, network=network, output="ACTIONS")
    value = models.deterministic_model(**spaces, network=network, output="ONE")
    for model in (policy, value):
        model.init_state_dict()
    memory = import_module("skrl.memories.torch").RandomMemory(
        memory_size=config.rollout_steps, num_envs=case.num_envs, device="cpu", replacement=False
    )
    shared = {
        "rollouts": config.rollout_steps,
        "learning_epochs": config.num_epochs,
        "mini_batches": config.num_minibatches(case.num_envs),
        "discount_factor": config.gamma,
        "gae_lambda": config.gae_lambda,
        "learning_rate": config.learning_rate,
        "grad_norm_clip": config.max_grad_norm or 0.0,
        # By default it writes to TensorBoard a hundred times per run. In a run as short as this
        # one that would be more than once per rollout.
        "experiment": import_module("skrl.agents.torch.base").ExperimentCfg(
            directory=folder, write_interval=config.rollout_steps, checkpoint_interval=0
        ),
    }
    if case.algo == "ppo_clip":
        module = import_module("skrl.agents.torch.ppo")
        make = module.PPO
        cfg = module.PPO_CFG(
            **shared,
            ratio_clip=config.clip_ratio,
            value_clip=0.0,
            entropy_loss_scale=0.0,
            value_loss_scale=config.value_coefficient,
        )
    else:
        module = import_module("skrl.agents.torch.trpo")
        make = module.TRPO
        cfg = module.TRPO_CFG(
            **shared,
            max_kl_divergence=config.max_kl,
            conjugate_gradient_steps=config.cg_iterations,
        )
    return make(models={"policy": policy, "value": value}, memory=memory, cfg=cfg, **spaces)


def tianshou(config: BenchConfig, case: Case, clock: Clock) -> Measurement:
    """Train PPO of Tianshou."""
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    rows = config.rows(case.num_envs)
    data = import_module("tianshou.data")
    optim = import_module("tianshou.algorithm.optim")
    reinforce = import_module("tianshou.algorithm.modelfree.reinforce")
    envs = import_module("tianshou.env").DummyVectorEnv(
        [lambda: gym.make(config.env_id) for _ in range(case.num_envs)]
    )
    action_space = envs.action_space[0]
    actor, critic, distribution = _tianshou_networks(envs.observation_space[0], action_space)
    algorithm = import_module("tianshou.algorithm").PPO(
        policy=reinforce.ProbabilisticActorPolicy(
            actor=actor,
            dist_fn=distribution,
            action_space=action_space,
            action_scaling=not isinstance(action_space, gym.spaces.Discrete),
        ),
        critic=critic,
        optim=optim.AdamOptimizerFactory(lr=config.learning_rate),
        eps_clip=config.clip_ratio,
        vf_coef=config.value_coefficient,
        ent_coef=0.0,
        max_grad_norm=config.max_grad_norm,
        gae_lambda=config.gae_lambda,
        gamma=config.gamma,
    )
    collector = data.Collector(algorithm, envs, data.VectorReplayBuffer(rows, case.num_envs))
    before_first_call(envs, "step", clock.start)
    after_each_call(algorithm, "update", lambda _: clock.tick(rows))
    collector.reset()
    algorithm.run_training(
        import_module("tianshou.trainer").OnPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=(clock.warmup + clock.measured) * rows,
            collection_step_num_env_steps=rows,
            batch_size=min(rows, config.minibatch_size),
            update_step_num_repetitions=config.num_epochs,
            show_progress=False,
            verbose=False,
        )
    )
    return clock.measurement()


def _tianshou_networks(
    observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> tuple[Any, Any, Callable[[Any], torch.distributions.Distribution]]:
    """Return actor, critic, and the function from the actor's outputs to a distribution."""
    common = import_module("tianshou.utils.net.common")

    def network() -> Any:
        return common.Net(
            state_shape=observation_space.shape, hidden_sizes=HIDDEN_SIZES, activation=nn.Tanh
        )

    if isinstance(action_space, gym.spaces.Discrete):
        nets = import_module("tianshou.utils.net.discrete")
        actor = nets.DiscreteActor(
            preprocess_net=network(), action_shape=int(action_space.n), softmax_output=False
        )
        critic = nets.DiscreteCritic(preprocess_net=network())
        return actor, critic, lambda logits: torch.distributions.Categorical(logits=logits)

    def gaussian(moments: tuple[Tensor, Tensor]) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(*moments), 1)

    nets = import_module("tianshou.utils.net.continuous")
    actor = nets.ContinuousActorProbabilistic(
        preprocess_net=network(), action_shape=action_space.shape, unbounded=True
    )
    return actor, nets.ContinuousCritic(preprocess_net=network()), gaussian


class TensorEnvironments:
    """Gymnasium's vector environments for rsl_rl, with tensors; their spaces are Boxes."""

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        actions = envs.single_action_space
        assert isinstance(actions, gym.spaces.Box)
        self.envs = envs
        self.num_envs = envs.num_envs
        self.num_actions = int(np.prod(actions.shape))
        self.max_episode_length = 1000
        self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.long)
        self.device = "cpu"
        self.cfg: dict[str, Any] = {}
        self._make = import_module("tensordict").TensorDict
        self._low, self._high = actions.low, actions.high
        self._observations = self._tensors(envs.reset(seed=SEED)[0])

    def _tensors(self, observations: Any) -> Any:
        rows = torch.as_tensor(observations, dtype=torch.float32)
        return self._make({"policy": rows}, batch_size=[self.num_envs])

    def get_observations(self) -> Any:
        """Return the current observations."""
        return self._observations

    def step(self, actions: Tensor) -> tuple[Any, Tensor, Tensor, dict[str, Tensor]]:
        """Step all environments; return observations, rewards, episode ends and truncations."""
        observations, rewards, terminated, truncated, _ = self.envs.step(
            np.clip(actions.numpy(), self._low, self._high)
        )
        self._observations = self._tensors(observations)
        return (
            self._observations,
            torch.as_tensor(rewards, dtype=torch.float32),
            torch.as_tensor(terminated | truncated),
            {"time_outs": torch.as_tensor(truncated)},
        )


def rsl_rl(config: BenchConfig, case: Case, clock: Clock) -> Measurement:
    """Train PPO of rsl_rl."""
    torch.manual_seed(SEED)
    envs = TensorEnvironments(gym.make_vec(config.env_id, case.num_envs))
    network = {"class_name": "MLPModel", "hidden_dims": list(HIDDEN_SIZES), "activation": "tanh"}
    settings = {
        "num_steps_per_env": config.rollout_steps,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": network | {"distribution_cfg": {"class_name": "GaussianDistribution"}},
        "critic": network,
        "algorithm": {
            "class_name": "PPO",
            "num_learning_epochs": config.num_epochs,
            "num_mini_batches": config.num_minibatches(case.num_envs),
            "clip_param": config.clip_ratio,
            "gamma": config.gamma,
            "lam": config.gae_lambda,
            "value_loss_coef": config.value_coefficient,
            "entropy_coef": 0.0,
            "learning_rate": config.learning_rate,
            "max_grad_norm": config.max_grad_norm or math.inf,
            "use_clipped_value_loss": False,
            "schedule": "fixed",
        },
    }
    runners = import_module("rsl_rl.runners")
    runner = runners.OnPolicyRunner(envs, settings, log_dir=None, device="cpu")
    before_first_call(envs, "step", clock.start)
    after_each_call(runner.alg, "update", lambda _: clock.tick(config.rows(case.num_envs)))
    runner.learn(clock.warmup + clock.measured)
    return clock.measurement()
