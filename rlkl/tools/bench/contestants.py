"""rlkl, its peers and the roofs, each doing a work under the eyes of a clock."""

import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import DtypeObservation
from torch import Tensor, nn

from rlkl.algos import ALGORITHMS
from rlkl.algos.base import Metrics
from rlkl.algos.critic import CriticConfig
from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.models.policy import PolicyConfig
from rlkl.rollouts.rollout import Episode, Rollout
from rlkl.tools.bench.clock import PHASES, Clock, Measurement, after_each_call, before_first_call
from rlkl.tools.bench.work import BenchConfig, Entry
from rlkl.training.config import TrainConfig
from rlkl.training.loggers import LoggerConfig
from rlkl.training.trainer import Trainer

# Peers are imported by name, when it is their turn: they are optional, and some take seconds.
HIDDEN_SIZES = (64, 64)
SEED = 0


def measure(config: BenchConfig, entry: Entry, launched: float) -> Measurement:
    """Do a work once.

    Args:
        config: the work.
        entry: who does it.
        launched: `time.monotonic()` when the process was launched.

    Raises:
        RuntimeError: a peer made another number of optimizer steps than the work has.
    """
    torch.set_num_threads(1)
    num_envs = entry.num_envs
    clock = Clock(
        launched, config.warmup_iterations(num_envs), config.measured_iterations(num_envs)
    )
    measurement = CONTESTANTS[entry.contestant](config, entry, clock)
    expected = config.num_epochs * config.num_minibatches(num_envs)
    if entry.contestant in _PEERS and measurement.optimizer_steps != expected:
        raise RuntimeError(
            f"{entry} made {measurement.optimizer_steps:g} optimizer steps in an iteration; "
            f"the work has {expected}"
        )
    return measurement


def train_config(config: BenchConfig, entry: Entry, run_dir: str) -> TrainConfig:
    """Return the work as rlkl trains it, with all that a user's run reports and writes."""
    num_envs = entry.num_envs
    shared: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "max_grad_norm": config.max_grad_norm,
        "num_epochs": config.num_epochs,
        "num_minibatches": config.num_minibatches(num_envs),
    }
    values = shared | {
        "learning_rate_schedule": "constant",
        "clip_ratio": config.clip_ratio,
        "max_kl": config.max_kl,
        "max_kl_schedule": "constant",
        "cg_iterations": config.cg_iterations,
    }
    algorithm = ALGORITHMS[entry.algo].config
    known = {field.name for field in fields(algorithm)}
    iterations = config.warmup_iterations(num_envs) + config.measured_iterations(num_envs)
    sizes = list(HIDDEN_SIZES)
    assert TrainConfig().policy.actor_hidden_sizes == sizes
    return TrainConfig(
        algo=algorithm(**{key: value for key, value in values.items() if key in known}),
        env=EnvConfig(id=config.env_id, num_envs=num_envs),
        policy=PolicyConfig(scale_actions=False),  # as the others do
        critic=CriticConfig(**shared),
        logger=LoggerConfig(progress="none"),
        # Rows that only reset an environment are no steps, so this is enough, or a little more.
        total_env_steps=iterations * config.rows(num_envs),
        rollout_steps=config.rollout_steps,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        seed=SEED,
        eval_episodes=0,
        run_dir=run_dir,
    )


