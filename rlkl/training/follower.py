"""The part of ranks other than 0 in a run: they train, and write and print nothing."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from rlkl.envs.ids import substitute
from rlkl.training.checkpoint_writer import recreate_environments
from rlkl.training.config import TrainConfig
from rlkl.training.learner import Learner
from rlkl.training.start import closing_on_error, start
from rlkl.training.summary import Summary
from rlkl.utils.errors import OtherRankError
from rlkl.utils.ranks import Ranks
from rlkl.utils.signals import stop_signal
from rlkl.utils.validation import described


@dataclass(frozen=True)
class Order:
    """What rank 0 tells the other ranks to run.

    Attributes:
        config: of the run.
        state: of its checkpoint; None for a new run.
        exact: whether the results will equal an uninterrupted run's.
    """

    config: TrainConfig
    state: dict[str, Any] | None = None
    exact: bool = True


Send = Callable[[Order | Summary], None]
"""Sends the other ranks what to run, or the summary of a finished run."""


@contextmanager
def leading(ranks: Ranks) -> Iterator[Send]:
    """Yield rank 0 a function that sends one order; an error before it is sent instead."""
    is_sent = False

    def send(order: Order | Summary) -> None:
        nonlocal is_sent
        is_sent = True
        ranks.gather(order)

    try:
        yield send
    except BaseException as error:
        if not is_sent:
            ranks.gather(described(error))
        raise


def receive(ranks: Ranks) -> Order | Summary:
    """Return what rank 0 sends.

    Raises:
        OtherRankError: rank 0 failed.
    """
    order: Any = ranks.gather(None)[0]
    if isinstance(order, str):
        raise OtherRankError(f"rank 0: {order}")
    received: Order | Summary = order
    return received


def obey(ranks: Ranks, env: Any = None) -> Summary:
    """Do what rank 0 orders; return the summary of the run. `env` is that of `resume`."""
    order = receive(ranks)
    if isinstance(order, Summary):
        return order
    if order.state is None:
        return follow(start(order.config), exact=order.exact)
    if env is not None:
        substitute(order.config.env.id, env)
    learner = Learner(order.config)
    with closing_on_error(learner):
        learner.load_state_dict(order.state)
    return follow(learner, exact=order.exact)


def follow(learner: Learner, *, exact: bool = True) -> Summary:
    """Iterate until rank 0 ends the run; return its summary. `exact` is as in `Order`."""
    ranks, total = learner.ranks, learner.config.total_env_steps
    with stop_signal(once=False) as stop, closing(learner):
        if not exact:
            recreate_environments(learner)
        while learner.env_steps < total and not ranks.any(stop.is_set()):
            learner.iterate()
            if learner.iterations % learner.checkpoint_interval == 0:
                recreate_environments(learner)
        summary: Any = ranks.gather(None)[0]
    result: Summary = summary
    return result
