"""Settings of behaviour cloning."""

from dataclasses import dataclass

from rlkl.training.checkpoint import CHECKPOINTS
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import check_fields, limited

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

    env_steps: int | None = limited(None, at_least=1, at_most=10**9)
    episodes: int | None = limited(None, at_least=1, at_most=10**9)
    checkpoint: str = limited("last", choices=CHECKPOINTS)
    held_out: float = limited(0.1, above=0, below=1)
    epochs: int = limited(50, at_least=1, at_most=100_000)
    patience: int | None = limited(5, at_least=1, at_most=10**9)
    batch_size: int = limited(256, at_least=1, at_most=10**9)
    learning_rate: float = limited(1e-3, above=0)
    max_grad_norm: float | None = limited(0.5, above=0)
    fit_critic: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        if self.env_steps is not None and self.episodes is not None:
            raise ConfigError(
                f"env_steps={self.env_steps} and episodes={self.episodes}: each says how much data "
                "to use; leave one of them out"
            )