class Recorder:
    """A logger that tells the clock of each iteration, and adds up what its phases took.

    Args:
        clock: to tell.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.env_steps = 0
        self.seconds = dict.fromkeys(PHASES[:-1], 0.0)

    def log(self, env_steps: int, metrics: Metrics, histograms: dict[str, Tensor]) -> None:
        """Note the end of an iteration: every other logger has had its turn."""
        if self.clock.counts:
            for phase in self.seconds:
                self.seconds[phase] += metrics[f"time/{phase}"]
        self.clock.tick(env_steps - self.env_steps)
        self.env_steps = env_steps

    def log_episodes(self, episodes: Iterable[Episode]) -> None:
        """Keep nothing."""

    def close(self, status: str) -> None:
        """Close nothing."""


def _rlkl(config: BenchConfig, entry: Entry, clock: Clock) -> Measurement:
    sizes: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(train_config(config, entry, str(Path(folder) / "run")))
        before_first_call(trainer.envs, "step", clock.start)
        after_each_call(trainer.collector, "collect", lambda r: sizes.append(megabytes_of(r)))
        recorder = Recorder(clock)
        trainer.train(also=[recorder])
    seconds = clock.ended - clock.began
    log = seconds - sum(recorder.seconds.values())
    return clock.measurement(
        rollout_megabytes=max(sizes), phases=recorder.seconds | {PHASES[-1]: log}
    )


def megabytes_of(rollout: Rollout) -> float:
    """Return the size of a rollout's arrays, in megabytes (10⁶ bytes)."""
    values = [getattr(rollout, field.name) for field in fields(rollout)]
    values += [array for value in values if isinstance(value, dict) for array in value.values()]
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray | Tensor)) / 1e6


def _roof(config: BenchConfig, entry: Entry, clock: Clock) -> Measurement:
    envs = make_vector_env(EnvConfig(id=config.env_id, num_envs=entry.num_envs))
    envs.reset([SEED + number for number in range(entry.num_envs)])

    def step(actions: Any) -> int:
        return int(np.count_nonzero(envs.step(actions).is_transition))

    return _stepped(config, entry, clock, envs.action_space, step)


def _roof_sync(config: BenchConfig, entry: Entry, clock: Clock) -> Measurement:
    envs = gym.make_vec(
        config.env_id,
        entry.num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )
    envs.reset(seed=SEED)

    def step(actions: Any) -> int:
        envs.step(actions)
        return entry.num_envs

    return _stepped(config, entry, clock, envs.single_action_space, step)


def _stepped(
    config: BenchConfig,
    entry: Entry,
    clock: Clock,
    action_space: gym.Space[Any],
    step: Callable[[Any], int],
) -> Measurement:
    """Step environments with random actions, drawn beforehand and used again and again."""
    space = batch_space(action_space, entry.num_envs)
    space.seed(SEED)
    actions = [space.sample() for _ in range(config.rollout_steps)]
    clock.start()
    for _ in range(clock.warmup + clock.measured):
        clock.tick(sum(step(rows) for rows in actions))
    return clock.measurement()


def _sb3(config: BenchConfig, entry: Entry, clock: Clock) -> Measurement:
    make = import_module("stable_baselines3").PPO
    return _stable_baselines(
        config,
        entry,
        clock,
        make,
        n_epochs=config.num_epochs,
        clip_range=config.clip_ratio,
        ent_coef=0.0,
        vf_coef=config.value_coefficient,
        max_grad_norm=math.inf if config.max_grad_norm is None else config.max_grad_norm,
    )


def _sb3_contrib(config: BenchConfig, entry: Entry, clock: Clock) -> Measurement:
    make = import_module("sb3_contrib").TRPO
    return _stable_baselines(
        config,
        entry,
        clock,
        make,
        cg_max_steps=config.cg_iterations,
        target_kl=config.max_kl,
        n_critic_updates=config.num_epochs,
    )


def _stable_baselines(
    config: BenchConfig, entry: Entry, clock: Clock, make: Any, **options: Any
) -> Measurement:
    rows = config.rows(entry.num_envs)
    vectors = import_module("stable_baselines3.common.env_util")
    model = make(
        "MlpPolicy",
        vectors.make_vec_env(config.env_id, n_envs=entry.num_envs, seed=SEED),
        learning_rate=config.learning_rate,
        n_steps=config.rollout_steps,
        batch_size=min(rows, config.minibatch_size),
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        policy_kwargs={"net_arch": list(HIDDEN_SIZES), "activation_fn": nn.Tanh},
        seed=SEED,
        device="cpu",
        **options,
    )
    before_first_call(model.env, "step", clock.start)
    after_each_call(model, "train", lambda _: clock.tick(rows))
    model.learn(total_timesteps=(clock.warmup + clock.measured) * rows)
    return clock.measurement()


