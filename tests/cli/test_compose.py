"""Config files compose to valid configs; the defaults are those of the dataclasses."""

from dataclasses import asdict
from typing import Any

import pytest
import yaml

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.cli.compose import load, note_on_settings, overridden, with_env_settings
from rlkl.cli.schema import CONFIG_DIR, GROUPS, options, register_schemas
from rlkl.training.config import changes, leaves
from rlkl.utils.errors import ConfigError

register_schemas()
SLOW = pytest.mark.slow
EVERYTHING_ON = "experiment=code_level_details"
SEPARATE = ("ablation", "detail")
CHOICES = [
    f"{group}={name}" for group in GROUPS if group not in SEPARATE for name in options(group)
]


@pytest.mark.parametrize(
    "choice",
    [
        pytest.param(c, marks=SLOW if c.startswith(("env=", "table1=", "family=")) else ())
        for c in CHOICES
    ],
)
def test_every_option_of_every_group_composes(choice: str) -> None:
    try:
        config = load([choice])
    except ConfigError as error:
        if "which the extra" not in str(error):
            raise
        pytest.skip(str(error))
    assert isinstance(config, rlkl.TrainConfig)


def test_every_registered_algorithm_has_an_option() -> None:
    assert set(options("algo")) == set(ALGORITHMS)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_defaults_are_those_of_the_dataclasses(algo: str) -> None:
    config = load([f"algo={algo}"])
    assert config == rlkl.TrainConfig(algo=ALGORITHMS[algo].config())


def test_pong_has_more_games_and_larger_steps_than_atari() -> None:
    atari, pong = (
        dict(leaves(asdict(load([f"experiment=ppo_{name}"])))) for name in ("atari", "pong")
    )
    assert {key: value for key, value in pong.items() if value != atari[key]} == {
        "env.num_envs": 32, "algo.num_minibatches": 16, "algo.learning_rate": 5e-4,
        "total_env_steps": 1_600_000,
    }  # fmt: skip


def test_keys_override_what_groups_set() -> None:
    config = load(
        ["algo=trpo", "algo.max_kl=0.5", "env=pendulum", "++env.kwargs.g=9.0", "gamma=0.5"]
    )
    assert isinstance(config.algo, rlkl.TRPOConfig)
    assert (config.algo.max_kl, config.gamma) == (0.5, 0.5)  # overrides what env=pendulum sets
    assert (config.env.id, config.env.kwargs) == ("Pendulum-v1", {"g": 9.0})


@pytest.mark.parametrize("name", ["cleanrl_ppo", "sb3_contrib_trpo"])
def test_other_libraries_setups_do_not_scale_actions(name: str) -> None:
    register_schemas()
    assert not load([f"experiment={name}", "env=pendulum"]).policy.scale_actions


def test_resumed_runs_reject_new_constructor_arguments() -> None:
    config = rlkl.TrainConfig()
    with pytest.raises(ConfigError, match=r"^env.kwargs.x=1: .* cannot add env.kwargs.x;"):
        changes(config, overridden(config, ["env.kwargs.x=1"]))
    assert changes(config, overridden(config, ["gamma=0.5"])) == {"gamma": (0.99, 0.5)}


def test_settings_follow_the_id() -> None:
    config = load(["env.id=LunarLander-v3", "rollout_steps=64"])
    assert (config.env.id, config.env.num_envs, config.rollout_steps) == ("LunarLander-v3", 16, 64)
    assert (config.gamma, config.gae_lambda, config.total_env_steps) == (0.999, 0.98, 500_000)


FOLLOWED = {
    "env.id=Pendulum-v1": "env=pendulum",
    "env.id=Pendulum-v1 env.backend=sync": "env=pendulum",
    "env.id=Pendulum-v1 env.backend=tensor": "env=pendulum_tensor",
    "env.id=ALE/Breakout-v5": "env=pong",
    "env.id=ALE/Pong-v5 experiment=code_level_details": "env=pong",
    "env.id=rlkl.tasks:rlkl/Recall-v0": "env=recall",
    "env.id=MiniGrid-DoorKey-5x5-v0": "env=minigrid_empty",
    "env.id=MountainCar-v0": "",
    "env.id=Pendulum-v1 env=cartpole": "",
    "env.id=ALE/Breakout-v5 experiment=ppo_atari": "",  # it chooses env=pong itself
    "env=pendulum": "",
}


@pytest.mark.parametrize("typed", FOLLOWED)
def test_ids_find_the_option_of_their_settings(typed: str) -> None:
    added = [FOLLOWED[typed]] if FOLLOWED[typed] else []
    assert with_env_settings(typed.split()) == [*typed.split(), *added]


