"""What may be typed that cannot be done, and what the one line about it has to say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlkl.training.checkpoint import save_checkpoint


@dataclass(frozen=True)
class Bad:
    """A command that is to be refused.

    Attributes:
        kind: what is wrong with it, for the tally.
        arguments: those behind `rlkl`.
        says: parts of the line that it is refused with.
    """

    kind: str
    arguments: tuple[str, ...]
    says: tuple[str, ...]

    @property
    def name(self) -> str:
        """What a report of pytest calls it."""
        typed = " ".join(self.arguments)
        return f"{self.kind}: {typed if len(typed) < 70 else f'{typed[:67]}...'}"


def prepare(folder: Path) -> None:
    """Put into a folder what some of the commands name: a file, and configs of the user's own."""
    (folder / "a_file").write_text("not a folder\n")
    (folder / "empty").mkdir()
    (folder / "damaged" / "checkpoints").mkdir(parents=True)
    (folder / "damaged" / "checkpoints" / "last.pt").write_bytes(b"no checkpoint")
    for name, state in STATES.items():
        save_checkpoint(folder / name / "checkpoints" / "last.pt", state)
    own = folder / "own" / "experiment"
    own.mkdir(parents=True)
    for name, content in OWN_CONFIGS.items():
        (own / f"{name}.yaml").write_text(f"# @package _global_\n{content}\n", encoding="utf-8")
    for name, content in OWN_OF_HYDRA.items():
        path = folder / "own" / "hydra" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


STATES: dict[str, dict[str, Any]] = {
    "foreign": {"policy": {}},
    "half": {"config": {}, "policy_description": {}, "resumable": True, "env_steps": 8},
    "newer": {"format": 99},
    "older": {"format": 1},
}
"""Checkpoints that can be read and are not of a run, or not of this version."""

COPIES = "{_target_: shutil.copy, src: a_file, dst: pwned}"
FACTORY = "{(): shutil.copy, src: a_file, dst: pwned}"
"""Code that leaves a file behind if it is run."""

OWN_CONFIGS = {
    "unknown_key": "tottal_env_steps: 5",
    "unknown_below": "algo:\n  learning_rat: 1",
    "wrong_type": "gamma: [1, 2]",
    "out_of_range": "gamma: 1.5",
    "no_yaml": "gamma: [1",
    "tabs": "algo:\n\tlearning_rate: 1",
    "a_list": "- gamma",
    "nul_in_run_dir": 'run_dir: "a\\0b"',
    "nul_in_id": 'env:\n  id: "CartPole\\0-v1"',
    "newline_in_run_dir": 'run_dir: "a_file/one\\ntwo"',
    "escape_in_id": 'env:\n  id: "\\e[31mred"',
    "missing_option": "defaults:\n  - override /algo: unheard_of",
    "names_code": "algo:\n  _target_: os.system",
    "a_callback": f"hydra:\n  callbacks:\n    it: {COPIES}",
    "a_callback_of_a_file": "defaults:\n  - override /hydra/callbacks: copies",
    "a_launcher": "hydra:\n  launcher:\n    _target_: os.system",
    "a_sweeper": "hydra:\n  sweeper:\n    _target_: os.system",
    "within_a_sweeper": f"hydra:\n  sweeper:\n    params:\n      it: {COPIES}",
    "a_handler": f"hydra:\n  job_logging:\n    handlers:\n      it: {FACTORY}",
    "a_class_of_handlers": (
        "hydra:\n  hydra_logging:\n    handlers:\n      it: {class: logging.FileHandler, "
        "filename: pwned}\n    root: {handlers: [it]}"
    ),
    "an_object_from_outside": (
        "hydra:\n  job_logging:\n    handlers:\n      it: {class: logging.StreamHandler, "
        "stream: 'ext://this.d'}\n    root: {handlers: [it]}"
    ),
    "surroundings": "hydra:\n  job:\n    env_set:\n      PATH: own",
    "more_folders": "hydra:\n  searchpath: ['pkg://this']",
}

OWN_OF_HYDRA = {
    "callbacks/copies": f"it: {COPIES}\n",
    "launcher/copies": f"{COPIES}\n",
    "sweeper/copies": f"{COPIES}\n",
    "job_logging/copies": f"version: 1\nhandlers: {{it: {FACTORY}}}\nroot: {{handlers: [it]}}\n",
    "env/surroundings": "# @package hydra.job\nenv_set: {PATH: own}\n",
}

LONG = "x" * 5000
WIDE = f"[{','.join(['65536'] * 1000)}]"
HUGE = "1" + "0" * 400
ENDLESS = "9" * 5000
"""More digits than Python reads as a number."""

BAD_FLOATS = ("nan", "inf", "-inf", "-1e300", HUGE)
BAD_INTEGERS = ("-1", "nan", "inf", "1.5")

POSITIVE = {
    "algo.learning_rate": (),
    "algo.max_grad_norm": (),
    "algo.adam_epsilon": (),
    "algo.target_kl": (),
    "algo.clip_ratio_high": (),
    "algo.target_kl_multiplier": (),
    "algo.max_kl": ("algo=trpo",),
    "critic.learning_rate": (),
    "critic.max_grad_norm": (),
    "critic.value_clip": (),
    "critic.adam_epsilon": (),
    "policy.pixel_scale": (),
    "policy.hidden_gain": (),
    "policy.actor_gain": (),
    "policy.critic_gain": (),
    "clip_rewards": (),
}
"""Numbers that have to be above 0, and what has to be chosen for them to be there."""

WITHIN = {
    "gamma": ("-0.001", "1.001"),
    "gae_lambda": ("-0.001", "1.001"),
    "algo.clip_ratio": ("0", "1"),
    "algo.entropy_coefficient": ("-1",),
    "policy.shared_value_coefficient": ("-1",),
    "policy.log_std_min": ("-21", "6"),
    "policy.log_std_max": ("-21", "6"),
    "policy.log_std": ("-21", "3"),
}
"""Numbers with bounds, and the nearest that lie outside."""

