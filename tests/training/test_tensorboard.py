"""What TensorBoard's own plugins make of the event files of several runs."""

import csv
import json
import math
import re
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_environments  # noqa: F401 (registers environments)
from test_strangers import break_off

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.training.report import DIAGNOSIS_TAGS, TAGS
from rlkl.training.tensorboard import (
    KL_BOUNDS,
    KL_OF_RUN,
    METRICS,
    SHOWN_FIRST,
    _records,
    columns,
    hyperparameters,
    layout,
)

LOGGER = rlkl.LoggerConfig(progress="none", histogram_interval=3)


def config(algo: str, **changes: Any) -> rlkl.TrainConfig:
    known = {"total_env_steps": 600, "rollout_steps": 16, "eval_episodes": 2, "logger": LOGGER}
    algo_changes = changes.pop("algo_changes", {})
    return rlkl.TrainConfig(**known | {"algo": ALGORITHMS[algo].config(**algo_changes)} | changes)


class Logdir:
    """Runs in a folder, as TensorBoard reads them."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
        from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
        from tensorboard.context import RequestContext

        self.folder = folder
        self.events = EventMultiplexer(tensor_size_guidance={"scalars": 0})
        self.events.AddRunsFromDirectory(str(folder)).Reload()
        self.context = RequestContext()
        provider = MultiplexerDataProvider(self.events, str(folder))
        self.plugins = SimpleNamespace(
            data_provider=provider, logdir=str(folder), plugin_name_to_instance={}
        )

    def layout(self) -> Any:
        """What the plugin of custom scalars hands to the page."""
        from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin

        return json.loads(CustomScalarsPlugin(self.plugins).layout_impl(self.context, "0"))

    def table(self) -> tuple[Any, dict[str, Any]]:
        """What the plugin of hyperparameters hands to the page: columns, and rows by name."""
        from tensorboard.plugins.hparams import api_pb2
        from tensorboard.plugins.hparams.backend_context import Context
        from tensorboard.plugins.hparams.get_experiment import Handler as GetExperiment
        from tensorboard.plugins.hparams.list_session_groups import Handler as ListSessionGroups

        experiment = GetExperiment(
            self.context, Context(self.plugins), "0", api_pb2.GetExperimentRequest()
        ).run()
        request = api_pb2.ListSessionGroupsRequest(
            allowed_statuses=api_pb2.Status.values(), slice_size=100
        )
        rows = ListSessionGroups(self.context, Context(self.plugins), "0", request).run()
        return experiment, {row.name: row for row in rows.session_groups}

    def steps(self, run: str, tag: str) -> list[int]:
        return [event.step for event in self.events.Tensors(run, tag)]

    def values(self, run: str, tag: str) -> list[float]:
        return [float(event.tensor_proto.float_val[0]) for event in self.events.Tensors(run, tag)]

    def tags(self, run: str) -> set[str]:
        return set(self.events.GetAccumulator(run).PluginTagToContent("scalars"))

    def csv(self, run: str) -> list[dict[str, str]]:
        with (self.folder / run / "metrics.csv").open() as file:
            return list(csv.DictReader(file))


RUNS: dict[str, dict[str, Any]] = {
    "ppo_clip": {"algo": "ppo_clip", "seed": 4},
    "stopping": {
        "algo": "ppo_clip",
        "algo_changes": {"target_kl": 0.002, "target_kl_multiplier": 1.25},
    },
    "ppo_kl": {"algo": "ppo_kl", "algo_changes": {"target_kl": 0.02}},
    "ppo_kl_fixed": {"algo": "ppo_kl_fixed", "env": rlkl.EnvConfig("Pendulum-v1", 4)},
    "trpo": {"algo": "trpo", "algo_changes": {"max_kl": 0.04}},
}


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Logdir:
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in RUNS.items():
        rlkl.train(config(**settings, run_dir=str(folder / name)))
    return Logdir(folder)


def test_dashboard_tags_are_written_by_runs() -> None:
    written = {*TAGS, *DIAGNOSIS_TAGS, *KL_BOUNDS, KL_OF_RUN}
    assert not set(TAGS) & {*KL_BOUNDS, KL_OF_RUN}
    for charts in layout().values():
        for title, (kind, tags) in charts.items():
            if kind == "Margin":  # these are no regular expressions
                assert set(tags) <= written, title
                continue
            for tag in tags:
                assert len([name for name in written if re.match(tag, name)]) == 1, tag
    assert set(METRICS) <= written


def test_dashboard_has_each_chart_once(logdir: Logdir) -> None:
    categories = {
        category["title"]: [chart["title"] for chart in category["chart"]]
        for category in logdir.layout()["category"]
    }
    assert categories == {category: list(charts) for category, charts in layout().items()}
    assert list(categories) == [
        "Return and KL", "Return", "KL", "Ratio", "Trust region", "Policy", "Value", "Plasticity",
        "Speed",
    ]  # fmt: skip


BOUNDS = {"stopping": (0, 0.0025), "ppo_kl": (0.04 / 3, 0.03), "trpo": (0, 0.04)}


@pytest.mark.parametrize("run", RUNS)
def test_kl_band_is_complete_or_absent(run: str, logdir: Logdir) -> None:
    if run not in BOUNDS:
        assert not logdir.tags(run) & set(KL_BOUNDS)
        return
    kl, lower, upper = KL_BOUNDS
    steps = [int(row["env_steps"]) for row in logdir.csv(run)]
    for tag in KL_BOUNDS:
        assert logdir.steps(run, tag) == steps
    assert logdir.values(run, kl) == logdir.values(run, "kl/old_new")
    first = logdir.values(run, lower)[0], logdir.values(run, upper)[0]
    assert first == pytest.approx(BOUNDS[run])


def test_kl_bound_of_trpo_follows_its_schedule(logdir: Logdir) -> None:
    kl, lower, upper = (logdir.values("trpo", tag) for tag in KL_BOUNDS)
    share = np.array([0, *logdir.steps("trpo", "kl/target")[:-1]]) / 600
    np.testing.assert_allclose(upper, 0.04 * (1 - share), rtol=1e-6)
    assert all(low <= value <= high for low, value, high in zip(lower, kl, upper, strict=True))


@pytest.mark.parametrize("run", RUNS)
def test_scalars_are_logged_at_environment_steps(run: str, logdir: Logdir) -> None:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    (file,) = (logdir.folder / run).glob("*tfevents*")
    events = [Event.FromString(data) for data in RawEventFileLoader(str(file)).Load()]
    scalars = [
        event
        for event in events
        if any(value.WhichOneof("value") == "simple_value" for value in event.summary.value)
    ]
    rows = logdir.csv(run)
    steps = [int(row["env_steps"]) for row in rows]
    assert [event.step for event in scalars] == [*steps, steps[-1]]
    for event, row in zip(scalars, rows, strict=False):
        written = {value.tag: value.simple_value for value in event.summary.value}
        expected = {tag: float(row[tag]) for tag in TAGS if row[tag]}
        assert {tag: written[tag] for tag in written if tag in TAGS} == pytest.approx(expected)
        assert set(written) - set(TAGS) <= set(KL_BOUNDS)
    assert [value.tag for value in scalars[-1].summary.value] == [KL_OF_RUN]
    histograms = [e.step for e in events if any(v.HasField("histo") for v in e.summary.value)]
    assert sorted({*histograms}) == steps[::3]


def test_hyperparameter_table_has_one_row_per_run(logdir: Logdir) -> None:
    _, rows = logdir.table()
    assert set(rows) == set(RUNS) == set(logdir.events.Runs())
    clip, trpo, fixed = (rows[name].hparams for name in ("ppo_clip", "trpo", "ppo_kl_fixed"))
    assert clip["algo.name"].string_value == "ppo_clip"
    assert clip["seed"].number_value == 4
    assert clip["algo.clip_ratio"].number_value == 0.2
    assert clip["algo.max_grad_norm"].number_value == 0.5
    assert clip["critic.num_epochs"].number_value == rlkl.CriticConfig().num_epochs
    assert clip["policy.actor_hidden_sizes"].string_value == "[64, 64]"
    assert clip["env.backend"].string_value == "native"  # what `auto` came to
    assert clip["scale_rewards"].HasField("bool_value")
    assert "algo.target_kl" not in clip  # null
    assert "algo.clip_ratio" not in trpo
    assert trpo["algo.max_kl"].number_value == 0.04
    assert fixed["env.id"].string_value == "Pendulum-v1"
    assert not [key for key in clip if key.startswith(("logger.", "run_dir"))]


def test_the_columns_serve_the_runs_of_every_algorithm(logdir: Logdir) -> None:
    from tensorboard.plugins.hparams import api_pb2

    experiment, rows = logdir.table()
    kinds = {info.name: info.type for info in experiment.hparam_infos}
    field = {
        api_pb2.DATA_TYPE_BOOL: "bool_value",
        api_pb2.DATA_TYPE_FLOAT64: "number_value",
        api_pb2.DATA_TYPE_STRING: "string_value",
    }
    for name, row in rows.items():
        for key, value in row.hparams.items():
            assert value.HasField(field[kinds[key]]), f"{name}: {key}"
    # TensorBoard ticks the first five of each.
    assert [info.name for info in experiment.hparam_infos][:5] == sorted(SHOWN_FIRST)
    assert [info.name.tag for info in experiment.metric_infos] == list(METRICS)


def test_hyperparameter_table_shows_last_values_and_mean_kl(logdir: Logdir) -> None:
    from tensorboard.plugins.hparams import api_pb2

    _, rows = logdir.table()
    for run, row in rows.items():
        shown = {metric.name.tag: metric.value for metric in row.metric_values}
        records = logdir.csv(run)
        last = {tag: float(records[-1][tag]) for tag in METRICS if records[-1].get(tag)}
        mean = np.mean([float(record["kl/old_new"]) for record in records])
        assert shown == pytest.approx(last | {KL_OF_RUN: mean}, rel=1e-6)
        (session,) = row.sessions
        assert session.status == api_pb2.STATUS_SUCCESS
        assert session.start_time_secs < session.end_time_secs


@pytest.mark.parametrize(
    ("end", "status"), [(RuntimeError("broken"), "FAILURE"), (KeyboardInterrupt(), "UNKNOWN")]
)
def test_the_table_says_how_a_run_ended(
    end: BaseException, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.plugins.hparams import api_pb2

    trainer = rlkl.Trainer(config("ppo_clip", run_dir=str(tmp_path / "run")))
    iterate = trainer.learner.iterate

    def ended() -> Any:
        if trainer.learner.iterations == 2:
            raise end
        return iterate()

    monkeypatch.setattr(trainer.learner, "iterate", ended)
    with suppress(RuntimeError):
        trainer.train()
    _, rows = Logdir(tmp_path).table()
    (session,) = rows["run"].sessions
    assert api_pb2.Status.Name(session.status) == f"STATUS_{status}"
    assert session.end_time_secs > 0
    assert KL_OF_RUN in {metric.name.tag for metric in rows["run"].metric_values}

    # It goes on, and no longer ended as it did; a row half written is none.
    (file,) = (tmp_path / "run").glob("events.*")
    *others, last = _records(file.read_bytes())
    file.write_bytes(b"".join([*others, last, others[1][:-1]]))
    file = file.rename(file.with_name("events.out.tfevents.0000000001.x"))  # of an earlier second
    rlkl.resume(tmp_path / "run")
    assert file.read_bytes() == b"".join(others)
    resumed = Logdir(tmp_path)
    (later,) = resumed.table()[1]["run"].sessions
    assert later.status == api_pb2.STATUS_SUCCESS
    assert later.start_time_secs == session.start_time_secs
    assert later.end_time_secs > session.end_time_secs
    steps = [int(row["env_steps"]) for row in resumed.csv("run")]
    assert len(steps) == trainer.learner.iterations + 3
    assert resumed.steps("run", "kl/old_new") == steps


def test_run_without_iterations_has_no_mean_kl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = rlkl.Trainer(config("ppo_clip", run_dir=str(tmp_path / "run")))
    monkeypatch.setattr(trainer.learner, "iterate", lambda: (_ for _ in ()).throw(RuntimeError))
    with pytest.raises(RuntimeError):
        trainer.train()
    _, rows = Logdir(tmp_path).table()
    assert rows["run"].hparams["algo.name"].string_value == "ppo_clip"
    assert not rows["run"].metric_values


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_hyperparameter_has_a_column_of_its_type(algo: str) -> None:
    known = columns(rlkl.TrainConfig)
    for key, value in hyperparameters(config(algo)).items():
        assert known[key] is (float if type(value) is int else type(value)), key


def test_a_column_has_the_type_of_its_field() -> None:
    known = columns(rlkl.TrainConfig)
    assert known["algo.max_grad_norm"] is float  # float or null
    assert known["rollout_steps"] is float
    assert known["normalize_observations"] is bool
    assert known["env.kwargs"] is str
    assert known["policy.actor_hidden_sizes"] is str
    assert {"algo.clip_ratio", "algo.max_kl", "algo.kl_coefficient_max"} <= known.keys()
    assert not [key for key in known if key.startswith(("logger", "run_dir", "eval_"))]
    assert "algo.knob" not in known  # of the class, not a setting


def test_events_have_every_tag_that_applies(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = rlkl.LoggerConfig(progress="none", histogram_interval=2)
    summary = rlkl.train(config("trpo", run_dir=str(tmp_path / "run"), logger=logger))
    events = EventAccumulator(str(tmp_path / "run"), {"histograms": 0}).Reload()
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    applied = {tag for tag in TAGS if any(row[tag] for row in rows)}
    assert set(events.Tags()["scalars"]) == applied | {*KL_BOUNDS, KL_OF_RUN}
    curve = events.Scalars("kl/old_new")
    assert [event.step for event in curve] == [int(row["env_steps"]) for row in rows]
    assert [event.value for event in curve] == pytest.approx(
        [float(row["kl/old_new"]) for row in rows]
    )
    assert curve[-1].step == summary.env_steps
    assert set(events.Tags()["histograms"]) == {
        "ratio/histogram", "kl/histogram", "advantage/histogram",
    }  # fmt: skip
    assert len(events.Histograms("kl/histogram")) == math.ceil(summary.iterations / 2)


def test_points_are_shown_after_the_clock_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    now = [2_000_000_000.5]
    monkeypatch.setattr(time, "time", lambda: now[0])
    run = break_off(tmp_path / "run")
    now[0] -= 86_400
    rlkl.resume(run, lambda config: replace(config, total_env_steps=96))
    now[0] -= 86_400
    rlkl.resume(run, lambda config: replace(config, total_env_steps=160))
    events = EventAccumulator(str(run)).Reload()
    shown = [event.step for event in events.Scalars("kl/old_new")]
    assert shown == [16, 32, 48, 64, 80, 96, 112, 128, 144, 160]
    names = sorted(path.name.split(".")[3] for path in run.glob("events.*"))
    assert names == ["2000000000", "2000000001", "2000000002"]
