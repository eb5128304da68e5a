"""A work of the benchmark: its sizes and its cases."""

from rlkl.cli.compose_tools import load_works
from rlkl.cli.schema import options, register_schemas
from rlkl.tools.bench.work import PEERS, BenchConfig, refusal


def test_works_have_their_number_of_minibatches() -> None:
    register_schemas()
    works = {config.work: config for config in load_works(["work=all"])}
    assert list(works) == [name for name in options("bench") if not name.startswith("gpu_")]
    minibatches = {
        name: [config.num_minibatches(n) for n in config.num_envs] for name, config in works.items()
    }
    assert minibatches == {
        "ppo_cartpole": [4],
        "ppo_halfcheetah_1": [32],
        "ppo_halfcheetah_64": [64],
        "ppo_halfcheetah_8": [32],
        "ppo_pendulum_lstm": [4],
        "ppo_pong": [2],
        "trpo_cartpole": [16],
        "trpo_halfcheetah": [16],
        "algorithms": [4],
        "scale": [1, 4, 32, 128],
    }


def test_iterations_are_rounded_up_to_a_minimum() -> None:
    config = BenchConfig(warmup_env_steps=1025, env_steps=20_000)
    assert (config.warmup_iterations(8), config.measured_iterations(8)) == (2, 20)
    assert (config.warmup_iterations(64), config.measured_iterations(64)) == (1, 10)


def test_peers_are_left_out_of_unsupported_works() -> None:
    supported = {
        (algo, discrete): [p for p in PEERS if refusal(p, algo, "none", discrete=discrete) is None]
        for algo in ("ppo_clip", "trpo", "npg")
        for discrete in (True, False)
    }
    assert supported == {
        ("ppo_clip", True): ["sb3", "skrl", "tianshou"],
        ("ppo_clip", False): ["sb3", "skrl", "tianshou", "rsl_rl"],
        ("trpo", True): ["sb3_contrib"],
        ("trpo", False): ["sb3_contrib", "skrl"],
        ("npg", True): [],
        ("npg", False): [],
    }
    with_memory = {
        (algo, memory): [p for p in PEERS if refusal(p, algo, memory, discrete=False) is None]
        for algo in ("ppo_clip", "trpo")
        for memory in ("gru", "lstm")
    }
    atari = {
        algo: [p for p in PEERS if refusal(p, algo, "none", discrete=True, atari=True) is None]
        for algo in ("ppo_clip", "trpo")
    }
    assert atari == {"ppo_clip": ["sb3"], "trpo": []}
    assert with_memory.pop(("ppo_clip", "lstm")) == ["sb3_contrib"]
    assert not any(with_memory.values())