COUNTS = {
    "total_env_steps": (),
    "rollout_steps": (),
    "threads": (),
    "max_bad_updates": (),
    "env.num_envs": (),
    "env.frame_stack": (),
    "algo.num_epochs": (),
    "algo.num_minibatches": (),
    "algo.cg_iterations": ("algo=npg",),
    "critic.num_epochs": (),
    "critic.num_minibatches": (),
    "policy.memory_size": (),
    "policy.sequence_length": (),
    "policy.image_features": (),
    "checkpoint.interval": (),
    "checkpoint.keep": (),
}
"""Whole numbers that have to be at least 1."""

NOT_NEGATIVE = {
    "seed": (),
    "eval_episodes": (),
    "logger.histogram_interval": (),
    "algo.max_backtracks": ("algo=trpo",),
    "eval_interval": (),
}
"""Whole numbers that may be 0."""

OUTSIDE = (
    ("algo=trpo", "algo.cg_damping=-1"),
    ("algo=trpo", "algo.cg_residual_tolerance=-1"),
    ("algo=npg", "algo.fisher_fraction=0"),
    ("algo=npg", "algo.fisher_fraction=1.001"),
    ("algo=trpo", "algo.line_search_decay=0"),
    ("algo=trpo", "algo.line_search_decay=1"),
    ("algo=ppo_kl", "algo.kl_coefficient=-1"),
    ("algo=ppo_kl", "algo.kl_coefficient_min=0"),
    ("algo=ppo_kl", "algo.kl_coefficient_max=0"),
    ("algo=ppo_kl", "algo.target_kl=0"),
    ("algo=ppo_kl_fixed", "algo.kl_coefficient=-1"),
)
"""Of one algorithm's numbers, the nearest that lie outside their bounds."""

TYPES = {
    "gamma=null": "null is not one",
    "gamma=[0.9]": "gamma",
    "gamma={a: 1}": "gamma",
    "gamma=true": "gamma",
    "gamma=''": "expected a number",
    "seed=abc": "seed=abc: expected a whole number",
    "seed=null": "null is not one",
    "seed=1.5e0": "seed=1.5: expected a whole number",
    "total_env_steps=soon": "expected a whole number",
    "algo.clip_ratio=many": "expected a number",
    "critic.num_epochs=1.5": "expected a whole number",
    "normalize_observations=perhaps": "is not a valid bool",
    "policy.actor_hidden_sizes=64": "expected a list",
    "policy.actor_hidden_sizes=[64,a]": "expected a whole number",
    "policy.actor_hidden_sizes=[[64]]": "policy.actor_hidden_sizes",
    "policy.actor_hidden_sizes=null": "null is not one",
    "env.id=[CartPole-v1]": "env.id",
    "env.id=null": "null is not one",
    "env.kwargs=3": "env.kwargs",
    "env.kwargs=[1]": "env.kwargs",
    "env.observation_keys=speed": "expected a list",
    "logger.tensorboard=2.5": "is not a valid bool",
    "algo=null": "has no option",
    "algo={}": "algo",
    "env=[cartpole,acrobot]": "has no option",
    "policy=3": "has no option",
    "critic={learning_rate: 1}": "critic",
}

UNKNOWN = {
    "algo.learning_rat=1": "did you mean algo.learning_rate",
    "algo.max_kl=1": "ppo_clip has no such key; it has",
    "algo.optimizer.lr=1": "there is no key 'algo.optimizer.lr'",
    "tottal_env_steps=9": "did you mean total_env_steps",
    "TOTAL_ENV_STEPS=9": "did you mean total_env_steps",
    "critic.lr=1": "did you mean critic.learning_rate?",
    "algo.lr=1": "did you mean algo.learning_rate?",
    "lr=1": "did you mean algo.learning_rate or critic.learning_rate?",
    "n_steps=1": "did you mean rollout_steps?",
    "n_envs=1": "did you mean env.num_envs?",
    "ent_coef=1": "did you mean algo.entropy_coefficient?",
    "vf_coef=1": "or policy.shared_value_coefficient (where the encoder is shared)?",
    "algo.clip_range=1": "did you mean algo.clip_ratio?",
    "total_timesteps=1": "did you mean total_env_steps?",
    "batch_size=64": "did you mean algo.num_minibatches (the number of minibatches, not",
    "algo.gamma=1": "did you mean gamma?",
    "policy.net_arch=[8]": "did you mean policy.actor_hidden_sizes or policy.critic_hidden_sizes?",
    "CartPole-v1": "did you mean env.id=CartPole-v1?",
    "cartpole": "did you mean env=cartpole?",
    "env": "without spaces around the equals sign",
    "policy.hidden=[1]": "did you mean policy.actor_hidden_sizes",
    "env.ids=CartPole-v1": "did you mean env.id",
    "env.kwarg.gravity=1": "there is no key 'env.kwarg.gravity'",
    "logger.wandb=true": "there is no key 'logger.wandb'",
    "gamma.x=1": "there is no key 'gamma.x'",
    "schema=train": "there is no key 'schema'",
    "+new_key=1": "there is no key",
    "++new_key=1": "there is no key",
    "+algo.new=1": "there is no key",
    "~algo": "nothing can be taken out",
    "~gamma": "nothing can be taken out",
    "~env.kwargs": "nothing can be taken out",
    "hydra.nope=1": "hydra.nope",
    "hydra.run.nope=1": "hydra.run.nope",
    "hydra/nope=1": "hydra/nope",
    "hydra/launcher=nope": "nope",
    "hydra/sweeper=nope": "nope",
    "algo@elsewhere=trpo": "algo@elsewhere",
    "env@eval=cartpole": "env@eval",
    "algo=ppo_clp": "did you mean ppo_clip",
    "algo=ppo": "did you mean ppo_clip?",
    "algo=a2c": "did you mean vanilla_pg?",
    "algo=natural_gradient": "did you mean npg?",
    "policy=MlpPolicy": "did you mean mlp?",
    "env=LunarLander-v3": "did you mean env=lunarlander, or env.id=LunarLander-v3?",
    "env=Unheard-v0": "did you mean env.id=Unheard-v0?",
    "env=CartPole": "did you mean cartpole?",
    "algo=PPO_CLIP": "did you mean ppo_clip",
    "algo=ppo_clip.yaml": "has no option",
    "env=cartpol": "did you mean cartpole",
    "env=CartPole-v1": "env has no option",
    "policy=transformer": "policy has no option",
    "critic=none": "critic has no option",
    "logger=wandb": "logger has no option",
    "experiment=unheard_of": "experiment has no option",
    "experiment=[smoke,unheard_of]": "experiment has no option 'unheard_of'",
    "env.backend=fast": "expected one of auto, native, sync, shared, async, envpool, ale",
    "policy.activation=tan": "did you mean tanh",
    "policy.memory=rnn": "expected one of none, gru, lstm",
    "policy.initialization=xavier": "expected one of orthogonal, uniform",
    "policy.image_encoder=resnet": "expected one of auto, nature, impala, small",
    "policy.box_distribution=beta": "policy.box_distribution=beta",
    "policy.differentiation=jax": "expected one of auto, by_hand, autograd",
    "algo.learning_rate_schedule=cosine": "expected one of",
    "algo.advantage_standardization=always": "expected one of batch, minibatch, none",
    "algo.target_kl_scope=step": "expected one of minibatch, epoch",
    "critic.learning_rate_schedule=": "expected one of",
    "logger.progress=loud": "expected one of auto, live, plain, none",
    "device=abacus": "device=cpu always can",
    "device=": "device=cpu always can",
    "device=gpu": "did you mean cuda?",
    "device=mps:1": "cannot be used here: ",
    "device=cuda:99": "device=cpu always can",
    "device=meta": "device=cpu always can",
}

