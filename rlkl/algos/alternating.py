"""The update of actor and critic in turns, with advantages recomputed between epochs."""

import math
from collections.abc import Iterator

from rlkl.algos.base import Outcome, PolicyOptimizer, Recompute
from rlkl.algos.critic import CriticFit, Scalars
from rlkl.algos.first_order import FirstOrder
from rlkl.rollouts.batch import Batch


def alternate(
    policy_optimizer: PolicyOptimizer,
    critic_fit: CriticFit,
    batch: Batch,
    progress: float,
    recompute: Recompute,
) -> tuple[Outcome, Outcome]:
    """Update actor and critic in turns; return both outcomes.

    A turn is an epoch of the actor, then the critic's share of its epochs. After each turn but the
    last, advantages and returns are recomputed by the current critic (Andrychowicz 2021,
    appendix B.1). The critic makes all its turns even if the actor's update ends early, so after
    the same batch it is the same for every algorithm with as many epochs.
    """
    assert isinstance(policy_optimizer, FirstOrder)
    num_turns, num_epochs = policy_optimizer.num_epochs, critic_fit.config.num_epochs
    losses: Scalars = []
    norms: Scalars = []

    def turns() -> Iterator[Batch]:
        latest = batch
        for turn in range(num_turns):
            number = share(num_epochs, turn, num_turns)
            new_losses, new_norms = critic_fit.epochs(latest, progress, number)
            losses.extend(new_losses)
            norms.extend(new_norms)
            if turn + 1 < num_turns:
                latest = recompute(latest)
                yield latest

    critic_turns = turns()
    of_policy = policy_optimizer.update(batch, progress, critic_turns.__next__)
    for _ in critic_turns:
        pass
    return of_policy, critic_fit.outcome(batch, losses, norms)


def share(num_epochs: int, turn: int, num_turns: int) -> int:
    """Return how many of the epochs are made in a turn, counted from 0; early turns make more."""
    return math.ceil(num_epochs * (turn + 1) / num_turns) - math.ceil(num_epochs * turn / num_turns)
