"""Settings of Sphinx, which makes the documentation site: `make docs`."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

from rlkl.version import __version__

project = "rlkl"
author = copyright = "the rlkl authors"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "zoo/leaderboard"]

html_theme = "furo"
html_title = f"rlkl {__version__}"
html_static_path: list[str] = []
html_math_renderer = "mathml"
html_copy_source = False

# `python`, `math` and the like in a fence are what they are on any other page of Markdown.
myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4

nb_execution_mode = "force"
nb_execution_in_temp = True  # its runs are not kept
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds for a cell
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
# Docstrings are plain text with code in backticks.
default_role = "code"


ROOT = Path(__file__).parents[1]
OUTSIDE = {"index": "README.md", "contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}
"""Pages whose text is that of a file at the top of the repository."""


def setup(app: Sphinx) -> None:
    """Register what is particular to these pages."""
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", escape, priority=0)  # before napoleon
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))


def read_page(_: Sphinx, name: str, content: list[str]) -> None:
    """Put the text of a file at the top before a page, and adapt the links to such files."""
    text = content[0]
    if name in OUTSIDE:
        text = (ROOT / OUTSIDE[name]).read_text().replace("](docs/", "](") + text
    for page in ("contributing", "changelog"):
        text = re.sub(rf"\]\((\.\./)?{page.upper()}\.md", f"]({page}.md", text)
    # A link to a file offers it for download; a folder cannot be.
    content[0] = re.sub(r"\[([^]]+)\]\(\.\./configs/bench\)", r"\1", text)


def escape(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Escape what reStructuredText would take for markup; code in backticks stays as it is."""
    for i, line in enumerate(lines):
        parts = re.split("(`[^`]*`)", line)
        lines[i] = "".join(
            part if part.startswith("`") else re.sub(r"([|*])", r"\\\1", part) for part in parts
        )


def visit_math(translator: Any, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers show without a script or a network."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator: Any, node: nodes.math_block) -> None:
    """Write a formula in a line of its own."""
    formula = tex2mathml(node.astext(), as_block=True)
    # On a phone a formula that is too long is scrolled, not cut.
    translator.body.append(f'<div style="overflow-x: auto; margin: 1em 0">{formula}</div>')
    raise nodes.SkipNode
