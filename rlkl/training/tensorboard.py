"""Log to TensorBoard: scalars, histograms, a page of charts, and a table of hyperparameters.

Every run writes the same charts and columns, whatever its algorithm: TensorBoard merges equal
charts of several runs, and takes the columns of the table from one of them.
Importing this module takes a second, so only runs that log to TensorBoard import it.
"""

import dataclasses
import math
import os
import socket
import struct
import time
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import torch.utils.tensorboard.summary
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from rlkl.algos import ALGORITHMS
from rlkl.algos.base import Metrics
from rlkl.training.loggers import as_yaml
from rlkl.training.pictures import gif_bytes, png_bytes
from rlkl.training.report import CHARTS, Report
from rlkl.utils.atomic_files import open_nofollow, write_durably

KL_BOUNDS = ("kl_bounds/kl", "kl_bounds/lower", "kl_bounds/upper")
"""Tags of TensorBoard's margin chart only: KL(π_old ‖ π_θ), and the bounds around its target.

A run has all three or none: TensorBoard reports an error if some are missing. So the chart cannot
use `kl/old_new`, which also runs without bounds have.
"""

KL_OF_RUN = "run/kl_old_new"
"""Tag of TensorBoard only: the mean of `kl/old_new` over the run, written at its end."""

METRICS = {
    "return/train": "return/train, last",
    "return/eval": "return/eval",
    KL_OF_RUN: "kl/old_new, mean",
}
"""Result columns of the table: tags and titles."""

IDENTITY = ("algo.name", "env.id", "seed")  # the hyperparameters that say which run it is

SHOWN_FIRST = ("algo.name", "algo.learning_rate", "algo.max_kl", "env.id", "seed")
"""The hyperparameters that are selected when the table opens; TensorBoard selects five."""

EVENTS = "events.out.tfevents."  # prefix of the names of event files

SESSION_END = b"_hparams_/session_end_info"
"""Tag of the status at the end of a run, for TensorBoard's hparams plugin."""

NOT_VARIED = (
    "logger", "checkpoint", "run_dir", "eval_episodes", "eval_max_episode_steps", "eval_interval",
    "stop_at_return", "stop_after",
)  # fmt: skip
"""Parts of a config that are not hyperparameters."""

torch_summary: Any = torch.utils.tensorboard.summary  # its functions have no type annotations

Value = bool | float | str