CONFLICTS = {
    ("algo.name=trpo",): "set by the choice of the algorithm",
    ("ablation=no_reward_scaling",): "changes nothing here",
    ("policy.clip_actions=false",): "policy.clip_actions=false: changes nothing, actions Discrete",
    ("policy=squashed", "env=pendulum", "policy.clip_actions=false"): "leave one of them out",
    ("algo=vanilla_pg", "anneal=false"): "anneal=false: changes nothing",
    ("table1=clip_0.1", "table1=clip_0.4"): "clip_0.3",
    ("algo.num_minibatches=7",): "the nearest that do: 4 and 8",
    ("critic.num_minibatches=3",): "the nearest that do: 2 and 4",
    ("algo.num_minibatches=1025",): "does not divide the batch of 1024",
    ("policy.log_std_min=1", "policy.log_std_max=0"): "policy.log_std_max=0",
    ("policy.log_std=3",): "at most 2",
    ("policy.share_encoder=true",): "there is nothing to share",
    ("algo=trpo", "policy=gru", "policy.share_encoder=true"): "share_encoder",
    ("env.backend=native", "env.frame_stack=4"): "stacks no frames",
    ("env.backend=ale",): "not an Atari game",
    ("env=taxi", "normalize_observations=true"): "nothing to normalise",
    ("policy=gru", "policy.differentiation=by_hand"): "policy.differentiation=by_hand",
    ("algo=ppo_clip,trpo",): "add --multirun",
    ("algo=ppo_kl", "algo.kl_coefficient_min=5", "algo.kl_coefficient_max=1"): "kl_coefficient",
    ("gamma=0.9", "gamma=0.8", "gamma=1.8"): "gamma=1.8",
    ("algo=trpo", "algo.advantage_standardization=minibatch"): "expected one of batch, none",
    ("algo=trpo", "algo.num_epochs=3"): "trpo has no such key",
    ("eval_interval=5", "eval_episodes=0"): "there is nothing to evaluate with",
    ("env.observation_keys=[speed]",): "observations have no part 'speed'",
}

ABSURD = {
    ("env.num_envs=65000", "env.backend=async"): ("env.num_envs=65000", "a process of its own"),
    ("algo.num_epochs=1000000000",): ("algo.num_epochs=1000000000", "at most 10000"),
    ("critic.num_epochs=1000000000",): ("critic.num_epochs=1000000000", "at most 10000"),
    ("algo=trpo", "algo.cg_iterations=1000000000"): ("algo.cg_iterations", "at most 10000"),
    ("algo=trpo", "algo.max_backtracks=1000000000"): ("algo.max_backtracks", "at most 10000"),
    ("env.num_envs=1000000000",): ("env.num_envs=1000000000", "at most 65536"),
    (f"env.num_envs={HUGE}",): ("env.num_envs=", "expected a number within"),
    ("rollout_steps=1000000000000",): ("rollout_steps=1000000000000", "GiB", "this machine has"),
    (f"rollout_steps={HUGE}",): ("rollout_steps=", "expected a number within"),
    ("rollout_steps=1000000000", "env.num_envs=1024"): ("rollout_steps", "this machine has"),
    ("rollout_steps=1000000007", "env.num_envs=1009"): ("rollout_steps", "this machine has"),
    ("policy.actor_hidden_sizes=[1000000000]",): ("policy.actor_hidden_sizes", "at most 65536"),
    ("policy.critic_hidden_sizes=[64,1000000000]",): ("policy.critic_hidden_sizes", "at most"),
    ("policy.encoder_hidden_sizes=[1000000000000]",): ("policy.encoder_hidden_sizes", "at most"),
    (f"policy.actor_hidden_sizes={WIDE}",): ("policy.actor_hidden_sizes", "this machine has"),
    (f"policy.critic_hidden_sizes={WIDE}",): ("policy.critic_hidden_sizes", "this machine has"),
    (f"policy.encoder_hidden_sizes={WIDE}",): ("policy.encoder_hidden_sizes", "this machine has"),
    ("policy.memory_size=1000000000",): ("policy.memory_size", "at most 65536"),
    ("policy.image_features=1000000000",): ("policy.image_features", "at most 65536"),
    ("env.frame_stack=1000000000",): ("env.frame_stack", "at most 1024"),
    ("threads=1000000000",): ("threads=1000000000", "at most"),
    (f"threads={HUGE}",): ("threads=", "expected a number within"),
    ("eval_episodes=1000000000000",): ("eval_episodes=1000000000000", "at most"),
    ("algo.num_minibatches=1000000000000",): ("algo.num_minibatches", "does not divide"),
    (f"seed={ENDLESS}",): ("seed=", "4300 digits"),
    (f"total_env_steps={ENDLESS}",): ("total_env_steps=", "4300 digits"),
    (f"gamma={HUGE}",): ("gamma", "expected a number within"),
    ("env.kwargs.sutton_barto_reward=1", "rollout_steps=9999999999999"): ("rollout_steps", "GiB"),
    ("env.id=FrozenLake-v1", "rollout_steps=3000000000", "env.num_envs=640"): (
        "rollout_steps", "this machine has",
    ),
}  # fmt: skip

