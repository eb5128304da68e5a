"""Public memory tasks, registered with gymnasium when this module is imported."""

from rlkl.envs.memory_tasks import HiddenVelocity, Recall, hidden_velocity_cartpole

__all__ = ["HiddenVelocity", "Recall", "hidden_velocity_cartpole"]
