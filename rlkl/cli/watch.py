"""`rlkl watch`: show a trained policy in a window or a video."""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from rlkl.cli.flags import MAX_STEPS, Flag, RunCommand, choice, new_file, open_run, whole_number
from rlkl.envs.make import make_rendered_env
from rlkl.training.rendering import (
    VIDEO_SUFFIXES,
    Video,
    cannot_render,
    check_video,
    play,
    without_display,
)
from rlkl.training.trained_policy import ACTIONS, TrainedRun
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError
from rlkl.utils.seeding import RandomStreams
from rlkl.utils.streams import tell

COMMAND = RunCommand(
    "watch",
    "Shows a trained policy in a new environment, made as in training: in a window, or with\n"
    "--video in a file, which needs no display. The normalizer does not change.",
    {
        "rlkl watch RUN_DIR": "three episodes in a window",
        "rlkl watch RUN_DIR --video FILE.mp4": "recorded (extra: video)",
        "rlkl watch RUN_DIR --video FILE.gif --episodes 1": "a short animation",
        "rlkl watch RUN_DIR --actions sampled --seed 7": "as it acts in training",
    },
    (
        Flag("--video", "FILE", "write a new .mp4 or .gif",
             partial(new_file, suffixes=VIDEO_SUFFIXES)),
        Flag("--episodes", "N", "number of episodes (3)",
             partial(whole_number, at_least=1, at_most=10**6), 3),
        Flag("--seed", "N", "of the environment and of sampled actions (0)", whole_number, 0),
        Flag("--actions", "KIND", "deterministic (the default) or sampled",
             partial(choice, choices=ACTIONS), ACTIONS[0]),
        MAX_STEPS,
    ),
    ("env.id", "env.wrappers"),
)  # fmt: skip

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
"""On Linux one of these variables is set if there is a display."""


def _watch(given: Namespace) -> None:
    if given.video is not None:
        check_video(given.video)
    elif sys.platform == "linux" and not any(map(os.environ.get, DISPLAYS)):
        raise ConfigError(
            "there is no display to open a window on; record with --video FILE.mp4 or FILE.gif"
        )
    run = open_run(given)
    streams = RandomStreams(given.seed)
    seeds = streams.integers("fresh environments", given.episodes)
    generator = streams.torch("fresh actions") if given.actions == "sampled" else None
    episodes = []
    with _shown(run, seeds[0], given.video) as (env, capture):
        for number, seed in enumerate(seeds, 1):
            episode = play(run.policy, env, seed, generator, capture, run.max_episode_steps)
            note = "" if episode.ended else ", not ended"
            text = f"return {episode.reward_sum:.6g}, {episode.length} steps{note}"
            print(f"episode {number}: {text}", flush=True)
            episodes.append(episode)
    ended = [episode.reward_sum for episode in episodes if episode.ended]
    if ended:
        print(f"mean return {np.mean(ended):.6g}")
    if len(ended) < len(episodes):
        tell(
            f"{len(episodes) - len(ended)} of {len(episodes)} episodes did not end within "
            f"{run.max_episode_steps:,} steps (--max-steps)"
        )
    if given.video is not None:
        print(given.video)


@contextmanager
def _shown(
    run: TrainedRun, seed: int, video: Path | None
) -> Iterator[tuple[gym.Env[Any, Any], Callable[[], object]]]:
    """Yield an environment, in a window or for a video, and what captures a picture of it."""
    if video is None:
        with closing(make_rendered_env(run.env, "human")) as env:
            try:
                env.reset(seed=seed)  # most environments open their window here
            except BrokenEnvironmentError as error:
                raise cannot_render(env, error) from error
            yield env, lambda: None
    else:
        without_display()
        with closing(make_rendered_env(run.env, "rgb_array")) as env, Video(env, video) as film:
            yield env, film.capture


help_text, main = COMMAND.help_text, partial(COMMAND.run, _watch)