def _skrl(config: BenchConfig, entry: Entry, clock: Clock) -> Measurement:
    torch.manual_seed(SEED)
    models = import_module("skrl.utils.model_instantiators.torch")
    rows = config.rows(entry.num_envs)
    raw = gym.make_vec(config.env_id, entry.num_envs)
    if raw.single_observation_space.dtype != np.float32:
        raw = DtypeObservation(raw, np.float32)  # its models take nothing else
    wrappers = import_module("skrl.envs.wrappers.torch")
    envs = wrappers.wrap_env(raw, wrapper="gymnasium", verbose=False)
    discrete = isinstance(envs.action_space, gym.spaces.Discrete)
    network = [
        {
            "name": "net",
            "input": "OBSERVATIONS",
            "layers": list(HIDDEN_SIZES),
            "activations": "tanh",
        }
    ]
    spaces = {
        "observation_space": envs.observation_space,
        "state_space": envs.state_space,
        "action_space": envs.action_space,
        "device": "cpu",
    }
    make_policy = models.categorical_model if discrete else models.gaussian_model
    policy = make_policy(**spaces, network=network, output="ACTIONS")
    value = models.deterministic_model(**spaces, network=network, output="ONE")
    for model in (policy, value):
        model.init_state_dict()
    shared = {
        "rollouts": config.rollout_steps,
        "learning_epochs": config.num_epochs,
        "mini_batches": config.num_minibatches(entry.num_envs),
        "discount_factor": config.gamma,
        "gae_lambda": config.gae_lambda,
        "learning_rate": config.learning_rate,
        "grad_norm_clip": config.max_grad_norm or 0.0,
    }
    memory = import_module("skrl.memories.torch").RandomMemory(
        memory_size=config.rollout_steps, num_envs=entry.num_envs, device="cpu", replacement=False
    )
    with tempfile.TemporaryDirectory() as folder:
        # It writes to TensorBoard by default, by as many steps as make a hundred writes of a run;
        # of a run as short as this one, that would be more than one for each rollout.
        experiment = import_module("skrl.agents.torch.base").ExperimentCfg(
            directory=folder, write_interval=config.rollout_steps, checkpoint_interval=0
        )
        if entry.algo == "ppo_clip":
            module = import_module("skrl.agents.torch.ppo")
            make, cfg = (
                module.PPO,
                module.PPO_CFG(
                    **shared,
                    experiment=experiment,
                    ratio_clip=config.clip_ratio,
                    value_clip=0.0,
                    entropy_loss_scale=0.0,
                    value_loss_scale=config.value_coefficient,
                ),
            )
        else:
            module = import_module("skrl.agents.torch.trpo")
            make, cfg = (
                module.TRPO,
                module.TRPO_CFG(
                    **shared,
                    experiment=experiment,
                    max_kl_divergence=config.max_kl,
                    conjugate_gradient_steps=config.cg_iterations,
                ),
            )
        agent = make(models={"policy": policy, "value": value}, memory=memory, cfg=cfg, **spaces)
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


