"""Revert an update that made a number infinite or NaN, and record its batch."""

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkl.algos.base import Metrics, Outcome
from rlkl.engines.base import Engine
from rlkl.rollouts.batch import Batch
from rlkl.rollouts.rollout import Rollout
from rlkl.training.diagnostics import compare_with_old

OF_ACTOR, OF_CRITIC = ("policy/loss", "optim/grad_norm"), ("value/loss", "value/grad_norm")
RATIOS = ("ratio/mean", "ratio/max", "ratio/std")
DIVERGENCES = ("kl/old_new", "kl/new_old", "kl/max", "kl/new_old_max")


@dataclass(frozen=True)
class BadUpdate:
    """An update that was reverted.

    Attributes:
        iteration: its number.
        culprit: the first quantity that was not finite.
        in_a_row: number of consecutive bad updates, including this one.
        content: batch, metrics, and the state before and after, for `torch.save`.
    """

    iteration: int
    culprit: str
    in_a_row: int
    content: dict[str, Any]

    def as_bytes(self) -> bytes:
        """Return the content in the format of `torch.save`."""
        buffer = io.BytesIO()
        torch.save(self.content, buffer)
        return buffer.getvalue()


class BadUpdatesError(Exception):
    """Too many updates in a row made a number infinite or NaN; all were reverted."""

    def __init__(self, bad_update: BadUpdate) -> None:
        super().__init__(
            f"{bad_update.in_a_row} updates in a row were not finite, the last one because of its "
            f"{bad_update.culprit}; all were reverted (max_bad_updates=N allows more)"
        )
        self.bad_update = bad_update


