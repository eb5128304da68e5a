"""Every experiment has a table and a figure, and figures are saved reproducibly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiment_configs import TINY, silent

from rlkl.algos.ppo_kl import PPOKLConfig
from rlkl.envs.make import EnvConfig
from rlkl.tools.experiments import (
    EXPERIMENTS,
    beta,
    clip,
    collapse,
    estimators,
    fine_tuning,
    geometry,
)
from rlkl.tools.experiments.drawing import new_figure, save
from rlkl.tools.rows import Rows

SMALL: dict[str, Any] = {
    "collapse": collapse.CollapseConfig(
        train=TINY, seeds=1, batches=1, episodes=2, sizes_per_decade=1
    ),
    "geometry": geometry.GeometryConfig(points=12),
    "clip": clip.ClipConfig(train=TINY, seeds=2, batches=1, epochs=2),
    "estimators": estimators.EstimatorsConfig(points=3, samples=100),
    "beta": beta.BetaConfig(
        train=replace(TINY, algo=PPOKLConfig(), total_env_steps=128), seeds=2, targets=[0.01]
    ),
    "fine_tuning": fine_tuning.FineTuningConfig(
        train=replace(TINY, env=EnvConfig("rlkl/PoleCartPole-v1", 2, kwargs={"length": 1.0})),
        first_env_steps=64,
        kl_coefficients=[0.0, 1.0],
        seeds=1,
    ),
}


@pytest.fixture
def short_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce collapse to one decade of step sizes for each optimizer."""
    sweeps = {name: x._replace(most=10 * x.least) for name, x in collapse.SWEEPS.items()}
    monkeypatch.setattr(collapse, "SWEEPS", sweeps)
    monkeypatch.setattr(fine_tuning, "EPISODES", 2)


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.usefixtures("short_sweeps")
def test_every_experiment_has_table_and_figure(name: str, descents: Rows) -> None:
    experiment = EXPERIMENTS[name]
    rows = descents if name == "directions" else experiment.calculate(SMALL[name], silent)
    assert len({tuple(row) for row in rows}) == 1
    table = experiment.tabulate(rows)
    assert table
    assert len({tuple(row) for row in table}) == 1
    figure = new_figure(experiment.inches)
    experiment.draw(figure, rows)
    assert figure.axes
    assert all(axes.has_data() for axes in figure.axes)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_saved_figures_are_reproducible(suffix: str, curves: Rows, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        figure = new_figure((4, 2))
        geometry.draw(figure, curves)
        path = tmp_path / f"geometry.{suffix}"
        save(figure, path)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
