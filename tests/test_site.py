"""The documentation site builds without a warning, and a browser shows it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import pytest
from browsing import Pages

from rlkl.version import __version__

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("furo") is None, reason="Sphinx is not installed (extra: docs)"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, which runs the notebooks; every warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", ROOT / "docs", folder],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Serve the site: a search shows passages of other pages, which it may not read from a disk."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_the_screen(address: str, pages: Pages, width: int, scheme: str) -> None:
    notebooks = [f"tutorials/{notebook.stem}" for notebook in NOTEBOOKS]
    for name in ("index", "algorithms/trpo", *notebooks):
        page = pages.open(f"{address}/{name}.html", width=width, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        light = (
            page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        )
        assert dark is not light


def test_site_has_version_formulas_and_reference(address: str, pages: Pages) -> None:
    assert __version__ in pages.open(f"{address}/index.html").title()
    assert pages.open(f"{address}/algorithms/trpo.html").locator("math").count() >= 3
    reference = pages.open(f"{address}/api.html")
    assert "Train a policy" in reference.locator("#rlkl\\.train + dd").inner_text()


def test_search_finds_a_page(address: str, pages: Pages) -> None:
    page = pages.open(f"{address}/search.html?q=conjugate+gradient")
    page.get_by_role("link", name="Trust region policy optimization").first.wait_for()


PRINTED = {
    "first_run": "training return",
    "own_environment": "wind 0.5: mean return",
    "compare_algorithms": "has the highest interquartile mean return",
    "write_an_algorithm": "found: the derivative with respect to kl is wrong",
    "trust_regions": "TRPO: the mean KL is within the bound in every update.",
}


def test_notebooks_show_what_they_printed(site: Path) -> None:
    assert sorted(PRINTED) == [notebook.stem for notebook in NOTEBOOKS]
    for name, text in PRINTED.items():
        page = (site / "tutorials" / f"{name}.html").read_text()
        outputs = " ".join(re.findall(r'class="output [^"]*".*?</pre>', page, re.DOTALL))
        assert text in " ".join(outputs.split())
        assert 'alt="../_images/' in page, f"{name} draws nothing"
        assert "\x1b" not in page, f"{name} has escape sequences for a terminal"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_can_be_run_twice(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.source = re.sub(r"(?<=total_env_steps=)\d+_\d+", "2_000", cell.source)
    notebook.cells = [nbformat.v4.new_code_cell(cell.source) for cell in cells for _ in range(2)]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert not re.search(r"[\x1b\r]", printed), "the output has escape sequences for a terminal"
    others = [output for output in outputs if output.output_type != "stream"]
    assert all("image/png" in output.data for output in others)