class TensorBoardLogger:
    """Writes TensorBoard events, with environment steps on the x-axis.

    Args:
        run_dir: folder of the event file.
        config: of the run, a `TrainConfig`; shown as text and in the table of hyperparameters.
        env_steps: of the checkpoint, in a resumed run; TensorBoard drops events after it.
        kl_so_far: KL(π_old ‖ π_θ) of each iteration so far, in nats.
    """

    def __init__(
        self, run_dir: Path, config: Any, env_steps: int = 0, kl_so_far: Sequence[float] = ()
    ) -> None:
        remove_session_end(run_dir)
        self._file = create_event_file(run_dir)
        self._records = RecordWriter(self._file)
        self._histogram_interval = config.logger.histogram_interval
        self._kl_bounds = config.algo.kl_bounds
        self._iterations, self._env_steps = len(kl_so_far), env_steps
        self._kl_sum = sum(kl_so_far)
        self._add(file_version="brain.Event:2")
        self._add(step=env_steps + 1, session_log=SessionLog(status=SessionLog.START))
        text = f"```yaml\n{as_yaml(dataclasses.asdict(config))}```"
        self._add(summary=torch_summary.text("config", text))
        self._add(summary=torch_summary.custom_scalars(layout()))
        self._add(summary=experiment(type(config)))
        self._add(summary=session_start(config))
        self._file.flush()

    def _add(self, **content: Any) -> None:
        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def log(self, report: Report) -> None:
        """Write the scalars that apply, and the histograms every `histogram_interval`."""
        scalars = {tag: value for tag, value in report.scalars.items() if not math.isnan(value)}
        if {"kl/old_new", "kl/target"} <= scalars.keys():
            bounds = (factor * scalars["kl/target"] for factor in self._kl_bounds)
            scalars |= zip(KL_BOUNDS, (scalars["kl/old_new"], *bounds), strict=True)
        self._add_scalars(report.env_steps, scalars)
        if self._histogram_interval and self._iterations % self._histogram_interval == 0:
            for tag, values in report.histograms.items():
                if values.isfinite().all():  # TensorBoard has no bin for infinity
                    # The default is 1,500 bins, which is slow; TensorBoard draws 30.
                    summary = torch_summary.histogram(tag, values.numpy(force=True), 64)
                    self._add(summary=summary, step=report.env_steps)
        for tag, image in report.images.items():
            self._add_picture(report.env_steps, tag, image.shape[:2], png_bytes(image))
        for tag, video in report.videos.items():  # TensorBoard plays an animated picture
            shape = video.frames.shape[1:3]
            self._add_picture(report.env_steps, tag, shape, gif_bytes(video))
        self._iterations += 1
        self._env_steps = report.env_steps
        self._kl_sum += report.scalars["kl/old_new"]
        self._file.flush()

    def _add_scalars(self, env_steps: int, scalars: Metrics) -> None:
        # One event for all scalars: `add_scalar` for each is slow.
        values = [Summary.Value(tag=tag, simple_value=scalars[tag]) for tag in scalars]
        self._add(summary=Summary(value=values), step=env_steps)

    def _add_picture(
        self, env_steps: int, tag: str, shape: tuple[int, ...], content: bytes
    ) -> None:
        size = {"height": shape[0], "width": shape[1], "colorspace": 3}
        value = Summary.Value(tag=tag, image=Summary.Image(**size, encoded_image_string=content))
        self._add(summary=Summary(value=[value]), step=env_steps)

    def close(self, status: str) -> None:
        """Write the mean KL of the run and how it ended, and close the file."""
        if self._iterations and not math.isnan(self._kl_sum):
            self._add_scalars(self._env_steps, {KL_OF_RUN: self._kl_sum / self._iterations})
        self._add(summary=session_end(status))
        self._file.close()


def write_curves(
    run_dir: Path, config: Any, rows: Sequence[Metrics], charts: dict[str, dict[str, list[str]]]
) -> None:
    """Write events of something other than training, with the number of each row on the x-axis.

    The config, a `TrainConfig`, is shown as text; rows are scalars by tag, and charts as `CHARTS`.
    """
    text = f"```yaml\n{as_yaml(dataclasses.asdict(config))}```"
    summaries = [torch_summary.text("config", text), torch_summary.custom_scalars(_lines(charts))]
    events = [Event(summary=summary) for summary in summaries]
    for step, row in enumerate(rows):
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in row.items()]
        events.append(Event(summary=Summary(value=values), step=step))
    with create_event_file(run_dir) as file:
        records = RecordWriter(file)
        for event in [Event(file_version="brain.Event:2"), *events]:
            event.wall_time = time.time()
            records.write(event.SerializeToString())


def layout() -> dict[str, dict[str, list[Any]]]:
    """Return the charts of the custom-scalars page: category, title, kind and tags."""
    found = _lines(CHARTS)
    title = "KL(π_old ‖ π_θ), mean over states, and the bounds around its target"
    found["KL"][title] = ["Margin", list(KL_BOUNDS)]
    return found


def _lines(charts: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[Any]]]:
    # TensorBoard takes tags as regular expressions, and anchors them only at the start.
    return {
        category: {title: ["Multiline", [f"^{tag}$" for tag in tags]] for title, tags in of.items()}
        for category, of in charts.items()
    }


def hyperparameters(config: Any) -> dict[str, Value]:
    """Return the values of a config by key; without null, and with text for lists and dicts."""
    found: dict[str, Value] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in NOT_VARIED or value is None:
            continue
        if dataclasses.is_dataclass(value):
            found |= {f"{field.name}.{key}": inner for key, inner in hyperparameters(value).items()}
        else:
            found[field.name] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def columns(config_type: type[Any]) -> dict[str, type[Value]]:
    """Return all keys that `hyperparameters` can return for any algorithm, with their types."""
    found: dict[str, type[Value]] = {}
    hints = typing.get_type_hints(config_type)
    for name in (field.name for field in dataclasses.fields(config_type)):
        if name in NOT_VARIED:
            continue
        parts = [entry.config for entry in ALGORITHMS.values()] if name == "algo" else [hints[name]]
        for part in parts:
            if dataclasses.is_dataclass(part):
                found |= {f"{name}.{key}": kind for key, kind in columns(part).items()}
            else:
                found[name] = _kind(part)
    return found


