"""Settings of the networks are checked."""

from typing import Any

import pytest

from rlkl.models.policy_config import PolicyConfig
from rlkl.utils.errors import ConfigError


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("actor_hidden_sizes", [0]),
        ("critic_hidden_sizes", [-1]),
        ("encoder_hidden_sizes", [0]),
        ("image_encoder", "vgg"),
        ("image_features", 0),
        ("pixel_scale", 0.0),
        ("shared_value_coefficient", -1.0),
        ("memory", "rnn"),
        ("memory_size", 0),
        ("sequence_length", 0),
        ("activation", "sin"),
        ("initialization", "zeros"),
        ("hidden_gain", 0.0),
        ("actor_gain", -1.0),
        ("critic_gain", 0.0),
        ("box_distribution", "normal"),
        ("log_std", 3.0),
        ("log_std_min", -21.0),
        ("log_std_max", 6.0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"policy\.{key}"):
        PolicyConfig(**{key: value})


def test_inconsistent_log_std_bounds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy\.log_std_max"):
        PolicyConfig(log_std_min=0.5, log_std_max=0.0)
    with pytest.raises(ConfigError, match=r"policy\.log_std"):
        PolicyConfig(log_std=-1.0, log_std_min=-0.5)


def test_squashed_actions_cannot_be_left_unclipped() -> None:
    with pytest.raises(ConfigError, match=r"policy\.clip_actions=false: has no effect"):
        PolicyConfig(box_distribution="tanh_gaussian", clip_actions=False)
    with pytest.raises(ConfigError, match=r"policy\.box_distribution=beta, whose actions"):
        PolicyConfig(box_distribution="beta", clip_actions=False)
    assert not PolicyConfig(clip_actions=False).clip_actions


@pytest.mark.parametrize("settings", [{"log_std": -1.0}, {"state_dependent_std": True}])
def test_beta_has_no_standard_deviation(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"policy\.box_distribution=beta: has no log_std"):
        PolicyConfig(box_distribution="beta", **settings)


def test_bounds_of_settings_are_allowed() -> None:
    config = PolicyConfig(log_std_min=-20, log_std=5, log_std_max=5, actor_hidden_sizes=[65536])
    assert (config.log_std_min, config.log_std, config.log_std_max) == (-20, 5, 5)
