"""CartPole, Pendulum and Acrobot in torch: N sub-environments as tensors on any device."""

import math
from abc import abstractmethod
from collections.abc import Callable
from copy import deepcopy
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from rlkl.envs.spaces import SameStepVectorEnv


class TorchVectorEnv(SameStepVectorEnv):
    """N sub-environments whose state is one float64 tensor `[N, S]`.

    `step` never waits for the device, and its shapes and random numbers do not depend on data:
    first states are drawn for all rows, and used where an episode ended (SAME_STEP autoreset).

    Args:
        num_envs: N.
        device: of all tensors.
        max_episode_steps: time limit, in environment steps.

    Attributes:
        OBSERVATIONS: observations are within ± these, `[D]`.
        ACTIONS: the action space of one sub-environment.
        FIRST: first states are uniform within ± these, `[S]`.
    """

    OBSERVATIONS: tuple[float, ...]
    ACTIONS: ClassVar[gym.Space[Any]]
    FIRST: tuple[float, ...]

    def __init__(
        self, num_envs: int, device: torch.device | str = "cpu", max_episode_steps: int = 500
    ) -> None:
        high = np.array(self.OBSERVATIONS, np.float32)
        super().__init__(num_envs, Box(-high, high), deepcopy(self.ACTIONS))
        self.device = torch.device(device)
        self.max_episode_steps = max_episode_steps
        self._generator = torch.Generator(self.device)
        self._steps = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._state = torch.empty(0)
        # Made here, because a tensor from Python numbers waits for the device.
        self._bounds = torch.tensor(self.FIRST, dtype=torch.float64, device=self.device)

    def _initial(self) -> Tensor:
        """Draw first states for all rows, `[N, S]`."""
        shape, kind = (self.num_envs, len(self._bounds)), torch.float64
        numbers = torch.rand(shape, generator=self._generator, dtype=kind, device=self.device)
        return (2 * numbers - 1) * self._bounds

    @abstractmethod
    def _advance(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next states `[N, S]`, the rewards `[N]` and the terminations `[N]`."""

    @abstractmethod
    def _observe(self, state: Tensor) -> Tensor:
        """Return the observations of states, float32, `[N, D]`."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Reset all sub-environments; without a seed, the random numbers continue."""
        if seed is not None:
            self._generator.manual_seed(seed)
        self._state = self._initial()
        self._steps = torch.zeros_like(self._steps)
        return self._observe(self._state), {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step all sub-environments with `[N]` integers or `[N, A]` numbers, on the device.

        Returns:
            Observations (first ones where an episode ended), rewards, terminations, truncations,
            and `final_obs` `[N, D]` with `_final_obs` `[N]`. In rows without an episode end,
            `final_obs` equals the observations.
        """
        state, rewards, terminated = self._advance(self._state, actions)
        steps = self._steps + 1
        truncated = steps >= self.max_episode_steps
        ended = terminated | truncated
        self._state = torch.where(ended[:, None], self._initial(), state)
        self._steps = steps.masked_fill(ended, 0)
        infos = {"final_obs": self._observe(state), "_final_obs": ended}
        return self._observe(self._state), rewards, terminated, truncated, infos

    def get_state(self) -> dict[str, Tensor]:
        """Return everything that future steps depend on."""
        generator = self._generator.get_state()
        return {"state": self._state, "steps": self._steps, "generator": generator}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `get_state` returned."""
        self._state = state["state"].to(self.device)
        self._steps = state["steps"].to(self.device)
        self._generator.set_state(state["generator"].cpu())


class TorchCartPole(TorchVectorEnv):
    """CartPole-v1: push a cart so that its pole stays up.

    With `sutton_barto_reward` the reward is -1 for a fall and else 0, instead of 1 for every step.
    """

    GRAVITY, LENGTH, FORCE, TAU = 9.8, 0.5, 10.0, 0.02
    POLE_MASS, TOTAL_MASS = 0.1, 1.1
    X_LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * math.pi / 360
    OBSERVATIONS, ACTIONS = (2 * X_LIMIT, math.inf, 2 * ANGLE_LIMIT, math.inf), Discrete(2)
    FIRST = (0.05,) * 4

    def __init__(
        self,
        num_envs: int,
        device: torch.device | str = "cpu",
        max_episode_steps: int = 500,
        sutton_barto_reward: bool = False,
    ) -> None:
        super().__init__(num_envs, device, max_episode_steps)
        self.sutton_barto_reward = sutton_barto_reward

    def _advance(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, x_dot, theta, theta_dot = state.unbind(-1)
        force = (2 * actions - 1) * self.FORCE
        cosine, sine = theta.cos(), theta.sin()
        moment = self.POLE_MASS * self.LENGTH
        push = (force + moment * theta_dot.square() * sine) / self.TOTAL_MASS
        inertia = self.LENGTH * (4 / 3 - self.POLE_MASS * cosine.square() / self.TOTAL_MASS)
        theta_acceleration = (self.GRAVITY * sine - cosine * push) / inertia
        x_acceleration = push - moment * theta_acceleration * cosine / self.TOTAL_MASS
        rates = torch.stack((x_dot, x_acceleration, theta_dot, theta_acceleration), -1)
        state = state + self.TAU * rates
        terminated = (state[:, 0].abs() > self.X_LIMIT) | (state[:, 2].abs() > self.ANGLE_LIMIT)
        fallen = terminated.double()
        return state, -fallen if self.sutton_barto_reward else torch.ones_like(fallen), terminated

    def _observe(self, state: Tensor) -> Tensor:
        return state.float()


class TorchPendulum(TorchVectorEnv):
    """Pendulum-v1: swing a pendulum up and hold it there; `g` is gravity, in m/s²."""

    MAX_SPEED, MAX_TORQUE, TAU = 8.0, 2.0, 0.05
    OBSERVATIONS, ACTIONS = (1, 1, MAX_SPEED), Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float32)
    FIRST = (math.pi, 1.0)

    def __init__(
        self,
        num_envs: int,
        device: torch.device | str = "cpu",
        max_episode_steps: int = 200,
        g: float = 10.0,
    ) -> None:
        super().__init__(num_envs, device, max_episode_steps)
        self.g = g

    def _advance(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        angle, speed = state.unbind(-1)
        torque = actions[:, 0].double().clamp(-self.MAX_TORQUE, self.MAX_TORQUE)
        wrapped = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        costs = wrapped.square() + 0.1 * speed.square() + 0.001 * torque.square()
        speed = speed + (1.5 * self.g * angle.sin() + 3 * torque) * self.TAU
        speed = speed.clamp(-self.MAX_SPEED, self.MAX_SPEED)
        state = torch.stack((angle + speed * self.TAU, speed), -1)
        return state, -costs, torch.zeros_like(costs, dtype=torch.bool)

    def _observe(self, state: Tensor) -> Tensor:
        angle, speed = state.unbind(-1)
        return torch.stack((angle.cos(), angle.sin(), speed), -1).float()


class TorchAcrobot(TorchVectorEnv):
    """Acrobot-v1: swing the tip of two links above a line.

    Masses, lengths and moments of inertia are 1; the centers of mass are in the middle of the
    links. The equations are those of Sutton and Barto's book, as in Gymnasium.
    """

    GRAVITY, TAU = 9.8, 0.2
    MAX_SPEED_1, MAX_SPEED_2 = 4 * math.pi, 9 * math.pi
    OBSERVATIONS, ACTIONS = (1, 1, 1, 1, MAX_SPEED_1, MAX_SPEED_2), Discrete(3)
    FIRST = (0.1,) * 4

    def _initial(self) -> Tensor:
        return super()._initial().float().double()  # rounded as in Gymnasium

    def _advance(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        torque, tau = actions.double() - 1, self.TAU
        k1 = self._rates(state, torque)
        k2 = self._rates(state + tau / 2 * k1, torque)
        k3 = self._rates(state + tau / 2 * k2, torque)
        k4 = self._rates(state + tau * k3, torque)
        state = state + tau / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        angles, speed_1, speed_2 = state[:, :2], state[:, 2:3], state[:, 3:]
        angles = angles - 2 * math.pi * torch.round(angles / (2 * math.pi))
        speed_1 = speed_1.clamp(-self.MAX_SPEED_1, self.MAX_SPEED_1)
        speed_2 = speed_2.clamp(-self.MAX_SPEED_2, self.MAX_SPEED_2)
        state = torch.cat((angles, speed_1, speed_2), -1)
        terminated = -angles[:, 0].cos() - angles.sum(-1).cos() > 1
        return state, terminated.double() - 1, terminated

    def _rates(self, state: Tensor, torque: Tensor) -> Tensor:
        """Return the time derivatives of states, `[N, 4]`."""
        angle_1, angle_2, speed_1, speed_2 = state.unbind(-1)
        cosine, sine = angle_2.cos(), angle_2.sin()
        d1 = 0.25 + (1.25 + cosine) + 2
        d2 = (0.25 + 0.5 * cosine) + 1
        phi_2 = 0.5 * self.GRAVITY * (angle_1 + angle_2).sin()
        phi_1 = (
            -0.5 * speed_2.square() * sine
            - speed_2 * speed_1 * sine
            + 1.5 * self.GRAVITY * angle_1.sin()
            + phi_2
        )
        acceleration_2 = torque + d2 / d1 * phi_1 - 0.5 * speed_1.square() * sine - phi_2
        acceleration_2 = acceleration_2 / (1.25 - d2.square() / d1)
        acceleration_1 = -(d2 * acceleration_2 + phi_1) / d1
        return torch.stack((speed_1, speed_2, acceleration_1, acceleration_2), -1)

    def _observe(self, state: Tensor) -> Tensor:
        angles, speeds = state[:, :2], state[:, 2:]
        cosines, sines = angles.cos(), angles.sin()
        both = torch.stack((cosines, sines), -1).flatten(1)
        return torch.cat((both, speeds), -1).float()


TORCH_TASKS: dict[str, Callable[..., TorchVectorEnv]] = {
    "CartPole-v1": TorchCartPole,
    "Pendulum-v1": TorchPendulum,
    "Acrobot-v1": TorchAcrobot,
}
"""rlkl's own versions of Gymnasium's environments, by id."""
