"""Help texts, wrapped to 80 columns, and tables."""

from collections.abc import Mapping

from rich.console import Console

from rlkl.utils.errors import ConfigError
from rlkl.utils.lines import paragraph

LONGEST_NAME = 30  # the meaning of a longer name goes on the next line


def rows(content: Mapping[str, str], indent: str = "  ") -> list[str]:
    """Return lines that list names and their meanings."""
    width = max((len(name) for name in content if len(name) <= LONGEST_NAME), default=0)
    lines = []
    for name, meaning in content.items():
        start = f"{indent}{name:<{width}}  "
        if len(name) > width:
            lines.append(f"{indent}{name}")
            start = f"{indent}    "
        lines += paragraph(meaning, start, " " * len(start)) or [start.rstrip()]
    return lines


def sections(contents: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return lines with a heading above each list of names and meanings."""
    return [line for heading, content in contents.items() for line in ("", heading, *rows(content))]


def help_page(usage: str, purpose: str, contents: Mapping[str, Mapping[str, str]]) -> str:
    """Return a help text: the usage, a purpose unless it is empty, and sections."""
    about = ["", *paragraph(purpose)] if purpose else []
    return "\n".join([f"usage: rlkl {usage}", *about, *sections(contents)])


def check_no_flags(command: str, arguments: list[str]) -> None:
    """Raise if an argument of a command without flags is a flag."""
    for text in arguments:
        if text.startswith("-"):
            raise ConfigError(f"{text}: there is no such flag; see rlkl {command} --help")


def wide_console(width: int) -> Console:
    """Return a console for tables, which in a narrow terminal are wrapped and not truncated."""
    return Console(width=max(width, Console().width), markup=False, highlight=False)
