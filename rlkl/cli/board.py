"""`rlkl board`: TensorBoard on the folders of runs, until Ctrl-C."""

import contextlib
import io
import os
import signal
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from tensorboard import program  # type: ignore[import-untyped]

from rlkl.cli.text import rows
from rlkl.utils.found_files import SEEN, is_regular, walk
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.streams import tell
from rlkl.utils.validation import ConfigError, check_range, one_line

EXAMPLES = {
    "rlkl board": "every run in runs/",
    "rlkl board runs/CartPole-v1": "the runs below a folder",
    "rlkl board runs/CartPole-v1/ppo_kl runs/CartPole-v1/trpo": "several folders side by side",
}

FLAGS = {"--port N": "serve there; by default on 6006, or the next port that is free"}

MOST_LINKS, MOST_TOLD = 10, 10
"""Links to folders that TensorBoard sees anyway, each of which may double its paths; lines that
say what is left out."""

EVENTS = "tfevents"
"""What TensorBoard knows its files by, somewhere in their names."""


def help_text() -> str:
    """Return what can be set: examples, flags."""
    lines = ["usage: rlkl board [FOLDER ...] [--port N]"]
    for heading, content in {"Examples": EXAMPLES, "Flags": FLAGS}.items():
        lines += ["", heading, *rows(content)]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Serve until Ctrl-C; return the exit code."""
    if {"--help", "-h"} & set(arguments):
        print(help_text())
        return 0
    folders, port = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="rlkl-board-") as scratch:
        shown, notes = sound(folders)
        for note in notes:
            tell(note)
        address = serve(side_by_side(shown, Path(scratch)), port)
        names = for_terminal(", ".join(map(str, folders)))
        # A signal may come as soon as the handlers are set, before the line is printed.
        with contextlib.suppress(KeyboardInterrupt):
            # SIGTERM tidies up, too; and the parent process may have had SIGINT ignored.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler)
            print(f"TensorBoard shows {names} at {address} (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
    return 0


def parse(arguments: list[str]) -> tuple[list[Path], int | None]:
    """Return the folders, and the port if one was given.

    Raises:
        ConfigError: a flag that does not exist, no port, or a folder without runs.
    """
    folders, port = [], None
    remaining = iter(arguments)
    for text in remaining:
        name, equals, value = text.partition("=")
        if name == "--port":
            port = _port(value if equals else next(remaining, ""))
        elif text.startswith("-"):
            raise ConfigError(f"{text}: there is no such flag; see rlkl board --help")
        else:
            folders.append(_folder(text))
    return folders or [_folder("runs")], port


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 100:
        raise ConfigError(f"--port={text}: expected a number, such as --port=6006")
    check_range("--port", int(text), at_least=0, at_most=65535)
    return int(text)


def _folder(text: str) -> Path:
    folder = Path(text)
    try:
        is_folder = folder.is_dir()
    except OSError:  # a name longer than names can be
        is_folder = False
    if not is_folder:
        raise ConfigError(f"{text}: there is no such folder; `rlkl train` makes runs below runs/")
    if not any(EVENTS in name for _, _, names in walk(folder, {}) for name in names):
        raise ConfigError(
            f"{text} has no TensorBoard events in or below it; "
            "runs write them unless logger.tensorboard=false"
        )
    return folder


def sound(folders: list[Path]) -> tuple[list[Path], list[str]]:
    """Return the folders to show, and in words what is left out of them.

    TensorBoard follows every link and opens everything that is called like its files. Where that
    would never end, the runs that are there now are shown one by one.

    Args:
        folders: of runs, or of folders of runs.

    Raises:
        ConfigError: nothing is left to show.
    """
    kept, notes = [], []
    for folder in folders:
        passed: dict[Path, str] = {}
        runs = []
        for place, _, names in walk(folder, passed):
            events = [place / name for name in names if EVENTS in name]
            odd = [path for path in events if not is_regular(path)]
            passed |= dict.fromkeys(odd, "it is no regular file")
            runs += [place] if events and not odd else []
        if set(passed.values()) - {SEEN} or len(passed) > MOST_LINKS:
            told = [f"left out: {for_terminal(str(path))}: {why}" for path, why in passed.items()]
            more = len(told) - MOST_TOLD
            notes += [*told[:MOST_TOLD], *([f"left out: {more} more"] if more > 0 else [])]
            notes.append(
                f"{for_terminal(str(folder))}: the {len(runs)} other runs are shown as of now"
            )
            # A run inside another would be shown twice, and what was left out with it.
            inner = {parent for run in runs for parent in run.parents}
            kept += [run for run in runs if run not in inner and not _holds(run, passed)]
        else:
            kept.append(folder)
    if not kept:
        raise ConfigError(f"there is nothing to show; {'; '.join(notes)}")
    return kept, notes


def _holds(folder: Path, paths: Iterable[Path]) -> bool:
    return any(folder in path.parents for path in paths)


def side_by_side(folders: list[Path], scratch: Path) -> Path:
    """Return one folder that shows them all, each under the part of its path that is its own.

    TensorBoard's own way to several folders, `--logdir_spec`, knows no quick loading, no commas
    and no colons, and calls a folder that is itself a run `NAME/.`.

    Args:
        folders: of runs, or of folders of runs; those inside another add nothing.
        scratch: an empty folder, for links to them.
    """
    whole = [folder.resolve() for folder in folders]
    tops = sorted({path for path in whole if not set(path.parents) & set(whole)})
    above = Path(os.path.commonpath(tops))
    if above in tops:
        is_run = any(EVENTS in file.name for file in above.iterdir())
        if not is_run and _is_utf8(above):
            return folders[whole.index(above)]
        above = above.parent  # so that a run is called by its name
    for path in tops:
        # TensorBoard's reader takes names in UTF-8 alone.
        link = scratch / os.fsencode(path.relative_to(above)).decode(errors="backslashreplace")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return scratch


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def serve(folder: Path, port: int | None) -> str:
    """Start TensorBoard in threads of this process, and return its address.

    Args:
        folder: with events in or below it.
        port: where; None for the first that is free from 6006 on, 0 for any.

    Raises:
        ConfigError: the port cannot be used.
    """
    board = program.TensorBoard()
    board.configure(("rlkl",), logdir=str(folder), port=port)
    try:
        # It would say there how it loads, which is nothing to act on.
        with contextlib.redirect_stderr(io.StringIO()):
            address: str = board.launch()
    except program.TensorBoardPortInUseError:
        raise ConfigError(f"--port={port} is in use; choose another, or leave it out") from None
    except program.TensorBoardServerException as error:
        raise ConfigError(one_line(error)) from None
    return address
