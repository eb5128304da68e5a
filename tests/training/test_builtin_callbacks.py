"""The early ends and the videos that a config asks for."""

import io
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_callbacks import TINY, rows_of, tiny

import rlkl
from rlkl.training import builtin_callbacks
from rlkl.training.builtin_callbacks import StopAfter, StopAtReturn, callbacks_of
from rlkl.training.pictures import gif_bytes
from rlkl.training.report import Report, Video
from rlkl.utils.validation import seconds_of


class Tracker:
    def __init__(self, count: int, return_mean: float) -> None:
        self.count, self.return_mean = count, return_mean


class Learner:
    """What the early ends read of a learner."""

    def __init__(self, count: int = 0, return_mean: float = 0.0, iterations: int = 0) -> None:
        self.tracker, self.iterations = Tracker(count, return_mean), iterations


def test_return_is_compared_after_a_hundred_episodes() -> None:
    callback, report = StopAtReturn(20.5), Report(0, {}, {})
    for count, mean in ((99, 30.0), (100, 20.4), (100, float("nan"))):
        learner: Any = Learner(count, mean)
        assert callback.on_update(learner, report) is None
    reached: Any = Learner(100, 20.5)
    assert callback.on_update(reached, report) == rlkl.Stop(
        "stop_at_return=20.5: return/train is 20.5"
    )


def test_time_continues_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    first, report = StopAfter(10.0), Report(0, {}, {})
    new: Any = Learner()
    clock[0] = 200.0  # making the environments takes no time of the run
    first.on_run_begin(new, tmp_path)
    clock[0] = 206.0
    assert first.on_update(new, report) is None
    second, resumed = StopAfter(10.0), Learner(iterations=3)
    clock[0] = 1000.0
    second.load_state_dict(first.state_dict() | {"seconds": 6.0})
    later: Any = resumed
    second.on_run_begin(later, tmp_path)
    clock[0] = 1003.9
    assert second.on_update(later, report) is None
    clock[0] = 1004.0
    assert second.on_update(later, report) == rlkl.Stop("stop_after=10 seconds")


def test_times_have_units() -> None:
    texts = ("90", "1.5", "2s", "30m", "2h", "1d")
    assert [seconds_of("k", text) for text in texts] == [90, 1.5, 2, 1800, 7200, 86400]
    for text in ("", "m", "-3", "0", "1w", "1e3", "inf", "3 m", "٣"):
        with pytest.raises(rlkl.ConfigError, match="expected seconds, or a time such as 30m"):
            seconds_of("k", text)


def test_numbers_are_times_too() -> None:
    assert rlkl.TrainConfig(stop_after=90).stop_after == "90"  # type: ignore[arg-type]
    with pytest.raises(rlkl.ConfigError, match="stop_after"):
        rlkl.TrainConfig(stop_after=True)  # type: ignore[arg-type]
    with pytest.raises(rlkl.ConfigError, match="stop_at_return=nan"):
        rlkl.TrainConfig(stop_at_return=float("nan"))


def test_run_ends_at_its_return(tmp_path: Path) -> None:
    run = tmp_path / "run"
    # CartPole's episodes have at most 10 steps here.
    env = replace(TINY["env"], kwargs={"max_episode_steps": 10})
    config = tiny(run, env=env, rollout_steps=128, stop_at_return=9.0, total_env_steps=100_000)
    summary = rlkl.train(config)
    assert summary.status == "finished"
    assert summary.reason.startswith("stop_at_return=9: return/train is 9")
    assert summary.episodes >= 100
    assert summary.env_steps < 1500
    with pytest.raises(rlkl.ConfigError, match="is finished"):
        rlkl.resume(run)
    resumed = rlkl.resume(
        run, lambda old: replace(old, stop_at_return=None, total_env_steps=summary.env_steps + 256)
    )
    assert (resumed.reason, resumed.env_steps) == ("", summary.env_steps + 256)


def test_ended_run_needs_no_completion(tmp_path: Path) -> None:
    from rlkl.training.trainer import complete

    config = tiny(tmp_path / "run", stop_after="1s", total_env_steps=10**7)
    config = replace(config, stop_after="0.001s")
    first = complete(config)
    assert (first.status, first.iterations) == ("finished", 1)
    assert complete(config) == first


def test_callbacks_are_made_from_the_config() -> None:
    assert callbacks_of(rlkl.TrainConfig()) == []
    made = callbacks_of(rlkl.TrainConfig(stop_at_return=1.0, stop_after="2m"))
    assert [vars(callback).get("value", 0) for callback in made] == [1.0, 0]
    assert made[1].seconds == 120.0  # type: ignore[attr-defined]


def frames(count: int) -> np.ndarray:
    """Return grey pictures whose brightness is 10 times their number."""
    shades = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.uint8(10)
    return np.broadcast_to(shades, (count, 4, 6, 3))


def test_videos_are_animated_images() -> None:
    found = Image.open(io.BytesIO(gif_bytes(Video(frames(3), 25.0))))
    assert (found.size, found.n_frames) == ((6, 4), 3)  # type: ignore[attr-defined]
    shades = []
    for number in range(3):
        found.seek(number)
        shades.append(found.convert("RGB").getpixel((2, 2)))
    assert shades == [(0, 0, 0), (10, 10, 10), (20, 20, 20)]
    assert found.info["duration"] == 40  # milliseconds


