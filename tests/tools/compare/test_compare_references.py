"""Scales of returns and thresholds of environments."""

import pytest

from rlkl.tools.compare.settings import CompareConfig

DEFAULT = CompareConfig()


def test_known_environment_has_random_and_good_return() -> None:
    scale = DEFAULT.reference_of("CartPole-v1", [100.0, 200.0])
    assert scale is not None
    assert (scale.low, scale.high, scale.range, scale.relative) == (22, 475, 453, False)
    assert scale.source == "random actions; Gymnasium's reward threshold"
    assert [scale.normalized(x) for x in (22, 475, 248.5)] == [0, 1, 0.5]


def test_unregistered_threshold_is_called_a_good_policy() -> None:
    scale = DEFAULT.reference_of("Swimmer-v5", [])
    assert scale is not None
    assert scale.source.startswith("random actions; ")
    assert DEFAULT.reference_of("Pendulum-v1", []).source == "random actions; a good policy"  # type: ignore[union-attr]


def test_chosen_references_come_first() -> None:
    config = CompareConfig(references={"CartPole-v1": [0, 10]}, normalize="runs")
    scale = config.reference_of("CartPole-v1", [1.0, 2.0])
    assert scale is not None
    assert (scale.low, scale.high, scale.source) == (0, 10, "set by references=")


@pytest.mark.parametrize(
    ("env", "config"), [("Unknown-v0", DEFAULT), ("CartPole-v1", CompareConfig(normalize="runs"))]
)
def test_unknown_scale_spans_the_runs(env: str, config: CompareConfig) -> None:
    scale = config.reference_of(env, [3.0, 1.0, 2.0])
    assert scale is not None
    assert (scale.low, scale.high, scale.relative) == (1, 3, True)
    assert config.reference_of(env, [2.0, 2.0]) is None
    assert config.reference_of(env, []) is None


def test_threshold_is_chosen_registered_or_good() -> None:
    assert CompareConfig(threshold=7).threshold_of("CartPole-v1") == (7, "set by threshold=")
    assert DEFAULT.threshold_of("CartPole-v1") == (475, "Gymnasium's reward threshold")
    assert DEFAULT.threshold_of("Pendulum-v1") == (-170, "a good policy")
    assert DEFAULT.threshold_of("Unknown-v0") is None
