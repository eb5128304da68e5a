"""The command `rlkl`: runs a subcommand, and turns errors into one line and an exit code.

Functions of this package raise `ConfigError` for an invalid request.
"""

import gc
import os
import sys
from importlib import import_module
from typing import Any, NoReturn

from rlkl.utils.errors import ConfigError, OtherRankError
from rlkl.utils.streams import failsafe_streams
from rlkl.utils.validation import described, nearest, one_line
from rlkl.version import __version__

COMMANDS = {
    "train": "train a policy",
    "resume": "continue a run that was stopped or killed",
    "tune": "search hyperparameters",
    "clone": "fit a policy to another policy's actions, or to a data set",
    "evaluate": "run a trained policy in new environments",
    "watch": "show a trained policy in a window or a video",
    "export": "write a trained policy as ONNX",
    "package": "make a folder with a trained policy to hand on",
    "board": "show runs in TensorBoard",
    "compare": "compare groups of runs, with intervals and figures",
    "bench": "measure speed, and compare it with other libraries",
    "show": "draw figures that explain KL",
    "playground": "open an interactive page on KL and related divergences",
}
"""Each is `main`, and `help_text`, of the module with that name in this package."""

SEARCHING = ("train", "tune", "bench")
"""Commands that search the working directory for modules. The others read run folders, perhaps of
strangers, and search it only for the module of a run's `env.id`."""
WITHOUT_ARGUMENTS = ("train", "bench", "board", "playground")
"""Commands that do something without arguments; the others print their help."""
WRITE_FOLDERS = {"train", "resume", "tune", "clone", "package"}
"""Commands whose result is in a folder, even if their output is lost."""

LISTED = "\n".join(f"  {name:<10}  {purpose}" for name, purpose in COMMANDS.items())
USAGE = f"""rlkl {__version__}: train policies by PPO, TRPO and related methods on Gymnasium

usage: rlkl COMMAND [...]

{LISTED}

`rlkl train --help` lists settings and examples; every command has --help.

  --help, --version"""


IS_RANK = int(os.environ.get("WORLD_SIZE", "1")) > 1
"""Whether torchrun started this process and others."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command, by default that of the process's arguments, and exit.

    Exit codes: 0 done; 1 failed while running; 2 invalid request, nothing was created; 130 stopped
    by the user.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with failsafe_streams() as out:
        try:
            _run(arguments)
        except SystemExit as end:
            out.flush()
            is_lost = isinstance(out.error, OSError) and not isinstance(out.error, BrokenPipeError)
            # The other commands have no result but their output. A broken pipe is no error: `head`.
            if is_lost and end.code == 0 and not WRITE_FOLDERS & {*arguments[:1]}:
                fail(f"standard output cannot be written to: {out.error}", 1)
            raise


def _run(arguments: list[str]) -> NoReturn:
    """Run a command and exit."""
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h", "-help", "help"):
        print(USAGE)
        sys.exit(0)
    if name in ("--version", "-V", "version"):
        print(f"rlkl {__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        hint = " (did you mean rlkl train ...?)" if "=" in name else nearest(name, COMMANDS)
        fail(f"there is no command {name!r}{hint}; see rlkl --help", 2)
    if IS_RANK and name not in ("train", "resume"):
        fail(f"torchrun is for rlkl train and rlkl resume; run rlkl {name} by itself", 2)
    if name in SEARCHING:
        _search_working_directory()
    try:
        command, rest = _imported(name), arguments[1:]
        asks = {"--help", "-h"} & {*rest} or not (rest or name in WITHOUT_ARGUMENTS)
        if asks and name != "train":  # whose help depends on other flags
            print(command.help_text())
            sys.exit(0)
        sys.exit(command.main(rest))
    except ConfigError as error:
        fail(one_line(error), 2)
    except OtherRankError:  # that rank prints its error
        sys.exit(1)
    except KeyboardInterrupt:
        fail("stopped", 130)
    except Exception as error:
        if os.environ.get("RLKL_FULL_ERROR"):
            raise
        fail(f"{described(error)} (RLKL_FULL_ERROR=1 shows where)", 1)


def _imported(name: str) -> Any:
    """Import a command, late: Hydra and torch take seconds, and --help does not need them.

    Nothing that is imported is garbage, so looking for it during the import and later is left out.
    """
    module = f"rlkl.cli.{name}"
    if module not in sys.modules:
        gc.disable()
        try:
            import_module(module)
        finally:
            gc.enable()
        gc.freeze()
    return sys.modules[module]


def _search_working_directory() -> None:
    """Find modules of the working directory, as `python -m rlkl` does, after installed ones."""
    try:
        here = os.getcwd()  # noqa: PTH109  a string, as in sys.path
    except OSError:  # the folder was removed
        return
    if not {"", here} & set(sys.path):
        sys.path.append(here)


def fail(message: str, code: int) -> NoReturn:
    """Print an error to standard error and exit.

    Errors that all ranks have in common are printed by rank 0 alone.
    """
    rank = os.environ.get("RANK", "0") if IS_RANK else "0"
    if rank == "0" or "rank " in message:
        print(f"rlkl: {message}", file=sys.stderr)
    sys.exit(code)