def test_kept_frames_are_few_and_small() -> None:
    kept = builtin_callbacks._Kept()
    for number in range(401):
        kept.add(np.full((30, 700, 3), number % 256, np.uint8))
    assert (len(kept.frames), kept.stride) == (101, 4)
    assert [int(frame[0, 0, 0]) for frame in kept.frames] == [n % 256 for n in range(0, 401, 4)]
    assert {frame.shape for frame in kept.frames} == {(10, 234, 3)}


def test_video_is_thinned_and_replaces_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "videos" / "step_32.mp4"
    path.parent.mkdir()
    path.write_bytes(b"of the same iteration, before the run was resumed")

    class Film(nullcontext[Any]):
        fps = 30.0

        def __init__(self, env: Any, file: Path) -> None:
            assert not path.exists()
            super().__init__(self)

        def capture(self) -> np.ndarray:
            return np.zeros((4, 6, 3), np.uint8)

    def play(*given: Any, capture: Any, max_steps: int) -> None:
        for _ in range(401):
            capture()

    for name, stand_in in {"Video": Film, "play": play, "for_arrays": id,
                           "make_rendered_env": lambda *given: io.BytesIO()}.items():  # fmt: skip
        monkeypatch.setattr(builtin_callbacks, name, stand_in)
    monkeypatch.setattr(builtin_callbacks, "TrainedPolicy", lambda *given: None)
    callback = object.__new__(builtin_callbacks.EvaluationVideo)
    callback.interval, callback._run_dir, callback.env = 3, tmp_path, rlkl.EnvConfig()
    learner: Any = SimpleNamespace(
        iterations=3, env_steps=32, policy=None, normalizer=None,
        streams=SimpleNamespace(integers=lambda *given: [0]),
    )  # fmt: skip
    report = Report(32, {}, {})
    callback.on_update(learner, report)
    video = report.videos["evaluation/video"]
    assert (len(video.frames), video.fps) == (101, 7.5)  # every fourth of 401
    learner.iterations, report = 4, Report(64, {}, {})
    callback.on_update(learner, report)
    assert report.videos == {}


class Pictures(rlkl.Callback):
    def on_update(self, learner: Any, report: Report) -> None:
        report.log_image("custom/picture", frames(2)[1])
        report.log_video("custom/film", frames(3), fps=10)


def test_pictures_are_written_to_tensorboard(tmp_path: Path) -> None:
    logger = rlkl.LoggerConfig(progress="none")
    rlkl.train(tiny(tmp_path / "run", total_env_steps=32, logger=logger), callbacks=[Pictures()])
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0})
    events.Reload()
    (picture,), (film,) = (events.Images(f"custom/{name}") for name in ("picture", "film"))
    assert (picture.step, picture.height, picture.width) == (32, 4, 6)
    image = Image.open(io.BytesIO(picture.encoded_image_string))
    assert np.asarray(image).tolist() == np.full((4, 6, 3), 10).tolist()
    assert Image.open(io.BytesIO(film.encoded_image_string)).n_frames == 3  # type: ignore[attr-defined]


@pytest.mark.slow
def test_evaluation_videos_change_no_result(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra 'video'")
    pytest.importorskip("pygame", reason="CartPole is drawn by pygame")
    made = {}
    for interval in (0, 2):
        run = tmp_path / f"run{interval}"
        logger = rlkl.LoggerConfig(progress="none", video_interval=interval)
        rlkl.train(tiny(run, logger=logger, normalize_observations=True))
        made[interval] = [
            {key: text for key, text in row.items() if not key.startswith("time/")}
            for row in rows_of(run)
        ]
    assert made[0] == made[2]
    files = sorted((tmp_path / "run2" / "videos").iterdir())
    assert [path.name for path in files] == ["step_128.mp4", "step_64.mp4"]
    raw = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    command = [ffmpeg.get_ffmpeg_exe(), "-i", files[0], *raw]
    content = subprocess.run(command, capture_output=True, check=True).stdout
    count = len(content) / (400 * 600 * 3)
    events = EventAccumulator(str(tmp_path / "run2"), size_guidance={"images": 0})
    events.Reload()
    shown = events.Images("evaluation/video")
    assert [(each.step, each.height, each.width) for each in shown] == [
        (64, 200, 300),
        (128, 200, 300),
    ]
    gif = Image.open(io.BytesIO(shown[1].encoded_image_string))
    # Equal pictures in a row are one of the GIF, shown for longer.
    times = []
    for number in range(gif.n_frames):  # type: ignore[attr-defined]
        gif.seek(number)
        times.append(gif.info["duration"])
    assert sum(times) == 20 * count


def test_environment_that_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="needs the extra 'video'")
    import small_environments  # noqa: F401

    logger = rlkl.LoggerConfig(video_interval=1, progress="none")
    env = rlkl.EnvConfig("SmallEndless-v0", num_envs=2)
    with pytest.raises(rlkl.ConfigError, match="SmallEndless-v0 cannot be rendered"):
        rlkl.train(tiny(tmp_path / "run", env=env, logger=logger))
    assert not (tmp_path / "run").exists()
