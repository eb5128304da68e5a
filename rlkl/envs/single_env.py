"""Make single sub-environments: with their checks, wrappers and stacked frames."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import FilterObservation, FrameStackObservation

from rlkl.envs.checks import EnvChecker
from rlkl.envs.ids import find_spec
from rlkl.envs.spaces import leaves
from rlkl.envs.wrappers import Wrapper, found_wrappers, is_video


def makers(config: Any) -> list[Callable[[], gym.Env[Any, Any]]]:
    """Return N functions that make a sub-environment of an `EnvConfig` each, in any process.

    Another process may not have the id of the environment, so they have its spec.
    """
    spec, found = find_spec(config.id), found_wrappers(config.wrappers)
    others = [pair for pair in found if not is_video(pair[0])]
    stacks = config.frame_stack > 1
    keeps = stacks or config.backend == "async"  # Gymnasium's worker, during the next reset

    def make(wrapped_by: list[tuple[Wrapper, dict[str, Any]]]) -> gym.Env[Any, Any]:
        records = len(wrapped_by) > len(others)
        arguments = ({"render_mode": "rgb_array"} if records else {}) | config.kwargs
        env = gym.make(spec, disable_env_checker=True, **arguments)
        if wrapped_by:  # they may keep observations
            env = EnvChecker(env, copy_observations=True)
        for wrap, options in wrapped_by:
            env = wrap(env, **options)
        env = EnvChecker(env, copy_observations=keeps)
        if not stacks:
            return env
        env = _with_chosen_parts(env, config.observation_keys)
        return FrameStackObservation(env, config.frame_stack)

    return [partial(make, found), *[partial(make, others)] * (config.num_envs - 1)]


def _with_chosen_parts(env: gym.Env[Any, Any], keys: list[str]) -> gym.Env[Any, Any]:
    """Drop the unused parts of observations, if any of them cannot be stacked."""
    space: Any = env.observation_space
    used = {key.partition("/")[0] for key in keys}
    unstackable = [leaf for leaf in leaves(space) if not leaf.is_array]
    if not used or not any(str(leaf.path[0]) not in used for leaf in unstackable if leaf.path):
        return env
    parts = range(len(space)) if isinstance(space, gym.spaces.Tuple) else space
    return FilterObservation(env, [part for part in parts if str(part) in used])
