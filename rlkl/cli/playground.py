"""`rlkl playground`: open a page to explore divergences and objectives with sliders."""

import webbrowser
from pathlib import Path

from rlkl.utils.errors import ConfigError
from rlkl.utils.streams import tell
from rlkl.utils.validation import check_text

PAGE = Path(__file__).resolve().parents[1] / "tools" / "playground" / "index.html"


def help_text() -> str:
    """Return the help text."""
    return """usage: rlkl playground [--output FILE]

Opens a page with sliders: divergences of two categoricals and of two Gaussians,
estimates of KL from samples, and how PPO's clip and KL penalty act on the
ratio. The page needs no network.

Examples
  rlkl playground                           open it in your browser
  rlkl playground --output playground.html  write a copy"""


def main(arguments: list[str]) -> int:
    """Run the command; return the exit code."""
    match arguments:
        case []:
            print(PAGE, flush=True)
            if not webbrowser.open(PAGE.as_uri()):
                tell("no browser could be started; open this file in a browser")
        case ["--output", name]:
            check_text("--output", name)
            _copy(Path(name))
            print(name)
        case ["--output"]:
            raise ConfigError("--output: expected a file, such as playground.html")
        case _:
            text = " ".join(arguments)
            raise ConfigError(f"{text}: expected nothing or --output FILE; see --help")
    return 0


def _copy(file: Path) -> None:
    """Write a copy of the page to a new file."""
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(PAGE.read_text(encoding="utf-8"))
    except FileExistsError:
        raise ConfigError(f"--output {file}: it exists already; name another file") from None
    except OSError as error:
        raise ConfigError(f"--output {file}: cannot be written: {error.strerror}") from None
