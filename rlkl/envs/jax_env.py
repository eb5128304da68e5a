"""Step functional JAX environments: Gymnasium's (`phys2d/...`), Brax's and MuJoCo Playground's."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlkl.envs.spaces import SameStepVectorEnv


class JaxVectorEnv(SameStepVectorEnv):
    """N sub-environments in one compiled step, with SAME_STEP autoreset and final observations.

    First states are computed for all rows and used where an episode ended, so shapes are constant.
    The environment is pure functions of N rows, for `jax.jit`.

    Args:
        initial: N keys to first states, a tree of arrays with N rows each.
        step: states, actions and N keys to the next states, rewards `[N]`, terminations `[N]` and
            truncations `[N]`.
        observe: states and N keys to observations of N rows.
        num_envs: N.
        max_episode_steps: time limit, in environment steps; 0 for none.
        observation_space: of one sub-environment.
        action_space: of one sub-environment.
    """

    def __init__(
        self,
        initial: Callable[[Any], Any],
        step: Callable[[Any, Any, Any], tuple[Any, Any, Any, Any]],
        observe: Callable[[Any, Any], Any],
        num_envs: int,
        max_episode_steps: int,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
    ) -> None:
        import jax  # noqa: PLC0415

        super().__init__(num_envs, observation_space, action_space)
        self.max_episode_steps = max_episode_steps
        self._initial, self._after, self._observe = initial, step, observe
        self._jax: Any = jax
        self._begin = jax.jit(self._first)
        self._advance = jax.jit(self._advanced)
        self._carried: Any = None  # states, steps in each episode, and the key of random numbers

    def _first(self, key: Any) -> tuple[Any, Any]:
        """Return first states and observations."""
        random, count = self._jax.random, self.num_envs
        key, first, seen = random.split(key, 3)
        states = self._initial(random.split(first, count))
        steps = self._jax.numpy.zeros(count, self._jax.numpy.int32)
        return (states, steps, key), self._observe(states, random.split(seen, count))

    def _advanced(self, carried: Any, actions: Any) -> tuple[Any, Any]:
        """Return what is carried on, and the results of a step."""
        random, jnp, count = self._jax.random, self._jax.numpy, self.num_envs
        states, steps, key = carried
        key, now, first, seen = random.split(key, 4)
        keys = random.split(now, count)
        after, rewards, terminated, truncated = self._after(states, actions, keys)
        steps = steps + 1
        if self.max_episode_steps:
            truncated = truncated | (steps >= self.max_episode_steps)
        ended = terminated | truncated
        fresh = self._initial(random.split(first, count))

        def chosen(first: Any, following: Any) -> Any:
            return jnp.where(ended.reshape(-1, *(1,) * (following.ndim - 1)), first, following)

        states = self._jax.tree.map(chosen, fresh, after)
        keys = random.split(seen, count)
        finals = self._observe(after, keys)
        shown = self._observe(states, keys)
        carried = states, jnp.where(ended, 0, steps), key
        return carried, (shown, rewards, terminated, truncated, finals, ended)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all sub-environments; without a seed, the random numbers continue."""
        if seed is not None or self._carried is None:
            key = self._jax.random.PRNGKey(0 if seed is None else seed)
        else:
            key = self._carried[2]
        self._carried, observations = self._begin(key)
        return observations, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all sub-environments; `final_obs` has N rows, those of ended episodes count."""
        self._carried, results = self._advance(self._carried, actions)
        shown, rewards, terminated, truncated, finals, ended = results
        return shown, rewards, terminated, truncated, {"final_obs": finals, "_final_obs": ended}

    def get_state(self) -> list[Tensor]:
        """Return everything that future steps depend on; unsigned integers as signed ones."""
        arrays = [np.asarray(leaf) for leaf in self._jax.tree.leaves(self._carried)]
        signed = {"u": lambda array: array.view(f"i{array.dtype.itemsize}")}
        plain = [signed.get(array.dtype.kind, np.array)(array) for array in arrays]
        return [torch.from_numpy(array.copy()) for array in plain]

    def set_state(self, state: list[Tensor]) -> None:
        """Restore what `get_state` returned; the sub-environments must have been reset."""
        leaves, tree = self._jax.tree.flatten(self._carried)
        restored = [
            self._jax.numpy.asarray(tensor.cpu().numpy().view(leaf.dtype))
            for tensor, leaf in zip(state, leaves, strict=True)
        ]
        self._carried = self._jax.tree.unflatten(tree, restored)


def from_gymnasium(envs: Any) -> JaxVectorEnv:
    """Return Gymnasium's functional environment, stepped by `JaxVectorEnv`.

    In Gymnasium 1.4 its own `FunctionalJaxVectorEnv`, whose functions are vectorised already, lets
    all other sub-environments stand still while one is reset, and each step waits for the device.
    """
    functional = envs.func_env

    def step(states: Any, actions: Any, keys: Any) -> tuple[Any, Any, Any, Any]:
        after = functional.transition(states, actions, keys)
        terminated = functional.terminal(after, keys)
        rewards = functional.reward(states, actions, after, keys)
        return after, rewards, terminated, terminated & False

    functions = lambda keys: functional.initial(rng=keys), step, functional.observation
    spaces = envs.single_observation_space, envs.single_action_space
    return JaxVectorEnv(*functions, envs.num_envs, envs.time_limit, *spaces)


def from_brax(
    env: Any,
    num_envs: int,
    max_episode_steps: int = 1000,
    observation_key: str = "state",
) -> JaxVectorEnv:
    """Return an environment of Brax or MuJoCo Playground as a vector environment.

    Args:
        env: one with `reset(key)` and `step(state, action)`, without wrappers.
        num_envs: N.
        max_episode_steps: time limit, in environment steps.
        observation_key: the part to use if observations are a dict.
    """
    import jax  # noqa: PLC0415

    def seen(states: Any) -> Any:
        return states.obs[observation_key] if isinstance(states.obs, dict) else states.obs

    def step(states: Any, actions: Any, keys: Any) -> tuple[Any, Any, Any, Any]:
        after = jax.vmap(env.step)(states, actions)
        done = after.done.astype(bool)
        return after, after.reward, done, done & False

    size = env.observation_size
    size = size[observation_key] if isinstance(size, dict) else size
    shape = (size,) if isinstance(size, int) else tuple(size)
    return JaxVectorEnv(
        jax.vmap(env.reset),
        step,
        lambda states, keys: seen(states),
        num_envs,
        max_episode_steps,
        gym.spaces.Box(-np.inf, np.inf, shape, np.float32),
        gym.spaces.Box(-1, 1, (env.action_size,), np.float32),
    )
