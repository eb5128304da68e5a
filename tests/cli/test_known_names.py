"""The table of other libraries' names: its keys exist, and docs/names.md has its rows."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.cli.compose import load
from rlkl.cli.known_names import COUNTERPARTS, Counterpart
from rlkl.cli.schema import known_keys, register_schemas
from rlkl.training.config import leaves
from rlkl.training.report import TAGS
from rlkl.utils.errors import ConfigError

register_schemas()

PAGE = (Path(__file__).parents[2] / "docs" / "names.md").read_text()


ENTRIES = [entry for topic in COUNTERPARTS.values() for entry in topic]


NAMES = [name for entry in ENTRIES for name in entry.names.split()]


TARGETS = {key for entry in ENTRIES for key in entry.keys.split()}


def test_no_name_is_in_the_table_twice() -> None:
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_keys_of_the_table_compose(algo: str) -> None:
    default = rlkl.TrainConfig(algo=ALGORITHMS[algo].config())
    values = {"env.kwargs": "{}"} | {
        key: str(value).replace("None", "null").replace(" ", "")
        for key, value in leaves(asdict(default))
        if key in TARGETS and value != {}
    }
    overrides = [f"{key}={value}" for key, value in values.items()]
    assert load([f"algo={algo}", *overrides]) == default


def test_every_key_of_the_table_exists() -> None:
    assert set(known_keys()) >= TARGETS
    for entry in ENTRIES:
        keys = re.findall(r"\b(?:algo|critic|policy|env|logger|checkpoint)\.[a-z_]+", entry.remark)
        assert set(known_keys()) >= set(keys)
        assert entry.keys or entry.remark


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.names.split()[0])
def test_every_name_is_answered_by_its_key(entry: Counterpart) -> None:
    for name in entry.names.split():
        typed = f"{'algo.' if name in known_keys() else ''}{name}"
        with pytest.raises(ConfigError) as error:
            load([f"{typed}=1"])
        message = str(error.value)
        assert message.startswith(f"{typed}=1: ")
        assert message.endswith(entry.remark)
        for key in [key for key in entry.keys.split() if typed == name or "algo." not in key]:
            assert key in message
        assert ("here it is " in message) == bool(entry.keys)


def code(words: str) -> str:
    return ", ".join(f"`{word}`" for word in words.split()) or "none"


def test_the_page_of_names_has_every_row() -> None:
    for topic, entries in COUNTERPARTS.items():
        section = PAGE.partition(f"\n### {topic}\n")[2].partition("\n#")[0]
        lines = [line for line in section.splitlines() if line.startswith("| `")]
        rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines]
        assert rows == [[code(e.names), code(e.keys), e.remark] for e in entries]


def test_tags_of_the_names_page_are_logged() -> None:
    rows = re.findall(r"^\|[^|]*\|([^|]*)\|", PAGE.partition("\n## TensorBoard tags\n")[2], re.M)
    tags = {tag for cell in rows for tag in re.findall(r"`(\w+/\w+)`", cell)}
    assert len(tags) > 15
    assert tags <= set(TAGS)