HOSTILE = {
    ("run_dir=${oc.env:RLKL_NOT_SET}",): ("run_dir", "RLKL_NOT_SET"),
    ("run_dir=${no.such.key}",): ("run_dir", "no.such.key"),
    ("run_dir=${",): ("run_dir", "not an override"),
    ("run_dir=${no_such_resolver:1}",): ("run_dir", "no_such_resolver"),
    ("run_dir=${run_dir}",): ("run_dir", "Recursive interpolation"),
    ("seed=${seed}",): ("seed", "Recursive interpolation"),
    ("seed=${threads}", "threads=${seed}"): ("seed", "Recursive interpolation"),
    ("seed=${oc.env:HOME}",): ("seed", "expected a whole number"),
    ("seed=${algo.name}",): ("seed", "expected a whole number"),
    ("algo=${env.id}",): ("algo has no option",),
    ("env.id=${oc.env:RLKL_NOT_SET}",): ("env.id", "RLKL_NOT_SET"),
    ("env.kwargs.gravity=${oc.env:RLKL_NOT_SET}",): ("gravity", "RLKL_NOT_SET"),
    ("env.kwargs.x=${missing}",): ("env.kwargs.x", "missing"),
    ("policy.actor_hidden_sizes=${gamma}",): ("policy.actor_hidden_sizes",),
    ("env.id='CartPole-v1\nmore'",): ("env.id='CartPole-v1\\nmore'", "line breaks"),
    ("env.id='CartPole-v1\r\nmore'",): ("env.id='CartPole-v1\\r\\nmore'", "line breaks"),
    ("env.id='\x1b[31mred'",): ("env.id='\\x1b[31mred'", "control characters"),
    ("env.id=CartPole\0-v1",): ("\\x00",),
    ("run_dir=a\0b",): ("run_dir", "\\x00"),
    ("run_dir='a\0b'",): ("run_dir", "\\x00"),
    ("run_dir='a_file/one\ntwo'",): ("run_dir='a_file/one\\ntwo'", "line breaks"),
    ("run_dir=''",): ("run_dir=''", "at least one character"),
    ("run_dir=' '",): ("run_dir=' '", "at least one character"),
    ("env.id=../../etc/passwd",): ("env.id=../../etc/passwd",),
    ("env.id=../x:y",): ("env.id=../x:y", "cannot be imported"),
    ("env.id=..x:CartPole-v1",): ("env.id=..x:CartPole-v1", "cannot be imported"),
    ("env.id=.:CartPole-v1",): ("env.id=.:CartPole-v1", "cannot be imported"),
    ("env.id=':CartPole-v1:'",): ("env.id=:CartPole-v1:",),
    ("env.id='a b:C-v0'",): ("cannot be imported",),
    ("env.id='$(touch pwned)'",): ("env.id=$(touch pwned)",),
    ("env.id='`touch pwned`;touch pwned'",): ("env.id=`touch pwned`;touch pwned",),
    ("env.id='; rm -rf /'",): ("env.id=; rm -rf /",),
    ("env.id=''",): ("env.id=''", "at least one character"),
    ("env.id='Ünïcødé-v1'",): ("env.id=Ünïcødé-v1",),
    ("env.id='🤖'",): ("env.id=🤖",),
    (f"env.id={LONG}",): ("env.id=xxx", "no such environment"),
    (f"run_dir=a/b/{LONG}",): ("run_dir=a/b/xxx", "cannot be made"),
    (f"{LONG}=1",): ("there is no key",),
    (f"algo={LONG}",): ("algo has no option",),
    (f"algo.{LONG}=1",): ("there is no key",),
    ("algo=../algo/trpo",): ("algo has no option",),
    ("algo=/etc/passwd",): ("algo has no option",),
    ("experiment=../../x",): ("experiment has no option",),
    ('env.id="unclosed',): ("not an override",),
    ("env.id='unclosed",): ("not an override",),
    ("x=[",): ("not an override",),
    ("gamma={",): ("not an override",),
    ("gamma=(",): ("not an override",),
    ("=",): ("=: there is no key ''",),
    ("",): ("not an override",),
    (" ",): ("not an override",),
    ("gamma",): ("not an override",),
    ("=1",): ("=1: there is no key ''",),
    ("gamma==1",): ("gamma",),
    ("ключ=1",): ("not an override",),
    ("gamma=0.9 seed=1",): ("gamma",),
    ("seed=１２³",): ("seed", "not an override"),
    ("__class__=1",): ("there is no key",),
    ("algo.__class__=1",): ("algo.__class__",),
    ("env.kwargs.__class__=1",): ("__class__",),
    ("algo._target_=os.system",): ("there is no key",),
    ("+_target_=os.system",): ("there is no key",),
    ("+algo._target_=os.system",): ("there is no key",),
}

