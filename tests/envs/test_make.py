"""Environments are made with the right backend, or refused with a helpful message."""

import importlib.util
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import small_environments
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import rlkl.envs.ids
from rlkl.envs.checks import EnvChecker
from rlkl.envs.make import EnvConfig, choose_backend, find_spec, make_vector_env
from rlkl.envs.observations import VECTOR
from rlkl.utils.errors import ConfigError

pytestmark = pytest.mark.usefixtures("two_cores")
HAS_ALE, HAS_ENVPOOL = (
    pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs the extra {extra}")
    for package, extra in (("ale_py", "atari"), ("envpool", "envpool"))
)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (EnvConfig("CartPol-v1"), "did you mean CartPole-v1"),
        (EnvConfig("CartPole-v77"), "no such environment is registered .did you mean CartPole-v1"),
        (EnvConfig("zzzzzzzzz"), "no such environment is registered; .*pprint_registry"),
        (EnvConfig("no_such_package:X-v0"), "'no_such_package' cannot be imported"),
        (EnvConfig("small_environments:SmallContr-v0"), "mean small_environments:SmallCounter-v0"),
        (
            EnvConfig("Pendulum-v1", kwargs={"wind": 1}),
            "env.kwargs.wind=1: the constructor of Pendulum-v1 has no argument 'wind'; it has .*g,",
        ),
        (
            EnvConfig("CartPole-v1", kwargs={"wind": 1}),
            "of CartPole-v1 has no argument 'wind'; it has .*sutton_barto_reward",
        ),
        (
            EnvConfig("SmallCounter-v0", kwargs={"shows": "dict"}),
            "^env.id=SmallCounter-v0: observations Text.* in 'text' .*env.observation_keys",
        ),
        (
            EnvConfig("CartPole-v1", observation_keys=["x"]),
            "^env.id=CartPole-v1: env.observation_keys: .*they have no parts",
        ),
        (EnvConfig("SmallSpeech-v0"), "^env.id=SmallSpeech-v0: actions Text.* are not supported"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "sync", "shared", "async"])
