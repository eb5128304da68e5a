"""Search spaces on the command line, invalid ones, and experiments with the best values."""

from pathlib import Path
from typing import Any

import pytest

import rlkl
from rlkl.cli.compose import load
from rlkl.cli.compose_tuning import configure, experiment_yaml, load_tuning
from rlkl.cli.schema import options, register_schemas
from rlkl.tools.tuning.space import Choice, Interval
from rlkl.utils.errors import ConfigError

register_schemas()
RATE = "algo.learning_rate=tag(log,interval(1e-5,1e-2))"


def test_search_space_is_parsed() -> None:
    tuning = load_tuning(
        [
            "env=acrobot",
            RATE,
            "algo.num_epochs=int(interval(4,16))",
            "rollout_steps=range(64,257,64)",
            "policy.actor_hidden_sizes=[64,64],[32]",
            "critic.value_clip=null,0.5",
            "normalize_observations=true,false",
            "gamma=0.9",
            "trials=7",
            "seeds=3",
        ]
    )
    assert tuning.space == {
        "algo.learning_rate": Interval(1e-5, 1e-2, log=True),
        "algo.num_epochs": Interval(4, 16, step=1),
        "rollout_steps": Interval(64, 256, step=64),
        "policy.actor_hidden_sizes": Choice(("[64,64]", "[32]")),
        "critic.value_clip": Choice(("null", "0.5")),
        "normalize_observations": Choice(("True", "False")),
    }
    assert (tuning.tune.trials, tuning.tune.seeds, tuning.fixed) == (
        7,
        3,
        ["env=acrobot", "gamma=0.9"],
    )
    assert (tuning.config.env.id, tuning.config.gamma) == ("Acrobot-v1", 0.9)
    assert tuning.folder == Path("runs/tuning/Acrobot-v1/ppo_clip")
    assert tuning.first == {
        "algo.learning_rate": 7e-4,
        "algo.num_epochs": 10,
        "rollout_steps": 128,
        "policy.actor_hidden_sizes": "[64,64]",
        "critic.value_clip": "null",
        "normalize_observations": "False",
    }
    values = {
        "algo.learning_rate": "0.003",
        "algo.num_epochs": "5",
        "rollout_steps": "192",
        "policy.actor_hidden_sizes": "[32]",
        "critic.value_clip": "0.5",
        "normalize_observations": "True",
    }
    assert configure(tuning.fixed, values) == load(tuning.overrides(values))


@pytest.mark.parametrize(
    ("space", "first"),
    [
        (
            ["gamma=0.8,0.99,0.8", "algo.num_epochs=range(2,12,4)"],
            {"gamma": "0.99", "algo.num_epochs": 10},
        ),
        (["algo.num_epochs=range(3,12,4)"], None),
        pytest.param(["algo.num_epochs=11,12"], None, marks=pytest.mark.slow),
        pytest.param(["gamma=interval(0.5,0.9)"], None, marks=pytest.mark.slow),
        pytest.param(["critic.value_clip=interval(0.1,0.9)"], None, marks=pytest.mark.slow),
    ],
)
def test_first_values_are_those_of_users_config(space: list[str], first: Any) -> None:
    tuning = load_tuning(space)
    assert tuning.first == first
    if "gamma" in tuning.space and first:
        assert tuning.space["gamma"] == Choice(("0.8", "0.99"))


@pytest.mark.slow
def test_groups_can_be_tuned_and_last_value_counts() -> None:
    arguments = ["algo=ppo_clip,trpo", "policy=mlp,mlp_large", "env.kwargs.a=1", "gamma=0.5,0.6"]
    with pytest.raises(ConfigError, match=r"env\.kwargs"):
        load_tuning([*arguments, "env.kwargs.a=1,2"])
    tuning = load_tuning([*arguments[:2], "gamma=0.5,0.6", "gamma=0.7"])
    assert list(tuning.space) == ["algo", "policy"]
    assert tuning.fixed == ["gamma=0.7"]
    assert tuning.first is None  # the config does not contain the options of groups
    config = configure(tuning.fixed, {"algo": "trpo", "policy": "mlp_large"})
    assert (config.algo.name, config.gamma) == ("trpo", 0.7)


