"""Log to Trackio, Hugging Face's tracker, which keeps its runs in files of this machine."""

import io
import re
import tempfile
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from rlkl.training.config import TrainConfig, leaves
from rlkl.training.pictures import gif_bytes
from rlkl.training.report import Report
from rlkl.training.run_folder import run_name
from rlkl.utils.field_types import plain_data


class TrackioTracker:
    """A run in Trackio, whose steps are environment steps.

    Trackio's own variables say where to: `TRACKIO_DIR`, `TRACKIO_SERVER_URL` or `TRACKIO_SPACE_ID`.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, run_id: str) -> None:
        self._trackio: Any = import_module("trackio")
        with redirect_stdout(io.StringIO()):  # it prints how to open its dashboard
            self._run = self._trackio.init(
                project=config.logger.project,
                name=run_id or run_name(run_dir),
                group=f"{config.env.id}/{config.algo.name}",
                config=dict(leaves(plain_data(asdict(config)))),
                resume="must" if run_id else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.run_id = str(self._run.name)

    def log(self, scalars: dict[str, float], report: Report) -> None:
        """Log numbers and pictures."""
        content = dict[str, Any](scalars)
        content |= {tag: self._trackio.Image(image) for tag, image in report.images.items()}
        with tempfile.TemporaryDirectory() as folder:  # Trackio copies what is in it
            for number, (tag, video) in enumerate(report.videos.items()):
                path = Path(folder, f"{number}.gif")
                path.write_bytes(gif_bytes(video))
                content[tag] = self._trackio.Video(path)
            self._run.log(content, step=report.env_steps)

    def save(self, files: list[Path]) -> None:
        """Save checkpoints as an artifact."""
        name = re.sub(r"[^A-Za-z0-9._-]", "-", f"checkpoints-{self.run_id}")
        artifact = self._trackio.Artifact(name, type="model")
        for path in files:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self, status: str) -> None:
        """End the run; Trackio knows no status."""
        with redirect_stdout(io.StringIO()):
            self._trackio.finish()
