"""Rows are selected, and columns read in their order."""

from rlkl.tools.rows import Rows, column, distinct, grouped, select

ROWS: Rows = [
    {"name": "b", "seed": 0, "kl": "0.5"},
    {"name": "a", "seed": 0, "kl": 2},
    {"name": "b", "seed": 1, "kl": 0.25},
]


def test_selected_rows_have_all_values() -> None:
    assert select(ROWS, name="b", seed=1) == [{"name": "b", "seed": 1, "kl": 0.25}]
    assert select(ROWS, name="c") == []


def test_column_is_of_floats() -> None:
    assert column(ROWS, "kl") == [0.5, 2.0, 0.25]


def test_distinct_values_keep_their_order() -> None:
    assert distinct(ROWS, "name") == ["b", "a"]


def test_rows_are_grouped_by_one_or_two_columns() -> None:
    assert grouped(ROWS, "name") == {"b": [ROWS[0], ROWS[2]], "a": [ROWS[1]]}
    assert list(grouped(ROWS, "name", "seed")) == [("b", 0), ("a", 0), ("b", 1)]
