"""Trains three algorithms and photographs TensorBoard for docs/dashboard.md.

    python scripts/dashboard_images.py

Needs the extra `browser`, and Chromium.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.cli.board import serve

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
LOADED = 120_000
"""Milliseconds that a tab may take."""


def train(folder: Path) -> None:
    """Make the runs that are shown."""
    for algo in ("ppo_clip", "ppo_kl", "trpo"):
        config = rlkl.TrainConfig(
            algo=ALGORITHMS[algo].config(),
            total_env_steps=60_000,
            logger=rlkl.LoggerConfig(histogram_interval=5, progress="none"),
            run_dir=str(folder / algo),
        )
        print(algo, rlkl.train(config).return_mean)


class Camera:
    """Takes pictures of tabs, down to the lower edge of something in them."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.browser = browser
        self.address = address

    def take(self, name: str, tab: str, width: int, unfold: str, until: str) -> None:
        """Save a picture.

        Args:
            name: of the file.
            tab: of TensorBoard.
            width: of the window, in pixels.
            unfold: selects what is clicked first, if anything.
            until: selects what the picture ends below, once it is there.
        """
        page = self.browser.new_page(viewport={"width": width, "height": 2400})
        page.goto(f"{self.address}#{tab}")
        if unfold:
            page.locator(unfold).first.click(timeout=LOADED)
        page.locator(until).last.wait_for(timeout=LOADED)
        page.wait_for_timeout(10_000)  # curves are drawn, and everything moves to its place
        box = page.locator(until).last.bounding_box()
        assert box is not None
        lower = box["y"] + box["height"] + 12
        path = IMAGES / f"tensorboard_{name}.png"
        page.screenshot(path=path, clip={"x": 0, "y": 0, "width": width, "height": lower})
        # A few colours: half the size, and nobody sees it.
        Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
        print(path.name, path.stat().st_size // 1000, "kB")
        page.close()


def main() -> None:
    """Make all pictures anew."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),  # TensorBoard shows the path of what it serves: runs
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=chromium, chromium_sandbox=os.geteuid() != 0
        ) as browser,
    ):
        train(Path("runs"))
        camera = Camera(browser, serve(Path("runs"), 0))
        margin = "tf-custom-scalar-margin-chart-card"
        camera.take("custom_scalars", "custom_scalars", 1500, "", margin)
        camera.take("hparams", "hparams", 2130, "", "vaadin-grid-cell-content >> text=trpo")
        camera.take(
            "histograms", "histograms", 1500, "button:has-text('ratio')", "vz-histogram-timeseries"
        )


if __name__ == "__main__":
    main()
