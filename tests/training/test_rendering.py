"""Rendered episodes, and videos of common pictures."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from learning_loop import small_policy, vector_encoder

from rlkl.engines.acting import TrainedPolicy
from rlkl.envs.make import EnvConfig, make_rendered_env
from rlkl.training.rendering import Video, play
from rlkl.utils.errors import ConfigError


def test_memory_is_reset_for_each_episode() -> None:
    env = make_rendered_env(EnvConfig("CartPole-v1"), "rgb_array")
    policy = TrainedPolicy(
        small_policy(vector_encoder(4), env.action_space, memory="gru", actor_gain=20.0), None
    )
    assert play(policy, env, 1) == play(policy, env, 1) == play(policy, env, 1)


class Gallery(gym.Env[Any, Any]):
    """An environment that renders the given pictures."""

    def __init__(self, *pictures: Any) -> None:
        self.pictures = iter(pictures)

    def render(self) -> Any:
        return next(self.pictures)


GREY = np.full((2, 6), 51, np.uint8)  # 20% of 255
COLOR = np.repeat(GREY[:, :, None], 3, 2)


def test_video_is_kept_after_an_error(tmp_path: Path) -> None:
    pytest.importorskip("imageio", reason="needs the extra video")
    gallery = Gallery(COLOR, COLOR)
    with pytest.raises(KeyboardInterrupt), Video(gallery, tmp_path / "film.gif") as video:
        video.capture()
        video.capture()
        raise KeyboardInterrupt
    assert (tmp_path / "film.gif").read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize(
    "picture",
    [
        COLOR,
        COLOR.tolist(),
        COLOR.astype(np.int64),
        COLOR.astype(np.float64),
        COLOR / 255.0,
        GREY,
        GREY[:, :, None],
        GREY[None] / np.float32(255),
        np.moveaxis(COLOR, -1, 0),
        np.concatenate((COLOR, np.full((2, 6, 1), 9, np.uint8)), -1),
        [COLOR],
    ],
)
def test_common_picture_formats_are_recorded(picture: Any, tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v2", reason="needs the extra video")
    with Video(Gallery(picture, picture), tmp_path / "film.gif") as video:
        video.capture()
        video.capture()
    (first, *_) = imageio.mimread(tmp_path / "film.gif")
    assert first.shape[:2] == (2, 6)
    assert np.abs(first[:, :, :3].astype(int) - 51).max() <= 2


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        ([np.zeros((2, 4, 2), np.uint8)], r"render returns shape \(2, 4, 2\) and type uint8"),
        ([np.full((2, 4), 300)], "from 300 to 300; expected pictures"),
        ([np.full((2, 4), -1.0)], "from -255.0 to -255.0"),
        ([np.full((2, 4), np.nan)], "from nan to nan"),
        ([0.5 + GREY / 255, GREY * 1.0], "from 51.0 to 51.0"),
        (["a picture"], r"shape \(\) and type <U9"),
        ([COLOR, COLOR[:, :2]], "pictures change from 2 × 6 to 2 × 2 pixels"),
        ([COLOR, None], "returns no picture"),
    ],
)
def test_invalid_picture_is_named(pictures: list[Any], words: str, tmp_path: Path) -> None:
    pytest.importorskip("imageio.v2", reason="needs the extra video")
    with (
        Video(Gallery(*pictures), tmp_path / "film.gif") as video,
        pytest.raises(ConfigError, match=words),
    ):
        for _ in pictures:
            video.capture()


def test_mujoco_without_display_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco", reason="needs the extra mujoco")
    env = make_rendered_env(EnvConfig("HalfCheetah-v5"), "rgb_array")
    env.reset(seed=0)

    def dark() -> Any:
        raise RuntimeError("no OpenGL")

    monkeypatch.setattr(env, "render", dark)
    with pytest.raises(ConfigError, match=r"no OpenGL; .*MUJOCO_GL=egl or MUJOCO_GL=osmesa"):
        Video(env, Path("film.gif")).capture()
    env.close()
