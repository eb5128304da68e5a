"""Every sentence on which group is better, against SciPy and statsmodels on the same returns."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import compared, kinds, text_of
from made_runs import make_grid
from scipy import stats

from rlkl.tools.compare.report import Comparison
from rlkl.tools.rows import select

ENVS = ("CartPole-v1", "Acrobot-v1")
MIXED = {
    # In CartPole the p-value of ppo_clip with each other is 2/252, so 6/252 corrected for three.
    "CartPole-v1": {
        "ppo_clip": [400.0, 410, 420, 430, 440],
        "ppo_kl": [300.0, 310, 320, 330, 399],
        "trpo": [325.0, 335, 345, 355, 301],
    },
    "Acrobot-v1": {
        "ppo_clip": [-80.0, -81, -82, -83, -84],
        "ppo_kl": [-82.5, -85, -86, -87, -88],  # 8/252 with ppo_clip, 0.095 corrected
        "trpo": [-79.0, -81.2, -99, -98, -97],
    },
}
TEN = {
    # The smallest p-values are 2/184756, so ten seeds tell apart what is separated.
    "CartPole-v1": {
        "ppo_clip": range(10),
        "ppo_kl": range(20, 30),
        "trpo": range(40, 50),
        "npg": np.arange(41.5, 51),
    }
}
MANY = {"CartPole-v1": {name: range(9 * k, 9 * k + 5) for k, name in enumerate(
    ("vanilla_pg", "ppo_clip", "ppo_kl", "ppo_kl_fixed"))}}  # fmt: skip
FEW = {"CartPole-v1": {"ppo_clip": [400.0] * 4, "ppo_kl": [3.0] * 5, "trpo": [2.0, 1]}}
GRIDS = {"mixed": MIXED, "ten": TEN, "many": MANY, "few": FEW}

Grid = dict[str, dict[str, Any]]


def corrected(p_values: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Return p-values corrected by statsmodels."""
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="comes with rliable")
    if not p_values:
        return {}
    values = multitest.multipletests(list(p_values.values()), method="holm")[1]
    return dict(zip(p_values, values.tolist(), strict=True))


