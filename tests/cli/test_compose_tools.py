"""Settings of benchmarks, comparisons and experiments."""

import pytest

from rlkl.cli.compose_tools import load_comparison, load_experiment, load_works, read_settings
from rlkl.cli.schema import register_schemas
from rlkl.tools.compare.settings import CompareConfig
from rlkl.tools.experiments.base import TrainingExperimentConfig
from rlkl.utils.errors import ConfigError

register_schemas()


def test_settings_get_one_value_of_each_override() -> None:
    overrides = ["resamples=3e2", "score=eval", "score=train", "steps=None"]
    config, others = read_settings(CompareConfig, [*overrides, "gamma=1", "score.a=2"])
    assert others == ["gamma=1", "score.a=2"]
    assert (config.resamples, config.score, config.steps) == (300, "train", None)
    with pytest.raises(ConfigError, match="score=eval,train: expected key=value"):
        read_settings(CompareConfig, ["score=eval,train"])


def test_overrides_apply_to_all_works() -> None:
    works = load_works(["work=[ppo_cartpole,scale]", "repetitions=2e0", "num_envs=[4e0]"])
    assert [work.work for work in works] == ["ppo_cartpole", "scale"]
    assert [(work.repetitions, work.num_envs) for work in works] == [(2, [4]), (2, [4])]
    assert [work.work for work in load_works([])] == ["ppo_cartpole"]
    of_gpus = ["gpu_cartpole", "gpu_gru", "gpu_halfcheetah", "gpu_pong"]
    assert [work.work for work in load_works(["work=gpu"])] == of_gpus
    others = [work.work for work in load_works(["work=all"])]
    assert "scale" in others
    assert not {*others} & {*of_gpus}
    with pytest.raises(ConfigError, match="there is no key 'gama'"):
        load_works(["gama=0.9"])


def test_comparison_points_to_its_help() -> None:
    assert load_comparison(["threshold={CartPole-v1: 400}"]).threshold == {"CartPole-v1": 400}
    with pytest.raises(ConfigError, match=r"did you mean score\?\); see rlkl compare --help"):
        load_comparison(["scroe=eval"])


def test_users_keys_override_those_of_an_experiment() -> None:
    config = load_experiment("clip", ["seeds=1", "rollout_steps=1e2", "env=pendulum"])
    assert isinstance(config, TrainingExperimentConfig)
    assert (config.seeds, config.train.rollout_steps) == (1, 100)
    assert config.train.env.id == "Pendulum-v1"
