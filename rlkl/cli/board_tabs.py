"""The tabs of `rlkl board`: Custom Scalars first, and a table of the keys that differ."""

from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Any

from tensorboard import default
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
from tensorboard.plugins.hparams import api_pb2, backend_context, metadata
from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin

from rlkl.training.tensorboard import IDENTITY, METRICS

FIRST_TAB = "#custom_scalars&_smoothingWeight=0"
"""The part of the address that opens the tab of charts, with curves that are not smoothed."""


def tabs() -> list[Any]:
    """Return TensorBoard's plugins in the order of their tabs."""
    found: list[Any] = default.get_plugins()
    found.insert(1, found.pop(found.index(CustomScalarsPlugin)))  # the first one has no tab
    found[found.index(HParamsPlugin)] = Table
    return found


class Table(HParamsPlugin):  # type: ignore[misc]
    """The tab HParams, with the hyperparameters that differ between the runs shown."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._context = _Runs(context)


class _Runs(backend_context.Context):  # type: ignore[misc]
    """What the table knows of the runs.

    A run lists the keys of all algorithms, since it cannot know which other runs there will be.
    TensorBoard takes that list from one of them.
    """

    def experiment_from_metadata(
        self, ctx: Any, experiment_id: str, include_metrics: bool, found: Any, *others: Any
    ) -> Any:
        """Return the columns of the table."""
        whole = super().experiment_from_metadata(
            ctx, experiment_id, include_metrics, found, *others
        )
        values = defaultdict(set)
        for contents in found.values():
            if content := contents.get(metadata.SESSION_START_INFO_TAG):
                started = metadata.parse_session_start_info_plugin_data(content)
                for key, value in started.hparams.items():
                    values[key].add(value.SerializeToString())
        keys = shown_keys({key: len(distinct) for key, distinct in values.items()})
        infos = {info.name: info for info in whole.hparam_infos}
        columns = api_pb2.Experiment()
        for key, name in short_names([key for key in keys if key in infos]).items():
            column = columns.hparam_infos.add()
            column.CopyFrom(infos[key])
            column.display_name, column.differs = name, True
        metrics = {metric.name.tag: metric for metric in whole.metric_infos}
        columns.metric_infos.extend(metrics[tag] for tag in METRICS if tag in metrics)
        return columns


def shown_keys(counts: dict[str, int]) -> list[str]:
    """Return the keys of the table's columns, the algorithm, environment and seed first.

    `counts` is the number of different values by key; runs without the key do not count.
    """
    differing = sorted(key for key, count in counts.items() if count > 1)
    first = [key for key in IDENTITY if key in (differing or counts)]
    return [*first, *(key for key in differing if key not in first)]


def short_names(keys: Collection[str]) -> dict[str, str]:
    """Return the last part of each key; the whole key if two end alike, or in `IDENTITY`."""
    last = {key: key if key in IDENTITY else key.rpartition(".")[2] for key in keys}
    count = Counter(last.values())
    return {key: name if count[name] == 1 else key for key, name in last.items()}
