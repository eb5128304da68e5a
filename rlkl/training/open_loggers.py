"""Open the loggers that a config asks for."""

from collections.abc import Sequence
from pathlib import Path

from rlkl.training.config import TrainConfig
from rlkl.training.info_tracker import info_numbers
from rlkl.training.loggers import CSVLogger, Logger
from rlkl.training.report import DIAGNOSIS_TAGS
from rlkl.utils.streams import tell


def open_csv(run_dir: Path, config: TrainConfig, tags: Sequence[str]) -> CSVLogger:
    """Open the CSV files.

    Args:
        run_dir: an existing folder.
        config: of the run.
        tags: of callbacks; columns of a new `metrics.csv`.
    """
    diagnosis = DIAGNOSIS_TAGS if config.logger.diagnosis_interval else ()
    tags = [*(number.tag for number in info_numbers(config.logger.info_keys)), *tags]
    csv = CSVLogger(run_dir, [*diagnosis, *tags])
    if missing := [tag for tag in tags if tag not in csv.columns]:
        tell(
            f"metrics.csv has no columns for {', '.join(missing)}: the run began without them; "
            "the other loggers get these numbers"
        )
    return csv


def open_loggers(
    run_dir: Path, config: TrainConfig, env_steps: int, kl_so_far: Sequence[float]
) -> list[Logger]:
    """Open the loggers besides the CSV files.

    Args:
        run_dir: an existing folder.
        config: of the run.
        env_steps: of the checkpoint, in a resumed run.
        kl_so_far: KL(π_old ‖ π_θ) of each iteration so far, in nats.
    """
    loggers: list[Logger] = []
    if config.logger.tensorboard:  # imported here because it takes a second
        from rlkl.training.tensorboard import TensorBoardLogger  # noqa: PLC0415

        loggers.append(TensorBoardLogger(run_dir, config, env_steps, kl_so_far))
    return loggers
