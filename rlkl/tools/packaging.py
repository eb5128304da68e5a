"""Package a trained policy as a folder to hand on."""

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlkl.engines.policy_package import (
    FORMAT,
    POLICY,
    WEIGHTS,
    is_package,
    load_package,
    weights_of,
)
from rlkl.models.policy_description import describe_policy
from rlkl.tools.export import export_onnx
from rlkl.tools.model_card import model_card
from rlkl.training.checkpoint import folder_of, taking_from
from rlkl.training.config import OUTPUT_KEYS
from rlkl.training.loggers import as_yaml
from rlkl.training.run_folder import read_summary
from rlkl.training.summary import hardware, versions
from rlkl.training.trained_policy import ACTIONS, TrainedRun, load_changed_run, run_episodes
from rlkl.utils.atomic_files import write_durably
from rlkl.utils.errors import ConfigError, MissingPackageError
from rlkl.utils.validation import check_installed, check_range, check_text
from rlkl.version import __version__

ONNX, CARD = "policy.onnx", "README.md"

FROM_SUMMARY = (
    "status", "iterations", "episodes", "return_mean", "wall_seconds", "versions", "policy_epoch",
)  # fmt: skip
"""What is kept of the run's `summary.json`. Policies fitted by `rlkl clone` have an epoch."""


def package(
    run_dir: str | Path,
    output: str | Path | None = None,
    *,
    checkpoint: str = "last",
    num_episodes: int = 100,
    seed: int = 0,
    env: Any = None,
    onnx: bool = True,
) -> Path:
    """Make a folder with a trained policy to hand on, and return its path.

    It has the weights (`policy.safetensors`), spaces, networks and settings (`policy.yaml`), an
    ONNX model (`policy.onnx`) and a model card (`README.md`) with the returns of new episodes.
    `rlkl.load_policy` and `rlkl.evaluate` take it in place of a run's folder.

    Args:
        run_dir: the run's folder, or a checkpoint.
        output: the new folder; None for `package` in the run's folder.
        checkpoint: `last`, or `best` for the policy with the best return.
        num_episodes: for the scores, with each kind of action; 0 for no scores.
        seed: of environments and actions.
        env: the run's own `module:function` or callable; see `evaluate`.
        onnx: whether to write the ONNX model.

    Raises:
        ConfigError: the run or its environment cannot be used, a package is missing, or the folder
            exists already or cannot be made.
    """
    path = check_output(run_dir, output, onnx=onnx)
    check_range("num_episodes", num_episodes, at_least=0, at_most=10**6)
    run = load_changed_run(run_dir, checkpoint, id=env)
    return package_run(run, folder_of(run_dir), path, num_episodes, seed, onnx=onnx)


def check_output(run_dir: str | Path, output: str | Path | None, *, onnx: bool) -> Path:
    """Return the path of a new package after checking that it can be made.

    Raises:
        ConfigError: it exists already or cannot be made, a package is missing, or the run is none.
    """
    check_installed("safetensors", "safetensors", f"a package's {WEIGHTS}")
    for name in ("onnx", "onnxscript", "onnxruntime") if onnx else ():
        try:
            check_installed(name, "export", f"a package's {ONNX}")
        except MissingPackageError as error:
            note = "or leave it out: --onnx no, in Python onnx=False"
            raise MissingPackageError(f"{error}; {note}") from None
    if is_package(run_dir):
        raise ConfigError(f"{run_dir} is a package already; copy the folder")
    if output is None:
        path = folder_of(run_dir) / "package"
    else:
        check_text("output", str(output))
        path = Path(output)
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists already and is not overwritten; name another output")
    if output is None and not path.parent.is_dir():
        raise ConfigError(f"{run_dir}: there is no such folder")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{path.parent} is not writable; name another output")
    return path


def package_run(
    run: TrainedRun, run_dir: Path, path: Path, num_episodes: int, seed: int, *, onnx: bool
) -> Path:
    """Evaluate the policy of a run, and write a package at a path that `check_output` returned.

    Nothing is at the path before the package is complete and can be loaded.
    """
    content = _content(run, run_dir)
    if num_episodes:
        content["evaluation"] = _scores(run, num_episodes, seed)
    exported = export_onnx(run.policy) if onnx else None
    with taking_from(run_dir):
        card = model_card(path.name, content, exported, run.policy)
    files = {
        POLICY: as_yaml(content).encode(),
        WEIGHTS: weights_of(run.policy),
        CARD: card.encode(),
    }
    if exported is not None:
        files[ONNX] = exported.model
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        partial.mkdir()
        for name, written in files.items():
            write_durably(partial / name, written)
        load_package(partial)
        if os.path.lexists(path):  # made by another process meanwhile
            raise ConfigError(f"{path} exists already and is not overwritten; name another output")
        partial.rename(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def _content(run: TrainedRun, run_dir: Path) -> dict[str, Any]:
    """Return the content of `policy.yaml`, without scores."""
    summary = read_summary(run_dir) or {}
    if summary.get("env_steps") != run.env_steps:  # of another moment than this policy
        summary = {key: summary[key] for key in ("versions",) if key in summary}
    return {
        "format": FORMAT,
        "rlkl": __version__,
        "checkpoint": run.checkpoint,
        "env_steps": run.env_steps,
        "env": vars(run.env),
        "threads": run.threads,
        "max_episode_steps": run.max_episode_steps,
        "policy": describe_policy(run.policy.policy),
        "run": {key: summary[key] for key in FROM_SUMMARY if summary.get(key) is not None},
        # Where a run wrote its files is for its user to know.
        "config": {key: value for key, value in run.config.items() if key not in OUTPUT_KEYS},
    }


def _scores(run: TrainedRun, num_episodes: int, seed: int) -> dict[str, Any]:
    """Evaluate a policy as `rlkl evaluate` does."""
    found: dict[str, Mapping[str, Any]] = {}
    for kind in ACTIONS:
        evaluation = run_episodes(run, num_episodes, seed, kind)
        found[kind] = evaluation.statistics(seed) | {"unended": len(evaluation.unended)}
    settings = {"episodes": num_episodes, "seed": seed}
    return settings | found | {"versions": versions(), "cpu": hardware("cpu")["cpu"]}