def _kind(hint: Any) -> type[Value]:
    """Return which of TensorBoard's three types represents a type hint, ignoring null."""
    hints = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if bool in hints:
        return bool
    return float if {int, float} & set(hints) else str


def experiment(config_type: type[Any]) -> Any:
    """Return the summary with the columns of the table, the same for every run."""
    kinds = {
        bool: api_pb2.DATA_TYPE_BOOL,
        float: api_pb2.DATA_TYPE_FLOAT64,
        str: api_pb2.DATA_TYPE_STRING,
    }
    described = api_pb2.Experiment(
        metric_infos=[
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=title)
            for tag, title in METRICS.items()
        ]
    )
    for key, kind in columns(config_type).items():
        # TensorBoard shows those marked `differs` first. One run cannot know which will differ.
        info = described.hparam_infos.add(name=key, type=kinds[kind], differs=key in SHOWN_FIRST)
        if kind is bool:  # for the filter of its values
            info.domain_discrete.extend([False, True])
    return _hparams_summary("experiment", described)


def session_start(config: Any) -> Any:
    """Return the summary with the hyperparameters and start time of a run that starts now."""
    started = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for key, value in hyperparameters(config).items():
        if isinstance(value, bool):
            started.hparams[key].bool_value = value
        elif isinstance(value, str):
            started.hparams[key].string_value = value
        else:
            started.hparams[key].number_value = value
    return _hparams_summary("session_start_info", started)


def session_end(status: str) -> Any:
    """Return the summary with the status and end time of a run that ends now."""
    codes = {"finished": api_pb2.STATUS_SUCCESS, "failed": api_pb2.STATUS_FAILURE}
    code = codes.get(status, api_pb2.STATUS_UNKNOWN)  # of a stopped run
    ended = plugin_data_pb2.SessionEndInfo(status=code, end_time_secs=time.time())
    return _hparams_summary("session_end_info", ended)


def _hparams_summary(name: str, content: Any) -> Any:
    """Return a summary for TensorBoard's hparams plugin, whose own functions need TensorFlow."""
    data = plugin_data_pb2.HParamsPluginData(**{name: content})
    described = metadata.create_summary_metadata(data)
    value = Summary.Value(tag=f"_hparams_/{name}", metadata=described, tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])


def create_event_file(run_dir: Path) -> IO[Any]:
    """Create an event file that TensorBoard reads after the existing files of the run.

    TensorBoard reads files in the order of their names, which start with the time of their creation
    in seconds. The new file's time is later than all others, even if the clock was set back.
    """
    names = (path.name.removeprefix(EVENTS) for path in run_dir.glob(f"{EVENTS}*"))
    times = [name.partition(".")[0] for name in names]
    later = [1 + int(made) for made in times if made.isdecimal() and len(made) <= 10]
    moment = max([int(time.time()), *later])
    path = run_dir / f"{EVENTS}{moment:010d}.{socket.gethostname()}.{os.getpid()}"
    return open_nofollow(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, "wb")


def remove_session_end(run_dir: Path) -> None:
    """Remove the status at the end from the event files of a run that is resumed.

    TensorBoard uses the first one that it reads.
    """
    for path in run_dir.glob(f"{EVENTS}*"):
        content = path.read_bytes()
        without_end = b"".join(record for record in _records(content) if SESSION_END not in record)
        if without_end != content:
            write_durably(path, without_end)


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the complete records of an event file.

    A record is the length of its event in 8 bytes, a checksum of 4, the event, a checksum of 4.
    """
    start = 0
    while len(length := content[start : start + 8]) == 8:
        end = start + 16 + struct.unpack("<Q", length)[0]
        if end > len(content):
            return
        yield content[start:end]
        start = end
