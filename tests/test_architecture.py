"""The house stands: imports point down without circles, and the core is light."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import rlkl

PACKAGE = Path(rlkl.__file__).parent

FLOORS = (
    "utils", "numerics", "envs", "models", "engines",
    "rollouts", "algos", "training", "tools", "cli",
)  # fmt: skip
"""The packages; imports point from right to left."""

EDGE_ONLY = {"hydra", "omegaconf"}
MATHEMATICS = {"torch", "numpy"}


def floor_of(name: str) -> int:
    """The number of the package of a module; the modules directly in rlkl/ are above all."""
    package = name.split(".")[1:2]
    return FLOORS.index(package[0]) if package and package[0] in FLOORS else len(FLOORS)


def module_name(path: Path) -> str:
    parts = ("rlkl", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = {module_name(path) for path in MODULES}


@cache
def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in NAMES else str(node.module))
    return found


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_down(path: Path) -> None:
    name = module_name(path)
    for imported in imports(path) & NAMES - {"rlkl.version"}:
        assert floor_of(imported) <= floor_of(name), f"{name} imports {imported} from above"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_third_party_imports_stay_in_their_packages(path: Path) -> None:
    floor = floor_of(module_name(path))
    outside = {name.split(".")[0] for name in imports(path)} - {"rlkl"} - sys.stdlib_module_names
    if floor < FLOORS.index("cli"):
        assert not outside & EDGE_ONLY
    if floor == FLOORS.index("numerics"):
        assert outside <= MATHEMATICS


def test_every_folder_is_a_floor() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert folders == set(FLOORS)


def test_imports_have_no_circles() -> None:
    graph = {
        module_name(path): {name for name in imports(path) if name in NAMES} for path in MODULES
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle: {' -> '.join((*trail, name))}"
        if name not in done:
            # A package's __init__ imports its own files; they may import its name only from there.
            for imported in graph[name] - {name}:
                visit(imported, (*trail, name))
            done.add(name)

    for name in sorted(NAMES):
        visit(name, ())


def test_every_module_has_a_one_sentence_docstring() -> None:
    for path in MODULES:
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, f"{path} has no docstring"
        assert docstring.splitlines()[0].endswith("."), f"{path}: its first line is no sentence"


def test_importing_rlkl_loads_neither_hydra_nor_tensorboard() -> None:
    code = (
        "import sys, rlkl\n"
        "assert 'torch' not in sys.modules\n"
        "assert rlkl.train.__module__ == 'rlkl.training.trainer'\n"
        "assert 'train' in vars(rlkl)\n"
        "heavy = {'hydra', 'omegaconf', 'tensorboard', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
