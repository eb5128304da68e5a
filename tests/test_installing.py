"""The page on installing lists every extra, and every file that only POSIX systems can run."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "installing.md").read_text()

POSIX = re.compile(
    r"import (fcntl|resource)\b|symlink_to|\"fork\"\)"
    r"|signal\.(SIGHUP|SIGKILL|SIGUSR1|pthread_sigmask)"
    r"|os\.(register_at_fork|O_NOFOLLOW|O_NONBLOCK|O_DIRECTORY|setsid|fork\b|waitpid|sched_yield)"
    r"|os\.(sysconf|getppid|kill)\b"
)


def section(heading: str) -> str:
    """Return the text below a heading of the page."""
    _, found, rest = PAGE.partition(f"\n## {heading}\n")
    assert found
    return rest.partition("\n## ")[0]


def test_every_extra_is_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first = re.findall(r"^\| (`[^|]*) \|", section("Extras"), re.MULTILINE)
    named = [name for cell in first for name in re.findall(r"`([\w-]+)`", cell)]
    assert sorted(named) == sorted(project["optional-dependencies"])


def test_page_has_the_admitted_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = (each for each in project["dependencies"] if each.startswith("torch"))
    assert f"`{torch}`" in PAGE


def test_files_for_posix_alone_are_listed() -> None:
    files = sorted(ROOT.glob("rlkl/**/*.py"))
    found = {str(f.relative_to(ROOT)) for f in files if POSIX.search(f.read_text())}
    assert len(found) >= 10
    assert found == set(re.findall(r"`(rlkl/[\w/]+\.py)`", section("Windows")))
