"""The workflows parse, the files they name exist, and the citation has the version."""

import re
from pathlib import Path

import pytest
import yaml

from rlkl.version import __version__

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".github" / "workflows"


@pytest.mark.parametrize("name", ["tests", "publish", "docs"])
def test_workflows_name_files_that_exist(name: str) -> None:
    text = (FOLDER / f"{name}.yml").read_text()
    assert {"name", "jobs", "permissions"} <= set(yaml.safe_load(text))
    named = re.findall(r"(?:\.ci/run|rlkl/version\.py|constraints\.txt|pyproject\.toml)", text)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_dockerfile_copies_files_that_exist() -> None:
    lines = re.findall(r"^COPY (.*)$", (ROOT / "docker" / "Dockerfile").read_text(), re.M)
    sources = [source for line in lines for source in line.split()[:-1]]
    assert "rlkl" in sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_citation_has_the_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
