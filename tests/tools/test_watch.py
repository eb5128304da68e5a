"""`rlkl watch`: episodes in a window and in videos, and environments that cannot be rendered."""

import importlib.util
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from commands import exit_code
from gymnasium.spaces import Box, Discrete

import rlkl
from rlkl.cli.evaluate import run_episodes
from rlkl.envs.make import EnvConfig, make_rendered_env
from rlkl.training.trained_policy import load_run
from rlkl.utils.seeding import RandomStreams

HAS_VIDEO = all(importlib.util.find_spec(name) for name in ("imageio", "imageio_ffmpeg"))
needs_video = pytest.mark.skipif(not HAS_VIDEO, reason="needs the extra video")
HAS_WINDOW = importlib.util.find_spec("pygame") is not None
needs_pygame = pytest.mark.skipif(not HAS_WINDOW, reason="needs pygame (extra: box2d or minigrid)")

SIDE = 32


class Painter(gym.Env[Any, Any]):
    """The brightness of each picture shows the step; an episode has seed % 5 + 3 steps.

    Args:
        render_mode: from gymnasium.
        trouble: with `error`, `render` raises; with `nothing`, it returns None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)

    def __init__(self, render_mode: str | None = None, trouble: str = "none") -> None:
        self.render_mode, self.trouble = render_mode, trouble
        self.t = self.length = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.length = 0, (seed or 0) % 5 + 3
        return np.zeros(2, np.float32), {"action_mask": np.array([0, 1])}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        mask = np.array([self.t % 2, 1 - self.t % 2])
        allowed = (0, 1)[(self.t - 1) % 2 == 0]
        reward = 1.0 if action == allowed else -100.0
        return np.zeros(2, np.float32), reward, self.t == self.length, False, {"action_mask": mask}

    def render(self) -> Any:
        if self.trouble == "error":
            raise RuntimeError("no paint\nleft")
        if self.trouble == "nothing":
            return None
        return np.full((SIDE, SIDE, 3), 20 * self.t, np.uint8)


gym.register("Painter-v0", entry_point=Painter)


def tiny(run_dir: Path, env: EnvConfig) -> rlkl.TrainConfig:
    return rlkl.TrainConfig(
        env=env,
        total_env_steps=100,
        rollout_steps=32,
        eval_episodes=0,
        algo=rlkl.PPOClipConfig(num_minibatches=2),
        logger=rlkl.LoggerConfig(tensorboard=False, progress="none"),
        run_dir=str(run_dir),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short runs: CartPole, and Painter with and without trouble."""
    folder = tmp_path_factory.mktemp("watch")
    envs = {
        "cartpole": EnvConfig(num_envs=2),
        "painter": EnvConfig("Painter-v0", num_envs=2),
        "error": EnvConfig("Painter-v0", num_envs=2, kwargs={"trouble": "error"}),
        "nothing": EnvConfig("Painter-v0", num_envs=2, kwargs={"trouble": "nothing"}),
    }
    for name, env in envs.items():
        rlkl.train(tiny(folder / name, env))
    return folder


