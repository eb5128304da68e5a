"""What TensorBoard shows of many runs at once: one page of charts, and a table of hyperparameters.

Both are written into each run's own event file, the same whatever the algorithm: TensorBoard merges
the pages of all runs, chart by equal chart, and takes the table's columns from any one run.
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
from rlkl.utils.atomic_files import open_unlinked, write_durably

KL_BOUNDS = ("kl_bounds/kl", "kl_bounds/lower", "kl_bounds/upper")
"""Tags of TensorBoard alone, for its margin chart: KL(π_old ‖ π_θ), and where it should lie.

A run has all three or none. TensorBoard complains of a run that has some, so `kl/old_new`, which
every run has, cannot be the value of a chart whose bounds only some algorithms know.
"""

KL_OF_RUN = "run/kl_old_new"
"""Tag of TensorBoard alone: the mean of `kl/old_new` over the run, written at its end."""

Value = bool | float | str


def _curves(*tags: str) -> list[Any]:
    # The tags are regular expressions that TensorBoard matches at the beginning alone.
    return ["Multiline", [f"^{tag}$" for tag in tags]]


LAYOUT: dict[str, dict[str, list[Any]]] = {
    "Return": {
        "return while training, mean of the last 100 episodes": _curves("return/train"),
        "return of the most probable actions": _curves("return/eval"),
        "steps of an episode": _curves("episode/length"),
    },
    "KL": {
        "KL(π_old ‖ π_θ), mean over states": _curves("kl/old_new"),
        "largest of a state, both directions": _curves("kl/max", "kl/new_old_max"),
        "both directions, mean over states": _curves("kl/old_new", "kl/new_old"),
        "estimates of KL(π_old ‖ π_θ) from the sampled actions": _curves("kl/k1", "kl/k2", "kl/k3"),
        "Jensen-Shannon divergence, exact or estimated": _curves("kl/js", "kl/js_estimate"),
        "target of KL(π_old ‖ π_θ)": _curves("kl/target"),
        "coefficient of the penalty": _curves("kl/coefficient"),
        "KL(π_old ‖ π_θ), mean over states, and the bounds around its target": [
            "Margin",
            list(KL_BOUNDS),
        ],
    },
    "Ratio": {
        "share of ratios outside the clip": _curves("ratio/clip_fraction"),
        "effective sample size, share of the batch": _curves("ratio/effective_sample_size"),
        "smallest and largest ratio": _curves("ratio/min", "ratio/max"),
        "standard deviation of the ratio": _curves("ratio/std"),
    },
    "Trust region": {
        "improvement of the surrogate, expected and actual": _curves(
            "trust_region/expected_improvement", "trust_region/actual_improvement"
        ),
        "share of the full step that was taken": _curves("trust_region/step_fraction"),
        "backtracks of the line search": _curves("trust_region/backtracks"),
        "residual of conjugate gradients": _curves("trust_region/cg_residual"),
    },
    "Policy": {
        "entropy": _curves("policy/entropy", "policy/entropy_estimate"),
        "standard deviation of Gaussian actions": _curves("policy/std"),
    },
    "Value": {
        "explained variance, before and after the fit": _curves(
            "value/explained_variance", "value/explained_variance_after"
        ),
        "loss": _curves("value/loss"),
        "norm of the gradient": _curves("value/grad_norm"),
    },
    "Speed": {
        "environment steps per second": _curves("time/env_steps_per_second"),
        "seconds of an iteration, by phase": _curves(
            "time/collect", "time/prepare", "time/update", "time/report"
        ),
    },
}
"""Categories, and in each the charts by title: what kind, and which tags."""

METRICS = {
    "return/train": "return/train, last",
    "return/eval": "return/eval",
    KL_OF_RUN: "kl/old_new, mean",
    "policy/entropy": "policy/entropy, last",
}
"""Columns of the table beside the hyperparameters, and what is written above them."""

SHOWN_FIRST = ("algo.name", "algo.learning_rate", "algo.max_kl", "env.id", "seed")
"""The hyperparameters that are ticked when the table opens; TensorBoard ticks five."""

EVENTS = "events.out.tfevents."
"""How the names of TensorBoard's files begin."""