SWEEPS = {
    ("gamma=0.9,1.9",): ("gamma=1.9",),
    ("gamma=interval(0,1)",): ("cannot be swept",),
    ("gamma=range(0,1,0)",): ("gamma=range(0,1,0)",),
    ("gamma=range(a)",): ("gamma=range(a)",),
    ("seed=range(1000000000)",): ("seed=range(1000000000)", "jobs"),
    ("seed=range(3)", "gamma=choice()"): ("gamma=choice()",),
    ("seed=range(5,1)",): ("seed=range(5,1)",),
    ("algo=ppo_clip,ppo_clp",): ("did you mean ppo_clip",),
    ("algo=ppo_clip,trpo", "algo.num_epochs=3"): ("trpo has no such key",),
    ("algo=ppo_clip,trpo", "env.kwargs.gravity=3"): ("gravity",),
    ("seed=0,1", "run_dir=here"): ("shared by several jobs",),
    ("seed=0,1", "run_dir=a_file/${seed}"): ("run_dir=a_file/0", "cannot be made"),
    ("env.num_envs=8,1000000000",): ("env.num_envs=1000000000",),
    ("rollout_steps=16,1000000000000",): ("rollout_steps=1000000000000", "this machine has"),
    ("env.id=CartPole-v1,CartPol-v1",): ("did you mean CartPole-v1",),
    ("seed=1,",): ("seed=1,",),
    ("seed=0,1", "hydra/launcher=nope"): ("nope",),
    ("seed=0,1", "hydra/sweeper=nope"): ("nope",),
    ("seed=0,1", "hydra.sweep.dir=a_file/x"): ("hydra.sweep.dir=a_file/x", "grid=NAME"),
    ("seed=0,1", "hydra.launcher.n_jobs=${oc.env:RLKL_NOT_SET}"): ("RLKL_NOT_SET",),
    ("seed=0,1", "hydra.launcher.n_jobs=0"): ("hydra.launcher.n_jobs=0", "at least 1"),
    ("seed=0,1", "hydra.launcher.n_jobs=few"): ("n_jobs", "few"),
    ("seed=0,1", "hydra.launcher.nope=1"): ("nope",),
    ("seed=0,1", "hydra/launcher=core"): ("did you mean cores",),
    ("seed=0,1", "hydra.sweeper.max_batch_size=0"): ("max_batch_size=0", "at least 1"),
    ("seed=0,1", "grid=../elsewhere"): ("grid=../elsewhere", "expected a name"),
    ("seed=0,1", "grid="): ("grid=:", "expected a name"),
    ("device=cpu,abacus",): ("device=abacus",),
    ("policy.share_encoder=false,true",): ("there is nothing to share",),
}

ENVIRONMENTS = {
    ("env.id=CartPol-v1",): ("did you mean CartPole-v1",),
    ("env.id=CartPole-v77",): ("did you mean CartPole-v1",),
    ("env.id=cartpole",): ("env.id=cartpole",),
    ("env.id=ALE/NoSuchGame-v5",): ("env.id=ALE/NoSuchGame-v5",),
    ("env.id=MiniGrid-Nowhere-v0",): ("env.id=MiniGrid-Nowhere-v0",),
    ("env.id=no_such_package:Env-v0",): ("cannot be imported",),
    ("env.id=json:Env-v0",): ("env.id=json:Env-v0", "no such environment"),
    ("env.id=GymV26Environment-v0",): ("env.id=GymV26Environment-v0",),
    ("env.id=HalfCheetah-v1",): ("env.id=HalfCheetah-v1",),
    ("env.id=phys2d/CartPole-v1",): ("env.id=phys2d/CartPole-v1", "jax"),
    ("env.id=tabular/Blackjack-v0",): ("env.id=tabular/Blackjack-v0", "jax"),
    ("env.backend=ale",): ("not an Atari game",),
    ("env.id=ALE/Pong-v5", "env.backend=sync"): ("env.backend=sync",),
    ("env.id=Pendulum-v1", "env.backend=native"): ("no vectorised form",),
    ("env.id=NoSuch-v1", "env.backend=envpool"): ("NoSuch-v1",),
    ("env.kwargs.gravity=3",): (
        "env.kwargs.gravity=3",
        "no argument 'gravity'",
        "sutton_barto_reward",
    ),
    ("env.kwargs={gravity: 3}",): (
        "env.kwargs.gravity=3",
        "no argument 'gravity'",
        "sutton_barto_reward",
    ),
    ("env.id=LunarLander-v3", "env.kwargs.gravty=3"): ("did you mean gravity?",),
    ("env.kwargs.x=[1",): ("rlkl: env.kwargs.x=[1: not an override",),
    ("env.kwargs.num_envs=3",): ("env.kwargs", "num_envs"),
    ("env.kwargs.id=Pendulum-v1",): ("env.kwargs", "id"),
    ("env.kwargs.vectorization_mode=sync",): ("env.kwargs", "vectorization_mode"),
    ("env.kwargs.self=1",): ("env.kwargs", "self"),
    ("env=frozenlake", "env.kwargs.map_name=9x9"): ("env.kwargs", "9x9"),
    ("env=frozenlake", "env.kwargs.desc=[SX,F]"): ("env.kwargs", "desc"),
    ("env=pendulum", "env.backend=async", "env.kwargs.x=1"): ("env.kwargs", "'x'"),
    ("env=pendulum", "env.backend=shared", "env.kwargs.x=1"): ("env.kwargs", "'x'"),
    ("env=taxi", "env.frame_stack=0"): ("env.frame_stack=0",),
}

RUN_FOLDERS = {
    "run_dir=a_file": ("run_dir=a_file", "exists already"),
    "run_dir=empty": ("run_dir=empty", "exists already"),
    "run_dir=.": ("run_dir=.", "exists already"),
    "run_dir=..": ("run_dir=..", "exists already"),
    "run_dir=/": ("run_dir=/", "exists already"),
    "run_dir=empty/../empty": ("run_dir=empty/../empty", "exists already"),
    "run_dir=a_file/run": ("run_dir=a_file/run", "cannot be made"),
    "run_dir=empty/new/../../a_file/run": ("run_dir=empty/new/../../a_file/run", "is not a folder"),
    "run_dir=/proc/rlkl/run": ("run_dir=/proc/rlkl/run", "cannot be made"),
    "run_dir=/dev/null/run": ("run_dir=/dev/null/run", "cannot be made"),
}

FLAGS = {
    ("train", "--hlep"): ("--hlep", "did you mean --help?"),
    ("train", "--seed=3"): ("--seed=3", "did you mean seed=3?"),
    ("train", "--lr=3"): ("--lr", "did you mean algo.learning_rate"),
    ("train", "--cfg", "job", "gamma=2"): ("gamma=2.0: expected a number",),
    ("train", "hydra.run.dir=x"): ("hydra.run.dir=x", "run_dir=DIR"),
    ("train", "--fast"): ("--fast", "there is no such flag"),
    ("train", "-x"): ("-x", "there is no such flag"),
    ("train", "grid=mine"): ("grid=mine", "--multirun"),
    ("train", "seed=1", "hydra.mode=MULTIRUN"): ("hydra.mode=MULTIRUN", "--multirun"),
    ("train", "--cfg"): ("--cfg", "expected"),
    ("train", "--cfg", "everything"): ("--cfg", "everything"),
    ("train", "--config-dir"): ("--config-dir", "expected"),
    ("train", "--config-dir", "nowhere"): ("--config-dir", "nowhere"),
    ("train", "--config-dir", "a_file"): ("--config-dir", "a_file"),
    ("train", "--config-name", "nope"): ("--config-name",),
    ("train", "--config-path", "nope"): ("--config-path",),
    ("train", "--package", "nope"): ("--package",),
    ("train", "--resolve"): ("--resolve",),
    ("train", "--info", "nope"): ("--info", "nope"),
    ("train", "--multirun", "--run"): ("--run",),
    ("train", "--experimental-rerun", "a_file"): ("--experimental-rerun",),
    ("train", "--shell-completion", "bash"): ("--shell-completion",),
    ("train", "--", "--fast"): ("--fast",),
}

