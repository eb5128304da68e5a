"""Step sub-environments one after the other in this process."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from rlkl.envs.observations import ACTION_MASK
from rlkl.envs.spaces import FLAT, Leaf, leaves, nested


class SyncVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """Steps N sub-environments in this process, with SAME_STEP autoreset.

    Observations, rewards, terminated, truncated, final observations and action masks are
    bit-for-bit those of Gymnasium's class of the same name, in less time, because no other entry of
    an info is gathered. Results are copied: an environment may return the same array at each step.
    Observations are cast to their space's type and broadcast to its shape, so each sub-environment
    needs an `EnvChecker`.

    Args:
        makers: of the sub-environments, one each.

    Raises:
        RuntimeError: the spaces of the sub-environments differ.
    """

    def __init__(self, makers: Sequence[Callable[[], gym.Env[Any, Any]]]) -> None:
        self.envs: list[gym.Env[Any, Any]] = []
        for make in makers:
            self.envs.append(make())
        self.num_envs = len(self.envs)
        first = self.envs[0]
        self.metadata = first.metadata | {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = first.render_mode
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        for env in self.envs:
            for kind in ("observation_space", "action_space"):
                found, expected = getattr(env, kind), getattr(first, kind)
                if found != expected:
                    raise RuntimeError(
                        f"the sub-environments differ in {kind}: {found} is not {expected}"
                    )
        # Each leaf with the shape and type of its buffer; no shape if no array can hold it.
        self._plan = [
            (leaf, (self.num_envs, *leaf.shape), leaf.dtype)
            if isinstance(leaf.space, FLAT)
            else (leaf, None, None)
            for leaf in leaves(self.single_observation_space)
        ]
        self._is_flat = isinstance(self.single_observation_space, FLAT)
        self._is_action_flat = isinstance(self.single_action_space, FLAT)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all sub-environments.

        Args:
            seed: one for each sub-environment, or the first of N consecutive numbers.
            options: passed to each sub-environment.

        Returns:
            Observations, and action masks as `step` returns them.
        """
        if seed is None or isinstance(seed, int):
            seed = [None if seed is None else seed + i for i in range(self.num_envs)]
        buffers, infos = self._buffers(), dict[str, Any]()
        for i, (env, own) in enumerate(zip(self.envs, seed, strict=True)):
            observation, info = env.reset(seed=own, options=options)
            for leaf, buffer in buffers:
                buffer[i] = leaf.select(observation)
            if ACTION_MASK in info:
                self._keep_mask(infos, i, info[ACTION_MASK])
        return self._nested(buffers), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all sub-environments, and reset those whose episode ended.

        Args:
            actions: one for each sub-environment, batched as Gymnasium batches the action space.

        Returns:
            Observations, rewards `[N]`, terminated `[N]`, truncated `[N]`, and a dict with, if
            there are any, `final_obs` (a list of N, None unless the episode ended), `action_mask`
            (a list of N) and `_action_mask` (which sub-environments returned one, `[N]`).
        """
        count, buffers, infos = self.num_envs, self._buffers(), dict[str, Any]()
        flat = buffers[0][1] if self._is_flat else None
        rewards: NDArray[np.float64] = np.empty(count, np.float64)
        terminated: NDArray[np.bool_] = np.zeros(count, np.bool_)
        truncated: NDArray[np.bool_] = np.zeros(count, np.bool_)
        each = actions if self._is_action_flat else iterate(self.action_space, actions)
        for i, (env, action) in enumerate(zip(self.envs, each, strict=True)):
            observation, rewards[i], is_terminated, is_truncated, info = env.step(action)
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

    def _buffers(self) -> list[tuple[Leaf, Any]]:
        """Return each leaf with a buffer for N observations; a list if no array can hold them."""
        return [
            (leaf, [None] * self.num_envs if shape is None else np.empty(shape, dtype))
            for leaf, shape, dtype in self._plan
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

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of each sub-environment, or return its attribute."""
        found = [env.get_wrapper_attr(name) for env in self.envs]
        return tuple(part(*args, **kwargs) if callable(part) else part for part in found)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of each sub-environment."""
        return self.call(name)

    def close_extras(self, **_: Any) -> None:
        """Close the sub-environments."""
        for env in self.envs:
            env.close()
