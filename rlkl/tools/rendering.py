"""A trained policy to look at: an episode in an environment that shows itself, and its video."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from torch import Generator

from rlkl.envs.spaces import ACTION_MASK
from rlkl.training.checkpoint import TrainedPolicy
from rlkl.training.evaluation import MAX_EPISODE_STEPS
from rlkl.utils.validation import BrokenEnvironmentError, ConfigError, check_installed, one_line

CHANNELS = (1, 3, 4)
"""Of pictures: grey, colours, colours and transparency."""

VIDEO_SUFFIXES = (".mp4", ".gif")


class Episode(NamedTuple):
    """What an episode came to.

    Attributes:
        reward_sum: undiscounted sum of raw rewards.
        length: in environment steps.
        ended: False where it met the limit of steps.
    """

    reward_sum: float
    length: int
    ended: bool


def play(
    policy: TrainedPolicy,
    env: gym.Env[Any, Any],
    seed: int,
    generator: Generator | None = None,
    look: Callable[[], None] = lambda: None,
    max_steps: int = MAX_EPISODE_STEPS,
) -> Episode:
    """Run one episode to its end, or to a limit of steps.

    Args:
        policy: acts; it remembers nothing of what was before.
        env: one that `make_rendered_env` made.
        seed: of the environment.
        generator: source of sampled actions; None takes the most probable action instead.
        look: called at the beginning and after each step.
        max_steps: the limit.
    """
    policy.reset()
    observation, info = env.reset(seed=seed)
    look()
    reward_sum, length, is_over = 0.0, 0, False
    while not is_over and length < max_steps:
        action = policy.act(observation, generator, info.get(ACTION_MASK))
        observation, reward, terminated, truncated, info = env.step(action)
        look()
        reward_sum += float(reward)
        length += 1
        is_over = bool(terminated or truncated)
    return Episode(reward_sum, length, is_over)


def check_video(path: Path) -> None:
    """Raise unless a video of this name can be written here.

    Raises:
        ConfigError: the packages that write it are missing.
    """
    packages = ["imageio", "imageio_ffmpeg"] if path.suffix.lower() == ".mp4" else ["imageio"]
    for package in packages:
        check_installed(package, "video", f"a video {path.suffix}")


class Video:
    """Pictures of an environment, written one after the other; closed when its `with` ends.

    The file is made with the first picture, so that there is none of what cannot be rendered.

    Args:
        env: one that `make_rendered_env` made with `rgb_array`.
        path: ending in .mp4 or .gif; it must not exist.
    """

    def __init__(self, env: gym.Env[Any, Any], path: Path) -> None:
        self.env = env
        self.path = path
        self.frames_per_second = float(env.metadata.get("render_fps") or 30)
        self._writer: Any = None
        self._size: tuple[int, ...] = ()
        self._highest = 0.0  # of numbers with a point: 1 or 255

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def look(self) -> None:
        """Add what the environment shows now.

        Raises:
            ConfigError: nothing, something that is no picture, or one of another size.
        """
        try:
            shown: Any = self.env.render()
        except Exception as error:
            raise cannot_render(self.env, error) from error
        if shown is None:
            raise ConfigError(f"{_name(self.env)} cannot be rendered: it returns no picture")
        # Of `rgb_array_list`, all that were drawn since the last call.
        is_several = isinstance(shown, list) and bool(shown) and np.ndim(shown[0]) == 3
        for picture in shown if is_several else [shown]:
            pixels = self._pixels(picture)
            if self._writer is None:
                self._writer, self._size = self._open(), pixels.shape
            if pixels.shape != self._size:
                was, now = (f"{size[0]} × {size[1]}" for size in (self._size, pixels.shape))
                raise ConfigError(
                    f"{_name(self.env)}: its pictures change from {was} to {now} pixels; a video "
                    "needs one size"
                )
            self._writer.append_data(pixels)

    def _pixels(self, picture: Any) -> NDArray[np.uint8]:
        """Return a picture as bytes, `[H, W, 3]`.

        Raises:
            ConfigError: it is none.
        """
        array = np.asarray(picture)
        if array.ndim == 3 and array.shape[-1] not in CHANNELS and array.shape[0] in CHANNELS:
            array = np.moveaxis(array, 0, -1)
        if array.ndim == 2:
            array = array[:, :, None]
        if array.ndim != 3 or array.shape[-1] not in CHANNELS or array.dtype.kind not in "biuf":
            raise self._is_no_picture(array)
        if array.dtype.kind == "f":
            highest = float(array.max(initial=0))
            self._highest = self._highest or (highest > 0) * (1.0 if highest <= 1 else 255.0)
            if not (np.isfinite(array).all() and highest <= (self._highest or 1.0)):
                raise self._is_no_picture(array)
            array = np.rint(array * (255 / (self._highest or 1.0)))
        elif array.dtype.kind == "b":
            array = array * np.uint8(255)
        if array.min(initial=0) < 0 or array.max(initial=0) > 255:
            raise self._is_no_picture(array)
        colors = array[:, :, :3].astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(colors, (*colors.shape[:2], 3)))

    def _is_no_picture(self, array: NDArray[Any]) -> ConfigError:
        is_number = array.dtype.kind in "biuf" and array.size
        values = f" from {array.min()} to {array.max()}" if is_number else ""
        return ConfigError(
            f"{_name(self.env)} cannot be rendered: render returns shape {array.shape} and type "
            f"{array.dtype}{values}; expected pictures of 1, 3 or 4 channels, with numbers from 0 "
            "to 255 or from 0 to 1"
        )

    def _open(self) -> Any:
        # Now and no earlier: it is an extra, and takes a moment.
        import imageio.v2 as imageio  # noqa: PLC0415

        if self.path.suffix.lower() == ".gif":
            milliseconds = 1000 / self.frames_per_second
            return imageio.get_writer(self.path, mode="I", duration=milliseconds, loop=0)
        # Sides that are even are enough for the codec; by default pictures are stretched to 16.
        return imageio.get_writer(
            self.path, fps=self.frames_per_second, macro_block_size=2, ffmpeg_log_level="error"
        )


def cannot_render(env: gym.Env[Any, Any], error: Exception) -> ConfigError:
    """Return one line that says why nothing is drawn, and what may help."""
    told = one_line(error)
    if not isinstance(error, BrokenEnvironmentError):
        told = f"{type(error).__name__}: {told}"
    is_mujoco = "mujoco" in type(env.unwrapped).__module__
    help_ = "; without a display MuJoCo needs MUJOCO_GL=egl or MUJOCO_GL=osmesa" * is_mujoco
    return ConfigError(f"{_name(env)} cannot be rendered: {told}{help_}")


def _name(env: gym.Env[Any, Any]) -> str:
    return f"env.id={env.spec.id}" if env.spec is not None else str(env.unwrapped)
