"""`rlkl bench`: command line, measurement, conclusions and tables."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlkl.algos.first_order import FirstOrder
from rlkl.cli import main
from rlkl.cli.compose_tools import load_works
from rlkl.cli.schema import options, register_schemas
from rlkl.models.policy import PolicyConfig
from rlkl.tools.bench import contestants, work
from rlkl.tools.bench.clock import PHASES, Clock, Measurement, after_each_call, before_first_call
from rlkl.tools.bench.compare import (
    MeasurementError,
    Result,
    Spread,
    conclusions,
    interleave,
    rates,
    ratios,
    run_in_process,
)
from rlkl.tools.bench.tables import markdown
from rlkl.tools.bench.work import PEERS, BenchConfig, Entry, participants, refusal
from rlkl.training.trainer import Trainer

TINY = [
    "num_envs=[2]", "rollout_steps=8", "minibatch_size=8", "warmup_env_steps=1", "env_steps=1",
    "repetitions=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(config: BenchConfig, entry: Entry) -> Measurement:
        raise MeasurementError("was run")

    monkeypatch.setattr("rlkl.cli.bench.run_in_process", run)


def bench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


def measured(rate: float, **known: Any) -> Measurement:
    """Return a measurement of 100 environment steps in ten iterations."""
    values = {"startup_seconds": 2.0, "start_megabytes": 200.0, "peak_megabytes": 210.0}
    return Measurement(
        env_steps=100, iterations=10, seconds=100 / rate, optimizer_steps=4, **values | known
    )


BAD = {
    "work=ppo_cartpol": "did you mean ppo_cartpole",
    "work=[ppo_cartpole,scal]": "did you mean scale",
    "work=[]": "expected one of",
    "work=scale,algorithms": "write several values as [a,b]",
    "~work": "expected key=value",
    "peers=[skr]": "did you mean skrl",
    "peers=skrl": "expected a list",
    "algos=[ppo]": "expected one of",
    "algos=[]": "at least one",
    "env_id=CartPol-v1": "did you mean CartPole-v1",
    "num_envs=[0]": "at least 1",
    "minibatch_size=100": "does not divide the rollout of 1024 rows",
    "repetitions=0": "at least 1",
    "repetition=3": "did you mean repetitions",
    "learning_rate=0": "above 0",
    "env_steps=many": "expected a whole number",
    "output=nowhere/results": "there is no folder nowhere",
    "x=[": "not an override",
    "--fast": "there is no such flag",
}


@pytest.mark.usefixtures("no_measurements")
@pytest.mark.parametrize("override", BAD)
def test_bad_command_line_prints_one_line(
    override: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert bench(override) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("rlkl: ")
    assert printed.err.count("\n") == 1
    assert BAD[override] in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_measurements")
@pytest.mark.parametrize("suffix", ["md", "json"])
def test_results_are_not_overwritten(
    suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    existing = tmp_path / f"mine.{suffix}"
    existing.write_text("existing")
    assert bench("output=mine") == 2
    assert f"mine.{suffix} exists already" in capfd.readouterr().err
    assert existing.read_text() == "existing"


def test_missing_peer_fails_only_if_requested(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    only = {"stable_baselines3": object()}
    monkeypatch.setattr(work.importlib.util, "find_spec", only.get)
    assert bench("peers=[sb3,skrl]") == 2
    error = capfd.readouterr().err
    assert "skrl" in error
    assert "'rlkl[bench]'" in error
    entries, left_out = participants(BenchConfig())
    names = ["rlkl ppo_clip", "sb3 ppo_clip", "upper_bound", "upper_bound_sync"]
    assert [str(entry) for entry in entries] == names
    assert "skrl: not installed; the extra 'bench' has it" in left_out


def test_help_lists_works_and_peers(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--help") == 0
    printed = capsys.readouterr().out
    for name, description in options("bench").items():
        assert description, f"{name} has no description in its first comment"
        assert f"  {name} " in printed
        assert description in " ".join(printed.split())
    assert all(peer in printed for peer in PEERS)


def test_works_have_their_number_of_minibatches() -> None:
    register_schemas()
    works = {config.work: config for config in load_works(["work=all"])}
    assert list(works) == list(options("bench"))
    minibatches = {
        name: [config.num_minibatches(n) for n in config.num_envs] for name, config in works.items()
    }
    assert minibatches == {
        "ppo_cartpole": [4],
        "ppo_halfcheetah_1": [32],
        "ppo_halfcheetah_8": [32],
        "trpo_cartpole": [16],
        "trpo_halfcheetah": [16],
        "algorithms": [4],
        "scale": [1, 4, 32, 128],
    }


def test_iterations_are_rounded_up_to_a_minimum() -> None:
    config = BenchConfig(warmup_env_steps=1025, env_steps=20_000)
    assert (config.warmup_iterations(8), config.measured_iterations(8)) == (2, 20)
    assert (config.warmup_iterations(64), config.measured_iterations(64)) == (1, 10)


def test_train_config_has_the_settings_of_the_work() -> None:
    config = BenchConfig(
        env_id="Pendulum-v1", num_envs=[4], rollout_steps=64, minibatch_size=32, num_epochs=7,
        learning_rate=0.25, max_grad_norm=None, gamma=0.5, gae_lambda=0.75, clip_ratio=0.125,
        max_kl=0.5, cg_iterations=3,
    )  # fmt: skip
    ppo = contestants.train_config(config, Entry("rlkl", 4, "ppo_clip"), "run")
    trpo = contestants.train_config(config, Entry("rlkl", 4, "trpo"), "run")
    for made in (ppo, trpo):
        assert (made.env.id, made.env.num_envs, made.rollout_steps) == ("Pendulum-v1", 4, 64)
        assert (made.gamma, made.gae_lambda, made.device, made.threads) == (0.5, 0.75, "cpu", 1)
        critic = made.critic
        assert (critic.num_epochs, critic.num_minibatches, critic.learning_rate) == (7, 8, 0.25)
        assert critic.max_grad_norm is None
        assert made.logger.tensorboard
    assert made.policy == PolicyConfig(scale_actions=False)
    parts = ("num_epochs", "num_minibatches", "learning_rate", "learning_rate_schedule")
    assert [getattr(ppo.algo, part) for part in parts] == [7, 8, 0.25, "constant"]
    assert ppo.algo.ratio_bounds == (0.875, 1.125)
    parts = ("max_kl", "max_kl_schedule", "cg_iterations")
    assert [getattr(trpo.algo, part) for part in parts] == [0.5, "constant", 3]


def test_actor_and_critic_make_all_optimizer_steps(tmp_path: Path) -> None:
    config = BenchConfig(work="x", rollout_steps=16, minibatch_size=32, num_envs=[8], num_epochs=3)
    entry = Entry("rlkl", 8, "ppo_clip")
    trainer = Trainer(contestants.train_config(config, entry, str(tmp_path / "run")))
    assert isinstance(trainer.learner.policy_optimizer, FirstOrder)
    optimizers = (trainer.learner.policy_optimizer.adam, trainer.learner.critic_fit.adam)
    trainer.learner.iterate()
    # Autoreset steps are dropped from the batch, but the number of optimizer steps is the same.
    assert [int(optimizer.num_steps) for optimizer in optimizers] == [3 * 4, 3 * 4]
    trainer.learner.envs.close()


def test_peers_are_left_out_of_unsupported_works() -> None:
    supported = {
        (algo, discrete): [p for p in PEERS if refusal(p, algo, discrete=discrete) is None]
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


def test_clock_measures_whole_iterations_after_warm_up() -> None:
    clock = Clock(launched=0.0, warmup=2, measured=3)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    clock.start()
    measured_iterations = []
    for iteration in range(6):
        for _ in range(4):
            optimizer.step()
        measured_iterations.append(clock.is_measuring)
        clock.tick(10**iteration)
    assert measured_iterations == [False, False, True, True, True, False]
    measurement = clock.measurement()
    assert measurement.env_steps == 11100
    assert measurement.iterations == 3
    assert measurement.optimizer_steps == 4
    assert clock.optimizer_steps == 8
    assert measurement.seconds == clock.ended - clock.started


def test_too_few_iterations_raise() -> None:
    clock = Clock(launched=0.0, warmup=1, measured=2)
    clock.start()
    for _ in range(2):
        clock.tick(1)
    with pytest.raises(RuntimeError, match="made 2 iterations, expected 3"):
        clock.measurement()


def test_hooked_methods_return_the_same_results() -> None:
    class Counter:
        def add(self, number: int, *, twice: bool) -> int:
            return number * (1 + twice)

    counter, seen = Counter(), []
    before_first_call(counter, "add", lambda: seen.append("first"))
    assert [counter.add(1, twice=True), counter.add(2, twice=False)] == [2, 2]
    after_each_call(counter, "add", seen.append)
    assert [counter.add(3, twice=True), counter.add(4, twice=False)] == [6, 4]
    assert seen == ["first", 6, 4]


def test_wrong_number_of_optimizer_steps_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contestants.CONTESTANTS, "sb3", lambda *_: measured(1.0))
    entry = Entry("sb3", 8, "ppo_clip")
    contestants.measure(BenchConfig(num_epochs=1), entry, 0.0)
    with pytest.raises(RuntimeError, match=r"made 4 optimizer steps .*; the work has 8"):
        contestants.measure(BenchConfig(num_epochs=2), entry, 0.0)


def test_participants_are_measured_in_turns() -> None:
    order: list[str] = []

    def run(entry: Entry) -> Measurement:
        order.append(entry.contestant)
        if entry.contestant == "skrl" and len(order) > 3:
            raise MeasurementError("it broke")
        return measured(len(order))

    lines: list[str] = []
    names = ["rlkl", "skrl", "upper_bound"]
    results = interleave([Entry(name, 8) for name in names], 3, run, lines.append)
    assert order == [*names, *names, "rlkl", "upper_bound"]
    assert [round(m.rate) for m in results[0].measurements] == [1, 4, 7]
    assert [result.error for result in results] == ["", "it broke", ""]
    assert len(lines) == len(order)
    assert lines[4] == "2/3 skrl × 8: it broke"


def test_ratios_compare_within_repetitions() -> None:
    rlkl = Result(Entry("rlkl", 8), [measured(rate) for rate in (100.0, 400.0, 90.0)])
    peer = Result(Entry("sb3", 8), [measured(rate) for rate in (50.0, 100.0, 60.0)])
    assert rates(rlkl) == Spread(100.0, pytest.approx(90.0), pytest.approx(400.0))
    ratio = ratios(rlkl, peer)
    # The ratios of the pairs are 2, 4 and 1.5; the ratio of the medians would be 100 / 60.
    assert (ratio.median, ratio.least, ratio.most) == pytest.approx((2.0, 1.5, 4.0))
    del peer.measurements[1:]
    assert ratios(rlkl, peer).most == pytest.approx(2.0)
    assert Spread(1234.5, 999.0, 20000.0).text(",.0f") == "1,234 [999, 20,000]"


def results_of_a_work() -> list[Result]:
    phases = dict(zip(PHASES, (5.0, 1.0, 3.0, 0.5, 0.5), strict=True))
    own = measured(10.0, phases=phases, rollout_megabytes=0.5)
    return [
        Result(Entry("rlkl", 8, "ppo_clip"), [own, replace(own, seconds=5.0)]),
        Result(Entry("sb3", 8, "ppo_clip"), [measured(5.0), measured(4.0)]),
        Result(Entry("skrl", 8, "ppo_clip"), [measured(2.0), measured(2.0)]),
        Result(Entry("tianshou", 8, "ppo_clip"), error="KeyError: 'x'"),
        Result(Entry("upper_bound", 8), [measured(40.0), measured(40.0)]),
    ]


MARKDOWN = """\
### ppo_cartpole