SESSION_END = b"_hparams_/session_end_info"
"""Tag of TensorBoard's plugin hparams for how a run ended."""

NOT_VARIED = (
    "logger",
    "checkpoint",
    "run_dir",
    "eval_episodes",
    "eval_max_episode_steps",
    "eval_interval",
)
"""Parts of a config that say where a run is kept and shown, not what it is."""


def hyperparameters(config: Any) -> dict[str, Value]:
    """Return what a config sets, by key as on the command line; without what is null.

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
    """Return all keys that `hyperparameters` may give, whichever the algorithm, and their types.

    Args:
        config_type: the dataclass; its field `algo` stands for the config of every algorithm.
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
    """Return which of TensorBoard's three types holds a value, null aside."""
    hints = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if bool in hints:
        return bool
    return float if {int, float} & set(hints) else str


def experiment(config_type: type[Any]) -> Any:
    """Return the summary that names the columns of the table, the same for every run."""
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
        # TensorBoard puts those that differ between runs first. One run cannot know which will.
        info = described.hparam_infos.add(name=key, type=kinds[kind], differs=key in SHOWN_FIRST)
        if kind is bool:  # its filter is made of the values that there can be
            info.domain_discrete.extend([False, True])
    return _summary("experiment", experiment=described)


def session_start(config: Any) -> Any:
    """Return the summary with the hyperparameters of a run that begins now."""
    from tensorboard.plugins.hparams import plugin_data_pb2  # noqa: PLC0415

    begun = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for key, value in hyperparameters(config).items():
        if isinstance(value, bool):
            begun.hparams[key].bool_value = value
        elif isinstance(value, str):
            begun.hparams[key].string_value = value
        else:
            begun.hparams[key].number_value = value
    return _summary("session_start_info", session_start_info=begun)


def session_end(status: str) -> Any:
    """Return the summary that says how a run ended, now.

    Args:
        status: `finished` is a success, `failed` a failure; for `stopped` TensorBoard has no word
            but unknown.
    """
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2  # noqa: PLC0415

    words = {"finished": api_pb2.STATUS_SUCCESS, "failed": api_pb2.STATUS_FAILURE}
    ended = plugin_data_pb2.SessionEndInfo(
        status=words.get(status, api_pb2.STATUS_UNKNOWN), end_time_secs=time.time()
    )
    return _summary("session_end_info", session_end_info=ended)


class EventFile:
    """A file of events that TensorBoard reads behind those that a run has already.

    TensorBoard reads the files of a folder in the order of their names, which begin with the second
    in which each was made. A clock that was set back must not put the newest file first.

    Args:
        run_dir: with the event files of the run so far, if there are any.
        first_step: TensorBoard forgets events of this environment step and of later ones.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, run_dir: Path, first_step: int) -> None:
        # Imported here: it takes a second that a run without it need not spend.
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
        self._file = open_unlinked(run_dir / name, new, "wb")
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
        """Let TensorBoard see all that was written."""
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
    """Take out of a run's event files how it ended, because it goes on.

    TensorBoard believes the first end that it reads.

    Args:
        run_dir: with the event files of the run so far, if there are any.
    """
    for path in run_dir.glob(f"{EVENTS}*"):
        content = path.read_bytes()
        kept = b"".join(record for record in _records(content) if SESSION_END not in record)
        if kept != content:
            write_durably(path, kept)


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the records of an event file; one that is half written, at its end, is none.

    Each is the length of its event in 8 bytes, a checksum of 4, the event, and a checksum of 4.
    """
    start = 0
    while len(length := content[start : start + 8]) == 8:
        end = start + 16 + struct.unpack("<Q", length)[0]
        if end > len(content):
            return
        yield content[start:end]
        start = end


def _summary(name: str, **content: Any) -> Any:
    """Return a summary for TensorBoard's plugin hparams, whose own makers need TensorFlow."""
    from tensorboard.compat.proto.summary_pb2 import (  # type: ignore[import-untyped]  # noqa: PLC0415
        Summary,
    )
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2  # noqa: PLC0415

    described = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
    value = Summary.Value(tag=f"_hparams_/{name}", metadata=described, tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])
