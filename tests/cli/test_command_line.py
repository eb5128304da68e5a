"""Overrides as they are typed, and the jobs of a sweep."""

from pathlib import Path

import pytest

from rlkl.cli.command_line import expand, for_hydra
from rlkl.cli.compose import load
from rlkl.cli.schema import register_schemas
from rlkl.utils.errors import ConfigError

register_schemas()


def test_a_sweep_is_every_combination() -> None:
    overrides = ["algo=trpo,npg", "seed=range(2)", "env.kwargs.g=1,2", "gamma=0.5"]
    jobs = list(expand(overrides, multirun=True))
    assert len(jobs) == 8
    assert jobs[0] == ["algo=trpo", "seed=0", "++env.kwargs.g=1", "gamma=0.5"]
    assert jobs[-1] == ["algo=npg", "seed=1", "++env.kwargs.g=2", "gamma=0.5"]
    with pytest.raises(ConfigError, match="cannot be swept"):
        list(expand(["gamma=interval(0,1)"], multirun=True))


def test_whole_floats_and_none_are_converted() -> None:
    typed = [
        "total_env_steps=1e4", "policy.actor_hidden_sizes=[1e2,8]", "env.kwargs.g=1e1",
        "env.kwargs.x=None", "env.kwargs.y='None'", "clip_rewards=None", "gamma=1e0", "run_dir=2.0",
    ]  # fmt: skip
    assert [for_hydra(text) for text in typed] == [
        "total_env_steps=10000", "policy.actor_hidden_sizes=[100,8]", "++env.kwargs.g=1e1",
        "++env.kwargs.x=null", "++env.kwargs.y='None'", "clip_rewards=null", "gamma=1e0",
        "run_dir=2.0",
    ]  # fmt: skip
    swept = expand(["rollout_steps=1e2,2e2", "seed=range(1e0,3e0)"], multirun=True)
    assert list(swept)[-1] == ["rollout_steps=200", "seed=2"]
    config = load([for_hydra("total_env_steps=1e4"), for_hydra("env.num_envs=8.0")])
    assert (config.total_env_steps, type(config.env.num_envs)) == (10_000, int)
    with pytest.raises(ConfigError, match=r"seed=1e\+300: expected a whole number"):
        load([for_hydra("seed=1e300")])


def test_glob_selects_options_of_a_group(tmp_path: Path) -> None:
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo" / "ppo_own.yaml").write_text("# Ours.\ndefaults: [ppo_clip]\n")

    def swept(text: str) -> list[str]:
        return [job for (job,) in expand([text], multirun=True, config_dirs=[tmp_path])]

    names = ("ppo_clip", "ppo_ewma", "ppo_kl", "ppo_kl_lr", "ppo_own")
    expected = [f"algo={name}" for name in names]
    assert swept("algo=glob(ppo_*,exclude=*_fixed)") == expected
    assert swept("algo=trpo,glob(ppo_*,exclude=*_fixed),ppo_kl") == ["algo=trpo", *expected]
    with pytest.raises(ConfigError, match=r"glob\(x\*\): algo has no such option; .*ppo_own"):
        swept("algo=glob(x*)")
    with pytest.raises(ConfigError, match=r"seed=glob\(\*\): glob\(\.\.\.\) chooses .* algo, env"):
        swept("seed=glob(*)")


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("trpo", "did you mean algo=trpo"),
        ("Pendulum-v1", "did you mean env.id=Pendulum-v1"),
        ("gamma", "expected key=value"),
        ("gamma=[0.9", r"a list is \[1,2\]"),
        ("seed=" + "9" * 400, "expected a number within"),
    ],
)
def test_text_that_is_no_override_is_explained(typed: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        for_hydra(typed)


def test_several_values_need_multirun_and_a_limit() -> None:
    with pytest.raises(ConfigError, match="add --multirun"):
        list(expand(["gamma=0.9,0.99"], multirun=False))
    with pytest.raises(ConfigError, match="at most 10000 jobs"):
        list(expand(["seed=range(101)", "rollout_steps=range(1,101)"], multirun=True))
