"""Public tasks, registered with gymnasium when this module is imported."""

from rlkl.envs.tasks import HiddenVelocity, PoleCartPole, Recall, hidden_velocity_cartpole

__all__ = ["HiddenVelocity", "PoleCartPole", "Recall", "hidden_velocity_cartpole"]
