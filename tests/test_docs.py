"""The pages of the algorithms tell what the code does: keys, defaults, commands, links."""

import doctest
import json
import os
import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import forked_python
import pytest

from rlkl.algos import ALGORITHMS
from rlkl.cli import COMMANDS, main
from rlkl.cli.command_line import expand
from rlkl.cli.compose import load
from rlkl.cli.compose_tools import load_experiment
from rlkl.cli.compose_tuning import load_tuning
from rlkl.cli.grid_line import name_jobs, read_line
from rlkl.cli.schema import register_schemas
from rlkl.tools.experiments import EXPERIMENTS
from rlkl.training.report import TAGS
from rlkl.utils.errors import ConfigError

DOCS = Path(__file__).resolve().parent.parent / "docs"
ALGORITHM_PAGES = sorted((DOCS / "algorithms").glob("*.md"))
COLUMNS = ["key", "default", "range", "meaning"]


def by_name(pages: list[Path]) -> pytest.MarkDecorator:
    """Parametrise over pages."""
    return pytest.mark.parametrize(
        "page", pages, ids=[str(page.relative_to(DOCS)) for page in pages]
    )


def page_of(name: str) -> Path:
    """Return the page that the index links an algorithm's name to."""
    index = DOCS / "algorithms" / "README.md"
    link = re.search(rf"\[`{name}`\]\((\w+\.md)\)", index.read_text())
    assert link, f"{index} has no row [`{name}`](PAGE.md)"
    return index.parent / link[1]


def defaults_below(page: Path, heading: str) -> dict[str, str]:
    """Return the defaults by key, as the table below a heading prints them."""
    _, found, rest = page.read_text().partition(f"\n{heading}\n")
    assert found, f"{page} has no section {heading!r}"
    lines = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert header == COLUMNS
    return {key.strip("`"): default.strip("`") for key, default, _, _ in rows}


def meant(text: str, default: Any) -> Any:
    """Return the value that a printed default stands for, where it is of the default's kind."""
    if text in ("null", "true", "false"):
        return {"null": None, "true": True, "false": False}[text]
    return float(text) if isinstance(default, int | float) else text


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm_pages_list_every_hyperparameter_and_default(name: str) -> None:
    config = ALGORITHMS[name].config
    defaults = {field.name: field.default for field in fields(config) if field.name != "name"}
    shared = defaults_below(DOCS / "algorithms" / "README.md", "### Shared hyperparameters")
    printed = {key: default for key, default in shared.items() if key in defaults}
    printed |= defaults_below(page_of(name), f"## Hyperparameters of `{name}`")
    assert sorted(printed) == sorted(defaults)
    assert {key: meant(printed[key], default) for key, default in defaults.items()} == defaults


def jobs_of(command: str) -> list[list[str]]:
    """Return the overrides of each job that a `rlkl train` command asks for."""
    words = shlex.split(command)[2:]
    overrides = [word for word in words if word != "-m"]
    if "-m" in words:
        return list(name_jobs(read_line(overrides))[1].values())
    return list(expand(overrides, multirun=False))


@by_name(ALGORITHM_PAGES)
def test_every_command_of_a_page_can_be_run(page: Path) -> None:
    register_schemas()
    for command in re.findall(r"^rlkl train .*$", page.read_text(), re.MULTILINE):
        for job in jobs_of(command):
            load(job)


def commands_of(page: Path) -> list[str]:
    """Return the indented `rlkl train` commands of a page that need nothing that is not here."""
    found = re.findall(r"^    (rlkl train .*)$", page.read_text(), re.MULTILINE)
    found = [re.sub(r"  +#.*", "", command) for command in found]
    needed = ("my_package", "--config-dir", "--help", "--cfg")
    return [command for command in found if not any(text in command for text in needed)]


PAGES = [
    page for page in (DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))) if commands_of(page)
]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=() if page.name == "README.md" else pytest.mark.slow)
        for page in PAGES
    ],
)
def test_indented_commands_of_pages_run(page: Path) -> None:
    register_schemas()
    commands = commands_of(page)
    # Every value of a sweep is in one of these; all the jobs would take minutes.
    some = {
        tuple(job)
        for command in commands
        for job in {word: words for words in jobs_of(command) for word in words}.values()
    }
    for job in some:
        try:
            load(list(job))
        except ConfigError as error:
            if "which the extra" not in str(error):
                raise


