"""Callables and environments as `env.id`: their names, and what is made from them."""

import sys
import types
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv

from rlkl.envs import ids
from rlkl.envs.make import EnvConfig, make_rendered_env, make_vector_env
from rlkl.envs.own import attribute_of, can_be_found, names_callable, spec_of_callable
from rlkl.training.config import TrainConfig
from rlkl.utils.errors import ConfigError


def make_cartpole(max_episode_steps: int = 500, **kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1", max_episode_steps=max_episode_steps, **kwargs)


class Factory:
    """Makes CartPoles."""

    def make(self) -> gym.Env[Any, Any]:
        return CartPoleEnv()

    __call__ = make


class Counting:
    """Makes and counts CartPoles; cannot be copied."""

    made = 0

    def __deepcopy__(self, memo: Any) -> None:
        raise TypeError("it counts")

    def __call__(self) -> gym.Env[Any, Any]:
        self.made += 1
        return CartPoleEnv()


class Stubborn(CartPoleEnv):
    """Cannot be copied."""

    def __deepcopy__(self, memo: Any) -> None:
        raise TypeError("it holds a socket")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module of the user's, `own_code`."""
    code = types.ModuleType("own_code")
    vars(code).update(make_env=make_cartpole, Box=CartPoleEnv, number=3)
    vars(code).update(_make_env=make_cartpole, make_emw=3)  # not offered in place of a typing error
    monkeypatch.setitem(sys.modules, "own_code", code)
    yield code


def test_importable_callables_have_a_lasting_name() -> None:
    assert EnvConfig(make_cartpole).id == f"{__name__}:make_cartpole"
    assert EnvConfig(CartPoleEnv).id == "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
    assert can_be_found(EnvConfig(CartPoleEnv).id)
    assert TrainConfig(env=CartPoleEnv).env.id == EnvConfig(CartPoleEnv).id  # type: ignore[arg-type]


def test_other_callables_have_names_no_import_finds() -> None:
    def local() -> gym.Env[Any, Any]:
        return CartPoleEnv()

    first, second = (lambda: CartPoleEnv(render_mode=None)), (lambda: PendulumEnv(g=9.8))
    made = [local, first, second, partial(make_cartpole), Factory(), Factory().make]
    names = [EnvConfig(each).id for each in made]
    assert len(set(names)) == 6
    assert not any(map(can_be_found, names))
    assert all(map(names_callable, names))
    assert [EnvConfig(each).id for each in made] == names
    factory = Factory()
    assert EnvConfig(factory.make).id == EnvConfig(factory.make).id  # two bound methods, one name
    for config, size in ((EnvConfig(names[1], 1), 4), (EnvConfig(names[2], 1), 3)):
        envs = make_vector_env(config)
        assert envs.reset([0])["vector"].shape == (1, size)
        envs.close()


def test_registered_ids_do_not_name_callables() -> None:
    gym.register("BareName", CartPoleEnv)
    ids = "make_env", "CartPole-v1", "my:Mine-v0", "my:small/Mine", "my:BareName"
    assert [env_id for env_id in ids if names_callable(env_id)] == []
    assert names_callable("my.package:make_env") and names_callable("my:Class.make")


def test_names_without_a_module_import_nothing() -> None:
    assert attribute_of("make_env") is None
    assert attribute_of("no_such_code:<lambda>") is None
    assert attribute_of("collections:OrderedDict.nothing.more") is None


def test_factories_are_called_and_not_copied() -> None:
    factory = Counting()
    make_vector_env(EnvConfig(factory, 2, "sync")).close()
    assert factory.made == 2
    deepcopy(spec_of_callable("code:<Counting>", factory))  # as Gymnasium does


@pytest.mark.parametrize("backend", ["sync", "shared", "async"])
def test_a_lambda_reaches_worker_processes(backend: str) -> None:
    limit = 3
    config = EnvConfig(lambda **kw: make_cartpole(limit, **kw), 2, backend)
    envs, expected = make_vector_env(config), gym.make("CartPole-v1")
    assert np.array_equal(envs.reset([5, 6])["vector"][1], expected.reset(seed=6)[0])
    steps = [envs.step(np.array([0, 1])) for _ in range(3)]
    envs.close()
    assert np.array_equal(steps[0].observations["vector"][1], expected.step(1)[0])
    assert [step.truncated.tolist() for step in steps] == [[False] * 2, [False] * 2, [True] * 2]


def test_modules_attributes_are_ids_too(module: types.ModuleType) -> None:
    envs = make_vector_env(EnvConfig("own_code:make_env", 1, kwargs={"max_episode_steps": 2}))
    envs.reset([0])
    assert [bool(envs.step(np.array([0])).truncated[0]) for _ in range(2)] == [False, True]
    envs.close()


def test_copies_of_an_environment_are_stepped() -> None:
    env = CartPoleEnv()
    env.reset(seed=3)
    before = env.state
    config = EnvConfig(env, 1)
    for _ in range(2):  # as for training and for evaluation
        envs = make_vector_env(config)
        assert np.array_equal(envs.reset([7])["vector"][0], CartPoleEnv().reset(seed=7)[0])
        envs.step(np.array([1]))
        envs.close()
    assert env.state is before
    name = "gymnasium.envs.classic_control.cartpole:<CartPoleEnv>"
    assert all(EnvConfig(e, 1).id.startswith(name) for e in (env, gym.make("CartPole-v1")))


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no id": (3.5, {}, "env.id=3.5: expected an id, a callable that makes an environment"),
    "several": (CartPoleEnv(), {"num_envs": 2}, "is one environment; use env.num_envs=1"),
    "arguments": (CartPoleEnv(), {"num_envs": 1, "kwargs": {"x": 1}}, "env.kwargs.x: env.id="),
    "no copy": (Stubborn(), {"num_envs": 1}, "cannot be copied (TypeError: it holds a socket)"),
    "no environment": (lambda: 3, {}, "could not be made: TypeError: The environment must inherit"),
    "unknown argument": (make_cartpole, {"kwargs": {"lenth": 1}}, "unexpected keyword argument"),
    "no callable": ("own_code:number", {}, "own_code:number is of type int; expected a callable"),
    "typing error": ("own_code:make_emv", {}, "no callable 'make_emv' (did you mean make_env?)"),
    "another process": ("__main__:make", {}, "pass it again: env=CALLABLE in Python"),
    "no module": ("no_such_code:make", {}, "expected no_such_code.py or no_such_code/ in"),
}