OWN = {
    "unknown_key": ("tottal_env_steps",),
    "unknown_below": ("learning_rat",),
    "wrong_type": ("gamma",),
    "out_of_range": ("gamma=1.5", "at most 1"),
    "no_yaml": ("no_yaml.yaml, line 3", "expected"),
    "tabs": ("tabs.yaml, line 3", "cannot start any token"),
    "a_list": ("a_list",),
    "nul_in_run_dir": ("run_dir", "\\x00"),
    "nul_in_id": ("env.id", "\\x00"),
    "newline_in_run_dir": ("run_dir='a_file/one\\ntwo'", "line breaks"),
    "escape_in_id": ("env.id='\\x1b[31mred'",),
    "missing_option": ("unheard_of",),
    "names_code": ("_target_",),
    "a_callback": ("hydra.callbacks.it._target_=shutil.copy", "cannot name code"),
    "a_callback_of_a_file": ("hydra.callbacks.it._target_=shutil.copy", "cannot name code"),
    "a_launcher": ("hydra.launcher._target_=os.system", "hydra/launcher=basic or joblib"),
    "a_sweeper": ("hydra.sweeper._target_=os.system", "hydra/sweeper=basic"),
    "within_a_sweeper": ("hydra.sweeper.params.it._target_=shutil.copy", "cannot name code"),
    "a_handler": ("hydra.job_logging", "hydra/job_logging=default or"),
    "a_class_of_handlers": ("hydra.hydra_logging", "hydra/hydra_logging=default or"),
    "an_object_from_outside": ("hydra.job_logging", "hydra/job_logging=default or"),
    "surroundings": ("hydra.job.env_set.PATH=own", "expected on the command line"),
    "more_folders": ("hydra.searchpath",),
}

CODE = {
    ("+hydra.callbacks.it._target_=os.system",): ("hydra.callbacks.it._target_=os.system",),
    ("+hydra.callbacks.it=null",): ("hydra.callbacks.it=None", "cannot name code"),
    (f"hydra.callbacks={COPIES}",): ("hydra.callbacks",),
    (f"++hydra.callbacks={{it: {COPIES}}}",): ("hydra.callbacks.it._target_=shutil.copy",),
    ("hydra={callbacks: {it: {_target_: os.system}}}",): ("there is no key 'hydra'",),
    ("hydra.launcher._target_=os.system",): ("hydra.launcher._target_=os.system", "joblib"),
    ("hydra.launcher._target_=${env.id}",): ("hydra.launcher._target_=CartPole-v1",),
    ("hydra.launcher._target_=hydra_plugins.mine.Mine",): ("hydra_plugins.mine.Mine",),
    ("hydra.launcher=null",): ("hydra.launcher._target_=None",),
    ("+hydra.launcher.it._target_=os.system",): ("hydra.launcher.it._target_=os.system",),
    ("hydra.sweeper._target_=os.system",): ("hydra.sweeper._target_=os.system", "=basic"),
    ("~hydra.sweeper._target_",): ("hydra.sweeper._target_",),
    ("hydra.job_logging.root=INFO",): ("hydra.job_logging", "hydra/job_logging=default or"),
    ("+hydra.hydra_logging.handlers.it.class=this.d",): ("hydra.hydra_logging", "choose"),
    ("hydra.searchpath=[pkg://this]",): ("hydra.searchpath=[pkg://this]", "--config-dir DIR"),
    ("--config-dir", "own", "hydra/launcher=copies"): ("hydra.launcher._target_=shutil.copy",),
    ("--config-dir", "own", "hydra/sweeper=copies"): ("hydra.sweeper._target_=shutil.copy",),
    ("--config-dir", "own", "hydra/job_logging=copies"): ("hydra.job_logging",),
    ("--config-dir", "own", "hydra/callbacks=copies"): ("hydra.callbacks.it._target_",),
    ("--config-dir", "own", "hydra/env=surroundings"): ("hydra.job.env_set.PATH=own",),
    ("-m", "seed=0,1", "+hydra.callbacks.it._target_=os.system"): ("hydra.callbacks.it._target_",),
    ("-m", "--config-dir", "own", "experiment=a_callback,null"): ("hydra.callbacks.it._target_",),
    ("--cfg", "hydra", "+hydra.callbacks.it._target_=os.system"): ("hydra.callbacks.it._target_",),
}

