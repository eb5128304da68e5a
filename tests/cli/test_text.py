"""Help texts: names and meanings in columns, and lines of at most 80 characters."""

import pytest

from rlkl.cli.text import check_no_flags, paragraph, rows, sections, wide_console
from rlkl.utils.errors import ConfigError


def test_meanings_start_in_one_column() -> None:
    assert rows({"a": "first", "bcd": "second"}) == ["  a    first", "  bcd  second"]


def test_meaning_of_a_long_name_is_below_it() -> None:
    name = "a_name_of_more_than_thirty_letters"
    assert rows({"a": "first", name: "second"}) == ["  a  first", f"  {name}", "      second"]


def test_headings_are_set_apart() -> None:
    assert sections({"Keys": {"a": "first"}, "Flags": {"-b": "second"}}) == [
        "", "Keys", "  a  first", "", "Flags", "  -b  second",
    ]  # fmt: skip


def test_paragraphs_break_only_between_words() -> None:
    lines = paragraph(f"{'word ' * 20}{'x' * 90} two-part", "- ", "  ")
    assert [len(line) for line in lines] == [76, 26, 92, 10]
    assert lines[0].startswith("- word")
    assert lines[-1] == "  two-part"


def test_first_flag_is_named() -> None:
    check_no_flags("show", ["clip", "seed=-1"])
    with pytest.raises(ConfigError, match=r"^--fast: there is no such flag; see rlkl show --help$"):
        check_no_flags("show", ["clip", "--fast", "-x"])


def test_console_is_wide_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert wide_console(120).width == 120
    monkeypatch.setenv("COLUMNS", "150")
    assert wide_console(120).width == 150