@pytest.mark.slow
@pytest.mark.parametrize("name", options("tune"))
def test_search_spaces_of_rlkl_contain_the_defaults(name: str) -> None:
    tuning = load_tuning([f"space={name}"])
    assert tuning.config.algo.name == name
    assert len(tuning.space) >= 5
    assert tuning.first is not None


@pytest.mark.slow
def test_command_line_overrides_space_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\nalgo.num_epochs: 3,10\ngamma: choice(0.9,0.99)\ngae_lambda: 0.9\n")
    tuning = load_tuning([f"space={path}", "gamma=0.8", "trials=3"])
    assert tuning.space == {"algo.num_epochs": Choice(("3", "10"))}
    assert (tuning.config.gae_lambda, tuning.config.gamma) == (0.9, 0.8)
    path.write_text("algo:\n  num_epochs: 3\n")
    with pytest.raises(ConfigError, match="lines of KEY: VALUE"):
        load_tuning([f"space={path}"])


@pytest.mark.slow
def test_value_without_valid_combination_raises() -> None:
    # 1 environment × 16 steps cannot be split into 32 minibatches; 2 × 16 can.
    arguments = ["env.num_envs=1,2", "rollout_steps=16", "critic.num_minibatches=4"]
    assert load_tuning([*arguments, "algo.num_minibatches=4,32"]).space
    with pytest.raises(ConfigError, match=r"algo\.num_minibatches=64 cannot be tried"):
        load_tuning([*arguments, "algo.num_minibatches=4,64"])


CASES: dict[str, list[str]] = {
    "keys": ["env=pendulum", "algo.learning_rate=0.001", "gamma=0.9", "critic.value_clip=null"],
    "group": ["algo=trpo", "algo.max_kl=0.02", "policy=squashed", "env=pendulum"],
    "experiments": ["experiment=cleanrl_ppo", "algo.num_epochs=3"],
    "stack": ["experiment=[smoke,code_level_details]", "ablation=no_reward_scaling"],
    "lists": ["policy.actor_hidden_sizes=[32,32]", "env.id=Acrobot-v1"],
    "kwargs": ["env=pendulum", "++env.kwargs.g=9.0", "policy.activation=relu"],
    "overridden": ["experiment=cleanrl_ppo", "algo=ppo_kl", "env=acrobot", "algo.num_epochs=3"],
}


def test_experiment_overrides_groups_and_nests_keys() -> None:
    overrides = ["experiment=smoke", "algo=trpo", "algo.max_kl=0.02", "gamma=null", "gamma=0.9"]
    assert experiment_yaml([*overrides, "policy.actor_hidden_sizes=[32,32]"], "found.") == (
        "# @package _global_\n"
        "# found.\n"
        "defaults:\n"
        "- smoke\n"
        "- override /algo: trpo\n"
        "algo:\n"
        "  max_kl: 0.02\n"
        "gamma: 0.9\n"
        "policy:\n"
        "  actor_hidden_sizes:\n"
        "  - 32\n"
        "  - 32\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_experiment_is_equivalent_to_its_overrides(case: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    path = tmp_path / "experiment" / "best.yaml"
    path.write_text(experiment_yaml(CASES[case], "what it is."))
    assert load(["experiment=best"], [tmp_path]) == load(CASES[case])
    assert options("experiment", [tmp_path])["best"] == "what it is."
    # Overrides beside it take precedence.
    changed: Any = load(["experiment=best", "seed=3", "gamma=0.5"], [tmp_path])
    assert (changed.seed, changed.gamma) == (3, 0.5)
    assert isinstance(changed, rlkl.TrainConfig)
