"""The tabs of `rlkl board`, without a browser."""

from typing import Any

import pytest
from tensorboard.plugins.hparams import metadata

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.cli.board_tabs import Table, short_names, shown_keys, tabs
from rlkl.training.tensorboard import experiment, session_start


def content(summary: Any) -> bytes:
    found: bytes = summary.value[0].metadata.plugin_data.content
    return found


def columns(*configs: rlkl.TrainConfig) -> tuple[list[tuple[str, str]], list[str]]:
    """Return keys and names of hyperparameters, and the names of metrics, of these runs."""
    found = {
        str(number): {
            metadata.EXPERIMENT_TAG: content(experiment(rlkl.TrainConfig)),
            metadata.SESSION_START_INFO_TAG: content(session_start(config)),
        }
        for number, config in enumerate(configs)
    }
    made = Table(None)._context.experiment_from_metadata(None, "", True, found, None)
    hparams = [(info.name, info.display_name) for info in made.hparam_infos]
    return hparams, [info.display_name for info in made.metric_infos]


def config(algo: str, seed: int = 0, **changes: Any) -> rlkl.TrainConfig:
    return rlkl.TrainConfig(algo=ALGORITHMS[algo].config(**changes), seed=seed)


def test_custom_scalars_are_the_first_tab() -> None:
    names = [getattr(plugin, "plugin_name", None) for plugin in tabs()]
    assert names[1:4] == ["custom_scalars", "timeseries", "scalars"]
    assert tabs().count(Table) == 1


def test_table_has_the_keys_that_differ() -> None:
    hparams, metrics = columns(
        config("trpo", max_kl=0.02), config("trpo", seed=1), config("ppo_clip")
    )
    assert hparams == [("algo.name", "algo.name"), ("seed", "seed"), ("algo.max_kl", "max_kl")]
    assert metrics == ["return/train, last", "return/eval", "kl/old_new, mean"]


def test_single_run_shows_what_it_is() -> None:
    hparams, _ = columns(config("trpo"))
    assert [key for key, _ in hparams] == ["algo.name", "env.id", "seed"]


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ({"seed": 1, "algo.name": 1, "gamma": 1}, ["algo.name", "seed"]),
        ({"seed": 1, "algo.name": 1, "gamma": 2}, ["gamma"]),
        ({"a": 2, "seed": 2, "b": 1, "algo.name": 2}, ["algo.name", "seed", "a"]),
        ({}, []),
    ],
)
def test_shown_keys_differ_or_identify(counts: dict[str, int], shown: list[str]) -> None:
    assert shown_keys(counts) == shown


def test_keys_that_end_alike_stay_whole() -> None:
    keys = ["algo.name", "algo.learning_rate", "critic.learning_rate", "algo.max_kl", "gamma"]
    assert short_names(keys) == {
        "algo.name": "algo.name",
        "algo.learning_rate": "algo.learning_rate",
        "critic.learning_rate": "critic.learning_rate",
        "algo.max_kl": "max_kl",
        "gamma": "gamma",
    }
