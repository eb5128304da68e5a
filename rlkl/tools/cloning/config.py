"""Settings of behaviour cloning."""

from dataclasses import dataclass

from rlkl.training.checkpoint import CHECKPOINTS
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import check_fields
from rlkl.utils.validation import check_choice, check_range, check_ranges

ENV_STEPS = 50_000
"""Default number of environment steps that are recorded of a run's policy."""


@dataclass(frozen=True)
class CloneConfig:
    """Settings of `rlkl clone`.

    Attributes:
        env_steps: environment steps of the data: recorded of a run's policy, or of the first
            episodes of a data set that have as many; null for 50,000 of a run, and all of a data
            set.
        episodes: number of whole episodes instead.
        checkpoint: of a run: `last` or `best`.
        held_out: share of the episodes that is not fitted, but measured after each epoch.
        epochs: largest number of passes over the other episodes.
        patience: epochs without a lower held-out loss after which the fit ends; null for never.
            The parameters with the lowest held-out loss are kept.
        batch_size: transitions of a gradient step; for a policy with memory these are whole
            episodes, of about as many transitions and at least one episode.
        learning_rate: of Adam, constant.
        max_grad_norm: a larger gradient is scaled down to this norm; null does not clip.
        fit_critic: also fit the critic, to the discounted returns of the data.
    """

    env_steps: int | None = None
    episodes: int | None = None
    checkpoint: str = "last"
    held_out: float = 0.1
    epochs: int = 50
    patience: int | None = 5
    batch_size: int = 256
    learning_rate: float = 1e-3
    max_grad_norm: float | None = 0.5
    fit_critic: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        counts = "env_steps", "episodes", "patience", "batch_size"
        check_ranges("", self, *counts, at_least=1, at_most=10**9)
        if self.env_steps is not None and self.episodes is not None:
            raise ConfigError(
                f"env_steps={self.env_steps} and episodes={self.episodes}: each says how much data "
                "to use; leave one of them out"
            )
        check_choice("checkpoint", self.checkpoint, CHECKPOINTS)
        check_range("held_out", self.held_out, above=0, below=1)
        check_range("epochs", self.epochs, at_least=1, at_most=100_000)
        check_ranges("", self, "learning_rate", "max_grad_norm", above=0)