@pytest.mark.parametrize("order", [1, -1])
def test_an_option_keeps_its_settings_under_another_id(order: int) -> None:
    pytest.importorskip("ale_py", reason="extra atari")
    config = load(["env=pong", "env.id=ALE/Breakout-v5"][::order])
    assert (config.env.id, config.env.frame_stack, config.clip_rewards) == ("ALE/Breakout-v5", 4, 1)


def test_taken_and_unused_settings_are_reported() -> None:
    def note(*overrides: str) -> str:
        return note_on_settings(overrides, load(list(overrides)))

    assert note("env.id=Pendulum-v1", "gamma=0.9") == (
        "env.id=Pendulum-v1 takes the settings of env=pendulum: "
        "normalize_observations=true scale_rewards=true"
    )
    assert note("env.id=Pendulum-v1", "env=cartpole", "gamma=0.9") == (
        "env.id=Pendulum-v1 chooses the environment only; env=pendulum has settings for it: "
        "normalize_observations=true scale_rewards=true"
    )
    assert note("env.id=Pendulum-v1", "env=pendulum") == ""
    assert note("env.id=Pendulum-v1", "env=pendulum_tensor") == ""
    assert note("env.id=CartPole-v1") == ""  # its settings are the defaults
    assert note("env.id=MountainCar-v0") == ""
    assert note("env=pendulum", "gamma=0.9") == ""


ABLATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "no_observation_normalization": {"normalize_observations": (True, False)},
    "no_reward_scaling": {"scale_rewards": (True, False)},
    "no_value_clipping": {"critic.value_clip": (0.2, None)},
    "no_orthogonal_initialization": {"policy.initialization": ("orthogonal", "uniform")},
    "no_learning_rate_annealing": {"anneal": (True, False)},
    "no_advantage_standardization": {"algo.advantage_standardization": ("batch", "none")},
}
ABLATIONS["minimal"] = {key: was for part in ABLATIONS.values() for key, was in part.items()}


def flat(overrides: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in asdict(load(overrides)).items():
        inner = value if isinstance(value, dict) else {}
        found |= {f"{key}.{k}": v for k, v in inner.items()} or {key: value}
    return found


def test_each_detail_has_an_ablation() -> None:
    assert set(options("ablation")) == set(ABLATIONS)


@pytest.mark.parametrize(
    ("algo", "name"),
    [
        pytest.param(algo, name, marks=[] if algo == "trpo" and name == "minimal" else SLOW)
        for algo in ("ppo_clip", "trpo", "vanilla_pg")
        for name in ABLATIONS
    ],
)
def test_ablation_turns_off_only_its_detail(algo: str, name: str) -> None:
    before = flat([f"algo={algo}", EVERYTHING_ON])
    after = flat([f"algo={algo}", EVERYTHING_ON, f"ablation={name}"])
    changed = {key: (was, after[key]) for key, was in before.items() if was != after[key]}
    assert changed == ABLATIONS[name]


@pytest.mark.parametrize(
    "overrides",
    [
        ["ablation=no_reward_scaling"],
        pytest.param(["ablation=[no_orthogonal_initialization,no_value_clipping]"], marks=SLOW),
        pytest.param(
            [EVERYTHING_ON, "ablation=no_reward_scaling", "scale_rewards=true"], marks=SLOW
        ),
        pytest.param([EVERYTHING_ON, "ablation=[minimal,no_value_clipping]"], marks=SLOW),
    ],
)
def test_ablation_without_effect_is_rejected(overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"changes nothing here.*experiment=code_level_details"):
        load(overrides)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "kl_bound_low" else SLOW)
        for name in options("detail")
    ],
)
def test_detail_changes_all_that_it_sets(name: str) -> None:
    algo = "algo=trpo" if name.startswith("kl_") else "algo=ppo_clip"
    before = flat([algo, "env=halfcheetah"])
    after = flat([algo, "env=halfcheetah", f"detail={name}"])
    file = CONFIG_DIR / "detail" / f"{name}.yaml"
    written = dict(leaves(yaml.safe_load(file.read_text()) or {}))
    assert {key: was for key, was in after.items() if was != before[key]} == written


def test_option_of_another_algorithm_is_named() -> None:
    message = "detail=kl_bound_low: sets algo.max_kl, which the chosen algorithm does not have"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        load(["detail=kl_bound_low"])


def test_overrides_cannot_name_code_to_run() -> None:
    for override in ("+algo._target_=os.system", "+_target_=os.system"):
        with pytest.raises(ConfigError, match="there is no key"):
            load([override])
