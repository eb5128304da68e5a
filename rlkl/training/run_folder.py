"""Make the folder of a run, and turn write errors into one line."""

import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from pathlib import Path

from rlkl.training.checkpoint import numbered
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_text


class FolderError(Exception):
    """A run's folder cannot be written to; the message names the last good checkpoint."""


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """Turn an OSError of the block into a FolderError of one line."""
    try:
        yield
    except OSError as error:
        checkpoints = numbered(run_dir / "checkpoints")
        advice = (
            f"{checkpoints[0]} is complete; once the problem is fixed, continue with: "
            f"rlkl resume {shlex.quote(str(run_dir))}"
            if checkpoints
            else "it has no checkpoint yet"
        )
        reason = error.strerror or str(error)
        raise FolderError(f"{run_dir} cannot be written to: {reason}; {advice}") from error


def make_run_dir(
    run_dir: str | None, env_id: str, algo: str, seed: int, base: Path = Path()
) -> Path:
    """Make a new folder for a run, and return its path as the user typed it.

    Args:
        run_dir: the user's choice; None for `runs/<env>/<algo>/<date-time>-seed<seed>`, with a
            number appended if two runs start in the same second.
        env_id: Gymnasium id; the folder's name omits its module.
        algo: name of the algorithm.
        seed: of the run.
        base: folder to which a relative path refers, even if an environment has changed the
            working directory.

    Raises:
        ConfigError: the folder exists already or cannot be made.
    """
    if run_dir is not None:
        paths: Iterable[Path] = [check_folder("run_dir", run_dir, base)]
    else:
        # Without the module that registers it: `Corridor-v0` for `my_package:Corridor-v0`.
        env = env_id.rpartition(":")[2].replace("/", "_")
        moment = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        first = Path("runs", env, algo, f"{moment}-seed{seed}")
        paths = chain([first], (first.with_name(f"{first.name}-{n}") for n in range(2, 1000)))
    for path in paths:
        name = f"run_dir={run_dir or path}"
        try:
            (base / path).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{name} cannot be made: {error.strerror}") from error
        return path
    raise ConfigError(f"{name} exists already and is not overwritten; choose another")


def run_name(run_dir: Path) -> str:
    """Return the name of a run in a tracker: the last parts of its folder."""
    return "/".join(run_dir.absolute().parts[-3:]).lstrip("/")


def check_folder(key: str, folder: str, base: Path = Path()) -> Path:
    """Return the path of a folder that exists or can be made; a relative one is below `base`."""
    check_text(key, folder)
    path = Path(folder)
    try:
        if ".." in path.parts:
            # Unresolved, mkdir would also make the folders before the `..`.
            path = (base / path).resolve()
        full = base / path
        existing = next(parent for parent in (full, *full.parents) if parent.exists())
    except OSError as error:
        raise ConfigError(f"{key}={folder} cannot be made: {error.strerror}") from error
    if existing != full and not existing.is_dir():
        raise ConfigError(f"{key}={folder} cannot be made: {existing} is not a folder")
    if existing != full and not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}={folder} cannot be made: {existing} is not writable")
    return path
