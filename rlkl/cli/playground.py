"""`rlkl playground`: opens the page on which divergences and objectives are moved by hand."""

import webbrowser
from pathlib import Path

from rlkl.utils.streams import tell
from rlkl.utils.validation import ConfigError, check_text

PAGE = Path(__file__).resolve().parents[1] / "tools" / "playground" / "index.html"

HELP = """usage: rlkl playground [--output FILE]

Divergences of two categoricals and of two Gaussians, estimates of KL from
samples, and what PPO's clip and its KL penalty do to the ratio: a page to play
with, which needs no network.

Examples
  rlkl playground                           open it in your browser
  rlkl playground --output playground.html  write a copy, to keep or to pass on"""


def main(arguments: list[str]) -> int:
    """Open the page, or write a copy; return the exit code."""
    if {"--help", "-h"} & set(arguments):
        print(HELP)
        return 0
    match arguments:
        case []:
            print(PAGE, flush=True)
            if not webbrowser.open(PAGE.as_uri()):
                tell("no browser could be started; open this file in one")
        case ["--output", name]:
            check_text("--output", name)
            _copy(Path(name))
            print(name)
        case ["--output"]:
            raise ConfigError("--output: expected a file behind it, such as playground.html")
        case _:
            text = " ".join(arguments)
            raise ConfigError(f"{text}: expected nothing or --output FILE; see --help")
    return 0


def _copy(file: Path) -> None:
    """Write a copy of the page to a file that does not exist yet."""
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(PAGE.read_text(encoding="utf-8"))
    except FileExistsError:
        raise ConfigError(f"--output {file}: it exists already; name another file") from None
    except OSError as error:
        raise ConfigError(f"--output {file}: cannot be written: {error.strerror}") from None
