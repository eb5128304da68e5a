"""The public names of rlkl, which `import rlkl` has too."""

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.base import AlgoConfig, PolicyOptimizer
from rlkl.algos.critic import CriticConfig
from rlkl.algos.fixpo import FixPOConfig
from rlkl.algos.klip_ppo import KLipPPOConfig
from rlkl.algos.mdpo import MDPOConfig
from rlkl.algos.npg import NPGConfig
from rlkl.algos.ppo_clip import PPOClipConfig
from rlkl.algos.ppo_ewma import PPOEWMAConfig
from rlkl.algos.ppo_kl import PPOKLConfig, PPOKLFixedConfig
from rlkl.algos.ppo_kl_lr import PPOKLLRConfig
from rlkl.algos.spo import SPOConfig
from rlkl.algos.trpl import TRPLConfig
from rlkl.algos.trpo import TRPOConfig
from rlkl.algos.truly_ppo import TrulyPPOConfig
from rlkl.algos.vanilla_pg import VanillaPGConfig
from rlkl.algos.vmpo import VMPOConfig
from rlkl.envs.make import EnvConfig
from rlkl.envs.wrappers import register_wrapper
from rlkl.loading import load_policy
from rlkl.models.own_networks import (
    register_actor_critic,
    register_actor_head,
    register_encoder,
)
from rlkl.models.policy import PolicyConfig
from rlkl.numerics.schedules import register_schedule
from rlkl.tools.cloning.clone import clone
from rlkl.tools.cloning.config import CloneConfig
from rlkl.tools.packaging import package
from rlkl.training.callbacks import Callback, Stop
from rlkl.training.checkpoint import CheckpointConfig
from rlkl.training.config import TrainConfig
from rlkl.training.loggers import Logger, LoggerConfig
from rlkl.training.reference import ReferenceConfig
from rlkl.training.report import Report
from rlkl.training.summary import Summary
from rlkl.training.trained_policy import evaluate
from rlkl.training.trainer import Trainer, resume, train
from rlkl.utils.errors import ConfigError
from rlkl.version import __version__

__all__ = [
    "ALGORITHMS",
    "AlgoConfig",
    "Callback",
    "CheckpointConfig",
    "CloneConfig",
    "ConfigError",
    "CriticConfig",
    "EnvConfig",
    "FixPOConfig",
    "KLipPPOConfig",
    "Logger",
    "LoggerConfig",
    "MDPOConfig",
    "NPGConfig",
    "PPOClipConfig",
    "PPOEWMAConfig",
    "PPOKLConfig",
    "PPOKLFixedConfig",
    "PPOKLLRConfig",
    "PolicyConfig",
    "PolicyOptimizer",
    "ReferenceConfig",
    "Report",
    "SPOConfig",
    "Stop",
    "Summary",
    "TRPLConfig",
    "TRPOConfig",
    "TrainConfig",
    "Trainer",
    "TrulyPPOConfig",
    "VMPOConfig",
    "VanillaPGConfig",
    "__version__",
    "clone",
    "evaluate",
    "load_policy",
    "make_policy_optimizer",
    "package",
    "register_actor_critic",
    "register_actor_head",
    "register_encoder",
    "register_schedule",
    "register_wrapper",
    "resume",
    "train",
]