def apart(by_algo: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Return the corrected p-value of each tested pair in one environment."""
    tested = [algo for algo, returns in by_algo.items() if len(returns) >= 5]
    return corrected(
        {
            (a, b): stats.mannwhitneyu(by_algo[a], by_algo[b], method="exact").pvalue
            for a, b in itertools.combinations(tested, 2)
        }
    )


def names(text: str) -> set[str]:
    return set(re.split(r", | and ", text)) if text else set()


def check_sentence(sentence: str, by_algo: dict[str, Any]) -> None:
    """Check a sentence on one environment against its returns."""
    tested = {algo: returns for algo, returns in by_algo.items() if len(returns) >= 5}
    if len(tested) < 2:
        assert "too few seeds to tell which group is better" in sentence
        assert "highest" not in sentence
        return
    found = re.fullmatch(
        r".*: (?P<best>\w+) has the highest interquartile mean return, (?P<value>\S+) \[.*?\]\."
        r"( It is told apart from (?P<apart>[\w, ]+?))?"
        r"((;| It) cannot be told apart from (?P<close>[\w, ]+?))?"
        r" \((?P<tested>\d+) pairs? tested\)(; not compared, .*: (?P<few>.*))?\.",
        sentence,
    )
    assert found, sentence
    centers = {algo: stats.trim_mean(returns, 0.25) for algo, returns in tested.items()}
    best = max(centers, key=lambda algo: centers[algo])
    assert found["best"] == best
    assert float(found["value"].replace("−", "-")) == pytest.approx(centers[best], abs=0.5)
    p_values = apart(by_algo)
    assert int(found["tested"]) == len(p_values)
    different = {
        a if b == best else b for (a, b), p in p_values.items() if best in (a, b) and p < 0.05
    }
    assert names(found["apart"]) == different
    assert names(found["close"]) == set(tested) - different - {best}
    assert {text.split(" ")[0] for text in names(found["few"])} == set(by_algo) - set(tested)


@pytest.mark.parametrize("name", GRIDS)
def test_sentences_on_environments_agree_with_scipy(name: str, tmp_path: Path) -> None:
    grid: Grid = GRIDS[name]
    found = compared(make_grid(tmp_path, grid, rows=2))
    own = [text for text in found.findings if not text.startswith("Over ")]
    assert len(own) == len(grid)
    for env, by_algo in grid.items():
        check_sentence(next(text for text in own if text.startswith(env)), by_algo)
        check_pairs(found, env, by_algo)


def check_pairs(found: Comparison, env: str, by_algo: dict[str, Any]) -> None:
    """Check the rows of pairs in one environment, and what the warning says of them."""
    p_values = apart(by_algo)
    for row in select(found.tables["pairs"], environment=env):
        pair = tuple(sorted((row["first"], row["second"]), key=list(by_algo).index))
        assert (pair in p_values) == (row["seeds"] >= 5)
        assert np.isnan(row["p_value"]) == (pair not in p_values)
        expected = p_values.get((pair[0], pair[1]), np.nan)
        np.testing.assert_allclose(row["corrected"], expected, rtol=1e-9)
        assert row["told_apart"] == (expected < 0.05)
        assert row["tested"] == len(p_values)


def pooled_p_value(first: str, second: str) -> float:
    """Return the p-value over both environments of MIXED from all 252² exchanges of runs."""
    sums = np.zeros(1)
    observed = 0.0
    for by_algo in MIXED.values():
        ranks = stats.rankdata(by_algo[first] + by_algo[second])
        chosen = [list(some) for some in itertools.combinations(range(10), 5)]
        sums = np.add.outer(sums, ranks[chosen].sum(1)).ravel()
        observed += ranks[:5].sum()
    middle = 2 * 27.5
    return float(np.mean(np.abs(sums - middle) >= abs(observed - middle)))


def test_sentence_over_environments_agrees_with_enumeration(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, MIXED, rows=2))
    pairs = list(itertools.combinations(MIXED["CartPole-v1"], 2))
    expected = corrected({pair: pooled_p_value(*pair) for pair in pairs})
    rows = {(row["first"], row["second"]): row for row in found.tables["improvement"]}
    for pair, p_value in expected.items():
        assert rows[pair]["corrected"] == pytest.approx(p_value)
    close = [pair for pair in pairs if expected[pair] >= 0.05]
    assert 0 < len(close) < 3  # both kinds of sentences are tested
    text = text_of(found, "not told apart")
    listed = " and ".join(f"{a} and {b}" for a, b in close)
    assert f"{len(close)} of 3 pairs cannot be told apart ({listed})" in text
    assert "and by environment 3 of 3 in Acrobot-v1 and 1 of 3 in CartPole-v1:" in text
    best, others = "ppo_clip", ("ppo_kl", "trpo")
    told = [other for other in others if expected[best, other] < 0.05]
    assert f"It is told apart from {' and '.join(told)}" in found.findings[0]
    assert f"Over 2 environments: {best} has the highest" in found.findings[0]


def test_too_many_pairs_cause_a_note(tmp_path: Path) -> None:
    # Six pairs of five seeds: 6 · 2/252 is below 0.05. Ten pairs: 0.079.
    assert "many pairs" not in kinds(compared(make_grid(tmp_path / "six", MANY, rows=2)))
    more = {"CartPole-v1": MANY["CartPole-v1"] | {"trpo": range(90, 95)}}
    found = compared(make_grid(tmp_path / "ten", more, rows=2))
    assert "CartPole-v1 (10 pairs): so many pairs that even" in text_of(found, "many pairs")
    assert not any(row["told_apart"] for row in found.tables["pairs"])
    assert "It cannot be told apart from" in found.findings[0]
