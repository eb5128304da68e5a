"""Log to MLflow."""

import os
import tempfile
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from rlkl.training.config import TrainConfig, leaves
from rlkl.training.pictures import gif_bytes, png_bytes
from rlkl.training.report import Report
from rlkl.training.run_folder import run_name
from rlkl.utils.field_types import plain_data

MOST_PARAMS, MOST_CHARACTERS = 100, 6000
"""MLflow's limits: hyperparameters in one call, and characters of a value."""

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Environment variables that keep a server that is gone from holding up training for minutes."""

STATUSES = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MLflowTracker:
    """A run in MLflow, whose steps are environment steps.

    The server is that of MLflow's own variable `MLFLOW_TRACKING_URI`, and the experiment
    `logger.project`.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, run_id: str) -> None:
        for key, value in PATIENCE.items():
            os.environ.setdefault(key, value)
        self._entities: Any = import_module("mlflow.entities")
        self._client: Any = import_module("mlflow").MlflowClient()
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
            self.run_id = run_id
            return
        project = config.logger.project
        found = self._client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self._client.create_experiment(project)
        run = self._client.create_run(experiment, run_name=run_name(run_dir))
        self.run_id = str(run.info.run_id)
        params = [
            self._entities.Param(key, str(value)[:MOST_CHARACTERS])
            for key, value in leaves(plain_data(asdict(config)))
        ]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self.run_id, params=params[start : start + MOST_PARAMS])

    def log(self, scalars: dict[str, float], report: Report) -> None:
        """Log numbers in one call, and pictures as artifacts."""
        now, step = int(1000 * time.time()), report.env_steps
        metrics = [self._entities.Metric(tag, value, now, step) for tag, value in scalars.items()]
        self._client.log_batch(self.run_id, metrics=metrics)
        pictures = {f"{tag}/{step}.png": png_bytes(i) for tag, i in report.images.items()}
        pictures |= {f"{tag}/{step}.gif": gif_bytes(v) for tag, v in report.videos.items()}
        for name, content in pictures.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, Path(name).name)
                path.write_bytes(content)
                self._client.log_artifact(self.run_id, str(path), str(Path(name).parent))

    def save(self, files: list[Path]) -> None:
        """Save checkpoints as artifacts."""
        for path in files:
            self._client.log_artifact(self.run_id, str(path), "checkpoints")

    def close(self, status: str) -> None:
        """End the run."""
        self._client.set_terminated(self.run_id, STATUSES[status])