@pytest.fixture(autouse=True)
def new_folder(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for run_dir in runs.iterdir():
        (tmp_path / run_dir.name).symlink_to(run_dir)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


run = partial(exit_code, "watch")


def lengths(seed: int, count: int) -> list[int]:
    return [s % 5 + 3 for s in RandomStreams(seed).integers("fresh environments", count)]


def pictures_of(film: str) -> tuple[np.ndarray, str]:
    """Return a video's pictures `[F, H, W, 3]`, and ffmpeg's messages."""
    import imageio_ffmpeg

    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", film]
    raw = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run([*ffmpeg, *raw], capture_output=True, check=True)
    messages = done.stderr.decode()
    size = re.search(r" (\d+)x(\d+)[, ]", messages)
    assert size
    shape = -1, int(size[2]), int(size[1]), 3
    return np.frombuffer(done.stdout, np.uint8).reshape(shape), messages


@needs_video
@pytest.mark.parametrize("suffix", ["mp4", "gif"])
@pytest.mark.parametrize("actions", ["deterministic", "sampled"])
def test_video_has_a_picture_of_every_step(
    suffix: str, actions: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"film.{suffix}"
    arguments = ["--episodes", "2", "--seed", "5", "--actions", actions]
    assert run("painter", "--video", name, *arguments) == 0
    expected = lengths(5, 2)
    assert capsys.readouterr().out.splitlines() == [
        *(f"episode {i}: return {n}, {n} steps" for i, n in enumerate(expected, 1)),
        f"mean return {np.mean(expected):.6g}",
        name,
    ]
    pictures, messages = pictures_of(name)
    assert "20 fps" in messages
    assert pictures.shape[1:] == (SIDE, SIDE, 3)
    painted = [20 * t for length in expected for t in range(length + 1)]
    np.testing.assert_allclose(pictures.mean((1, 2, 3)), painted, atol=4)


@needs_video
@needs_pygame
def test_recorded_episode_equals_evaluated_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("cartpole", "--video", "film.mp4", "--episodes", "1", "--seed", "2") == 0
    found = run_episodes(load_run("cartpole"), 1, 2, "deterministic")
    assert capsys.readouterr().out.startswith(
        f"episode 1: return {found.mean_return:g}, {found.lengths[0]} steps\n"
    )
    pictures, _ = pictures_of("film.mp4")
    assert len(pictures) == found.lengths[0] + 1
    # A dark pole and cart on white; the last picture differs from the first.
    assert pictures[0].min() < 60
    assert pictures[0].max() > 240
    assert np.abs(pictures[0].astype(int) - pictures[-1]).max() > 60


@needs_pygame
def test_window_shows_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cartpole", "--episodes", "1") == 0
    found = run_episodes(load_run("cartpole"), 1, 0, "deterministic")
    assert capsys.readouterr().out == (
        f"episode 1: return {found.mean_return:g}, {found.lengths[0]} steps\n"
        f"mean return {found.mean_return:g}\n"
    )


def test_frames_are_stacked_as_in_training() -> None:
    env = make_rendered_env(EnvConfig("CartPole-v1", frame_stack=3), "rgb_array")
    assert env.observation_space.shape == (3, 4)


BAD: dict[str, str] = {
    "nowhere --video film.gif": "there is no such folder",
    "cartpole --video film.avi": "ends in .mp4 or .gif",
    "cartpole --video there.gif": "it exists already",
    "cartpole --video no/film.gif": "there is no folder no",
    "cartpole --film x": "there is no such flag",
    "cartpole --episodes 0": "at least 1",
    "bare --checkpoint best": "has no checkpoints/best.pt",
    "error --video film.gif": "Painter-v0 cannot be rendered: RuntimeError: no paint left",
    "nothing --video film.gif": "Painter-v0 cannot be rendered: it returns no picture",
}


@pytest.mark.parametrize("arguments", BAD)
def test_invalid_watch_prints_one_line(
    arguments: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.gif").touch()
    shutil.copytree(tmp_path / "cartpole", tmp_path / "bare")
    (tmp_path / "bare" / "checkpoints" / "best.pt").unlink()
    before = sorted(tmp_path.rglob("*"))
    if HAS_VIDEO or "film.gif" not in arguments:
        assert run(*arguments.split()) == 2
        printed = capsys.readouterr()
        assert not printed.out
        assert printed.err.startswith("rlkl: ")
        assert printed.err.count("\n") == 1
        assert BAD[arguments] in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_display_suggests_video(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert run("cartpole") == 2
    assert "no display to open a window on; record with --video" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["imageio", "imageio_ffmpeg"])
def test_missing_video_extra_is_named(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else name)
    assert run("cartpole", "--video", "film.mp4") == 2
    error = capsys.readouterr().err
    assert f"needs the package {package}, which the extra 'video' installs" in error
    assert error.count("\n") == 1


def test_environment_without_render_modes_raises() -> None:
    import small_environments  # noqa: F401

    with pytest.raises(rlkl.ConfigError, match="it offers no render modes"):
        make_rendered_env(EnvConfig("SmallCounter-v0"), "rgb_array")
    if importlib.util.find_spec("ale_py"):
        with pytest.raises(rlkl.ConfigError, match="which does not render"):
            make_rendered_env(EnvConfig("ALE/Pong-v5"), "rgb_array")


def test_watch_help_fits_a_hundred_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: rlkl watch RUN_DIR [KEY=VALUE ...] [FLAG ...]\n")
    assert "--video FILE" in printed
    assert max(map(len, printed.splitlines())) <= 100