OTHERS = {
    ("trian",): ("did you mean train",),
    ("",): ("there is no command",),
    ("--quiet",): ("there is no command",),
    ("TRAIN\n",): ("there is no command",),
    ("../train",): ("there is no command",),
    ("bench", "--fast"): ("--fast", "there is no such flag"),
    ("bench", "wrok=scale"): ("did you mean work",),
    ("bench", "work=scal"): ("did you mean scale",),
    ("bench", "work=[]"): ("work=",),
    ("bench", "work=null"): ("work=",),
    ("bench", "repetitions=0"): ("repetitions=0", "at least 1"),
    ("bench", "repetitions=1000000000"): ("repetitions=1000000000", "at most 10000"),
    ("bench", "num_epochs=1000000000"): ("num_epochs=1000000000", "at most 10000"),
    ("bench", "cg_iterations=1000000000"): ("cg_iterations=1000000000", "at most 10000"),
    ("bench", f"env_steps={10**18}"): ("env_steps=", "at most 1e+15"),
    ("evaluate", "empty", f"--episodes={10**12}"): ("--episodes=1000000000000", "at most 1e+06"),
    ("watch", "empty", f"--episodes={10**12}"): ("--episodes=1000000000000", "at most 1e+06"),
    ("bench", "repetitions=many"): ("repetitions=many", "expected a whole number"),
    ("bench", "repetitions=1,2"): ("expected key=value",),
    ("bench", "num_envs=[]"): ("num_envs",),
    ("bench", "num_envs=[0]"): ("num_envs=0", "at least 1"),
    ("bench", "num_envs=[1000000000]"): ("num_envs=1000000000", "at most 65536"),
    ("bench", "rollout_steps=1000000000000"): ("rollout_steps", "this machine has"),
    ("bench", "minibatch_size=7"): ("minibatch_size=7", "does not divide"),
    ("bench", "peers=[sb4]"): ("peers=sb4",),
    ("bench", "peers=sb3"): ("expected a list",),
    ("bench", "algos=[ppo]"): ("algos=ppo",),
    ("bench", "env_id=CartPol-v1"): ("did you mean CartPole-v1",),
    ("bench", "learning_rate=nan"): ("learning_rate=nan",),
    ("bench", "clip_ratio=2"): ("clip_ratio=2",),
    ("bench", "output=nowhere/results"): ("there is no folder nowhere",),
    ("bench", "output=a_file/results"): ("output=a_file/results",),
    ("bench", "output=${oc.env:RLKL_NOT_SET}"): ("output", "RLKL_NOT_SET"),
    ("bench", "x=["): ("not an override",),
    ("bench", "+repetitions=1", "~gamma"): ("gamma",),
    ("board", "--fast"): ("--fast", "there is no such flag"),
    ("board", "--port"): ("--port", "expected a number"),
    ("board", "--port=many"): ("--port=many", "expected a number"),
    ("board", "--port=-1"): ("--port=-1", "expected a number"),
    ("board", "--port=65536"): ("--port=65536", "at most 65535"),
    ("board", f"--port={ENDLESS}"): ("--port=", "expected a number"),
    ("board", "--port=²"): ("--port=²", "expected a number"),
    ("board",): ("runs", "no such folder"),
    ("board", "nowhere"): ("nowhere", "no such folder"),
    ("board", "a_file"): ("a_file", "no such folder"),
    ("board", "empty"): ("empty", "no TensorBoard events"),
    ("board", "a\0b"): ("\\x00", "no such folder"),
    ("board", LONG): ("xxx", "no such folder"),
    ("show", "nothing"): ("rlkl show=nothing", "expected one of"),
    ("show", "claps"): ("rlkl show",),
    ("show", "collapse", "--fast"): ("there is no such flag",),
    ("show", "collapse", "batches=0"): ("batches=0", "at least 1"),
    ("show", "collapse", "batchs=1"): ("did you mean batches",),
    ("show", "collapse", "run_dir=x"): ("experiments log nothing",),
    ("show", "collapse", "checkpoint=nowhere"): ("nowhere", "no such folder"),
    ("show", "collapse", "checkpoint=a_file"): ("a_file", "no such folder"),
    ("show", "collapse", "checkpoint=own"): ("own is not the folder of a run",),
    ("show", "collapse", "checkpoint=damaged/x.pt"): ("damaged/x.pt: there is no such checkpoint",),
    ("show", "collapse", "checkpoint=damaged"): ("damaged", "not a checkpoint"),
    **{
        (*command, text.format(name)): (f"{name}/checkpoints/last.pt", *parts)
        for name, parts in {
            "foreign": ("not the checkpoint of a run",),
            "newer": ("format 99, newer than", "upgrade rlkl"),
            "older": ("format 1, older than",),
        }.items()
        for *command, text in (
            ("show", "collapse", "checkpoint={}"),
            ("evaluate", "{}"),
            ("resume", "{}"),
        )
    },
    ("evaluate", "half"): ("half/checkpoints/last.pt is not the checkpoint of a run",),
    ("show", "collapse", "checkpoint=half"): ("for another version of rlkl",),
    ("resume", "empty"): ("empty/checkpoints has no checkpoint",),
    ("resume", "a_file"): ("a_file: there is no such folder",),
    ("show", "collapse", "checkpoint=empty", "seed=1"): ("has its own settings",),
    ("show", "collapse", "rollout_steps=1000000000000"): ("rollout_steps", "this machine has"),
    ("show", "geometry", "kl=nan"): ("kl=nan",),
    ("show", "geometry", "points=1000000000"): ("points=1000000000", "at most"),
    ("show", "geometry", "gamma=0.5"): ("there is no key 'gamma'",),
    ("show", "geometry", "output=a_file"): ("output=a_file is a file",),
    ("show", "geometry", "output=a_file/x"): ("output=a_file/x",),
    ("show", "geometry", "output=a\0b"): ("output", "\\x00"),
    ("show", "geometry", f"output={LONG}"): ("output=xxx",),
    ("show", "geometry", "x=["): ("not an override",),
    ("show", "estimators", "samples=1000000000000"): ("samples=1000000000000", "at most"),
    ("show", "estimators", "points=1000000000000"): ("points=1000000000000", "at most"),
    ("show", "estimators", "kl_min=2", "kl_max=1"): ("kl_max=1", "above 2"),
    ("show", "beta", "targets=[]"): ("targets=[]", "at least one number"),
    ("show", "beta", "targets=[nan]"): ("targets=nan",),
    ("show", "beta", "seeds=1000000000000"): ("seeds=1000000000000", "at most"),
    ("show", "clip", "learning_rates=3"): ("expected a list",),
    ("show", "clip", "env.id=CartPol-v1"): ("did you mean CartPole-v1",),
    ("tune", "env=cartpole"): ("nothing to tune", "algo.num_epochs=3,10"),
    ("tune", "gamma=interval(0,2)"): ("gamma=2.0, which is to be tried",),
    ("tune", "gamma=interval(0.9,0.9)"): ("expected 0.9 to be below 0.9",),
    ("tune", "gamma=tag(log,interval(0,1))"): ("starts above 0",),
    ("tune", "gamma=tag(lg,interval(0,1))"): ("there is no tag lg",),
    ("tune", "gamma=0.9,0.9"): ("at least two values",),
    ("tune", "gamma=choice()"): ("gamma=choice()",),
    ("tune", "algo.num_epochs=interval(1,5)"): ("int(interval(a,b))",),
    ("tune", "algo.num_epochs=range(1,2)"): ("algo.num_epochs=range(1,2)",),
    ("tune", "algo.num_epoch=3,10"): ("there is no key", "did you mean"),
    ("tune", "algo.num_epochs=0,3"): ("algo.num_epochs=0", "at least 1"),
    ("tune", "gamma=glob(*)"): ("gamma=glob(*)",),
    ("tune", "gamma=[0.9"): ("not an override",),
    ("tune", "~gamma"): ("~gamma",),
    ("tune", "seed=1,2"): ("seeds=N",),
    ("tune", "env=cartpole,acrobot"): ("another task",),
    ("tune", "env.id=CartPole-v1,Acrobot-v1"): ("another task",),
    ("tune", "env.kwargs.g=1,2"): ("another task",),
    ("tune", "total_env_steps=1000,2000"): ("budget of every trial",),
    ("tune", "experiment=smoke,ppo_mujoco"): ("cannot be tuned",),
    ("tune", "gamma=0.9,0.99", "run_dir=x"): ("run_dir=x", "study=DIR"),
    ("tune", "gamma=0.9,0.99", "logger=csv"): ("logger=csv", "study=DIR"),
    ("tune", "gamma=0.9,0.99", "eval_episodes=3"): ("training return",),
    ("tune", "gamma=0.9,0.99", "trials=0"): ("trials=0", "at least 1"),
    ("tune", "gamma=0.9,0.99", "trials=1,2"): ("expected key=value",),
    ("tune", "gamma=0.9,0.99", "trials=many"): ("trials", "many"),
    ("tune", "gamma=0.9,0.99", "seeds=1000"): ("seeds=1000", "at most 100"),
    ("tune", "gamma=0.9,0.99", "pruner=asha"): ("pruner=asha", "median, none"),
    ("tune", "gamma=0.9,0.99", "sampler=tp"): ("sampler=tp", "did you mean tpe"),
    ("tune", "gamma=0.9,0.99", "reports=0"): ("reports=0",),
    ("tune", "gamma=0.9,0.99", "study=a_file"): ("study=a_file is a file",),
    ("tune", "gamma=0.9,0.99", "study=a_file/x"): ("study=a_file/x",),
    ("tune", "gamma=0.9,0.99", "study=own"): ("study=own exists and holds no study",),
    ("tune", "gamma=0.9,0.99", "study=a\0b"): ("study", "\\x00"),
    ("tune", "gamma=0.9,0.99", "env.id=CartPol-v1"): ("did you mean CartPole-v1",),
    ("tune", "gamma=0.9,0.99", "device=moon"): ("device=moon",),
    ("tune", "space=ppo_clp"): ("space=ppo_clp", "did you mean ppo_clip"),
    ("tune", "space=nowhere.yaml"): ("nowhere.yaml", "No such file"),
    ("tune", "space=own/experiment/no_yaml.yaml"): ("no_yaml.yaml, line",),
    ("tune", "space=own/experiment/a_list.yaml"): ("lines of KEY: VALUE",),
    ("tune", "--fast"): ("--fast", "see rlkl tune --help"),
    ("playground", "--fast"): ("--fast", "expected nothing or --output FILE"),
    ("playground", "--output"): ("--output", "expected a file"),
    ("playground", "--output", "a_file"): ("a_file", "exists already"),
    ("playground", "--output", "empty"): ("empty", "exists already"),
    ("playground", "--output", "nowhere/page.html"): ("cannot be written",),
    ("playground", "--output", "a_file/page.html"): ("cannot be written",),
    ("playground", "--output", "a\0b"): ("--output", "\\x00"),
    ("playground", "--output", LONG): ("--output xxx", "cannot be written"),
    ("playground", "--output", ""): ("--output",),
    ("playground", "page.html"): ("expected nothing or --output FILE",),
}


