"""Public tasks, registered with gymnasium when this module is imported."""

from rlkl.envs.changed_tasks import PoleCartPole
from rlkl.envs.memory_tasks import HiddenVelocity, Recall, hidden_velocity_cartpole

__all__ = ["HiddenVelocity", "PoleCartPole", "Recall", "hidden_velocity_cartpole"]