def _tianshou(config: BenchConfig, entry: Entry, clock: Clock) -> Measurement:
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    rows = config.rows(entry.num_envs)
    common = import_module("tianshou.utils.net.common")
    data = import_module("tianshou.data")
    reinforce = import_module("tianshou.algorithm.modelfree.reinforce")
    envs = import_module("tianshou.env").DummyVectorEnv(
        [lambda: gym.make(config.env_id) for _ in range(entry.num_envs)]
    )
    observation_space, action_space = envs.observation_space[0], envs.action_space[0]

    def network() -> Any:
        return common.Net(
            state_shape=observation_space.shape, hidden_sizes=HIDDEN_SIZES, activation=nn.Tanh
        )

    actor: Any
    distribution: Callable[[Any], torch.distributions.Distribution]
    discrete = isinstance(action_space, gym.spaces.Discrete)
    if discrete:
        nets = import_module("tianshou.utils.net.discrete")
        actor = nets.DiscreteActor(
            preprocess_net=network(), action_shape=int(action_space.n), softmax_output=False
        )
        critic = nets.DiscreteCritic(preprocess_net=network())

        def distribution(logits: Tensor) -> torch.distributions.Distribution:
            return torch.distributions.Categorical(logits=logits)
    else:
        nets = import_module("tianshou.utils.net.continuous")
        actor = nets.ContinuousActorProbabilistic(
            preprocess_net=network(), action_shape=action_space.shape, unbounded=True
        )
        critic = nets.ContinuousCritic(preprocess_net=network())

        def distribution(moments: tuple[Tensor, Tensor]) -> torch.distributions.Distribution:
            return torch.distributions.Independent(torch.distributions.Normal(*moments), 1)

    algorithm = import_module("tianshou.algorithm").PPO(
        policy=reinforce.ProbabilisticActorPolicy(
            actor=actor,
            dist_fn=distribution,
            action_space=action_space,
            action_scaling=not discrete,
        ),
        critic=critic,
        optim=import_module("tianshou.algorithm.optim").AdamOptimizerFactory(
            lr=config.learning_rate
        ),
        eps_clip=config.clip_ratio,
        vf_coef=config.value_coefficient,
        ent_coef=0.0,
        max_grad_norm=config.max_grad_norm,
        gae_lambda=config.gae_lambda,
        gamma=config.gamma,
    )
    collector = data.Collector(algorithm, envs, data.VectorReplayBuffer(rows, entry.num_envs))
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


class TensorEnvironments:
    """Gymnasium's environments as rsl_rl steps them: tensors in, tensors out.

    Args:
        envs: with Box observations and actions.
    """

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
        """Step all environments; return observations, rewards, ends and which were cut off."""
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


def _rsl_rl(config: BenchConfig, entry: Entry, clock: Clock) -> Measurement:
    torch.manual_seed(SEED)
    envs = TensorEnvironments(gym.make_vec(config.env_id, entry.num_envs))
    network = {"class_name": "MLPModel", "hidden_dims": list(HIDDEN_SIZES), "activation": "tanh"}
    runner = import_module("rsl_rl.runners").OnPolicyRunner(
        envs,
        {
            "num_steps_per_env": config.rollout_steps,
            "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
            "actor": network | {"distribution_cfg": {"class_name": "GaussianDistribution"}},
            "critic": network,
            "algorithm": {
                "class_name": "PPO",
                "num_learning_epochs": config.num_epochs,
                "num_mini_batches": config.num_minibatches(entry.num_envs),
                "clip_param": config.clip_ratio,
                "gamma": config.gamma,
                "lam": config.gae_lambda,
                "value_loss_coef": config.value_coefficient,
                "entropy_coef": 0.0,
                "learning_rate": config.learning_rate,
                "max_grad_norm": math.inf if config.max_grad_norm is None else config.max_grad_norm,
                "use_clipped_value_loss": False,
                "schedule": "fixed",
            },
        },
        log_dir=None,
        device="cpu",
    )
    before_first_call(envs, "step", clock.start)
    after_each_call(runner.alg, "update", lambda _: clock.tick(config.rows(entry.num_envs)))
    runner.learn(clock.warmup + clock.measured)
    return clock.measurement()


_PEERS: dict[str, Callable[[BenchConfig, Entry, Clock], Measurement]] = {
    "sb3": _sb3,
    "sb3_contrib": _sb3_contrib,
    "skrl": _skrl,
    "tianshou": _tianshou,
    "rsl_rl": _rsl_rl,
}
CONTESTANTS = {"rlkl": _rlkl, "roof": _roof, "roof_sync": _roof_sync} | _PEERS
