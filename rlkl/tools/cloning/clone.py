"""Clone a policy, and write a run's folder from which it can be evaluated, exported or trained."""

import csv
import math
import time
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rlkl.tools.cloning.config import CloneConfig
from rlkl.tools.cloning.fit import (
    COLUMNS,
    HELD_OUT_LOSS,
    HELD_OUT_VALUE_LOSS,
    Row,
    Tell,
    best_row,
    fit,
)
from rlkl.tools.cloning.minari_source import MinariSource, find_data_set
from rlkl.tools.cloning.run_source import RunSource
from rlkl.training.checkpoint import LAST, as_bytes
from rlkl.training.config import TrainConfig
from rlkl.training.evaluation import Evaluation
from rlkl.training.learner import Learner
from rlkl.training.loggers import as_yaml, write_json
from rlkl.training.run_folder import check_folder, make_run_dir, writing
from rlkl.training.summary import Summary, git_revision, hardware, versions
from rlkl.utils.atomic_files import write_durably
from rlkl.utils.errors import ConfigError
from rlkl.utils.untrusted_files import reading

Source = RunSource | MinariSource

PREFIX = "clone"
"""First part of the tags in TensorBoard, whose x-axis is the epoch."""

CHARTS = {
    "Clone, by epoch": {
        "loss of the policy, fitted and held out": [
            f"{PREFIX}/policy/loss", f"{PREFIX}/{HELD_OUT_LOSS}"
        ],
        "KL(π_data ‖ π_θ), mean and largest of a held-out state": [
            f"{PREFIX}/held_out/kl", f"{PREFIX}/held_out/kl_max"
        ],
        "share of held-out states with the action of the data": [f"{PREFIX}/held_out/accuracy"],
        "loss of the critic, fitted and held out": [
            f"{PREFIX}/value/loss", f"{PREFIX}/{HELD_OUT_VALUE_LOSS}"
        ],
    }
}  # fmt: skip


@dataclass
class CloneSummary(Summary):
    """The content of `summary.json` of a cloned policy.

    Attributes:
        data: the name of the data, as the user typed it.
        clone: its settings.
        episodes_fitted, steps_fitted: number of episodes, and of environment steps in them.
        episodes_held_out, steps_held_out: likewise.
        policy_epoch, critic_epoch: those whose parameters were kept; 0 is before the fit, None
            without a fit.
        results: the numbers of `metrics.csv` at these epochs.
    """

    data: str = ""
    clone: dict[str, Any] = field(default_factory=dict)
    episodes_fitted: int = 0
    steps_fitted: int = 0
    episodes_held_out: int = 0
    steps_held_out: int = 0
    policy_epoch: int = 0
    critic_epoch: int | None = None
    results: dict[str, float | None] = field(default_factory=dict)


def open_source(data: str, checkpoint: str = "last") -> Source:
    """Return the source of demonstrations that a name means; see `clone` and `CloneConfig`.

    Raises:
        ConfigError: it is none of these, or cannot be read.
    """
    path = Path(data)
    with reading(path):
        folder = find_data_set(data)
        has_run = (path / "checkpoints").exists() or (path / "config.yaml").exists()
        exists, is_run = path.exists(), path.suffix == ".pt" or has_run
    if folder is not None and not is_run:
        return MinariSource(data, folder)
    if path.is_dir() and not is_run:
        raise ConfigError(
            f"{data} is neither the folder of a run nor that of a Minari data set: it has neither "
            "config.yaml nor metadata.json"
        )
    if not exists:
        raise ConfigError(
            f"{data}: there is no such run, and no Minari data set of this name on this machine; "
            f"to fetch one from Minari's server: minari download {data}"
        )
    return RunSource(data, checkpoint)


def clone(
    data: str,
    config: CloneConfig | None = None,
    train: TrainConfig | None = None,
    tell: Tell = lambda text: None,
) -> CloneSummary:
    """Clone the policy of a run, or of a data set, into the folder of a new run.

    Args:
        data: a run's folder or checkpoint, or the id or folder of a Minari data set.
        config: the settings.
        train: of the new run: environment, networks, seed, folder and so on; by default as the run
            in `data`, or rlkl's defaults in the data set's environment.
        tell: gets lines about progress.

    Raises:
        ConfigError: the data or the environment cannot be used, or the folder exists.
    """
    config = config or CloneConfig()
    source = open_source(data, config.checkpoint)
    return clone_from(source, config, train or source.train, tell)[0]


