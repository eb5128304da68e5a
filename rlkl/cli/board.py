"""`rlkl board`: serves runs in TensorBoard until Ctrl-C."""

import contextlib
import io
import os
import signal
import tempfile
import threading
from functools import partial
from pathlib import Path

from tensorboard import program

from rlkl.cli.board_tabs import FIRST_TAB, tabs
from rlkl.cli.text import help_page
from rlkl.utils.errors import ConfigError
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.streams import tell
from rlkl.utils.untrusted_files import ALREADY_VISITED, is_regular, walk
from rlkl.utils.validation import check_range, one_line

EXAMPLES = {
    "rlkl board": "all runs in runs/",
    "rlkl board runs/CartPole-v1": "the runs below a folder",
    "rlkl board runs/CartPole-v1/ppo_kl runs/CartPole-v1/trpo": "several folders side by side",
}

FLAGS = {"--port N": "default: the first free port from 6006 on"}

MAX_LINKS = 10
"""Limit of links to folders that TensorBoard reads anyway: each may double the number of paths."""
MAX_NOTES = 10
EVENTS = "tfevents"  # part of the names of the files that TensorBoard reads


help_text = partial(
    help_page, "board [FOLDER ...] [--port N]", "", {"Examples": EXAMPLES, "Flags": FLAGS}
)


def main(arguments: list[str]) -> int:
    """Serve until Ctrl-C; return the exit code."""
    folders, port = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="rlkl-board-") as scratch:
        shown, notes = select_folders(folders)
        for note in notes:
            tell(note)
        address = serve(combine(shown, Path(scratch)), port)
        names = for_terminal(", ".join(map(str, folders)))
        # A signal may arrive before the line is printed.
        with contextlib.suppress(KeyboardInterrupt):
            # SIGTERM cleans up too; and the parent process may have set SIGINT to be ignored.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler)
            print(f"TensorBoard shows {names} until Ctrl-C:\n  {address}{FIRST_TAB}", flush=True)
            threading.Event().wait()
    return 0


def parse(arguments: list[str]) -> tuple[list[Path], int | None]:
    """Return the folders, and the port if one was given."""
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
    if not os.path.isdir(text):  # noqa: PTH112  Path.is_dir raises if the name is too long
        raise ConfigError(f"{text}: there is no such folder; `rlkl train` writes runs to runs/")
    if not any(EVENTS in name for _, _, names in walk(folder, {}) for name in names):
        raise ConfigError(
            f"{text} has no TensorBoard events in or below it; "
            "runs write them unless logger.tensorboard=false"
        )
    return folder


def select_folders(folders: list[Path]) -> tuple[list[Path], list[str]]:
    """Return the folders to show, and notes on what is left out.

    TensorBoard follows every link and opens every path that is named like its files. If that might
    never end, the runs that exist now are shown one by one instead of their folder.
    """
    kept, notes = [], []
    for folder in folders:
        skipped: dict[Path, str] = {}
        runs = []
        for place, _, names in walk(folder, skipped):
            events = [place / name for name in names if EVENTS in name]
            irregular = [path for path in events if not is_regular(path)]
            skipped |= dict.fromkeys(irregular, "it is not a regular file")
            runs += [place] if events and not irregular else []
        if not set(skipped.values()) - {ALREADY_VISITED} and len(skipped) <= MAX_LINKS:
            kept.append(folder)
            continue
        left_out = [f"left out: {for_terminal(str(path))}: {why}" for path, why in skipped.items()]
        notes += left_out[:MAX_NOTES]
        if len(left_out) > MAX_NOTES:
            notes.append(f"left out: {len(left_out) - MAX_NOTES} more")
        notes.append(f"{for_terminal(str(folder))}: the {len(runs)} other runs are shown as of now")
        # A run that contains another run would show it twice, and what was left out.
        outer = {parent for path in (*runs, *skipped) for parent in path.parents}
        kept += [run for run in runs if run not in outer]
    if not kept:
        raise ConfigError(f"there is nothing to show; {'; '.join(notes)}")
    return kept, notes


def combine(folders: list[Path], scratch: Path) -> Path:
    """Return one folder that shows all folders, under the parts in which their paths differ.

    It is one of them, or `scratch`, an empty folder that gets links to them.
    """
    whole = [folder.resolve() for folder in folders]
    tops = sorted({path for path in whole if not set(path.parents) & set(whole)})
    above = Path(os.path.commonpath(tops))
    if above in tops:
        is_run = any(EVENTS in file.name for file in above.iterdir())
        if not is_run and _in_utf8(above) == str(above):
            return folders[whole.index(above)]
        above = above.parent  # so that a run is shown by its name
    for path in tops:
        link = scratch / _in_utf8(path.relative_to(above))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return scratch


def _in_utf8(path: Path) -> str:
    """Return a path with other bytes than UTF-8 escaped, since TensorBoard reads no others."""
    return os.fsencode(path).decode(errors="backslashreplace")


def serve(folder: Path, port: int | None) -> str:
    """Start TensorBoard in threads of this process, and return its address.

    Without a port it takes the first free one from 6006 on, with 0 any.
    """
    board = program.TensorBoard(tabs())
    board.configure(("rlkl",), logdir=str(folder), port=port)
    try:
        # TensorBoard prints there how it loads, which needs no action.
        with contextlib.redirect_stderr(io.StringIO()):
            address: str = board.launch()
    except program.TensorBoardPortInUseError:
        raise ConfigError(f"--port={port} is in use; choose another, or leave it out") from None
    except program.TensorBoardServerException as error:
        raise ConfigError(one_line(error)) from None
    return address
