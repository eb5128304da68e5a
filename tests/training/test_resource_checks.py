"""What cannot be had is refused by arithmetic, against what the machine says it has."""

import resource
from pathlib import Path

import pytest

import rlkl
from rlkl.training import resource_checks as memory_budget
from rlkl.training.resource_checks import check_memory, check_processes, machine_memory
from rlkl.utils.errors import ConfigError

GIB = 2**30


@pytest.fixture
def one_gibibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budget, "machine_memory", lambda: GIB)


def test_the_machine_has_what_linux_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Path("/proc/meminfo")
    if not told.exists():
        pytest.skip("Linux alone says it there")
    kilobytes = int(told.read_text().split("MemTotal:")[1].split()[0])
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory_budget, "CONTROL_GROUP_LIMITS", (limit,))
    assert machine_memory() == pytest.approx(1024 * kilobytes, rel=1e-3)
    limit.write_text("max\n")
    assert machine_memory() == pytest.approx(1024 * kilobytes, rel=1e-3)
    limit.write_text("1048576\n")  # of a container
    assert machine_memory() == 1048576


def test_rollout_beyond_memory_is_refused(
    one_gibibyte: None,
) -> None:
    # 64 + 2 × 4 bytes each: 14,913,080 of them are 64 bytes short of a GiB.
    check_memory(1_491_308, 10)
    with pytest.raises(ConfigError) as error:
        check_memory(1_491_309, 10)
    assert str(error.value) == (
        "rollout_steps=1491309 with num_envs=10: needs at least 1 GiB of memory, but this machine "
        "has 1 GiB; expected less"
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        # 16 bytes for each of 8192 × 8192 weights are 1 GiB, and the rollout comes on top.
        ({"actor_hidden_sizes": [8192, 8192]}, "policy.actor_hidden_sizes of 2 layers"),
        ({"critic_hidden_sizes": [16, 8192, 8192]}, "policy.critic_hidden_sizes of 3 layers"),
        ({"encoder_hidden_sizes": [8192, 8192]}, "policy.encoder_hidden_sizes of 2 layers"),
        # A GRU has 3 H² weights, an LSTM 4 H², and actor and critic have one each.
        ({"memory": "gru", "memory_size": 3345}, "policy.memory_size=3345"),
        ({"memory": "lstm", "memory_size": 2897}, "policy.memory_size=2897"),
    ],
)
def test_networks_are_refused_by_name(
    settings: dict[str, object], named: str, one_gibibyte: None
) -> None:
    small = {"actor_hidden_sizes": [], "critic_hidden_sizes": []}
    with pytest.raises(ConfigError, match=named):
        check_memory(1, 1, rlkl.PolicyConfig(**small | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"memory_size": 65536}, {"actor_hidden_sizes": [8190, 8190]}])
def test_what_fits_or_is_not_used_passes(settings: dict[str, object], one_gibibyte: None) -> None:
    check_memory(1, 1, rlkl.PolicyConfig(**settings))  # type: ignore[arg-type]


def test_observations_count_once_the_environment_is_known(one_gibibyte: None) -> None:
    # CartPole's are 16 bytes: 64 + 2 × 16 are over a GiB where 64 + 2 × 4 were not.
    config = rlkl.TrainConfig(env=rlkl.EnvConfig(num_envs=1), rollout_steps=12_000_000)
    with pytest.raises(ConfigError, match="rollout_steps=12000000"):
        rlkl.Trainer(config)


def test_actions_count_by_their_parameters(one_gibibyte: None) -> None:
    # 8 bytes for each of 100,000 numbers and 1,024 rows are 0.76 GiB, for 200,000 twice that.
    check_memory(128, 8, action_parameters=100_000)
    with pytest.raises(ConfigError, match="the action space, of 200000 numbers for each"):
        check_memory(128, 8, action_parameters=200_000)


def test_worker_processes_count_with_their_memory(one_gibibyte: None) -> None:
    # 255 times 4 MiB leave room for the rollout, 256 do not.
    check_memory(8, 255, processes=255)
    check_memory(8, 256)
    with pytest.raises(ConfigError, match=r"^env\.num_envs=256, each in .* at least 1 GiB"):
        check_memory(8, 256, processes=256)
    rlkl.TrainConfig(env=rlkl.EnvConfig(num_envs=256), rollout_steps=8)
    with pytest.raises(ConfigError, match=r"^env\.num_envs=256, each in its own process"):
        rlkl.TrainConfig(env=rlkl.EnvConfig(num_envs=256, backend="async"), rollout_steps=8)


@pytest.mark.parametrize(
    ("files", "users", "most", "named"),
    [
        (64, 1000, 32, "ulimit -n allows 32"),
        (1000, 30, 30, "ulimit -u allows 30"),
        (resource.RLIM_INFINITY, 30, 30, "ulimit -u allows 30"),
        (64, resource.RLIM_INFINITY, 32, "ulimit -n allows 32"),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 4096, "rlkl allows 4096"),
    ],
)
def test_no_more_processes_than_the_system_allows(
    files: int, users: int, most: int, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {resource.RLIMIT_NOFILE: (files, -1), resource.RLIMIT_NPROC: (users, -1)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    check_processes(most)
    with pytest.raises(ConfigError, match=named):
        check_processes(most + 1)
    rlkl.EnvConfig(num_envs=most + 1, backend="async")
    rlkl.TrainConfig(env=rlkl.EnvConfig(num_envs=most + 2, backend="shared"))
    with pytest.raises(ConfigError, match=named):
        rlkl.TrainConfig(env=rlkl.EnvConfig(num_envs=most + 2, backend="async"))
