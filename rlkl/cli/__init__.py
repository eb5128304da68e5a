"""The command `rlkl`: chooses the subcommand, and turns errors into one line and an exit code."""

import os
import sys
from collections.abc import Callable

from rlkl.validation import ConfigError, nearest, one_line
from rlkl.version import __version__

USAGE = f"""rlkl {__version__}: policies trained by PPO, TRPO and kin on Gymnasium environments

usage: rlkl COMMAND [...]

  train       train a policy; `rlkl train --help` shows what can be set
  board       show runs in TensorBoard; see `rlkl board --help`
  bench       measure how fast that is, beside other libraries; see `rlkl bench --help`
  show        draw what KL is and does, experiment by experiment; see `rlkl show --help`
  playground  open a page on which KL and its kin are moved by hand; see `rlkl playground --help`

  --help, --version"""


def _train(arguments: list[str]) -> int:
    # Hydra and torch take seconds to import, which --help and a mistyped command need not wait for.
    from rlkl.cli.train import main as train  # noqa: PLC0415

    return train(arguments)


def _board(arguments: list[str]) -> int:
    from rlkl.cli.board import main as board  # noqa: PLC0415

    return board(arguments)


def _bench(arguments: list[str]) -> int:
    from rlkl.cli.bench import main as bench  # noqa: PLC0415

    return bench(arguments)


def _show(arguments: list[str]) -> int:
    from rlkl.cli.show import main as show  # noqa: PLC0415

    return show(arguments)


def _playground(arguments: list[str]) -> int:
    from rlkl.cli.playground import main as playground  # noqa: PLC0415

    return playground(arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "board": _board,
    "bench": _bench,
    "show": _show,
    "playground": _playground,
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit.

    Exit codes: 0 done; 1 failed while running; 2 something that was asked for cannot be done, and
    nothing was created; 130 stopped by the user.

    Args:
        arguments: those behind `rlkl`; None for the command line's.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h"):
        print(USAGE)
        sys.exit(0)
    if name in ("--version", "-V"):
        print(f"rlkl {__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        fail(f"there is no command {name!r}{nearest(name, COMMANDS)}; see rlkl --help", 2)
    try:
        sys.exit(COMMANDS[name](arguments[1:]))
    except ConfigError as error:
        fail(one_line(error), 2)
    except KeyboardInterrupt:
        fail("stopped", 130)
    except Exception as error:
        if os.environ.get("RLKL_FULL_ERROR"):
            raise
        fail(f"{type(error).__name__}: {one_line(error)} (RLKL_FULL_ERROR=1 shows where)", 1)


def fail(message: str, code: int) -> None:
    """Print an error to standard error and exit."""
    print(f"rlkl: {message}", file=sys.stderr)
    sys.exit(code)