What it is.

|  | envs | steps/s | rlkl ppo_clip / this | of the upper bound | start-up s | peak MB |
| --- | --: | --: | --: | --: | --: | --: |
| rlkl ppo_clip | 8 | 15 [10, 20] |  | 38% | 2.0 | 210 |
| sb3 ppo_clip | 8 | 4 [4, 5] | 3.50 [2.00, 5.00] | 11% | 2.0 | 210 |
| skrl ppo_clip | 8 | 2 [2, 2] | 7.50 [5.00, 10.00] | 5% | 2.0 | 210 |
| tianshou ppo_clip | 8 | failed: KeyError: 'x' |  |  |  |  |
| upper_bound | 8 | 40 [40, 40] | 0.38 [0.25, 0.50] | 100% | 2.0 | 210 |

|  | envs | iteration ms | collect | prepare | update | report | log | rollout MB | training adds MB |
| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |
| rlkl ppo_clip | 8 | 750.0 | 500.0 (67%) | 100.0 (13%) | 300.0 (40%) | 50.0 (7%) | 50.0 (7%) | 0.50 | 10.0 |

- rlkl ppo_clip makes 3.50 [2.00, 5.00] times the steps per second of sb3 ppo_clip, the fastest peer.
- tianshou ppo_clip × 8 failed: KeyError: 'x'
- Left out: rsl_rl: no.
"""  # noqa: E501


def test_markdown_of_literal_results() -> None:
    config = BenchConfig(work="ppo_cartpole")
    assert markdown(config, "What it is.", results_of_a_work(), ["rsl_rl: no"]) == MARKDOWN


def test_algorithms_are_compared_with_the_first() -> None:
    config = BenchConfig(algos=["ppo_clip", "vanilla_pg", "npg"])
    rate_of = {"ppo_clip": 10.0, "vanilla_pg": 40.0, "npg": 20.0}
    results = [Result(Entry("rlkl", 8, algo), [measured(rate_of[algo])]) for algo in config.algos]
    assert conclusions(config, results) == [
        "rlkl npg, the slowest of the others, makes 2.00 [2.00, 2.00] times the steps per second "
        "of rlkl ppo_clip."
    ]


def test_memory_growth_is_compared_with_rollout() -> None:
    config = BenchConfig(num_envs=[64, 1])
    results = [
        Result(Entry("rlkl", n, "ppo_clip"), [measured(1.0, peak_megabytes=p, rollout_megabytes=r)])
        for n, p, r in ((64, 230.0, 6.4), (1, 205.0, 0.1))
    ]
    assert conclusions(config, results) == [
        "From 1 to 64 environments (64 times) the rollout of rlkl ppo_clip grows by 6.3 MB, its "
        "peak memory by 25.0 MB. The memory that training adds after its start rises from 5.0 to "
        "30.0 MB."
    ]


def test_failure_does_not_stop_other_participants(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run(config: BenchConfig, entry: Entry) -> Measurement:
        if entry.contestant == "upper_bound":
            raise MeasurementError("ValueError: no [x]")
        return measured(10.0, phases=dict.fromkeys(PHASES, 1.0), rollout_megabytes=1.0)

    monkeypatch.setattr("rlkl.cli.bench.run_in_process", run)
    assert bench("peers=[]", "output=results") == 1
    printed = capsys.readouterr()
    assert "failed: ValueError: no [x]" in printed.out
    assert "upper_bound_sync" in printed.out
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["command"] == "rlkl bench 'peers=[]' output=results"
    errors = {r["entry"]["contestant"]: r["error"] for r in report["works"][0]["results"]}
    assert errors == {"rlkl": "", "upper_bound": "ValueError: no [x]", "upper_bound_sync": ""}


@pytest.mark.slow
def test_rlkl_and_upper_bounds_are_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench(*TINY, "peers=[]", "output=results") == 0
    assert "rlkl ppo_clip" in capfd.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.md"]
    results = json.loads((tmp_path / "results.json").read_text())["works"][0]["results"]
    found = {result["entry"]["contestant"]: result["measurements"] for result in results}
    assert list(found) == ["rlkl", "upper_bound", "upper_bound_sync"]
    for (measurement,) in found.values():
        assert measurement["iterations"] == 10
        # Ten rollouts of 2 × 8 rows; autoreset steps do not count.
        assert 120 <= measurement["env_steps"] <= 160
        assert 0 < measurement["start_megabytes"] <= measurement["peak_megabytes"]
        assert measurement["startup_seconds"] > 0
    (own,) = found["rlkl"]
    assert list(own["phases"]) == list(PHASES)
    assert all(seconds > 0 for seconds in own["phases"].values())
    assert sum(own["phases"].values()) == pytest.approx(own["seconds"])
    assert own["rollout_megabytes"] > 0
    assert found["upper_bound_sync"][0]["env_steps"] == 160


def test_error_is_last_line_of_failed_process() -> None:
    with pytest.raises(MeasurementError, match=r"^KeyError: 'unknown'$"):
        run_in_process(BenchConfig(), Entry("unknown", 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "algo", "env_id"),
    [
        ("sb3", "ppo_clip", "CartPole-v1"),
        ("sb3", "ppo_clip", "Pendulum-v1"),
        ("sb3_contrib", "trpo", "CartPole-v1"),
        ("sb3_contrib", "trpo", "Pendulum-v1"),
        ("skrl", "ppo_clip", "CartPole-v1"),
        ("skrl", "ppo_clip", "Pendulum-v1"),
        ("skrl", "trpo", "Pendulum-v1"),
        ("tianshou", "ppo_clip", "CartPole-v1"),
        ("tianshou", "ppo_clip", "Pendulum-v1"),
        ("rsl_rl", "ppo_clip", "Pendulum-v1"),
    ],
)
def test_peer_makes_all_steps_of_the_work(peer: str, algo: str, env_id: str) -> None:
    if importlib.util.find_spec(PEERS[peer]) is None:
        pytest.skip(f"needs {peer}: the extra 'bench'")
    config = BenchConfig(
        algos=[algo], env_id=env_id, num_envs=[2], rollout_steps=8, minibatch_size=8, num_epochs=3,
        warmup_env_steps=1, env_steps=1,
    )  # fmt: skip
    measurement = run_in_process(config, Entry(peer, 2, algo))
    assert measurement.optimizer_steps == 6
    assert measurement.env_steps == 160
