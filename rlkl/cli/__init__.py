"""The command `rlkl`: chooses the subcommand, and turns errors into one line and an exit code."""

import os
import sys
from importlib import import_module
from typing import NoReturn

from rlkl.utils.streams import steady_streams
from rlkl.utils.validation import ConfigError, nearest, one_line
from rlkl.version import __version__

USAGE = f"""rlkl {__version__}: policies trained by PPO, TRPO and related methods on Gymnasium

usage: rlkl COMMAND [...]

  train       train a policy
  resume      continue a run that was stopped or killed
  tune        search the values of keys that train best
  evaluate    run a trained policy in fresh environments
  watch       show a trained policy in a window or a video
  export      write a trained policy as ONNX
  board       show runs in TensorBoard
  compare     compare runs: which is better, how surely, and why
  bench       measure how fast that is, beside other libraries
  show        draw what KL is and does, experiment by experiment
  playground  open a page to explore KL and related divergences by hand

`rlkl train --help` shows what can be set; every command has such a page.

  --help, --version"""

COMMANDS = (
    "train",
    "resume",
    "tune",
    "evaluate",
    "watch",
    "export",
    "board",
    "compare",
    "bench",
    "show",
    "playground",
)
"""Each is `main` of the module of that name beside this one."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit.

    Exit codes: 0 done; 1 failed while running; 2 something that was asked for cannot be done, and
    nothing was created; 130 stopped by the user.

    Args:
        arguments: those behind `rlkl`; None for the command line's.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with steady_streams() as out:
        try:
            _run(arguments)
        except SystemExit as end:
            out.flush()
            is_lost = isinstance(out.error, OSError) and not isinstance(out.error, BrokenPipeError)
            # What else a command has to give is its output; `head` has read what it wants of it.
            if is_lost and end.code == 0 and arguments[:1] not in (["train"], ["resume"], ["tune"]):
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
    try:
        # Now and no earlier: Hydra and torch take seconds, which --help need not wait for.
        sys.exit(import_module(f"rlkl.cli.{name}").main(arguments[1:]))
    except ConfigError as error:
        fail(one_line(error), 2)
    except KeyboardInterrupt:
        fail("stopped", 130)
    except Exception as error:
        if os.environ.get("RLKL_FULL_ERROR"):
            raise
        fail(f"{type(error).__name__}: {one_line(error)} (RLKL_FULL_ERROR=1 shows where)", 1)


def fail(message: str, code: int) -> NoReturn:
    """Print an error to standard error and exit."""
    print(f"rlkl: {message}", file=sys.stderr)
    sys.exit(code)