def _cases() -> list[Bad]:
    cases: list[Bad] = []

    def add(kind: str, arguments: tuple[str, ...], *says: str) -> None:
        cases.append(Bad(kind, arguments, says))

    for key, chosen in POSITIVE.items():
        for value in ("0", "-1", *BAD_FLOATS):
            add("range", ("train", *chosen, f"{key}={value}"), f"{key}=", "expected a number")
    for key, values in WITHIN.items():
        for value in (*values, *BAD_FLOATS):
            add("range", ("train", f"{key}={value}"), f"{key}=", "expected a number")
    for key, chosen in COUNTS.items():
        for value in ("0", *BAD_INTEGERS):
            add("range", ("train", *chosen, f"{key}={value}"), key, _expected(value))
    for key, chosen in NOT_NEGATIVE.items():
        for value in BAD_INTEGERS:
            add("range", ("train", *chosen, f"{key}={value}"), key, _expected(value))
    for *chosen, text in OUTSIDE:
        add("range", ("train", *chosen, text), text, "expected a number")
    for text, said in TYPES.items():
        add("type", ("train", text), said)
    for text, said in UNKNOWN.items():
        add("unknown name", ("train", text), said)
    for given, said in CONFLICTS.items():
        add("conflict", ("train", *given), said)
    for given, parts in ABSURD.items():
        add("absurd size", ("train", *given), *parts)
    for given, parts in HOSTILE.items():
        add("hostile text", ("train", *given), *parts)
    for given, parts in SWEEPS.items():
        add("sweep", ("train", "--multirun", *given), *parts)
    for given, parts in ENVIRONMENTS.items():
        add("environment", ("train", *given), *parts)
    for text, parts in RUN_FOLDERS.items():
        add("run folder", ("train", text), *parts)
    for given, parts in FLAGS.items():
        add("flag", given, *parts)
    for name, parts in OWN.items():
        add("config file", ("train", "--config-dir", "own", f"experiment={name}"), *parts)
    for given, parts in CODE.items():
        add("code", ("train", *given), *parts)
    for given, parts in OTHERS.items():
        add("other command", given, *parts)
    return list({case.arguments: case for case in cases}.values())


def _expected(integer: str) -> str:
    return "at least" if integer.lstrip("-").isdecimal() else "expected a whole number"


CASES = _cases()
