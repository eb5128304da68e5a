"""Trains three algorithms and takes the screenshots of TensorBoard for docs/dashboard.md.

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


class Camera:
    """Takes screenshots of TensorBoard's tabs."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.browser = browser
        self.address = address

    def take(self, name: str, tab: str, width: int, unfold: str, until: str) -> None:
        """Save a screenshot.

        Args:
            name: of the file.
            tab: of TensorBoard.
            width: of the window, in pixels.
            unfold: selector of an element to click first; empty for none.
            until: selector of the element at the lower edge of the screenshot.
        """
        page = self.browser.new_page(viewport={"width": width, "height": 2400})
        page.set_default_timeout(TIMEOUT)
        page.goto(f"{self.address}#{tab}")
        if unfold:
            page.locator(unfold).first.click(timeout=TIMEOUT)
        page.locator(until).last.wait_for(timeout=TIMEOUT)
        page.wait_for_timeout(10_000)  # until curves and layout are complete
        box = page.locator(until).last.bounding_box()
        assert box is not None
        lower = box["y"] + box["height"] + 12
        path = IMAGES / f"tensorboard_{name}.png"
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
        camera = Camera(browser, serve(Path("runs"), 0))
        margin = "tf-custom-scalar-margin-chart-card"
        camera.take("custom_scalars", "custom_scalars", 1500, "", margin)
        camera.take("hparams", "hparams", 1400, "", "vaadin-grid-cell-content >> text=trpo")
        camera.take(
            "histograms", "histograms", 1500, "button:has-text('ratio')", "vz-histogram-timeseries"
        )


if __name__ == "__main__":
    main()
