"""Trains three algorithms and takes the screenshots of TensorBoard for docs/dashboard.md.

    python scripts/dashboard_images.py

Needs the extra `browser`, and Chromium.
"""

import contextlib
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.cli.board import serve

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
TIMEOUT = 120_000
"""Milliseconds to wait for a tab."""


def train(folder: Path) -> None:
    """Train the runs of the screenshots."""
    for algo in ("ppo_clip", "ppo_kl", "trpo"):
        config = rlkl.TrainConfig(
            algo=ALGORITHMS[algo].config(),
            total_env_steps=60_000,
            logger=rlkl.LoggerConfig(histogram_interval=5, progress="none"),
            run_dir=str(folder / algo),
        )
        print(algo, rlkl.train(config).return_mean)


def take(
    browser: Browser, address: str, tab: str, width: int, until: str, unfold: str = ""
) -> None:
    """Save a screenshot of TensorBoard.

    Args:
        browser: that opens it.
        address: of TensorBoard.
        tab: its name there, and in that of the file.
        width: of the window, in pixels.
        until: selector of the element at the lower edge of the screenshot.
        unfold: selector of an element to click first; empty for none.
    """
    page = browser.new_page(viewport={"width": width, "height": 2400})
    page.set_default_timeout(TIMEOUT)
    page.goto(f"{address}#{tab}")
    if unfold:
        page.locator(unfold).first.click(timeout=TIMEOUT)
    page.locator(until).last.wait_for(timeout=TIMEOUT)
    page.wait_for_timeout(10_000)  # until curves and layout are complete
    box = page.locator(until).last.bounding_box()
    assert box is not None
    lower = box["y"] + box["height"] + 12
    path = IMAGES / f"tensorboard_{tab}.png"
    page.screenshot(path=path, clip={"x": 0, "y": 0, "width": width, "height": lower})
    # 128 colours look the same in half the size.
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
    print(path.name, path.stat().st_size // 1000, "kB")
    page.close()


def main() -> None:
    """Recreate all screenshots."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),  # TensorBoard shows the path of its folder: runs
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=chromium, chromium_sandbox=os.geteuid() != 0
        ) as browser,
    ):
        train(Path("runs"))
        shot = partial(take, browser, serve(Path("runs"), 0))
        shot("custom_scalars", 1500, "tf-custom-scalar-margin-chart-card")
        shot("hparams", 1400, "vaadin-grid-cell-content >> text=trpo")
        shot("histograms", 1500, "vz-histogram-timeseries", "button:has-text('ratio')")


if __name__ == "__main__":
    main()