class NonfiniteGuard:
    """Copies the state before an update, and restores it if the update was bad.

    An update is bad if a loss, a gradient's norm, a ratio or a parameter is not finite, or a KL is
    NaN. An infinite KL alone is valid: π_θ may exclude actions of π_old.

    Args:
        engine: of the policy.
        learners: the other objects whose state is restored, by name.
        ratio_bounds: outside them a ratio counts as clipped in the report.
        max_bad_updates: so many bad updates in a row end the run.

    Attributes:
        in_a_row: number of consecutive bad updates.
    """

    def __init__(
        self,
        engine: Engine,
        learners: dict[str, Any],
        ratio_bounds: tuple[float, float],
        max_bad_updates: int,
    ) -> None:
        self.engine, self.learners = engine, learners
        self.ratio_bounds, self.max_bad_updates = ratio_bounds, max_bad_updates
        self.in_a_row = 0
        policy = engine.policy
        self._vectors = {
            "actor": policy.actor_parameters.vector.data,
            "critic": policy.critic_parameters.vector.data,
        }
        self._before: dict[str, Any] = {}

    def remember(self) -> None:
        """Copy the current state, before an update."""
        self._before = self._state()

    def check(
        self, rollout: Rollout, batch: Batch, outcomes: tuple[Outcome, Outcome], iteration: int
    ) -> tuple[Metrics, dict[str, Tensor], BadUpdate | None]:
        """Revert an update if it was bad, and compare the policy with π_old.

        The outcomes are of the policy-optimizer and of the critic's fit.

        Returns:
            What `compare_with_old` returns, and the reverted update if it was bad.

        Raises:
            BadUpdatesError: it was the last of `max_bad_updates` in a row.
        """
        metrics = outcomes[0].metrics | outcomes[1].metrics
        compared: Metrics = {}
        if self._is_finite(metrics):
            compared, histograms = compare_with_old(self.engine, batch, self.ratio_bounds)
            if not _first_bad_of_report(compared):
                self.in_a_row = 0
                return compared, histograms, None
        self.in_a_row += 1
        culprit = next(self._culprits(rollout, batch, outcomes, compared))
        tensors = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "inputs"}
        tensors = {key: tensor for key, tensor in tensors.items() if tensor is not None}
        content = {
            "culprit": culprit,
            # A copy, because a view would be saved with the whole rollout behind it.
            "batch": tensors | {"observations": copied(batch.inputs.observations)},
            "rewards": torch.as_tensor(rollout.rewards),
            "metrics": metrics | compared,
            "before": self._before,
            "after": self._state(),
        }
        bad = BadUpdate(iteration, culprit, self.in_a_row, content)
        self._restore()
        if self.in_a_row >= self.max_bad_updates:
            raise BadUpdatesError(bad)
        compared, histograms = compare_with_old(self.engine, batch, self.ratio_bounds)
        compared["value/explained_variance_after"] = metrics["value/explained_variance"]
        return compared, histograms, bad

    def _is_finite(self, metrics: Metrics) -> bool:
        """Return whether losses, gradient norms and parameters are finite."""
        # An update that stopped before its first step has no loss and no gradient.
        tags = OF_CRITIC if metrics.get("optim/epochs") == 0 else OF_ACTOR + OF_CRITIC
        numbers = all(math.isfinite(metrics[tag]) for tag in tags if tag in metrics)
        return numbers and all(
            # A finite sum implies finite terms, and is faster than a check of each.
            math.isfinite(float(vector.sum())) or bool(vector.isfinite().all())
            for vector in self._vectors.values()
        )

    def _culprits(
        self, rollout: Rollout, batch: Batch, outcomes: tuple[Outcome, Outcome], compared: Metrics
    ) -> Iterator[str]:
        """Yield the quantities that are not finite, causes before effects."""
        raw: list[Any] = [*rollout.observations.values(), *rollout.final_observations.values()]
        if not _finite([*raw, *batch.inputs.observations.values()]):
            yield "observation"
        if not _finite([rollout.rewards]):
            yield "reward"
        for name in ("old_parameters", "old_log_prob", "old_values", "advantages", "returns"):
            # Masked actions have log-probabilities of -inf, which is correct.
            values = getattr(batch, name)
            if bool(values.isnan().any() if name == "old_parameters" else not _finite([values])):
                yield {"advantages": "advantage", "returns": "return"}.get(name, name)
        for whose, outcome in zip(("policy", "value"), outcomes, strict=True):
            for loss, norm in zip(outcome.losses, outcome.gradient_norms, strict=True):
                if not math.isfinite(loss):
                    yield f"{whose} loss"
                if not math.isfinite(norm):
                    yield f"{whose} gradient"
        if not math.isfinite(outcomes[0].metrics.get("optim/grad_norm", 0.0)):
            yield "policy gradient"
        if bad := _first_bad_of_report(compared):
            yield bad
        for name, vector in self._vectors.items():
            if not _finite([vector]):
                yield f"parameters of the {name}"
        yield "means over its steps"  # finite numbers whose sum is infinite

    def _state(self) -> dict[str, Any]:
        learned = {name: learner.state_dict() for name, learner in self.learners.items()}
        state: dict[str, Any] = copied(self._vectors | learned)
        return state

    def _restore(self) -> None:
        for name, vector in self._vectors.items():
            vector.copy_(self._before[name])
        for name, learner in self.learners.items():
            learner.load_state_dict(copied(self._before[name]))


def copied(state: Any) -> Any:
    """Return a deep copy of a state's dicts and tensors."""
    if isinstance(state, Tensor):
        return state.clone()
    return {k: copied(v) for k, v in state.items()} if isinstance(state, dict) else state


def _finite(arrays: Iterable[Any]) -> bool:
    return all(bool(np.isfinite(np.asarray(torch.as_tensor(a).cpu())).all()) for a in arrays)


def _first_bad_of_report(compared: Metrics) -> str:
    """Return `ratio` or `KL` if one of them has an invalid value, else an empty string."""
    if not all(math.isfinite(compared[tag]) for tag in RATIOS if tag in compared):
        return "ratio"
    return "KL" if any(math.isnan(compared[tag]) for tag in DIVERGENCES if tag in compared) else ""
