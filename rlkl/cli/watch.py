"""`rlkl watch`: a trained policy in a window, or in a video."""

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
from torch import Generator

from rlkl.cli.flags import (
    ACTIONS,
    CHECKPOINT,
    MAX_STEPS,
    Flag,
    RunCommand,
    choice,
    new_file,
    open_run,
    whole_number,
)
from rlkl.envs.make import make_rendered_env
from rlkl.tools.rendering import VIDEO_SUFFIXES, Episode, Video, cannot_render, check_video, play
from rlkl.training.checkpoint import TrainedRun
from rlkl.utils.seeding import RandomStreams
from rlkl.utils.streams import tell
from rlkl.utils.validation import BrokenEnvironmentError, ConfigError

COMMAND = RunCommand(
    "watch",
    "Shows a trained policy in a fresh environment made as in training, its normaliser standing\n"
    "still: in a window, or with --video in a file, which needs no display.",
    {
        "rlkl watch RUN_DIR": "three episodes in a window",
        "rlkl watch RUN_DIR --video FILE.mp4": "recorded (extra: video)",
        "rlkl watch RUN_DIR --video FILE.gif --episodes 1": "to show around",
        "rlkl watch RUN_DIR --actions sampled --seed 7": "as it acts in training",
    },
    (
        Flag("--video", "FILE", "write an .mp4 or a .gif, which must not exist yet",
             new_file("--video", *VIDEO_SUFFIXES)),
        Flag("--episodes", "N", "how many (3)", whole_number("--episodes", 1, 10**6), 3),
        Flag("--seed", "N", "of the environment and of sampled actions (0)",
             whole_number("--seed", 0), 0),
        Flag("--actions", "KIND", "deterministic (the default) or sampled",
             choice("--actions", ACTIONS), ACTIONS[0]),
        CHECKPOINT,
        MAX_STEPS,
    ),
)  # fmt: skip

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
"""Variables of which one is set where a window can be opened on Linux."""


def main(arguments: list[str]) -> int:
    """Show episodes; return the exit code."""
    if not arguments or {"--help", "-h"} & set(arguments):
        print(COMMAND.help_text())
        return 0
    given = COMMAND.parse(arguments)
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
    show = _in_window if given.video is None else partial(_recorded, path=given.video)
    episodes = show(run, seeds, generator)
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
    return 0


def _in_window(run: TrainedRun, seeds: list[int], generator: Generator | None) -> list[Episode]:
    env, limit = make_rendered_env(run.env, "human"), run.max_episode_steps
    try:
        try:
            env.reset(seed=seeds[0])  # most environments open their window here
        except BrokenEnvironmentError as error:
            raise cannot_render(env, error) from error
        return [
            _told(number, play(run.policy, env, seed, generator, max_steps=limit))
            for number, seed in enumerate(seeds, 1)
        ]
    finally:
        env.close()


def _recorded(
    run: TrainedRun, seeds: list[int], generator: Generator | None, path: Path
) -> list[Episode]:
    # Else SDL, which draws many environments, looks for a display and complains.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    env, limit = make_rendered_env(run.env, "rgb_array"), run.max_episode_steps
    try:
        with Video(env, path) as video:
            return [
                _told(number, play(run.policy, env, seed, generator, video.look, limit))
                for number, seed in enumerate(seeds, 1)
            ]
    finally:
        env.close()


def _told(number: int, episode: Episode) -> Episode:
    """Print what an episode came to."""
    open_ = "" if episode.ended else ", not ended"
    text = f"return {episode.reward_sum:.6g}, {episode.length} steps{open_}"
    print(f"episode {number}: {text}", flush=True)
    return episode
