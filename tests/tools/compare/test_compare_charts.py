"""Charts as data: looks, ticks, ranges."""

import itertools

import pytest

from rlkl.tools.compare.charts import (
    Line,
    LineChart,
    extent,
    level_note,
    style,
    tick_text,
    ticks,
    wrap,
)


def test_32_groups_look_different() -> None:
    looks = [style(number) for number in range(32)]
    assert len(set(looks)) == 32
    assert len({(look.color, look.marker) for look in looks}) == 32
    assert len({look.color for look in looks[:8]}) == 8
    assert len({look.marker for look in looks[:8]}) == 8
    for first, second in itertools.pairwise(looks):
        assert first.dashes != second.dashes


def test_ticks_are_round_numbers_within_the_range() -> None:
    assert ticks(0, 100_000) == [0, 20_000, 40_000, 60_000, 80_000, 100_000]
    assert ticks(-0.03, 1.03) == [0, 0.2, 0.4, pytest.approx(0.6), 0.8, 1]
    assert ticks(0.0008, 0.3, log=True) == [0.001, 0.01, 0.1]
    assert ticks(0.02, 0.3, log=True) == [0.02, 0.05, 0.1, 0.2]
    assert len(ticks(1e-30, 1e30, log=True)) <= 8
    assert [tick_text(x) for x in (0, 0.25, -3, 20000, 1.5e6, 1e-5)] == [
        "0", "0.25", "−3", "20k", "1.5M", "1e−5",
    ]  # fmt: skip


def test_long_pairs_break_between_the_groups() -> None:
    assert wrap("trpo > npg", 20) == ["trpo > npg"]
    assert wrap("ppo_clip clip=0.1 > trpo", 20) == ["ppo_clip clip=0.1", "> trpo"]
    assert wrap("ppo_clip gamma=0.99 clip=0.1", 20) == ["ppo_clip gamma=0.99", "clip=0.1"]


@pytest.mark.parametrize(
    ("level", "greatest", "note"),
    [
        (105.0, 106.0, ""),
        (128.0, 128.0, ""),
        (132.0, 106.0, "threshold 132 is above"),
        (-500.0, 106.0, ""),
    ],
)
def test_far_level_is_written_instead_of_drawn(level: float, greatest: float, note: str) -> None:
    line = Line("a", [0, 1], [0.0, 100.0])
    chart = LineChart("", "", "", [line], level=level)
    low, high = extent(chart, "y")
    assert -15 < low < 0
    assert high == pytest.approx(greatest, rel=0.1)
    assert level_note(chart) == note
