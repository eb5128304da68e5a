"""Copies of an environment in this process, stepped one after the other at little extra cost."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Dict, Tuple
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from rlkl.envs.spaces import ACTION_MASK, FLAT, Leaf, leaves


class Copies(gym.vector.VectorEnv[Any, Any, Any]):
    """Steps N copies in this process, with SAME_STEP autoreset.

    To whoever reads observations, rewards, ends, final observations and action masks it is
    gymnasium's SyncVectorEnv, bit for bit; no other entry of an info is gathered. What it returns
    is its own: an environment may show the same array over and over. Observations are cast to
    their space's type and broadcast to its shape, so each copy wants a `Guard`.

    With 8 guarded copies of HalfCheetah-v5 a step took 0.73 ms, 0.69 of them in the environments;
    in SyncVectorEnv, which gathers the infos, it took 0.92 ms.

    Args:
        makers: of the copies, one each.

    Raises:
        RuntimeError: the copies' spaces differ.
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
                own, expected = getattr(env, kind), getattr(first, kind)
                if own != expected:
                    raise RuntimeError(f"the copies differ in {kind}: {own} is not {expected}")
        # Each leaf with the shape and type of the room for N of it; no shape if no array holds it.
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
        """Begin N episodes.

        Args:
            seed: one for each copy, or the first of N numbers in a row.
            options: passed to each copy.

        Returns:
            Observations, and action masks as `step` gives them.
        """
        if seed is None or isinstance(seed, int):
            seed = [None if seed is None else seed + i for i in range(self.num_envs)]
        rooms, infos = self._rooms(), dict[str, Any]()
        for i, (env, own) in enumerate(zip(self.envs, seed, strict=True)):
            observation, info = env.reset(seed=own, options=options)
            for leaf, room in rooms:
                room[i] = leaf.of(observation)
            if ACTION_MASK in info:
                self._keep_mask(infos, i, info[ACTION_MASK])
        return self._nested(rooms), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all copies, and begin the next episode of those that ended.

        Args:
            actions: one for each copy, batched as gymnasium batches the action space.

        Returns:
            Observations, rewards `[N]`, terminated `[N]`, truncated `[N]`, and in a dict, where
            there are any, `final_obs` (a list of N, None but for episodes that ended) and
            `action_mask` (a list of N) with `_action_mask` (who gave one, `[N]`).
        """
        count, rooms, infos = self.num_envs, self._rooms(), dict[str, Any]()
        whole = rooms[0][1] if self._is_flat else None
        rewards: NDArray[np.float64] = np.empty(count, np.float64)
        terminated: NDArray[np.bool_] = np.zeros(count, np.bool_)
        truncated: NDArray[np.bool_] = np.zeros(count, np.bool_)
        each = actions if self._is_action_flat else iterate(self.action_space, actions)
        for i, (env, action) in enumerate(zip(self.envs, each, strict=True)):
            observation, rewards[i], is_over, is_cut, info = env.step(action)
            if is_over or is_cut:
                terminated[i], truncated[i] = is_over, is_cut
                # A copy, since the environment may write its first observation into the same array.
                infos.setdefault("final_obs", [None] * count)[i] = deepcopy(observation)
                observation, info = env.reset()
            if whole is not None:
                whole[i] = observation
            else:
                for leaf, room in rooms:
                    room[i] = leaf.of(observation)
            if ACTION_MASK in info:
                self._keep_mask(infos, i, info[ACTION_MASK])
        return self._nested(rooms), rewards, terminated, truncated, infos

    def _rooms(self) -> list[tuple[Leaf, Any]]:
        """Return room for N observations, leaf by leaf; a list where no array will hold them."""
        return [
            (leaf, [None] * self.num_envs if shape is None else np.empty(shape, dtype))
            for leaf, shape, dtype in self._plan
        ]

    def _nested(self, rooms: list[tuple[Leaf, Any]]) -> Any:
        """Return what was put into the rooms in the form of the batched space."""
        if self._is_flat:
            return rooms[0][1]
        parts = (tuple(room) if isinstance(room, list) else room for _, room in rooms)
        return nested(self.single_observation_space, parts)

    def _keep_mask(self, infos: dict[str, Any], copy: int, mask: Any) -> None:
        if ACTION_MASK not in infos:
            infos[ACTION_MASK] = [None] * self.num_envs
            infos[f"_{ACTION_MASK}"] = np.zeros(self.num_envs, np.bool_)
        infos[ACTION_MASK][copy] = mask.copy() if isinstance(mask, np.ndarray) else mask
        infos[f"_{ACTION_MASK}"][copy] = True

    def call(self, name: str, *given: Any, **named: Any) -> tuple[Any, ...]:
        """Return what a method of each copy returns, or its attribute if that is no method."""
        found = [env.get_wrapper_attr(name) for env in self.envs]
        return tuple(part(*given, **named) if callable(part) else part for part in found)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of each copy."""
        return self.call(name)

    def close_extras(self, **_: Any) -> None:
        """Close the copies."""
        for env in self.envs:
            env.close()


def nested(space: gym.Space[Any], parts: Iterator[Any]) -> Any:
    """Return the parts of an observation, or of a batch, in the form that its space has.

    Args:
        space: of one observation.
        parts: one for each leaf, in the order of `rlkl.envs.spaces.leaves`.
    """
    if isinstance(space, Dict):
        return {key: nested(part, parts) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(nested(part, parts) for part in space.spaces)
    return next(parts)
