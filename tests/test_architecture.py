"""The house stands: imports point down without circles, and the core is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rlkl

PACKAGE = Path(rlkl.__file__).parent

FLOORS = [
    {
        "validation", "field_types", "safe_text", "signals", "streams",
        "version", "saved_keys", "randomness", "schedules",
        "divergence_formulas", "distributions", "divergences", "improvement_bound",
        "surrogates", "advantages", "trust_region", "normalization", "statistics",
        "closed_forms",
    },
    {
        "spaces", "cores", "thread_limit", "guard",
        "pool", "copies", "shared_copies", "vector_environment", "envs",
        "env_arguments", "env_ids",
        "memory_budget",
        "flat_parameters", "networks", "memory", "perceptron", "by_hand", "policy", "rollout",
        "environment_state", "collector", "tasks",
    },
    {"critic", "critic_worker", "algos"},
    {
        "diagnostics", "safeguard", "dashboard", "loggers", "progress", "evaluation", "rendering",
        "export", "durable", "found_files", "archive", "kept_rows", "checkpoint",
        "training_config", "learner", "run", "standing", "trainer", "grid", "bench", "lab",
        "tuning", "compare",
    },
    {"config", "hydra_settings", "hints", "tuning_config", "cli", "__main__", "__init__"},
]  # fmt: skip
EDGE_ONLY = {"hydra", "omegaconf"}
MATHEMATICS = {"torch", "numpy"}


def room(path: Path) -> str:
    """The file or folder directly below rlkl/ that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    parts = ("rlkl", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = {module_name(path) for path in MODULES}


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


FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_down(path: Path) -> None:
    floor = FLOOR_OF[room(path)]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "rlkl" and len(parts) > 1 and parts[1] in FLOOR_OF:
            assert FLOOR_OF[parts[1]] <= floor, f"{module_name(path)} imports {name} from above"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_only_the_edge_imports_hydra_and_the_mathematics_only_torch_and_numpy(path: Path) -> None:
    floor = FLOOR_OF[room(path)]
    outside = {name.split(".")[0] for name in imports(path)} - {"rlkl"} - sys.stdlib_module_names
    if floor < len(FLOORS) - 1:
        assert not outside & EDGE_ONLY
    if floor == 0:
        assert outside <= MATHEMATICS


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


def test_every_module_begins_with_the_sentence_it_is_for() -> None:
    for path in MODULES:
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, f"{path} has no docstring"
        assert docstring.splitlines()[0].endswith("."), f"{path}: its first line is no sentence"


def test_importing_rlkl_loads_neither_hydra_nor_tensorboard() -> None:
    code = (
        "import sys, rlkl\n"
        "heavy = {'hydra', 'omegaconf', 'tensorboard', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
