"""The callbacks of a config: early ends, and videos of evaluations."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkl.engines.acting import TrainedPolicy
from rlkl.envs.make import EnvConfig, make_rendered_env
from rlkl.rollouts.make import for_arrays
from rlkl.training.callbacks import Callback, Stop
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.training.rendering import Video, check_video, play, without_display
from rlkl.training.report import Report
from rlkl.training.report import Video as LoggedVideo
from rlkl.training.run_folder import writing
from rlkl.utils.validation import seconds_of

EPISODES = 100  # training episodes in the mean that `stop_at_return` is compared with
VIDEO_STEPS = 1000  # limit of an episode in a video, in environment steps

LOGGED_FRAMES, LOGGED_SIDE = 200, 320
"""Limits of a video in the logs: number of frames, and pixels of the longer side."""


def callbacks_of(config: TrainConfig) -> list[Callback]:
    """Return the callbacks that the config asks for.

    Raises:
        ConfigError: the environment cannot be rendered, or a package is missing.
    """
    callbacks: list[Callback] = []
    if config.stop_at_return is not None:
        callbacks.append(StopAtReturn(config.stop_at_return))
    if config.stop_after is not None:
        callbacks.append(StopAfter(seconds_of("stop_after", config.stop_after)))
    if config.logger.video_interval:
        callbacks.append(EvaluationVideo(config.logger.video_interval, config.env))
    return callbacks


class StopAtReturn(Callback):
    """Ends the run when the mean return of the last 100 training episodes reaches a value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def on_update(self, learner: Learner, report: Report) -> Stop | None:
        """Compare the training return."""
        mean = learner.tracker.return_mean
        if learner.tracker.count < EPISODES or not mean >= self.value:
            return None
        return Stop(f"stop_at_return={self.value:g}: return/train is {mean:.6g}")


class StopAfter(Callback):
    """Ends the run after so many seconds of training and evaluations; they count when resumed."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._start = seconds, time.monotonic()

    def on_run_begin(self, learner: Learner, run_dir: Path) -> None:
        """Start the clock, unless a checkpoint has started it."""
        if not learner.iterations:
            self._start = time.monotonic()

    def on_update(self, learner: Learner, report: Report) -> Stop | None:
        """Compare the time so far."""
        if time.monotonic() - self._start < self.seconds:
            return None
        return Stop(f"stop_after={self.seconds:g} seconds")

    def state_dict(self) -> dict[str, Any]:
        """Return the time so far."""
        return {"seconds": time.monotonic() - self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the time of a checkpoint."""
        self._start = time.monotonic() - float(state["seconds"])


class EvaluationVideo(Callback):
    """Records an episode with deterministic actions every `interval` iterations.

    It goes into `videos/` and the logs.

    Raises:
        ConfigError: the environment cannot be rendered, or a package is missing.
    """

    def __init__(self, interval: int, env: EnvConfig) -> None:
        check_video(Path("episode.mp4"))
        self.interval, self.env = interval, env
        without_display()
        with closing(make_rendered_env(env, "rgb_array")) as rendered:
            rendered.reset(seed=0)
            Video(rendered, Path("episode.mp4")).pictures()  # raises if there are none

    def on_update(self, learner: Learner, report: Report) -> None:
        """Record an episode if it is due."""
        if learner.iterations % self.interval:
            return
        run_dir = self._run_dir
        path = run_dir / "videos" / f"step_{learner.env_steps}.mp4"
        policy = TrainedPolicy(learner.policy, for_arrays(learner.normalizer))
        seed = learner.streams.integers("video", 1)[0]
        kept = _Kept()
        with writing(run_dir):
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)  # of the same iteration, before the run was resumed
            with (
                closing(make_rendered_env(self.env, "rgb_array")) as env,
                Video(env, path) as video,
            ):
                play(policy, env, seed, capture=lambda: kept.add(video.capture()),
                     max_steps=VIDEO_STEPS)  # fmt: skip
                fps = video.fps / kept.stride
        report.videos["evaluation/video"] = LoggedVideo(np.stack(kept.frames), fps)

    def on_run_begin(self, learner: Learner, run_dir: Path) -> None:
        """Remember the folder."""
        self._run_dir = run_dir


class _Kept:
    """Every `stride`-th frame of an episode, smaller, at most `LOGGED_FRAMES`."""

    def __init__(self) -> None:
        self.frames: list[NDArray[np.uint8]] = []
        self.stride, self._count = 1, 0

    def add(self, frame: NDArray[np.uint8]) -> None:
        if self._count % self.stride == 0:
            step = -(-max(frame.shape[:2]) // LOGGED_SIDE)
            self.frames.append(frame[::step, ::step].copy())
        self._count += 1
        if len(self.frames) > LOGGED_FRAMES:
            self.frames, self.stride = self.frames[::2], 2 * self.stride
