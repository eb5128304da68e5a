"""Recording a run's policy: whole episodes, cut ones, and its distributions."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloning_data import config_for
from small_environments import PLANS

from rlkl.models.policy import PolicyConfig
from rlkl.tools.cloning.config import CloneConfig
from rlkl.tools.cloning.demonstrations import Demonstrations
from rlkl.tools.cloning.fit import Data, measure_policy
from rlkl.tools.cloning.run_source import RunSource
from rlkl.training.learner import Learner
from rlkl.training.trainer import train
from rlkl.utils.errors import ConfigError


def source_of(folder: Path, env: str, num_envs: int = 2, **settings: Any) -> RunSource:
    """Train for an iteration, and return the source."""
    config = config_for(run_dir=str(folder / "run"), **settings)
    config = replace(config, env=replace(config.env, id=env, num_envs=num_envs, backend="auto"))
    train(config)
    return RunSource(str(folder / "run"))


def recorded(
    source: RunSource, config: CloneConfig, **settings: Any
) -> tuple[Learner, Demonstrations]:
    """Return the learner of a new run and the demonstrations for it."""
    with closing(Learner(replace(source.train, **settings))) as learner:
        return learner, source.demonstrations(learner, config)


@pytest.mark.parametrize("env", ["SmallCounter-v0", "SmallNative-v0"])
def test_episodes_are_as_the_environment_made_them(tmp_path: Path, env: str) -> None:
    source = source_of(tmp_path, env, 8 if env == "SmallNative-v0" else 2)
    _, data = recorded(source, CloneConfig(episodes=24))
    start = 0
    for number, length in enumerate(data.lengths):
        # A vector is the number of the sub-environment, of its episode, and of the step.
        rows = data.observations["vector"][start : start + length]
        env_number, episode, _ = rows[0].astype(int)
        plan = PLANS[env_number].split()[episode % len(PLANS[env_number].split())]
        assert length == int(plan[:-1])
        assert data.terminated[number] == (plan[-1] in "TB")
        assert rows[:, 2].tolist() == list(range(length))
        assert data.final_observations["vector"][number].tolist() == [env_number, episode, length]
        rewards = 100.0 * env_number + 10 * np.arange(1, length + 1)
        taken = data.actions[start : start + length]
        assert data.rewards[start : start + length].tolist() == (rewards + taken).tolist()
        start += length
    assert start == len(data)
    assert len(data.lengths) == 24


def test_steps_are_shared_and_the_last_episode_is_cut(tmp_path: Path) -> None:
    _, data = recorded(source_of(tmp_path, "StatesDiscrete-v0"), CloneConfig(env_steps=13))
    assert data.lengths.tolist() == [4, 3, 4, 2]
    assert data.terminated.tolist() == [True, False, True, False]
    assert data.final_observations["vector"].argmax(1).tolist() == [0, 1, 0, 0]


def test_endless_episodes_are_cut_once(tmp_path: Path) -> None:
    source = source_of(tmp_path, "SmallEndless-v0", eval_max_episode_steps=7)
    _, data = recorded(source, CloneConfig(episodes=4))
    limited = data.lengths == 7
    assert data.terminated.tolist() == (~limited).tolist()
    assert set(data.lengths[~limited]) <= {1, 2}


@pytest.mark.parametrize("policy", [{}, {"memory": "gru", "memory_size": 4}])
def test_parameters_are_those_of_the_policy(tmp_path: Path, policy: dict[str, Any]) -> None:
    networks = {"actor_hidden_sizes": [8], "critic_hidden_sizes": [8], "actor_gain": 1.0}
    source = source_of(
        tmp_path, "CartPole-v1", policy=PolicyConfig(**networks | policy),
        normalize_observations=True,
    )  # fmt: skip
    learner, data = recorded(source, CloneConfig(env_steps=60))
    ours, theirs = learner.policy, source.run.policy
    ours.load_state_dict(theirs.policy.state_dict())
    assert theirs.normalizer is not None
    learner.normalizer.load_state_dict(theirs.normalizer.state_dict())
    row = measure_policy(learner.engine, Data(data, learner).batch)
    assert row["held_out/kl_max"] == pytest.approx(0, abs=1e-6)
    again = recorded(source, CloneConfig(env_steps=60))[1]
    assert np.array_equal(again.parameters, data.parameters)
    other = recorded(source, CloneConfig(env_steps=60), seed=7)[1]
    assert not np.array_equal(other.parameters, data.parameters)


def test_masks_are_recorded_with_their_actions(tmp_path: Path) -> None:
    source = source_of(tmp_path, "StatesMasked-v0")
    learner, data = recorded(source, CloneConfig(env_steps=40))
    mask = data.observations["action_mask"]
    assert mask[:4].tolist() == [[True] * 3, [True, True, False]] * 2
    assert mask[np.arange(len(data)), data.actions].all()
    assert np.isneginf(data.parameters[~mask]).all()
    assert "action_mask" not in data.final_observations
    learner.policy.load_state_dict(source.run.policy.policy.state_dict())
    row = measure_policy(learner.engine, Data(data, learner).batch)
    assert row["held_out/kl_max"] == pytest.approx(0, abs=1e-6)


def test_other_distribution_has_no_known_kl(tmp_path: Path) -> None:
    source = source_of(tmp_path, "StatesBox-v0")
    same = recorded(source, CloneConfig(env_steps=20))[1]
    beta = PolicyConfig(box_distribution="beta")
    learner, data = recorded(source, CloneConfig(env_steps=20), policy=beta)
    assert same.parameters.shape == (20, 4)
    assert data.parameters.shape == (20, 0)
    assert (np.abs(data.actions) <= np.float32(0.999)).all()
    clipped = same.actions.clip(-0.999, 0.999)
    np.testing.assert_allclose(data.actions, clipped, atol=1e-5)
    assert "held_out/kl" not in measure_policy(learner.engine, Data(data, learner).batch)


def test_another_environment_is_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path, "StatesDiscrete-v0")
    env = replace(source.train.env, id="StatesMultiDiscrete-v0")
    with pytest.raises(ConfigError, match=r"run has actions Discrete\(3\), but the env"):
        recorded(source, CloneConfig(), env=env)


def test_config_of_the_run_is_the_default(tmp_path: Path) -> None:
    source = source_of(tmp_path, "StatesDiscrete-v0", gamma=0.7)
    assert source.train.run_dir is None
    assert (source.train.gamma, source.train.policy.engine) == (0.7, "auto")
    assert source.train.policy.actor_hidden_sizes == [8]
