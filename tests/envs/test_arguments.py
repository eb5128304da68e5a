"""Arguments of constructors: lists become tuples, and unknown ones are named."""

import gymnasium as gym
import pytest
import small_environments

from rlkl.envs.arguments import unknown_argument, with_tuples
from rlkl.envs.make import EnvConfig, make_vector_env


class Rectangle(small_environments.Trouble):
    """Accepts only tuples."""

    def __init__(self, size=(2, 3), corners=None, limits: tuple[float, float] | None = None):
        super().__init__()
        hash(size)
        hash(limits)
        self.arguments = (size, corners, limits)


gym.register("SmallRectangle-v0", entry_point=Rectangle, kwargs={"corners": (0, 0)})


def test_lists_become_tuples_for_tuple_arguments() -> None:
    kwargs = {"size": [4, 5], "corners": [1, 1], "limits": [0.5, 1.5]}
    envs = make_vector_env(EnvConfig("SmallRectangle-v0", 1, "sync", kwargs=kwargs))
    assert envs._envs.envs[0].unwrapped.arguments == ((4, 5), (1, 1), (0.5, 1.5))
    envs.close()


def test_other_lists_stay_lists() -> None:
    desc = ["SF", "FG"]
    made = with_tuples(
        {"desc": desc, "map_name": None}, gym.spec("FrozenLake-v1"), vectorized=False
    )
    assert made == {"desc": desc, "map_name": None}


def unknown_in_cartpole(name: str, message: str) -> str:
    kwargs, spec = {name: 1}, gym.spec("CartPole-v1")
    return unknown_argument(TypeError(message), kwargs, spec, vectorized=False)


def test_unknown_argument_is_named_with_similar_one() -> None:
    text = unknown_in_cartpole("suton_barto", "got an unexpected keyword argument 'suton_barto'")
    assert text.startswith(
        "env.kwargs.suton_barto=1: the constructor of CartPole-v1 has no argument 'suton_barto' "
    )
    assert "did you mean sutton_barto_reward" in text
    assert text.endswith("it has sutton_barto_reward, render_mode, max_episode_steps")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("render_mode", "got an unexpected keyword argument 'render_mode'"),
        ("length", "got an unexpected keyword argument 'mass'"),
        ("length", "length must be positive"),
    ],
)
def test_other_errors_are_not_about_arguments(name: str, message: str) -> None:
    assert unknown_in_cartpole(name, message) == ""
