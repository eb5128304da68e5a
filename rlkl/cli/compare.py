"""`rlkl compare`: checks the command line, compares runs, and writes a report."""

import os
import re
import shlex
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path

from rich.table import Table

from rlkl.cli.compose_tools import load_comparison
from rlkl.cli.text import check_no_flags, help_page, wide_console
from rlkl.tools.compare import tables
from rlkl.tools.compare.page import check_free, write
from rlkl.tools.compare.report import Comparison, compare
from rlkl.training.run_folder import check_folder
from rlkl.utils.errors import ConfigError
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.validation import check_installed

EXAMPLES = {
    "rlkl compare runs/CartPole-v1": "all runs below a folder",
    "rlkl compare 'runs/*/ppo_*' runs/CartPole-v1/trpo": "patterns, and several folders",
    "rlkl compare runs score=eval steps=50000": "last evaluations up to 50,000 steps",
    "rlkl compare runs 'threshold={CartPole-v1: 400}'": "steps until a return is reached",
    "rlkl compare runs output=docs/results": "folder of the report",
}

KEYS = {
    "output=DIR": "for report.html, report.md, figures/ and data/, which must not exist yet",
    "statistic=iqm": "over seeds: iqm, the interquartile mean, or mean",
    "score=train": "of a run: train, its mean return of the last 100 episodes, or eval",
    "steps=N": "environment steps to compare at; by default the smallest budget of a finished run",
    "threshold=RETURN": "counts as solved; or {ENV: RETURN, ...}; by default Gymnasium's",
    "normalize=references": "meaning of 0 and 1: references, or the worst and best of the runs",
    "references={ENV: [LOW, HIGH]}": "returns that are 0 and 1",
    "resamples=2000": "number of bootstrap resamples",
    "seed=0": "of the bootstrap",
}

MAX_COMMAND = 10_000
"""Characters of the command that a report shows; shells expand patterns to many folders."""


help_text = partial(
    help_page,
    "compare RUNS ... [KEY=VALUE ...]",
    "Reads run folders and writes a report: which group of runs is better, by how much, how "
    "certain that is, and why. RUNS are run folders, folders that contain run folders, or "
    "patterns.",
    {"Examples": EXAMPLES, "Keys": KEYS},
)


def main(arguments: list[str]) -> int:
    """Run the command and return the exit code."""
    paths, overrides = parse(arguments)
    check_installed("matplotlib", "plots", "rlkl compare")
    config = load_comparison(overrides)
    if config.output is not None:
        check_free(check_folder("output", config.output))
    comparison = compare(paths, config)
    folder = _make_folder(config.output)
    try:
        command = for_terminal(shlex.join(["rlkl", "compare", *arguments]), MAX_COMMAND)
        opened = write(comparison, folder, command)
    except BaseException:
        with suppress(OSError):  # the folder is not empty
            folder.rmdir()
        raise
    _print(comparison)
    print(f"\n{', '.join(for_terminal(str(path)) for path in opened)}")
    return 0


def parse(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the folders, and the `KEY=VALUE` arguments; a path that exists is a folder."""
    check_no_flags("compare", arguments)
    paths: list[str] = []
    overrides: list[str] = []
    for text in arguments:
        is_key = re.match(r"[A-Za-z_.]+=", text) and not os.path.lexists(text)
        (overrides if is_key else paths).append(text)
    if not paths:
        raise ConfigError(
            "rlkl compare: expected folders of runs, such as rlkl compare runs/CartPole-v1"
        )
    return paths, overrides


def _make_folder(output: str | None) -> Path:
    """Make the folder to write to and return it; without `output` it is always a new one."""
    folder = Path(output) if output else Path("runs/compare", f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    name = folder.name
    for number in count(2):
        try:
            folder.mkdir(parents=True, exist_ok=output is not None)
            break
        except FileExistsError:  # by another command in the same second
            folder = folder.with_name(f"{name}-{number}")
        except OSError as error:
            raise ConfigError(f"output={folder} cannot be made: {error.strerror}") from error
    return folder


def _print(comparison: Comparison) -> None:
    console = wide_console(160)
    for shown in tables.tables(comparison):
        if shown.title in ("All environments together", "Returns at the end"):
            table = Table(title=shown.title, title_justify="left", box=None, pad_edge=False)
            for heading in shown.headings:
                table.add_column(heading, no_wrap=heading != "group")
            for cells in shown.cells:
                table.add_row(*cells)
            console.print(table, end="\n\n")
    for finding in comparison.findings:
        console.print(f"  {finding}")
    for caution in comparison.cautions:
        console.print(
            f"  {'warning' if caution.is_warning else 'note'}, {caution.kind}: {caution.text}"
        )
