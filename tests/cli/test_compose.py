"""Config files compose to valid configs; the defaults are those of the dataclasses."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.cli.command_line import CommandLine
from rlkl.cli.compose import load, overridden, unused_settings
from rlkl.cli.compose_tools import load_works
from rlkl.cli.schema import GROUPS, options, register_schemas
from rlkl.training.config import changes
from rlkl.utils.errors import ConfigError

register_schemas()
SLOW = pytest.mark.slow
EVERYTHING_ON = "experiment=code_level_details"
CHOICES = [f"{group}={name}" for group in GROUPS for name in options(group) if group != "ablation"]


@pytest.mark.parametrize("choice", CHOICES)
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


def test_a_sweep_is_every_combination() -> None:
    line = CommandLine(["algo=trpo,npg", "seed=range(2)", "env.kwargs.g=1,2", "gamma=0.5"])
    jobs = list(line.jobs(multirun=True))
    assert len(jobs) == 8
    assert jobs[0] == ["algo=trpo", "seed=0", "++env.kwargs.g=1", "gamma=0.5"]
    assert jobs[-1] == ["algo=npg", "seed=1", "++env.kwargs.g=2", "gamma=0.5"]
    with pytest.raises(ConfigError, match="cannot be swept"):
        list(CommandLine(["gamma=interval(0,1)"]).jobs(multirun=True))


def test_whole_floats_and_none_are_converted() -> None:
    typed = [
        "total_env_steps=1e4", "policy.actor_hidden_sizes=[1e2,8]", "env.kwargs.g=1e1",
        "env.kwargs.x=None", "env.kwargs.y='None'", "clip_rewards=None", "gamma=1e0", "run_dir=2.0",
    ]  # fmt: skip
    assert CommandLine(typed).normalized() == [
        "total_env_steps=10000", "policy.actor_hidden_sizes=[100,8]", "++env.kwargs.g=1e1",
        "++env.kwargs.x=null", "++env.kwargs.y='None'", "clip_rewards=null", "gamma=1e0",
        "run_dir=2.0",
    ]  # fmt: skip
    swept = CommandLine(["rollout_steps=1e2,2e2", "seed=range(1e0,3e0)"]).jobs(multirun=True)
    assert list(swept)[-1] == ["rollout_steps=200", "seed=2"]
    config = load(CommandLine(["total_env_steps=1e4", "env.num_envs=8.0"]).normalized())
    assert (config.total_env_steps, type(config.env.num_envs)) == (10_000, int)
    with pytest.raises(ConfigError, match=r"seed=1e\+300: expected a whole number"):
        load(CommandLine(["seed=1e300"]).normalized())
    assert load_works(["repetitions=2e0", "num_envs=[4e0]"])[0].num_envs == [4]


def test_resumed_runs_reject_new_constructor_arguments() -> None:
    config = rlkl.TrainConfig()
    with pytest.raises(ConfigError, match=r"^env.kwargs.x=1: .* cannot add env.kwargs.x;"):
        changes(config, overridden(config, ["env.kwargs.x=1"]))
    assert changes(config, overridden(config, ["gamma=0.5"])) == {"gamma": (0.99, 0.5)}


def test_unused_environment_settings_are_reported() -> None:
    def note(*overrides: str) -> str:
        return unused_settings(overrides, load(list(overrides)))

    assert note("env.id=Pendulum-v1", "gamma=0.9") == (
        "env.id=Pendulum-v1 chooses the environment only; env=pendulum has settings for it: "
        "normalize_observations=true scale_rewards=true"
    )
    assert note("env.id=Pendulum-v1", "env=pendulum") == ""
    assert note("env.id=CartPole-v1") == ""  # its settings are the defaults
    assert note("env.id=MountainCar-v0") == ""
    assert note("env=pendulum", "gamma=0.9") == ""


def test_glob_selects_options_of_a_group(tmp_path: Path) -> None:
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo" / "ppo_own.yaml").write_text("# Ours.\ndefaults: [ppo_clip]\n")

    def swept(text: str) -> list[str]:
        line = CommandLine([text])
        return [job for (job,) in line.jobs(multirun=True, config_dirs=[tmp_path])]

    expected = ["algo=ppo_clip", "algo=ppo_kl", "algo=ppo_own"]
    assert swept("algo=glob(ppo_*,exclude=*_fixed)") == expected
    assert swept("algo=trpo,glob(ppo_*,exclude=*_fixed),ppo_kl") == ["algo=trpo", *expected]
    with pytest.raises(ConfigError, match=r"glob\(x\*\): algo has no such option; .*ppo_own"):
        swept("algo=glob(x*)")
    with pytest.raises(ConfigError, match=r"seed=glob\(\*\): glob\(\.\.\.\) chooses .* algo, env"):
        swept("seed=glob(*)")


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


def test_overrides_cannot_name_code_to_run() -> None:
    for override in ("+algo._target_=os.system", "+_target_=os.system"):
        with pytest.raises(ConfigError, match="there is no key"):
            load([override])
