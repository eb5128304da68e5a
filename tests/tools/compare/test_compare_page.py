"""The report in a browser, on wide and narrow screens, without a network."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from browsing import Pages
from made_runs import make_run

from rlkl.tools.compare.figures import figures
from rlkl.tools.compare.page import page
from rlkl.tools.compare.report import compare
from rlkl.tools.compare.settings import CompareConfig

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTHS = (1280, 390)
ENVS = {"CartPole-v1": 500.0, "Acrobot-v1": -80.0}
GROUPS = ["ppo_clip clip_ratio=0.1", "ppo_clip clip_ratio=0.2", "trpo"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a report on three groups in two environments, three seeds each."""
    folder = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    for env, best in ENVS.items():
        for place, (algo, clip) in enumerate((("ppo_clip", 0.1), ("ppo_clip", 0.2), ("trpo", 0))):
            for seed in range(3):
                rise = np.linspace(0.1, 1, 60) * (1 - 0.1 * place) + 0.03 * random.normal(size=60)
                returns = best * rise if best > 0 else -500 + (500 + best) * rise
                make_run(
                    folder / "runs" / env / f"{algo}{clip}-{seed}",
                    returns.tolist(),
                    env=env, algo=algo, seed=seed, seconds=1 + place,
                    settings={"algo.clip_ratio": clip} if clip else {},
                    columns={
                        "kl/old_new": (0.01 * random.gamma(2, size=60)).tolist(),
                        "kl/target": [0.01 if algo == "trpo" else np.nan] * 60,
                        "policy/entropy": np.linspace(0.7, 0.2, 60).tolist(),
                        "value/explained_variance": np.linspace(-2, 0.9, 60).tolist(),
                    },
                )  # fmt: skip
    found = compare([str(folder / "runs")], CompareConfig(resamples=200))
    path = folder / "report.html"
    path.write_text(page(found, figures(found), "rlkl compare runs"), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def ablations(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a report on two algorithms with and without each of seven details."""
    folder = tmp_path_factory.mktemp("ablations")
    details = {
        "normalize_observations": True, "scale_rewards": True, "critic.value_clip": 0.2,
        "policy.initialization": "uniform", "anneal": False,
        "algo.advantage_standardization": "none", "gamma": 0.9,
    }  # fmt: skip
    each = [{}, *({key: value} for key, value in details.items()), details]
    for algo, (place, settings), seed in itertools.product(
        ("ppo_clip", "trpo"), enumerate(each), range(2)
    ):
        returns = np.linspace(0, 100 + 10 * place + seed, 20)
        make_run(
            folder / "runs" / f"{algo}{place}-{seed}",
            returns.tolist(),
            algo=algo, seed=seed, settings=settings,
        )  # fmt: skip
    found = compare([str(folder / "runs")], CompareConfig(resamples=100))
    assert len(found.labels) == 18
    assert max(map(len, found.labels)) > 150
    path = folder / "report.html"
    path.write_text(page(found, figures(found), "rlkl compare runs"), encoding="utf-8")
    return path.as_uri()


def shown(page: "Page", selector: str) -> int:
    return page.locator(f"{selector}:visible").count()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "ablations"])
def test_page_fits_and_text_is_readable(
    width: int, name: str, pages: Pages, request: pytest.FixtureRequest
) -> None:
    opened = pages.open(request.getfixturevalue(name), width)
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    assert (
        opened.title().removesuffix(" - rlkl")
        == {
            "report": f"{GROUPS[0]}, {GROUPS[1]} and {GROUPS[2]} in Acrobot-v1 and CartPole-v1",
            "ablations": "18 groups of ppo_clip and trpo in CartPole-v1",
        }[name]
    )
    assert opened.locator("section").count() >= 12
    # Charts and their letters are large enough, also on a phone.
    for chart in opened.locator(".chart").all():
        box = chart.bounding_box()
        assert box is not None
        assert 250 <= box["width"] <= min(width, 520)
        scale = box["width"] / float((chart.get_attribute("viewBox") or "").split()[2])
        assert 12.5 * scale >= 10
    # No text lies outside its chart.
    outside = opened.evaluate(
        """() => [...document.querySelectorAll('.chart')].flatMap(svg => {
            const box = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text')].filter(text => {
                const own = text.getBoundingClientRect();
                return own.left < box.left - 2 || own.right > box.right + 2
                    || own.top < box.top - 2 || own.bottom > box.bottom + 2;
            }).map(text => text.textContent);
        })"""
    )
    assert outside == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "ablations"])
def test_chart_texts_do_not_overlap(
    width: int, name: str, pages: Pages, request: pytest.FixtureRequest
) -> None:
    overlaps = pages.open(request.getfixturevalue(name), width).evaluate(
        """() => [...document.querySelectorAll('.chart')].flatMap(svg => {
            const boxes = [...svg.querySelectorAll('text:not(.levelname)')]
                .map(text => [text.textContent, text.getBoundingClientRect()]);
            return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
                Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1
                && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 2
            ).map(([b]) => [a, b]));
        })"""
    )
    assert overlaps == []


def test_group_can_be_hidden_and_shown(pages: Pages, report: str) -> None:
    opened = pages.open(report)
    buttons = opened.locator(".controls button")
    assert [text.strip() for text in buttons.all_inner_texts()] == GROUPS
    total, before = shown(opened, ".chart .g2"), shown(opened, ".chart .g1")
    buttons.nth(2).click()
    assert buttons.nth(2).get_attribute("aria-pressed") == "false"
    assert (shown(opened, ".chart .g2"), shown(opened, ".chart .g1")) == (0, before)
    buttons.nth(2).press("Enter")
    assert shown(opened, ".chart .g2") == total > 0


def test_one_environment_can_be_chosen(pages: Pages, report: str) -> None:
    opened = pages.open(report)
    everything = shown(opened, "figure")
    opened.locator("select").select_option("CartPole-v1")
    assert shown(opened, "figure[data-env='Acrobot-v1']") == 0
    both = opened.locator("figure[data-env='']").count()
    assert shown(opened, "figure") == both + (everything - both) / 2
    opened.locator("select").select_option("")
    assert shown(opened, "figure") == everything


@pytest.mark.parametrize("width", WIDTHS)
def test_pointing_shows_the_values_of_curves(width: int, pages: Pages, report: str) -> None:
    opened = pages.open(report, width)
    chart = opened.locator("#learning_by_steps .chart").nth(1)

    def point() -> None:
        chart.evaluate("svg => svg.scrollIntoView({block: 'center'})")
        box = chart.bounding_box()
        assert box is not None
        opened.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"])

    point()
    reading = opened.locator(".reading")
    lines = reading.inner_text().splitlines()
    assert lines[0].startswith("environment steps: 5,")
    assert [line.partition(":")[0] for line in lines[1:]] == GROUPS
    value, low, high = (
        float(text) for text in lines[1].partition(": ")[2].replace(",", "").replace("[", "")
        .replace("]", "").split()
    )  # fmt: skip
    assert 380 < low <= value <= high < 520
    place = reading.bounding_box()
    assert place is not None
    assert place["y"] >= (chart.bounding_box() or place)["y"] + 200  # it covers no curve
    assert 0 <= place["x"] <= place["x"] + place["width"] <= width
    opened.locator(".controls button").nth(0).click()
    point()
    assert len(opened.locator(".reading").inner_text().splitlines()) == 3
    opened.mouse.move(5, 5)
    assert opened.locator(".reading").count() == 0


def test_touched_values_stay_until_the_next_touch(pages: Pages, report: str) -> None:
    opened = pages.open(report, 390, has_touch=True)
    first, second = (opened.locator("#learning_by_steps .chart").nth(i) for i in (0, 1))
    for chart in (first, second):
        chart.tap()
        assert opened.locator(".reading").count() == 1
        assert len(opened.locator(".reading").inner_text().splitlines()) == 4
    assert second.locator("xpath=..").locator(".reading").count() == 1
    opened.locator("h1").tap()
    assert opened.locator(".reading").count() == 0


def test_page_is_complete_without_its_script(pages: Pages, report: str) -> None:
    opened = pages.open(report, java_script_enabled=False)
    assert shown(opened, ".chart .line") > 20
    assert shown(opened, "table") >= 6
    opened.locator("summary").first.click()
    assert opened.locator("details[open] table").count() == 1


def test_page_prints_completely(pages: Pages, report: str) -> None:
    opened = pages.open(report, 760)
    opened.emulate_media(media="print")
    assert shown(opened, "figure") == opened.locator("figure").count()
    assert opened.evaluate("getComputedStyle(document.querySelector('.controls')).position") == (
        "static"
    )
    assert shown(opened, ".controls button") == 3  # the legend


def test_charts_and_headings_are_accessible(pages: Pages, report: str) -> None:
    opened = pages.open(report)
    for chart in opened.locator(".chart").all():
        words = chart.get_attribute("aria-label") or ""
        assert any(group in words for group in GROUPS)
    assert opened.locator("html").get_attribute("lang") == "en"
    # Headings go down one level at a time.
    levels = opened.evaluate(
        "[...document.querySelectorAll('h1,h2,h3')].map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))


def test_page_can_be_saved_as_pdf(pages: Pages, report: str, tmp_path: Path) -> None:
    opened = pages.open(report)
    opened.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
