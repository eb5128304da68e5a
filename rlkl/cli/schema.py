"""The config of the command line: Hydra's schemas, the groups with their options, the keys."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, IntegerNode, ListConfig, OmegaConf

from rlkl.algos import ALGORITHMS
from rlkl.algos.knobs import KNOBS, family, knob_settings, knob_value
from rlkl.models.policy_config import OWN_NETWORKS
from rlkl.tools.bench.work import BenchConfig
from rlkl.training.config import TrainConfig, leaves

_PACKAGE = Path(__file__).parents[1]
CONFIG_DIR = (
    _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
)
"""Inside the installed package, or beside it in a checkout."""

OF_AN_EXPERIMENT = ("table1", "family", "detail")
"""Groups that belong to one experiment, so `rlkl train --help` does not list them."""
GROUPS = ("algo", "env", "policy", "critic", "logger", "experiment", *OF_AN_EXPERIMENT, "ablation")
STACKED = ("experiment", "ablation")
"""Groups that take a list of options; the others take exactly one."""

FREE_KEY = "env.kwargs."
"""Any key is allowed below it: it is passed to the environment's constructor."""

FREE_KEYS = (FREE_KEY, *(f"policy.{network}_kwargs." for network in OWN_NETWORKS))
"""Likewise, and those that are passed to the constructors of registered networks."""


@cache
def register_schemas() -> None:
    """Register the config dataclasses with Hydra, for types and defaults."""
    store = ConfigStore.instance()
    root = structured(TrainConfig)
    root.algo = MISSING  # set by the group; the type of the default would reject the others
    store.store(group="schema", name="train", node=root, package="_global_")
    for name, algorithm in ALGORITHMS.items():
        store.store(group="schema/algo", name=name, node=structured(algorithm.config))
    for option, (algo, position) in family().items():
        settings = knob_settings(algo, position)
        node = {"defaults": [{"override /algo": algo}, "_self_"], "algo": settings}
        store.store(group="family", name=option, node=node, package="_global_")
    store.store(group="schema", name="bench", node=structured(BenchConfig), package="_global_")


def structured(dataclass_type: type[Any]) -> DictConfig:
    """Return a typed config of a dataclass that can be overridden even if the class is frozen."""
    schema: DictConfig = OmegaConf.structured(dataclass_type)
    nodes = [schema]
    for node in nodes:
        OmegaConf.set_readonly(node, None)
        children = (node._get_node(key) for key in node)
        nodes += [child for child in children if isinstance(child, DictConfig)]
    return schema


def search_path(config_dirs: Iterable[Path]) -> str:
    """Return the override that lets Hydra look for configs in more folders."""
    return f"hydra.searchpath=[{','.join(f'file://{path.resolve()}' for path in config_dirs)}]"


def options(group: str, config_dirs: Iterable[Path] = ()) -> dict[str, str]:
    """Return the options of a group and their descriptions, the first comment of each file."""
    found = {}
    if group == "family":
        found = {
            option: f"{algo} with {KNOBS[algo][0]}={knob_value(algo, position):g}"
            for option, (algo, position) in family().items()
        }
    for directory in (CONFIG_DIR, *config_dirs):
        for path in sorted((directory / group).glob("*.yaml")):
            lines = path.read_text().splitlines()
            comments = (line for line in lines if line.startswith("#") and "@package" not in line)
            found[path.stem] = next(comments, "").lstrip("# ").rstrip()
    return found


@cache
def env_settings() -> dict[str, dict[str, Any]]:
    """Return the keys and values that each option of the group `env` sets."""
    files = sorted((CONFIG_DIR / "env").glob("*.yaml"))
    return {path.stem: dict(leaves(yaml.safe_load(path.read_text()))) for path in files}


@cache
def known_keys() -> dict[str, bool]:
    """Return every key of `rlkl train`, for all algorithms, and whether it holds whole numbers."""
    keys = dict(typed_keys(OmegaConf.structured(TrainConfig)))
    for algorithm in ALGORITHMS.values():
        keys |= dict(typed_keys(OmegaConf.structured(algorithm.config), "algo."))
    return keys


def typed_keys(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield the keys of a typed config, and whether each holds a whole number or a list of them."""
    for key in map(str, node):
        child = node._get_node(key)
        if isinstance(child, DictConfig) and child._metadata.object_type is not dict:
            yield from typed_keys(child, f"{prefix}{key}.")
        else:
            is_list = isinstance(child, ListConfig) and child._metadata.element_type is int
            yield f"{prefix}{key}", is_list or isinstance(child, IntegerNode)
