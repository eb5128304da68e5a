"""Make single sub-environments: with their checks, wrappers and stacked frames."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import FilterObservation, FrameStackObservation

from rlkl.envs.checks import EnvChecker
from rlkl.envs.spaces import FLAT, leaves
from rlkl.envs.wrappers import Wrapper, found_wrappers, is_video


def makers(
    spec: EnvSpec,
    num_envs: int,
    kwargs: dict[str, Any],
    wrappers: list[Any],
    frame_stack: int,
    observation_keys: list[str],
    *,
    copies: bool,
) -> list[Callable[[], gym.Env[Any, Any]]]:
    """Return N functions that make a sub-environment each, in any process.

    Args:
        spec: of the environment; another process may not have its id.
        num_envs: N.
        kwargs: of the constructor.
        wrappers: entries of `env.wrappers`.
        frame_stack: number of stacked observations.
        observation_keys: the parts of observations that are used.
        copies: whether the caller keeps observations during the next reset.
    """
    found = found_wrappers(wrappers)
    others = [pair for pair in found if not is_video(pair[0])]
    stacks = frame_stack > 1

    def make(wrapped_by: list[tuple[Wrapper, dict[str, Any]]]) -> gym.Env[Any, Any]:
        records = len(wrapped_by) > len(others)
        arguments = ({"render_mode": "rgb_array"} if records else {}) | kwargs
        env = gym.make(spec, disable_env_checker=True, **arguments)
        if wrapped_by:  # they may keep observations
            env = EnvChecker(env, copy_observations=True)
        for wrap, options in wrapped_by:
            env = wrap(env, **options)
        env = EnvChecker(env, copy_observations=stacks or copies)
        if not stacks:
            return env
        return FrameStackObservation(_with_chosen_parts(env, observation_keys), frame_stack)

    return [partial(make, found), *[partial(make, others)] * (num_envs - 1)]


def _with_chosen_parts(env: gym.Env[Any, Any], keys: list[str]) -> gym.Env[Any, Any]:
    """Drop the unused parts of observations, if any of them cannot be stacked."""
    space: Any = env.observation_space
    used = {key.partition("/")[0] for key in keys}
    unstackable = [leaf for leaf in leaves(space) if not isinstance(leaf.space, FLAT)]
    if not used or not any(str(leaf.path[0]) not in used for leaf in unstackable if leaf.path):
        return env
    if isinstance(space, gym.spaces.Tuple):
        return FilterObservation(env, [i for i in range(len(space)) if str(i) in used])
    return FilterObservation(env, [key for key in space if key in used])
