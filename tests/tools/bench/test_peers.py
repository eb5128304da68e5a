"""Other libraries do all of the work."""

import importlib.util

import forked_python
import pytest

from rlkl.tools.bench.compare import run_in_process
from rlkl.tools.bench.work import PEERS, BenchConfig, Case

HAS_ALE = pytest.mark.skipif(
    importlib.util.find_spec("ale_py") is None, reason="needs the extra 'atari'"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "algo", "env_id", "memory"),
    [
        ("sb3_contrib", "ppo_clip", "Pendulum-v1", "lstm"),
        ("sb3", "ppo_clip", "CartPole-v1", "none"),
        ("sb3", "ppo_clip", "Pendulum-v1", "none"),
        pytest.param("sb3", "ppo_clip", "ALE/Pong-v5", "none", marks=HAS_ALE),
        ("sb3_contrib", "trpo", "CartPole-v1", "none"),
        ("sb3_contrib", "trpo", "Pendulum-v1", "none"),
        ("skrl", "ppo_clip", "CartPole-v1", "none"),
        ("skrl", "ppo_clip", "Pendulum-v1", "none"),
        ("skrl", "trpo", "Pendulum-v1", "none"),
        ("tianshou", "ppo_clip", "CartPole-v1", "none"),
        ("tianshou", "ppo_clip", "Pendulum-v1", "none"),
        ("rsl_rl", "ppo_clip", "Pendulum-v1", "none"),
    ],
)
def test_peer_makes_all_steps_of_the_work(
    peer: str, algo: str, env_id: str, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.run", forked_python.run)
    if importlib.util.find_spec(PEERS[peer]) is None:
        pytest.skip(f"needs {peer}: the extra 'bench'")
    config = BenchConfig(
        algos=[algo], env_id=env_id, num_envs=[2], rollout_steps=8, minibatch_size=8, num_epochs=3,
        warmup_env_steps=1, env_steps=1, memory=memory,
    )  # fmt: skip
    measurement = run_in_process(config, Case(peer, 2, algo))
    assert measurement.optimizer_steps == 6
    assert measurement.env_steps == 160