@pytest.mark.parametrize("case", BAD)
def test_impossible_callables_give_one_line(case: str, module: types.ModuleType) -> None:
    made_by, settings, words = BAD[case]
    with pytest.raises(ConfigError) as raised:
        make_vector_env(EnvConfig(made_by, **settings))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_callables_render_if_they_take_render_mode() -> None:
    pytest.importorskip("pygame")
    env = make_rendered_env(EnvConfig(make_cartpole), "rgb_array")
    env.reset(seed=0)
    pixels: Any = env.render()
    assert pixels.shape == (400, 600, 3)
    env.close()
    env = make_rendered_env(EnvConfig(CartPoleEnv(render_mode="rgb_array"), 1), "rgb_array")
    assert env.render_mode == "rgb_array"
    with pytest.raises(ConfigError, match="was made with render_mode=None; make it with render_m"):
        make_rendered_env(EnvConfig(CartPoleEnv(), 1), "rgb_array")
    with pytest.raises(ConfigError, match="takes no argument render_mode"):
        make_rendered_env(EnvConfig(lambda: CartPoleEnv(None)), "rgb_array")


def test_a_folders_callable_needs_confirmation(tmp_path: Any) -> None:
    for env_id in ("subprocess:Popen", "os.path:join"):
        with pytest.raises(ConfigError, match=f"env.id={env_id} is code .* only if you name it"):
            ids.check_module(env_id, tmp_path)
        assert "imports" in ids.check_module(env_id, tmp_path, is_confirmed=True)
    with pytest.raises(ConfigError, match="was a callable that cannot be imported"):
        ids.check_module("code:<lambda>", tmp_path)
    EnvConfig(make_cartpole)  # this process has named it
    assert ids.check_module(f"{__name__}:make_cartpole", tmp_path) == ""


def test_substitutes_stand_only_for_callables(module: types.ModuleType) -> None:
    ids.substitute("gone_code:make", "own_code:make_env")
    assert ids.find_spec("gone_code:make").entry_point is make_cartpole
    with pytest.raises(ConfigError, match=r"keeps env\.id=CartPole-v1"):
        ids.substitute("CartPole-v1", make_cartpole)
    with pytest.raises(ConfigError, match="expected a callable, as module:function"):
        ids.substitute("gone_code:make", "own_code:nothing")
