"""Makes the leaderboard's table over all environments that every algorithm has finished."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from leaderboard_rows import SEEDS

from rlkl.algos import ALGORITHMS
from rlkl.numerics.significance import holm, improvement_p_value
from rlkl.numerics.statistics import bootstrap_interval, probability_of_improvement
from rlkl.tools.compare.scores import AGGREGATES, SIGNIFICANCE
from rlkl.tools.compare.settings import CompareConfig
from rlkl.tools.rows import Rows, column, grouped, select


def overall_table(rows: Rows, name: str, envs: Sequence[str]) -> Rows:
    """Return a row for each algorithm: its score over complete environments, and whom it beats.

    As `rlkl compare` does it: the interquartile mean of normalized scores with its 95% bootstrap
    interval, and the pairs that Holm's correction tells apart. Empty if no environment is complete.
    """
    finished = select(rows, status="finished")
    whole = [
        env
        for env in envs
        if len(select(finished, environment=env)) == SEEDS[env] * len(ALGORITHMS)
    ]
    if not whole:
        return []
    returns = {
        algo: [np.array(column(select(group, environment=env), "return")) for env in whole]
        for algo, group in grouped(finished, "algorithm").items()
    }
    better = _better(returns)
    heading = f"{name}, {len(whole)} of {len(envs)} environments"
    return [
        {
            "algorithm": f"`{algo}`",
            heading: _score_text(whole, returns[algo]),
            f"{name}, better than": ", ".join(f"`{other}`" for other in better[algo]),
        }
        for algo in ALGORITHMS
    ]


def _better(returns: dict[str, list[np.ndarray]]) -> dict[str, list[str]]:
    """Return for each algorithm those that it is told apart from, and better than."""
    pairs = list(combinations(ALGORITHMS, 2))
    corrected = holm([improvement_p_value(returns[one], returns[two]) for one, two in pairs])
    better: dict[str, list[str]] = {algo: [] for algo in ALGORITHMS}
    for (one, two), p_value in zip(pairs, corrected, strict=True):
        if p_value < SIGNIFICANCE:
            is_first = probability_of_improvement(returns[one], returns[two]) > 0.5
            better[one if is_first else two].append(two if is_first else one)
    return better


def _score_text(envs: Sequence[str], returns: Sequence[np.ndarray]) -> str:
    config = CompareConfig()
    references = [config.reference_of(env, []) for env in envs]
    strata = [
        reference.normalized(values)
        for reference, values in zip(references, returns, strict=True)
        if reference is not None
    ]
    generator = np.random.default_rng(config.seed)
    low, high = bootstrap_interval(strata, AGGREGATES["iqm"], generator, resamples=config.resamples)
    return f"{AGGREGATES['iqm'](strata):.3f} [{low:.3f}, {high:.3f}]"