def test_impossible_configs_are_refused(
    config: EnvConfig, words: str, backend: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = EnvConfig(config.id, 2, backend, 1, config.observation_keys, config.kwargs)
    with pytest.raises(ConfigError, match=words) as caught:
        make_vector_env(config)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


class Speech(small_environments.Trouble):
    """Has text actions."""

    action_space = gym.spaces.Text(5)


gym.register("SmallSpeech-v0", entry_point=Speech)
gym.register(
    "SmallDisabled-v0",
    vector_entry_point=lambda num_envs: SyncVectorEnv(
        [small_environments.Counter] * num_envs, autoreset_mode=AutoresetMode.DISABLED
    ),
)
gym.register("SmallNeedy-v0", entry_point="tests_need:something")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_envs", 0, "env.num_envs=0: .*at least 1"),
        ("num_envs", 65537, "at most 65536"),
        ("backend", "asink", "env.backend=asink: expected one of auto, native.*did you mean async"),
        ("frame_stack", 0, "env.frame_stack=0: .*at least 1"),
        ("frame_stack", 1025, "at most 1024"),
    ],
)
def test_invalid_config_values_are_refused(key: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EnvConfig(**{key: value})


@pytest.mark.parametrize(
    ("env_id", "asked", "frame_stack", "expected"),
    [
        ("CartPole-v1", "auto", 1, "native"),
        ("CartPole-v1", "auto", 2, "sync"),
        ("CartPole-v1", "native", 1, "native"),
        ("CartPole-v1", "sync", 1, "sync"),
        ("CartPole-v1", "async", 4, "async"),
        ("Pendulum-v1", "auto", 1, "sync"),
        ("Pendulum-v1", "async", 1, "async"),
        ("Pendulum-v1", "shared", 4, "shared"),
        ("phys2d/CartPole-v1", "auto", 1, "sync"),
        ("SmallNative-v0", "auto", 1, "native"),
        ("small_environments:SmallNative-v0", "auto", 1, "native"),
        ("small_environments:SmallCounter-v0", "auto", 1, "sync"),
        pytest.param("ALE/Pong-v5", "auto", 1, "ale", marks=HAS_ALE),
        pytest.param("ALE/Pong-v5", "auto", 4, "ale", marks=HAS_ALE),
        pytest.param("ALE/Pong-v5", "ale", 4, "ale", marks=HAS_ALE),
        pytest.param("ALE/Pong-v5", "envpool", 4, "envpool", marks=HAS_ENVPOOL),
        pytest.param("any id", "envpool", 1, "envpool", marks=HAS_ENVPOOL),
    ],
)
def test_backend_is_chosen_for_environment(
    env_id: str, asked: str, frame_stack: int, expected: str
) -> None:
    assert choose_backend(EnvConfig(env_id, 8, asked, frame_stack)) == expected


@pytest.mark.parametrize(("num_envs", "expected"), [(1, "sync"), (5, "sync"), (6, "native")])
def test_native_needs_enough_sub_environments(num_envs: int, expected: str) -> None:
    assert choose_backend(EnvConfig("CartPole-v1", num_envs)) == expected


@pytest.mark.parametrize(
    ("env_id", "asked", "frame_stack", "words"),
    [
        ("Pendulum-v1", "native", 1, "Pendulum-v1 has no vectorised form.*use env.backend=sync"),
        ("phys2d/CartPole-v1", "native", 1, "no vectorised form; use env.backend=sync"),
        ("CartPole-v1", "native", 2, "not stack frames; .* env.backend=sync or env.frame_stack=1"),
        ("CartPole-v1", "ale", 1, "CartPole-v1 is not an Atari game .*use env.backend=auto"),
        ("CartPol-v1", "sync", 1, "did you mean CartPole-v1"),
        pytest.param("ALE/Pong-v5", "sync", 1, "Atari games run in ALE's", marks=HAS_ALE),
        pytest.param("ALE/Pong-v5", "tensor", 1, "Atari games run in ALE's", marks=HAS_ALE),
        pytest.param("ALE/Pong-v5", "async", 1, "env.backend=async: Atari", marks=HAS_ALE),
        pytest.param("ALE/Pong-v5", "shared", 1, "env.backend=shared: Atari", marks=HAS_ALE),
        pytest.param("ALE/Pong-v5", "native", 1, "use env.backend=ale", marks=HAS_ALE),
        pytest.param("ALE/Pnog-v5", "auto", 1, "did you mean ALE/Pong-v5", marks=HAS_ALE),
    ],
)
def test_unsuitable_backends_are_refused(
    env_id: str, asked: str, frame_stack: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        choose_backend(EnvConfig(env_id, 2, asked, frame_stack))


@pytest.mark.parametrize(
    ("config", "package", "extra"),
    [
        (EnvConfig("LunarLander-v3"), "Box2D", "box2d"),
        (EnvConfig("HalfCheetah-v5"), "mujoco", "mujoco"),
        (EnvConfig("ALE/Pong-v5"), "ale_py", "atari"),
        (EnvConfig("MiniGrid-Empty-5x5-v0"), "minigrid", "minigrid"),
        (EnvConfig("CartPole-v1", backend="envpool"), "envpool", "envpool"),
    ],
)
def test_missing_extra_is_named(
    config: EnvConfig, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        rlkl.envs.ids.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == package else real(name, *rest),
    )
    words = rf"needs the package {package}, .* extra '{extra}' .*pip install 'rlkl\[{extra}\]'"
    with pytest.raises(ConfigError, match=words) as caught:
        make_vector_env(config)
    what = "env.backend=envpool" if extra == "envpool" else f"env.id={config.id}"
    assert str(caught.value).startswith(f"{what} needs")
    assert find_spec("CartPole-v1").id == "CartPole-v1"


def test_failing_module_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "with_a_mistake.py").write_text("import gymnasium\n1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="'with_a_mistake' cannot be imported: ZeroDivisionError"):
        choose_backend(EnvConfig("with_a_mistake:X-v0"))


def test_missing_dependency_of_environment_is_named() -> None:
    with pytest.raises(ConfigError, match=r"SmallNeedy-v0 could not be made: .*tests_need"):
        make_vector_env(EnvConfig("SmallNeedy-v0", 1))


def test_disabled_autoreset_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"env.id=SmallDisabled-v0: autoreset mode .*DISABLED"):
        make_vector_env(EnvConfig("SmallDisabled-v0", 1, "native"))


@pytest.mark.parametrize("backend", ["native", "sync", "shared", "async"])
def test_constructor_arguments_reach_the_environment(backend: str) -> None:
    kwargs = {"max_episode_steps": 3}
    envs = make_vector_env(EnvConfig("CartPole-v1", 1, backend, kwargs=kwargs))
    envs.reset([0])
    cut = [bool(envs.step(np.array([t % 2])).truncated[0]) for t in range(4)]
    assert cut == [False, False, True, False]
    envs.close()
    if backend != "native":
        envs = make_vector_env(EnvConfig("Pendulum-v1", 2, backend, kwargs={"g": 0.0}))
        speeds = envs.reset([0, 1])[VECTOR][:, 2].tolist()
        # Without gravity and torque a pendulum keeps its speed.
        step = envs.step(np.zeros((2, 1), np.float32))
        assert step.observations[VECTOR][:, 2].tolist() == speeds
        envs.close()


def test_jax_environments_name_their_package() -> None:
    if importlib.util.find_spec("jax") is not None:
        pytest.skip("JAX is installed")
    with pytest.raises(ConfigError, match=r"written in JAX.*pip install 'rlkl\[jax\]'"):
        make_vector_env(EnvConfig("phys2d/CartPole-v1", 2))


def test_checker_is_below_the_frame_stack() -> None:
    envs = make_vector_env(EnvConfig("Pendulum-v1", 2, "sync", frame_stack=2))
    for env in envs._envs.envs:
        assert isinstance(env.env, EnvChecker)
    envs.close()


def trajectory(env_id: str, backend: str, seeds: list[int], actions: Any) -> np.ndarray:
    envs = make_vector_env(EnvConfig(env_id, 2, backend))
    rows = [envs.reset(seeds)[VECTOR]]
    rows += [envs.step(action).observations[VECTOR] for action in actions]
    envs.close()
    return np.stack(rows)


@pytest.mark.parametrize("backend", ["native", "sync", "shared", "async"])
def test_seeds_determine_episodes(backend: str) -> None:
    actions = np.stack((np.arange(30) % 2, np.zeros(30, np.int64)), -1)
    first, again, other = (
        trajectory("CartPole-v1", backend, seeds, actions) for seeds in ([3, 5], [3, 5], [4, 5])
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[:, 0], first[:, 1])
    assert not np.array_equal(first, other)
    # A seed affects only its own sub-environment.
    if backend != "native":
        np.testing.assert_array_equal(first[:, 1], other[:, 1])


def test_episodes_are_equal_in_all_backends() -> None:
    expected, *others = (
        trajectory("Pendulum-v1", backend, [3, 5], np.full((210, 2, 1), 2.0))
        for backend in ("sync", "async", "shared")
    )
    for other in others:
        np.testing.assert_array_equal(other, expected)


@pytest.mark.parametrize("backend", ["shared", "async"])
def test_only_workers_ignore_ctrl_c(backend: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    envs = make_vector_env(EnvConfig("Pendulum-v1", 2, backend))
    assert signal.getsignal(signal.SIGINT) is before
    assert envs._envs.processes
    for process in envs._envs.processes:
        (line,) = [
            line
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if line.startswith("SigIgn")
        ]
        assert int(line.split()[1], 16) & 1 << (signal.SIGINT - 1)
    envs.close()
