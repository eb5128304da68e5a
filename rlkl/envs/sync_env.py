"""Step sub-environments one after the other in this process."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlkl.envs.infos import ROWS, info_row
from rlkl.envs.observations import ACTION_MASK
from rlkl.envs.spaces import FLAT, Leaf, SameStepVectorEnv, leaves, nested


class SyncVectorEnv(SameStepVectorEnv):
    """Steps N sub-environments in this process, with SAME_STEP autoreset.

    Observations, rewards, terminated, truncated, final observations and action masks are
    bit-for-bit those of Gymnasium's class of the same name, in less time, because of other entries
    of an info only the numbers `info_keys` are gathered. Results are copied: an environment may
    return the same array at each step. Observations are cast to their space's type and broadcast to
    its shape, so each sub-environment needs an `EnvChecker`. Actions must be of a space that
    `check_action_space` accepts.

    Raises:
        RuntimeError: the spaces of the sub-environments differ.
    """

    def __init__(
        self, makers: Sequence[Callable[[], gym.Env[Any, Any]]], info_keys: Sequence[str] = ()
    ) -> None:
        self._info_keys = tuple(info_keys)
        self.envs: list[gym.Env[Any, Any]] = []
        try:
            for make in makers:
                self.envs.append(make())
        except BaseException:
            for env in self.envs:
                env.close()
            raise
        first = self.envs[0]
        super().__init__(len(self.envs), first.observation_space, first.action_space)
        self.metadata = first.metadata | self.metadata
        self.render_mode = first.render_mode
        for env in self.envs:
            for kind in ("observation_space", "action_space"):
                found, expected = getattr(env, kind), getattr(first, kind)
                if found != expected:
                    raise RuntimeError(
                        f"the sub-environments differ in {kind}: {found} is not {expected}"
                    )
        self._leaves = list(leaves(self.single_observation_space))
        self._is_flat = isinstance(self.single_observation_space, FLAT)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Reset all sub-environments, with a seed each; return as `step` does."""
        seeds = [None] * self.num_envs if seed is None else seed
        buffers, infos = self._buffers(), dict[str, Any]()
        for i, (env, own) in enumerate(zip(self.envs, seeds, strict=True)):
            observation, info = env.reset(seed=own, options=options)
            for leaf, buffer in buffers:
                buffer[i] = leaf.select(observation)
            if ACTION_MASK in info:
                self._keep_mask(infos, i, info[ACTION_MASK])
        return self._nested(buffers), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all sub-environments, and reset those whose episode ended.

        Returns:
            Observations, rewards `[N]`, terminated `[N]`, truncated `[N]`, and a dict with, if
            there are any, `final_obs` (a list of N, None unless the episode ended), `action_mask`
            (a list of N) and `_action_mask` (which sub-environments returned one, `[N]`).
        """
        count, buffers, infos = self.num_envs, self._buffers(), dict[str, Any]()
        flat, keys = buffers[0][1] if self._is_flat else None, self._info_keys
        rewards: NDArray[np.float64] = np.empty(count, np.float64)
        terminated: NDArray[np.bool_] = np.zeros(count, np.bool_)
        truncated: NDArray[np.bool_] = np.zeros(count, np.bool_)
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            observation, rewards[i], is_terminated, is_truncated, info = env.step(action)
            if keys:
                infos.setdefault(ROWS, [None] * count)[i] = info_row(info, keys)
            if is_terminated or is_truncated:
                terminated[i], truncated[i] = is_terminated, is_truncated
                # A copy: the environment may write its first observation into the same array.
                infos.setdefault("final_obs", [None] * count)[i] = deepcopy(observation)
                observation, info = env.reset()
            if flat is not None:
                flat[i] = observation
            else:
                for leaf, buffer in buffers:
                    buffer[i] = leaf.select(observation)
            if ACTION_MASK in info:
                self._keep_mask(infos, i, info[ACTION_MASK])
        return self._nested(buffers), rewards, terminated, truncated, infos

    def call(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Return an attribute of each sub-environment, or what it returns if it can be called."""
        found = [env.get_wrapper_attr(name) for env in self.envs]
        return [value(*args, **kwargs) if callable(value) else value for value in found]

    def set_attr(self, name: str, values: list[Any]) -> None:
        """Set an attribute of each sub-environment."""
        for env, value in zip(self.envs, values, strict=True):
            env.set_wrapper_attr(name, value)

    def _buffers(self) -> list[tuple[Leaf, Any]]:
        """Return each leaf with a buffer for N observations; a list if no array can hold them."""
        count = self.num_envs
        return [
            (leaf, np.empty((count, *leaf.shape), leaf.dtype) if leaf.is_array else [None] * count)
            for leaf in self._leaves
        ]

    def _nested(self, buffers: list[tuple[Leaf, Any]]) -> Any:
        """Return the contents of the buffers, nested like the batched space."""
        if self._is_flat:
            return buffers[0][1]
        parts = (tuple(buffer) if isinstance(buffer, list) else buffer for _, buffer in buffers)
        return nested(self.single_observation_space, parts)

    def _keep_mask(self, infos: dict[str, Any], i: int, mask: Any) -> None:
        if ACTION_MASK not in infos:
            infos[ACTION_MASK] = [None] * self.num_envs
            infos[f"_{ACTION_MASK}"] = np.zeros(self.num_envs, np.bool_)
        infos[ACTION_MASK][i] = mask.copy() if isinstance(mask, np.ndarray) else mask
        infos[f"_{ACTION_MASK}"][i] = True

    def close_extras(self, **_: Any) -> None:
        """Close the sub-environments."""
        for env in self.envs:
            env.close()