def clone_from(
    source: Source, config: CloneConfig, train: TrainConfig, tell: Tell
) -> tuple[CloneSummary, Path]:
    """Clone as `clone` does; return the summary, and the folder as the user would type it."""
    base, start = Path.cwd(), time.perf_counter()
    for key, value in (("init_from", train.init_from), ("reference", train.reference.run_dir)):
        if value is not None:
            raise ConfigError(
                f"{key}={value}: a clone is fitted to data alone, from new networks; leave it out, "
                "or use it with rlkl train"
            )
    if train.run_dir is not None:  # before the work; `make_run_dir` checks it again
        path = check_folder("run_dir", train.run_dir, base)
        if (base / path).exists():
            raise ConfigError(
                f"run_dir={train.run_dir} exists already and is not overwritten; choose another"
            )
    with closing(Learner(train)) as learner:
        found = source.demonstrations(learner, config)
        fitted, held_out = found.split(config.held_out, train.seed)
        tell(
            f"{source.name}: {len(found.lengths):,} episodes of {len(found):,} steps, of which "
            f"{len(held_out.lengths):,} of {len(held_out):,} steps are held out"
        )
        rows = fit(fitted, held_out, learner, config, tell)
        summary = _summary(learner, rows, time.perf_counter() - start)
        summary.data, summary.clone = source.name, asdict(config)
        summary.episodes_fitted, summary.steps_fitted = len(fitted.lengths), len(fitted)
        summary.episodes_held_out, summary.steps_held_out = len(held_out.lengths), len(held_out)
        shown = make_run_dir(train.run_dir, train.env.id, "clone", train.seed, base)
        summary.run_dir = base / shown
        with writing(summary.run_dir):
            _write(summary.run_dir, learner, rows, summary)
    return summary, shown


def _summary(learner: Learner, rows: tuple[list[Row], list[Row]], seconds: float) -> CloneSummary:
    """Evaluate the policy, and return the summary."""
    config, start = learner.config, time.perf_counter()
    evaluation = learner.evaluate() if config.eval_episodes else Evaluation()
    eval_return, eval_seconds = evaluation.mean_return, time.perf_counter() - start
    (policy_epoch, results), critic_epoch = best_row(rows[0], HELD_OUT_LOSS), None
    if rows[1]:
        critic_epoch, of_critic = best_row(rows[1], HELD_OUT_VALUE_LOSS)
        results = results | of_critic
    return CloneSummary(
        status="finished",
        reason="",
        env_steps=0,
        iterations=0,
        episodes=0,
        return_mean=None,
        return_best=None,
        eval_return=None if math.isnan(eval_return) else eval_return,
        eval_unended=len(evaluation.unended) if config.eval_episodes else None,
        eval_seconds=eval_seconds,
        wall_seconds=seconds,
        env_steps_per_second=None,
        seed=config.seed,
        algo=config.algo.name,
        env_id=config.env.id,
        versions=versions(),
        git_revision=git_revision(),
        hardware=hardware(config.device),
        policy_epoch=policy_epoch,
        critic_epoch=critic_epoch,
        results={key: value if math.isfinite(value) else None for key, value in results.items()},
    )


def _write(
    run_dir: Path, learner: Learner, rows: tuple[list[Row], list[Row]], summary: CloneSummary
) -> None:
    """Write the files of the folder, the summary last."""
    config = asdict(learner.resolved_config)
    write_durably(run_dir / "config.yaml", as_yaml(config).encode())
    empty: Row = {}
    merged = [of_policy | of_critic for of_policy, of_critic in zip_longest(*rows, fillvalue=empty)]
    with (run_dir / "metrics.csv").open("x", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["epoch", *COLUMNS])  # a missing number is an empty field
        table.writeheader()
        for epoch, row in enumerate(merged):
            known = {key: value for key, value in row.items() if not math.isnan(value)}
            table.writerow({"epoch": epoch} | known)
    if learner.config.logger.tensorboard:
        # Imported here because it takes a second.
        from rlkl.training.tensorboard import write_curves  # noqa: PLC0415

        curves = [{f"{PREFIX}/{tag}": value for tag, value in row.items()} for row in merged]
        write_curves(run_dir, learner.resolved_config, curves, CHARTS)
    (run_dir / "checkpoints").mkdir()
    # There is no training to resume.
    origin = {"versions": summary.versions, "git_revision": summary.git_revision}
    state = learner.state_dict() | {"resumable": False, "whole": False, **origin}
    write_durably(run_dir / "checkpoints" / LAST, as_bytes(state))
    write_json(run_dir / "summary.json", summary.content())
