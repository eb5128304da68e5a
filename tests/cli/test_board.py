"""`rlkl board`: bad input, and what TensorBoard shows of three algorithms in a browser."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import forked_python
import pytest
from browsing import Pages
from commands import exit_code

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.cli.board import combine
from rlkl.cli.board import main as board_main
from rlkl.cli.board_tabs import FIRST_TAB
from rlkl.training.tensorboard import KL_OF_RUN, layout

RUNS = ("ppo_clip", "ppo_kl", "trpo")
LOADED = 60_000
"""Milliseconds to wait for TensorBoard to draw a tab."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short runs of different algorithms."""
    folder = tmp_path_factory.mktemp("board") / "runs"
    for algo in RUNS:
        config = rlkl.TrainConfig(
            algo=ALGORITHMS[algo].config(),
            total_env_steps=2000,
            rollout_steps=32,
            eval_episodes=2,
            logger=rlkl.LoggerConfig(histogram_interval=2, progress="none"),
            run_dir=str(folder / algo),
        )
        rlkl.train(config)
    return folder


def records(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


board = partial(exit_code, "board")


BAD_INPUT = {
    "nowhere": "there is no such folder",
    "empty": "has no TensorBoard events",
    "--port=soon": "expected a number",
    "--port": "expected a number",
    "--port=-1": "expected a number",
    "--port=65536": "at most 65535",
    "--prot=6006": "there is no such flag",
    "": "runs: there is no such folder",
}


@pytest.mark.parametrize("argument", BAD_INPUT)
def test_bad_input_of_board_gives_one_line(
    argument: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert board(*argument.split()) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("rlkl: ")
    assert printed.err.count("\n") == 1
    assert BAD_INPUT[argument] in printed.err


@pytest.mark.slow
def test_port_in_use_gives_one_line(runs: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "rlkl", "board", str(runs), "--port", port]
        done = forked_python.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert not done.stdout
    assert done.stderr == f"rlkl: --port={port} is in use; choose another, or leave it out\n"


def test_help_shows_examples_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert board("--help") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: rlkl board [FOLDER ...] [--port N]\n")
    assert "  rlkl board runs/CartPole-v1  " in printed
    assert max(map(len, printed.splitlines())) <= 80


def make_event_files(folder: Path, *names: str) -> list[Path]:
    """Create folders with an event file in each."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "events.out.tfevents.1").touch()
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (["CartPole/trpo"], ["trpo"]),
        (["CartPole/trpo", "Pendulum/trpo"], ["CartPole/trpo", "Pendulum/trpo"]),
        (["CartPole/trpo", "CartPole/ppo,1:2"], ["ppo,1:2", "trpo"]),
        (["CartPole", "CartPole/trpo", "Pendulum"], ["CartPole", "Pendulum"]),
        (["CartPole/trpo", "CartPole/trpo/../trpo"], ["trpo"]),
    ],
)
def test_folders_are_shown_by_differing_names(
    asked: list[str], shown: list[str], tmp_path: Path
) -> None:
    make_event_files(tmp_path, "CartPole/trpo", "CartPole/ppo,1:2", "Pendulum/trpo")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    folder = combine([tmp_path / name for name in asked], scratch)
    links = sorted(path for path in folder.rglob("*") if path.is_symlink())
    assert [str(link.relative_to(scratch)) for link in links] == shown
    sources = {path.resolve() for path in links}
    assert all(list(source.rglob("*tfevents*")) for source in sources)


def test_one_folder_of_runs_is_shown_directly(tmp_path: Path) -> None:
    make_event_files(tmp_path, "runs/trpo", "runs/ppo")
    assert combine([tmp_path / "runs"], tmp_path / "none") == tmp_path / "runs"


class Board:
    """`rlkl board` in a separate process."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "rlkl", "board", *arguments, "--port", "0"]
        self.process = forked_python.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.line, link = self.process.stdout.readline(), self.process.stdout.readline()
        self.link = link.strip()
        found = re.fullmatch(r"(http://\S+/)#custom_scalars&_smoothingWeight=0", self.link)
        assert found, self.process.communicate()
        self.address = found.group(1)

    def end(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        """Return its exit code, and what it printed after its first line."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_board_serves_until_a_signal(
    number: int, runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    board = Board(runs, "ppo_kl", "trpo")
    assert board.line == "TensorBoard shows ppo_kl, trpo until Ctrl-C:\n"
    assert board.address.startswith("http://localhost:")
    assert "TensorBoard" in urlopen(board.address, timeout=60).read().decode()
    assert board.end(number) == (0, "", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_signal_while_the_address_is_printed(
    number: int, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr("rlkl.cli.board.serve", lambda *_: "http://localhost:1/")
    monkeypatch.setattr("builtins.print", lambda *_, **__: os.kill(os.getpid(), number))
    try:
        assert board_main([str(runs)]) == 0
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """The address of TensorBoard, once it has read the three runs."""
    board = Board(runs.parent)  # runs/ is what it shows by default
    try:
        while set(json.load(urlopen(f"{board.address}data/runs", timeout=60))) != set(RUNS):
            assert board.process.poll() is None
            time.sleep(0.2)
        yield board.address
    finally:
        assert board.end() == (0, "", "")


@pytest.mark.browser
@pytest.mark.parametrize("ending", ["", FIRST_TAB])
def test_address_opens_on_return_and_kl(
    ending: str, address: str, pages: Pages, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page = pages.open(address + ending, width=1400)
    cards = page.locator("tf-custom-scalar-multi-line-chart-card")
    first = ["return, mean of the last 100 training episodes", "KL(π_old ‖ π_θ) beside its target"]
    for number, title in enumerate(first):
        expect(cards.nth(number)).to_contain_text(title, timeout=LOADED)
        box = cards.nth(number).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 900  # seen without scrolling
    # Three curves of KL, and the targets of ppo_kl and trpo.
    expect(cards.nth(1).locator(".matches-text")).to_have_text("Matches (5)", timeout=LOADED)
    smoothing = page.locator("tf-custom-scalar-dashboard tf-smoothing-input paper-slider")
    expect(smoothing).to_have_attribute("aria-valuenow", "0" if ending else "0.6")
    assert page.screenshot(path=tmp_path / "first.png")


def matches(tags: list[str], runs: Path) -> int:
    """Return the number of curves: tags of a chart that a run has."""
    known = [tag for run in RUNS for tag, value in records(runs / run)[-1].items() if value]
    return sum(bool(re.match(pattern, tag)) for pattern in tags for tag in known)


@pytest.mark.browser
def test_time_series_show_last_values_of_runs(
    address: str, runs: Path, pages: Pages, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page = pages.open(f"{address}#timeseries")
    page.get_by_role("combobox", name="Filter tags (regex)").fill("return/train", timeout=LOADED)
    card = page.locator("metrics-filtered-view scalar-card")
    expect(card).to_have_count(1, timeout=LOADED)
    expect(card.locator("tb-data-table-content-row")).to_have_count(len(RUNS), timeout=LOADED)
    rows = [text.split() for text in card.locator("tb-data-table-content-row").all_inner_texts()]
    for run, row in zip(RUNS, sorted(rows), strict=True):
        last = records(runs / run)[-1]
        assert row[0] == run
        assert float(row[2]) == pytest.approx(float(last["return/train"]), abs=1e-3)
        assert row[3].replace(",", "") == last["env_steps"]
    expect(card.locator("line-chart canvas")).to_be_visible()
    assert page.screenshot(path=tmp_path / "time_series.png")


@pytest.mark.browser
def test_scalars_show_every_run(address: str, runs: Path, pages: Pages, tmp_path: Path) -> None:
    page = pages.open(f"{address}#scalars")
    chart = page.locator("tf-scalar-card").first
    chart.wait_for(timeout=LOADED)
    for run in RUNS:
        assert page.locator("tf-runs-selector").get_by_text(run, exact=True).count()
    tags = page.locator("tf-category-paginated-view").all_inner_texts()
    assert len(tags) >= 5
    assert page.screenshot(path=tmp_path / "scalars.png")


@pytest.mark.browser
def test_custom_scalars_show_a_curve_per_run(
    address: str, runs: Path, pages: Pages, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page = pages.open(f"{address}#custom_scalars", height=6000)
    charts = [chart for category in layout().values() for chart in category.values()]
    curves = [matches(tags, runs) for kind, tags in charts if kind == "Multiline"]
    cards = page.locator("tf-custom-scalar-multi-line-chart-card")
    expect(cards.locator(".matches-text")).to_have_text(
        [f"Matches ({count})" for count in curves], timeout=LOADED
    )
    for number, count in enumerate(curves):
        # Two lines each: raw, and smoothed.
        lines = cards.nth(number).locator("path.line[d^=M]")
        expect(lines).to_have_count(2 * count, timeout=LOADED)
    # ppo_kl and trpo have KL bounds; ppo_clip has none, which is no error.
    margin = page.locator("tf-custom-scalar-margin-chart-card")
    expect(margin.locator(".collapsible-title-text")).to_have_text("Matches (2)", timeout=LOADED)
    expect(margin.locator("path.area[d^=M]")).to_have_count(2, timeout=LOADED)
    expect(page.locator(".error-content")).to_have_count(0)
    assert page.screenshot(path=tmp_path / "custom_scalars.png")


@pytest.mark.browser
def test_hyperparameter_table_has_a_row_per_run(
    address: str, runs: Path, pages: Pages, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page = pages.open(f"{address}#hparams", width=1400)
    cells = page.locator("vaadin-grid-cell-content:not(:empty)")
    for run in RUNS:  # the names of the run and of its algorithm
        expect(cells.get_by_text(run, exact=True)).to_have_count(2, timeout=LOADED)
    texts = [text for text in cells.all_inner_texts() if text.strip()]
    # Only the algorithm differs.
    shown = ["Trial ID", "Show Metrics", "algo.name", "return/train, last", "return/eval"]
    assert texts[:6] == [*shown, "kl/old_new, mean"]
    last = cells.get_by_text("kl/old_new, mean", exact=True).bounding_box()
    assert last is not None
    assert last["x"] + last["width"] <= 1400  # no column is beyond the edge
    for run in RUNS:
        kl = [float(row["kl/old_new"]) for row in records(runs / run)]
        for value in (float(records(runs / run)[-1]["return/train"]), sum(kl) / len(kl)):
            assert f"{value:.5g}" in {f"{float(t):.5g}" for t in texts if is_number(t)}, KL_OF_RUN
    assert page.screenshot(path=tmp_path / "hparams.png")


def is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", text) is not None


@pytest.mark.browser
@pytest.mark.parametrize(
    ("tab", "chart", "mark"),
    [
        ("histograms", "vz-histogram-timeseries", "path.outline"),
        ("distributions", "vz-distribution-chart", "path.area"),
    ],
)
def test_histograms_and_distributions_are_shown(
    tab: str, chart: str, mark: str, address: str, runs: Path, pages: Pages, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page = pages.open(f"{address}#{tab}", height=2000)
    # The third group is collapsed at first.
    page.get_by_role("button", name="ratio", exact=False).click(timeout=LOADED)
    expect(page.locator(chart)).to_have_count(3 * len(RUNS), timeout=LOADED)
    for number in range(3 * len(RUNS)):
        expect(page.locator(chart).nth(number).locator(mark).first).to_be_attached(timeout=LOADED)
    assert page.screenshot(path=tmp_path / f"{tab}.png")


@pytest.mark.browser
def test_resolved_config_is_shown_as_yaml(address: str, runs: Path, pages: Pages) -> None:
    from playwright.sync_api import expect

    page = pages.open(f"{address}#text")
    blocks = page.locator("tf-markdown-view pre code")
    expect(blocks).to_have_count(len(RUNS), timeout=LOADED)
    expected = [(runs / run / "config.yaml").read_text() for run in RUNS]
    assert blocks.all_inner_texts() == expected
