"""Rendering of a trained policy: episodes in a rendered environment, and their video."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from torch import Generator

from rlkl.engines.acting import TrainedPolicy
from rlkl.envs.observations import ACTION_MASK
from rlkl.training.evaluation import MAX_EPISODE_STEPS
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError
from rlkl.utils.validation import check_installed, one_line

CHANNELS = (1, 3, 4)  # grey, RGB, RGB with transparency
VIDEO_SUFFIXES = (".mp4", ".gif")


class Episode(NamedTuple):
    """The result of an episode."""

    reward_sum: float  # undiscounted, of raw rewards
    length: int  # in environment steps
    ended: bool  # False if it reached the step limit


def play(
    policy: TrainedPolicy,
    env: gym.Env[Any, Any],
    seed: int,
    generator: Generator | None = None,
    capture: Callable[[], object] = lambda: None,
    max_steps: int = MAX_EPISODE_STEPS,
) -> Episode:
    """Run one episode of `make_rendered_env` to its end, or to the step limit.

    The policy's memory is reset; without a generator its actions are deterministic. `capture` is
    called at the start and after each step.
    """
    policy.reset()
    observation, info = env.reset(seed=seed)
    capture()
    reward_sum, length, is_over = 0.0, 0, False
    while not is_over and length < max_steps:
        action = policy.act(observation, generator, info.get(ACTION_MASK))
        observation, reward, terminated, truncated, info = env.step(action)
        capture()
        reward_sum += float(reward)
        length += 1
        is_over = bool(terminated or truncated)
    return Episode(reward_sum, length, is_over)


def check_video(path: Path) -> None:
    """Raise ConfigError unless the packages that write a video of this type are installed."""
    packages = ["imageio", "imageio_ffmpeg"] if path.suffix.lower() == ".mp4" else ["imageio"]
    for package in packages:
        check_installed(package, "video", f"a video {path.suffix}")


class Video(AbstractContextManager["Video"]):
    """A video of an environment from `make_rendered_env` in a new .mp4 or .gif file.

    The file is created with the first picture, so a failing environment leaves none.
    """

    def __init__(self, env: gym.Env[Any, Any], path: Path) -> None:
        self.env = env
        self.path = path
        self._writer: Any = None
        self._size: tuple[int, ...] = ()
        self._highest = 0.0  # white in pictures of floats: 1 or 255

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    @property
    def fps(self) -> float:
        """Pictures in a second, as the environment declares it."""
        return float(self.env.metadata.get("render_fps") or 30)

    def pictures(self) -> list[NDArray[np.uint8]]:
        """Return what the environment renders, `[H, W, 3]`; raise ConfigError if it is nothing."""
        try:
            rendered: Any = self.env.render()
        except Exception as error:
            raise cannot_render(self.env, error) from error
        if rendered is None:
            raise ConfigError(f"{_name(self.env)} cannot be rendered: it returns no picture")
        # `rgb_array_list` returns all pictures since the last call.
        is_list = isinstance(rendered, list) and bool(rendered) and np.ndim(rendered[0]) == 3
        return [self._pixels(picture) for picture in (rendered if is_list else [rendered])]

    def capture(self) -> NDArray[np.uint8]:
        """Add a picture, and return it; raise ConfigError for none, or one of another size."""
        for pixels in self.pictures():
            if self._writer is None:
                self._writer, self._size = self._open(), pixels.shape
            if pixels.shape != self._size:
                before, now = (f"{size[0]} × {size[1]}" for size in (self._size, pixels.shape))
                change = f"its pictures change from {before} to {now} pixels"
                raise ConfigError(f"{_name(self.env)}: {change}; a video needs one size")
            self._writer.append_data(pixels)
        return pixels

    def _pixels(self, picture: Any) -> NDArray[np.uint8]:
        """Return a picture as bytes, `[H, W, 3]`, or raise ConfigError."""
        array = np.asarray(picture)
        if array.ndim == 3 and array.shape[-1] not in CHANNELS and array.shape[0] in CHANNELS:
            array = np.moveaxis(array, 0, -1)
        if array.ndim == 2:
            array = array[:, :, None]
        if array.ndim != 3 or array.shape[-1] not in CHANNELS or array.dtype.kind not in "biuf":
            raise self._not_a_picture(array)
        if array.dtype.kind == "f":
            highest = float(array.max(initial=0))
            self._highest = self._highest or (highest > 0) * (1.0 if highest <= 1 else 255.0)
            if not (np.isfinite(array).all() and highest <= (self._highest or 1.0)):
                raise self._not_a_picture(array)
            array = np.rint(array * (255 / (self._highest or 1.0)))
        elif array.dtype.kind == "b":
            array = array * np.uint8(255)
        if array.min(initial=0) < 0 or array.max(initial=0) > 255:
            raise self._not_a_picture(array)
        colors = array[:, :, :3].astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(colors, (*colors.shape[:2], 3)))

    def _not_a_picture(self, array: NDArray[Any]) -> ConfigError:
        is_number = array.dtype.kind in "biuf" and array.size
        values = f" from {array.min()} to {array.max()}" if is_number else ""
        return ConfigError(
            f"{_name(self.env)} cannot be rendered: render returns shape {array.shape} and type "
            f"{array.dtype}{values}; expected pictures of 1, 3 or 4 channels, with numbers from 0 "
            "to 255 or from 0 to 1"
        )

    def _open(self) -> Any:
        import imageio.v2 as imageio  # noqa: PLC0415 (an extra)

        fps = self.fps
        if self.path.suffix.lower() == ".gif":
            return imageio.get_writer(self.path, mode="I", duration=1000 / fps, loop=0)
        # The codec needs even sides; by default imageio resizes to multiples of 16.
        quiet = {"ffmpeg_log_level": "error"}
        return imageio.get_writer(self.path, fps=fps, macro_block_size=2, **quiet)


def without_display() -> None:
    """Keep SDL, which renders many environments, from looking for a display."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def cannot_render(env: gym.Env[Any, Any], error: Exception) -> ConfigError:
    """Return an error that says why rendering failed, and what may help."""
    reason = one_line(error)
    if not isinstance(error, BrokenEnvironmentError):
        reason = f"{type(error).__name__}: {reason}"
    is_mujoco = "mujoco" in type(env.unwrapped).__module__
    help_ = "; without a display MuJoCo needs MUJOCO_GL=egl or MUJOCO_GL=osmesa" * is_mujoco
    return ConfigError(f"{_name(env)} cannot be rendered: {reason}{help_}")


def _name(env: gym.Env[Any, Any]) -> str:
    return f"env.id={env.spec.id}" if env.spec is not None else str(env.unwrapped)
