"""Known environments with changed physics, to fine-tune a policy on."""

from typing import Any

from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import register

from rlkl.utils.validation import check_range


class PoleCartPole(CartPoleEnv):
    """CartPole with a pole of another length; observations, actions and rewards are the same.

    Args:
        length: half of the pole's length in metres; CartPole's is 0.5.
        **kwargs: of CartPole.
    """

    def __init__(self, length: float = 0.5, **kwargs: Any) -> None:
        check_range("env.kwargs.length", length, above=0)
        super().__init__(**kwargs)
        self.length = length
        self.polemass_length = self.masspole * length


register("rlkl/PoleCartPole-v1", "rlkl.envs.changed_tasks:PoleCartPole", max_episode_steps=500)
