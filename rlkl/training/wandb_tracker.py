"""Log to Weights & Biases."""

import io
import os
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from rlkl.training.config import TrainConfig
from rlkl.training.pictures import gif_bytes
from rlkl.training.report import Report
from rlkl.training.run_folder import run_name
from rlkl.utils.streams import tell
from rlkl.utils.validation import one_line

SECONDS_TO_CONNECT = 30.0  # after them the run is logged offline

EXIT_CODES = {"finished": 0, "failed": 1, "stopped": 255}
"""What W&B shows as finished, failed and killed."""


class WandbTracker:
    """A run in W&B, whose steps are environment steps; offline without a key or a network.

    W&B's files go to `wandb/` in the run's folder.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, run_id: str) -> None:
        self._wandb: Any = import_module("wandb")
        self._interval, self._iterations = config.logger.histogram_interval, 0
        self._settings = {
            "project": config.logger.project,
            "name": run_name(run_dir),
            "group": f"{config.env.id}/{config.algo.name}",
            "id": run_id or None,
            "resume": "allow",
            "dir": str(run_dir),
            "config": asdict(config),
        }
        self._run = self._opened()
        self.run_id = str(self._run.id)

    def _opened(self) -> Any:
        """Open the run, online if that is possible."""
        if os.environ.get("WANDB_MODE", "online") not in ("online", "shared"):
            return self._init(None)
        try:
            if not self._wandb.login(prompt=False, verify=False):
                raise PermissionError("no API key; `wandb login` stores one")
            return self._init(None)
        except Exception as error:
            run = self._init("offline")
            tell(
                f"logger.tracker=wandb: {one_line(error)}; the run is logged offline, and uploaded "
                f"by: wandb sync {run.settings.sync_dir}"
            )
            return run

    def _init(self, mode: str | None) -> Any:
        quiet = {"console": "off", "silent": True, "init_timeout": SECONDS_TO_CONNECT}
        settings = self._wandb.Settings(**quiet)
        return self._wandb.init(**self._settings, mode=mode, settings=settings)

    def log(self, scalars: dict[str, float], report: Report) -> None:
        """Log numbers and pictures, and histograms every `logger.histogram_interval`."""
        wandb, content = self._wandb, dict[str, Any](scalars)
        if self._interval and self._iterations % self._interval == 0:
            for tag, values in report.histograms.items():
                if values.isfinite().all():
                    found = np.histogram(values.numpy(force=True), 64)
                    content[tag] = wandb.Histogram(np_histogram=found)
        content |= {tag: wandb.Image(image) for tag, image in report.images.items()}
        for tag, video in report.videos.items():
            content[tag] = wandb.Video(io.BytesIO(gif_bytes(video)), format="gif")
        self._run.log(content, step=report.env_steps)
        self._iterations += 1

    def save(self, files: list[Path]) -> None:
        """Save checkpoints as an artifact."""
        artifact = self._wandb.Artifact(f"checkpoints-{self.run_id}", type="model")
        for path in files:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self, status: str) -> None:
        """End the run."""
        self._run.finish(exit_code=EXIT_CODES[status])
