"""Experiment `beta`: an adaptive β moves, and the band counts updates."""

from dataclasses import replace

from experiment_configs import TINY, silent

from rlkl.algos.ppo_kl import PPOKLConfig
from rlkl.tools.experiments import beta
from rlkl.tools.rows import Rows, column, distinct, select


def test_adaptive_beta_moves_and_fixed_beta_does_not() -> None:
    train = replace(TINY, algo=PPOKLConfig(learning_rate=5e-3), total_env_steps=320)
    config = beta.BetaConfig(train=train, targets=[1e-4, 50.0], kl_coefficients=[3.0], seeds=2)
    rows = beta.calculate(config, silent)
    assert distinct(rows, "variant") == ["target 0.0001", "target 50", "fixed β = 3"]
    assert distinct(rows, "seed") == [0, 1]
    for name, factor in (("target 0.0001", 2.0), ("target 50", 0.5)):
        used = column(select(rows, variant=name, seed=1), "kl_coefficient")
        assert used == [factor**n for n in range(len(used))]
        assert len(used) >= 5
    assert set(column(select(rows, variant="fixed β = 3"), "kl_coefficient")) == {3.0}
    # With one seed all variants start with the same rollout; equal β gives equal updates.
    first = [select(rows, variant=name, seed=0)[0]["kl_mean"] for name in distinct(rows, "variant")]
    assert first[0] == first[1] != first[2]
    assert select(rows, variant="target 50", seed=1)[0]["kl_mean"] != first[1]


def test_beta_table_counts_updates_within_band() -> None:
    kls = [0.01, 0.012, 0.0149, 0.0151, 0.0067, 0.0066, 0.5, 0.001]
    rows: Rows = [
        {"variant": "target 0.01", "seed": 0, "env_steps": 100 * (i + 1), "kl_mean": kl,
         "target": 0.01, "kl_coefficient": 1.0, "return": float(i)}
        for i, kl in enumerate(kls)
    ]  # fmt: skip
    early, late = beta.tabulate(rows)
    assert (early["in band"], late["in band"]) == (0.75, 0.25)
    assert (early["largest KL"], late["largest KL"]) == (0.0151, 0.5)
    assert (early["returns"], late["returns"]) == ("3", "7")
