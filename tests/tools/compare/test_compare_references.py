"""Scales of returns and thresholds of environments."""

import pytest

from rlkl.tools.compare.references import reference, threshold
from rlkl.tools.compare.settings import CompareConfig

DEFAULT = CompareConfig()


def test_known_environment_has_random_and_good_return() -> None:
    scale = reference("CartPole-v1", [100.0, 200.0], DEFAULT)
    assert scale is not None
    assert (scale.low, scale.high, scale.range, scale.relative) == (22, 475, 453, False)
    assert scale.source == "random actions; Gymnasium's reward threshold"
    assert [scale.normalized(x) for x in (22, 475, 248.5)] == [0, 1, 0.5]


def test_unregistered_threshold_is_called_a_good_policy() -> None:
    scale = reference("Swimmer-v5", [], DEFAULT)
    assert scale is not None
    assert scale.source.startswith("random actions; ")
    assert reference("Pendulum-v1", [], DEFAULT).source == "random actions; a good policy"  # type: ignore[union-attr]


def test_chosen_references_come_first() -> None:
    config = CompareConfig(references={"CartPole-v1": [0, 10]}, normalize="runs")
    scale = reference("CartPole-v1", [1.0, 2.0], config)
    assert scale is not None
    assert (scale.low, scale.high, scale.source) == (0, 10, "set by references=")


@pytest.mark.parametrize(
    ("env", "config"), [("Unknown-v0", DEFAULT), ("CartPole-v1", CompareConfig(normalize="runs"))]
)
def test_unknown_scale_spans_the_runs(env: str, config: CompareConfig) -> None:
    scale = reference(env, [3.0, 1.0, 2.0], config)
    assert scale is not None
    assert (scale.low, scale.high, scale.relative) == (1, 3, True)
    assert reference(env, [2.0, 2.0], config) is None
    assert reference(env, [], config) is None


def test_threshold_is_chosen_registered_or_good() -> None:
    assert threshold("CartPole-v1", CompareConfig(threshold=7)) == (7, "set by threshold=")
    assert threshold("CartPole-v1", DEFAULT) == (475, "Gymnasium's reward threshold")
    assert threshold("Pendulum-v1", DEFAULT) == (-170, "a good policy")
    assert threshold("Unknown-v0", DEFAULT) is None
