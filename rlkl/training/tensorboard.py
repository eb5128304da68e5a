"""Event files for TensorBoard, with a page of charts and a table of hyperparameters.

Every run writes the same charts and columns, whatever its algorithm: TensorBoard merges equal
charts of several runs, and takes the columns of the table from one of them.
"""

import dataclasses
import os
import socket
import struct
import time
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlkl.algos import ALGORITHMS
from rlkl.training.report import charts
from rlkl.utils.atomic_files import open_nofollow, write_durably

KL_BOUNDS = ("kl_bounds/kl", "kl_bounds/lower", "kl_bounds/upper")
"""Tags of TensorBoard's margin chart only: KL(π_old ‖ π_θ), and the bounds around its target.

A run has all three or none: TensorBoard reports an error if some are missing. So the chart cannot
use `kl/old_new`, which also runs without bounds have.
"""

KL_OF_RUN = "run/kl_old_new"
"""Tag of TensorBoard only: the mean of `kl/old_new` over the run, written at its end."""

Value = bool | float | str


def layout() -> dict[str, dict[str, list[Any]]]:
    """Return the charts of the custom-scalars page: category, title, kind and tags."""
    # TensorBoard takes tags as regular expressions, and anchors them only at the start.
    found: dict[str, dict[str, list[Any]]] = {
        category: {title: ["Multiline", [f"^{tag}$" for tag in tags]] for title, tags in of.items()}
        for category, of in charts().items()
    }
    title = "KL(π_old ‖ π_θ), mean over states, and the bounds around its target"
    found["KL"][title] = ["Margin", list(KL_BOUNDS)]
    return found


METRICS = {
    "return/train": "return/train, last",
    "return/eval": "return/eval",
    KL_OF_RUN: "kl/old_new, mean",
    "policy/entropy": "policy/entropy, last",
}
"""Result columns of the table: tags and titles."""

SHOWN_FIRST = ("algo.name", "algo.learning_rate", "algo.max_kl", "env.id", "seed")
"""The hyperparameters that are selected when the table opens; TensorBoard selects five."""

EVENTS = "events.out.tfevents."
"""Prefix of the names of event files."""

SESSION_END = b"_hparams_/session_end_info"
"""Tag of the status at the end of a run, for TensorBoard's hparams plugin."""

NOT_VARIED = (
    "logger",
    "checkpoint",
    "run_dir",
    "eval_episodes",
    "eval_max_episode_steps",
    "eval_interval",
)
"""Parts of a config that are not hyperparameters."""


def hyperparameters(config: Any) -> dict[str, Value]:
    """Return the values of a config that are not null, by key as on the command line.

    Args:
        config: dataclass whose fields may be dataclasses; lists and dicts become text.
    """
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
    """Return all keys that `hyperparameters` can return for any algorithm, with their types.

    Args:
        config_type: the dataclass; its field `algo` is replaced by the configs of all algorithms.
    """
    found: dict[str, type[Value]] = {}
    for name, hint in typing.get_type_hints(config_type).items():
        if name in NOT_VARIED:
            continue
        parts = [entry.config for entry in ALGORITHMS.values()] if name == "algo" else [hint]
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
    from tensorboard.plugins.hparams import api_pb2  # type: ignore[import-untyped]  # noqa: PLC0415

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
    return _summary("experiment", experiment=described)


def session_start(config: Any) -> Any:
    """Return the summary with the hyperparameters and start time of a run that starts now."""
    from tensorboard.plugins.hparams import plugin_data_pb2  # noqa: PLC0415

    started = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for key, value in hyperparameters(config).items():
        if isinstance(value, bool):
            started.hparams[key].bool_value = value
        elif isinstance(value, str):
            started.hparams[key].string_value = value
        else:
            started.hparams[key].number_value = value
    return _summary("session_start_info", session_start_info=started)


def session_end(status: str) -> Any:
    """Return the summary with the status and end time of a run that ends now.

    Args:
        status: `finished` is a success, `failed` a failure; TensorBoard shows `stopped` as unknown.
    """
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2  # noqa: PLC0415

    codes = {"finished": api_pb2.STATUS_SUCCESS, "failed": api_pb2.STATUS_FAILURE}
    ended = plugin_data_pb2.SessionEndInfo(
        status=codes.get(status, api_pb2.STATUS_UNKNOWN), end_time_secs=time.time()
    )
    return _summary("session_end_info", session_end_info=ended)


class EventFile:
    """A new event file that TensorBoard reads after the existing files of the run.

    TensorBoard reads files in the order of their names, which start with the time of their creation
    in seconds. The new file's time is later than all others, even if the clock was set back.

    Args:
        run_dir: the run's folder, with its event files so far.
        first_step: TensorBoard drops older events of this environment step and of later ones.

    Raises:
        OSError: the file cannot be created.
    """

    def __init__(self, run_dir: Path, first_step: int) -> None:
        # Imported here because it takes a second, which a run without TensorBoard saves.
        from tensorboard.compat.proto.event_pb2 import (  # type: ignore[import-untyped]  # noqa: PLC0415
            Event,
            SessionLog,
        )
        from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]  # noqa: PLC0415
            RecordWriter,
        )

        self._event: Any = Event
        times = [int(time.time()), *(1 + made for made in _times_of_files(run_dir))]
        name = f"{EVENTS}{max(times):010d}.{socket.gethostname()}.{os.getpid()}"
        new = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._file = open_nofollow(run_dir / name, new, "wb")
        self._records: Any = RecordWriter(self._file)
        self._add(Event(file_version="brain.Event:2"))
        self._add(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, summary: Any, env_steps: int | None = None) -> None:
        """Write a summary."""
        self._add(self._event(summary=summary, step=env_steps))

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Flush the file, so that TensorBoard sees all events."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _times_of_files(run_dir: Path) -> Iterator[int]:
    for path in run_dir.glob(f"{EVENTS}*"):
        made = path.name.removeprefix(EVENTS).partition(".")[0]
        if made.isdecimal() and len(made) <= 10:
            yield int(made)


def forget_end(run_dir: Path) -> None:
    """Remove the status at the end from the event files of a run that is resumed.

    TensorBoard uses the first one that it reads.

    Args:
        run_dir: the run's folder, with its event files so far.
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


def _summary(name: str, **content: Any) -> Any:
    """Return a summary for TensorBoard's hparams plugin, whose own functions need TensorFlow."""
    from tensorboard.compat.proto.summary_pb2 import (  # type: ignore[import-untyped]  # noqa: PLC0415
        Summary,
    )
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2  # noqa: PLC0415

    described = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
    value = Summary.Value(tag=f"_hparams_/{name}", metadata=described, tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])