def test_shown_commands_can_be_pasted_into_a_shell(
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = [path.read_text() for path in (DOCS.parent / "README.md", *DOCS.rglob("*.md"))]
    for name in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        texts.append(capsys.readouterr().out)
    names = "|".join(COMMANDS)
    found = [
        line for text in texts for line in re.findall(rf"^ *(rlkl (?:{names})\b.*)", text, re.M)
    ]
    assert len(found) > 80
    for line in found:
        # Less what quotes hold, and what is said behind a command; seed=range(5) would be an error.
        bare = re.sub(r"'[^']*'|  .*| #.*", "", line)
        assert not set(bare) & set("()[]{}*?$&;<>|!`~"), line


@pytest.mark.slow
def test_searches_of_the_tuning_page_run() -> None:
    register_schemas()
    commands = re.findall(r"^    rlkl tune (.*)$", (DOCS / "tuning.md").read_text(), re.MULTILINE)
    assert [load_tuning(shlex.split(words)).space for words in commands if "--help" not in words]


@by_name(ALGORITHM_PAGES)
def test_tags_of_pages_are_logged(page: Path) -> None:
    groups = "|".join(sorted({tag.partition("/")[0] for tag in TAGS}))
    assert set(re.findall(rf"`((?:{groups})/\w+)`", page.read_text())) <= set(TAGS)


@by_name(sorted(DOCS.rglob("*.md")))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    files = {target.partition("#")[0] for target in targets if "://" not in target} - {""}
    assert [file for file in sorted(files) if not (page.parent / file).exists()] == []


def test_page_on_kl_names_existing_tests_and_experiments() -> None:
    text, root = (DOCS / "kl.md").read_text(), DOCS.parent
    register_schemas()
    shown = [
        shlex.split(line, comments=True) for line in re.findall(r"^    rlkl (show .*)$", text, re.M)
    ]
    for _, name, *overrides in shown[1:]:
        load_experiment(name, overrides)
    assert {name for _, name, *_ in shown} == {"--help", *EXPERIMENTS}
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (root / file).read_text(), f"{file} has no {test}"


def run_console_script(command: list[str], *more: str, folder: Path) -> str:
    """Run a command as a page shows it, by the installed script, from a folder; return its output.

    `python -m rlkl` would do more than the script: it has the working directory on its path.
    """
    script = Path(sys.executable).parent / command[0]
    assert script.exists(), "rlkl is not installed here; pip install -e ."
    done = forked_python.run(
        [sys.executable, script, *command[1:], *more],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(DOCS.parent)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_page_of_own_environments_runs(tmp_path: Path) -> None:
    text = (DOCS / "own_environments.md").read_text()
    files = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", text, re.DOTALL)
    for name, code in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    commands = re.findall(
        r"^ +(rlkl (?:train|resume|evaluate) .*my_package.*)$", text, re.MULTILINE
    )
    assert len(commands) == 6
    for command in commands:
        more = ["logger=csv"] if command.startswith("rlkl train") else []
        run_console_script(shlex.split(command), *more, folder=tmp_path)
    for script, run in (("train_corridor.py", "from_python"), ("curriculum.py", "longer")):
        forked_python.run(
            [sys.executable, script],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": f"{DOCS.parent}{os.pathsep}{tmp_path}"},
            check=True,
            capture_output=True,
        )
        assert json.loads((tmp_path / run / "summary.json").read_text())["status"] == "finished"
    # Straight on: 1 - 5 · 0.01; in the shorter, penalized corridor 1 - 4 · (0.01 + 0.05).
    expected_returns = {
        "corridor": 0.95,
        "registered": 0.95,
        "penalized": 0.76,
        "from_python": 0.95,
    }
    for run, expected in expected_returns.items():
        summary = json.loads((tmp_path / run / "summary.json").read_text())
        assert summary["eval_return"] == pytest.approx(expected)


@pytest.mark.slow
def test_what_the_page_of_divergences_prints_is_printed() -> None:
    text = (DOCS / "divergences.md").read_text()
    shown = re.findall(r"```python\n(.*?)```\n\nIt prints\n\n((?: {4}[^\n]*\n)+)", text, re.DOTALL)
    assert len(shown) == text.count("```python") == 2
    for code, printed in shown:
        done = forked_python.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(DOCS.parent)},
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout.splitlines() == [line.strip() for line in printed.splitlines()]
    assert doctest.testfile(str(DOCS / "divergences.md"), module_relative=False).failed == 0


NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    assert [cell["id"] for cell in cells] == [f"cell-{i}" for i in range(len(cells))]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_index_and_site_list_every_notebook() -> None:
    names = [f"tutorials/{path.stem}" for path in NOTEBOOKS]
    readme, index = (DOCS / "README.md").read_text(), (DOCS / "index.md").read_text()
    assert sorted(re.findall(r"^tutorials/.*$", index, re.M)) == names
    assert sorted(re.findall(r"^\| \[(tutorials/\w+)\.ipynb\]", readme, re.M)) == names
