"""Takes back an update that made a number infinite or NaN, and keeps what it was made from."""

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkl.algos.base import Metrics, PolicyOptimizer
from rlkl.algos.critic import CriticFit
from rlkl.models.policy import Policy
from rlkl.numerics.normalization import RewardScaler
from rlkl.rollouts.rollout import Batch, Rollout
from rlkl.training.diagnostics import report
from rlkl.utils.atomic_files import write_durably
from rlkl.utils.streams import tell

OF_ACTOR, OF_CRITIC = ("policy/loss", "optim/grad_norm"), ("value/loss", "value/grad_norm")
RATIOS = ("ratio/mean", "ratio/max", "ratio/std")
DIVERGENCES = ("kl/old_new", "kl/new_old", "kl/max", "kl/new_old_max")


class BadUpdatesError(Exception):
    """Too many updates in a row made a number infinite or NaN; the policy is as before them.

    The message is one line.
    """


class Safeguard:
    """Remembers all that learns before an update, and puts it back if the update went bad.

    An update is bad if a loss, the norm of a gradient, a ratio or a parameter is not finite, or a
    KL is NaN. An infinite KL alone is not: a policy that never does what π_old did is a policy.

    Args:
        policy: whose actor and critic are guarded.
        policy_optimizer: moves the actor.
        critic_fit: moves the critic.
        reward_scaler: moves with the rewards, if there is one.
        ratio_bounds: outside them a ratio counts as clipped in the report.
        max_bad_updates: so many in a row end the run.

    Attributes:
        folder: where bad updates are written to, one file each; None writes none.
        in_a_row: bad updates since the last good one.
    """

    def __init__(
        self,
        policy: Policy,
        policy_optimizer: PolicyOptimizer,
        critic_fit: CriticFit,
        reward_scaler: RewardScaler | None,
        ratio_bounds: tuple[float, float],
        max_bad_updates: int,
    ) -> None:
        self.policy = policy
        self.ratio_bounds = ratio_bounds
        self.max_bad_updates = max_bad_updates
        self.folder: Path | None = None
        self.in_a_row = 0
        self._vectors = {
            "actor": policy.actor_parameters.vector.data,
            "critic": policy.critic_parameters.vector.data,
        }
        self._learners: dict[str, Any] = {
            "policy_optimizer": policy_optimizer,
            "critic_fit": critic_fit,
        }
        if reward_scaler is not None:
            self._learners["reward_scaler"] = reward_scaler
        self._before: dict[str, Any] = {}

    def remember(self) -> None:
        """Take down the state that a bad update is to be taken back to."""
        self._before = self._state()

    def report(
        self, rollout: Rollout, batch: Batch, metrics: Metrics, iteration: int
    ) -> tuple[Metrics, dict[str, Tensor]]:
        """Return `diagnostics.report` after an update, which is taken back first if it is bad.

        Args:
            rollout: what the batch was made from.
            batch: what the update was made from.
            metrics: what the policy-optimizer and the critic's fit said of it.
            iteration: names the file.

        Raises:
            BadUpdatesError: it was the last of `max_bad_updates` in a row.
        """
        applied = self._is_finite(metrics)
        if applied:
            compared, histograms = report(self.policy, batch, self.ratio_bounds)
            if not _first_bad_of_report(compared):
                self.in_a_row = 0
                return compared, histograms
        else:
            compared = {}
        self.in_a_row += 1
        culprit = next(self._bad(rollout, batch, metrics, compared))
        self._tell(culprit, rollout, batch, metrics | compared, iteration)
        self._restore()
        if self.in_a_row >= self.max_bad_updates:
            raise BadUpdatesError(
                f"{self.in_a_row} updates in a row were not finite, the last from its {culprit} "
                "on; the policy is as before them (max_bad_updates=N allows more)"
            )
        compared, histograms = report(self.policy, batch, self.ratio_bounds)
        compared["value/explained_variance_after"] = metrics["value/explained_variance"]
        return compared, histograms

    def _is_finite(self, metrics: Metrics) -> bool:
        """Whether the update's own numbers and all parameters are finite."""
        # An update that was stopped before its first step has neither loss nor gradient.
        tags = OF_CRITIC if metrics.get("optim/epochs") == 0 else OF_ACTOR + OF_CRITIC
        numbers = all(math.isfinite(metrics[tag]) for tag in tags if tag in metrics)
        return numbers and all(
            # A finite sum has finite parts, and takes less time than a look at each of them.
            math.isfinite(float(vector.sum())) or bool(vector.isfinite().all())
            for vector in self._vectors.values()
        )

    def _bad(
        self, rollout: Rollout, batch: Batch, metrics: Metrics, compared: Metrics
    ) -> Iterator[str]:
        """Yield what is not finite, in the order in which one makes the next."""
        shown: list[Any] = [*rollout.observations.values(), *rollout.final_observations.values()]
        if not _finite([*shown, *batch.inputs.observations.values()]):
            yield "observation"
        if not _finite([rollout.rewards]):
            yield "reward"
        for name in ("old_parameters", "old_log_prob", "old_values", "advantages", "returns"):
            # Log-probabilities of actions that a mask forbids are -inf, and are to be.
            values = getattr(batch, name)
            if bool(values.isnan().any() if name == "old_parameters" else not _finite([values])):
                yield {"advantages": "advantage", "returns": "return"}.get(name, name)
        for learner in ("policy_optimizer", "critic_fit"):
            whose = "policy" if learner == "policy_optimizer" else "value"
            losses = getattr(self._learners[learner], "losses", ())  # of first-order ones alone
            norms = getattr(self._learners[learner], "gradient_norms", ())
            for loss, norm in zip(losses, norms, strict=True):
                if not math.isfinite(loss):
                    yield f"{whose} loss"
                if not math.isfinite(norm):
                    yield f"{whose} gradient"
        if not math.isfinite(metrics.get("optim/grad_norm", 0.0)):
            yield "policy gradient"
        if bad := _first_bad_of_report(compared):
            yield bad
        for name, vector in self._vectors.items():
            if not _finite([vector]):
                yield f"parameters of the {name}"
        yield "means over its steps"  # of finite numbers whose sum is not

    def _tell(
        self, culprit: str, rollout: Rollout, batch: Batch, metrics: Metrics, iteration: int
    ) -> None:
        """Say what went bad, and write what is needed to see why."""
        told = f"iteration {iteration} was not applied: its {culprit} is not finite"
        if self.folder is not None:
            self.folder.mkdir(exist_ok=True)
            path = self.folder / f"iteration_{iteration}.pt"
            tensors = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "inputs"}
            content = {
                "culprit": culprit,
                "batch": tensors | {"observations": batch.inputs.observations},
                "rewards": torch.from_numpy(rollout.rewards),
                "metrics": metrics,
                "before": self._before,
                "after": self._state(),
            }
            buffer = io.BytesIO()
            torch.save(content, buffer)
            write_durably(path, buffer.getvalue())
            told += f"; {path} has the batch"
        tell(told)

    def _state(self) -> dict[str, Any]:
        learned = {name: learner.state_dict() for name, learner in self._learners.items()}
        state: dict[str, Any] = copied(self._vectors | learned)
        return state

    def _restore(self) -> None:
        for name, vector in self._vectors.items():
            vector.copy_(self._before[name])
        for name, learner in self._learners.items():
            learner.load_state_dict(copied(self._before[name]))


def copied(state: Any) -> Any:
    """Return a state whose tensors are its own."""
    if isinstance(state, Tensor):
        return state.clone()
    return {k: copied(v) for k, v in state.items()} if isinstance(state, dict) else state


def _finite(arrays: Iterable[Any]) -> bool:
    return all(bool(np.isfinite(np.asarray(torch.as_tensor(a).cpu())).all()) for a in arrays)


def _first_bad_of_report(compared: Metrics) -> str:
    """Return `ratio` or `KL` if one of them is not what it can be, else an empty string."""
    if not all(math.isfinite(compared[tag]) for tag in RATIOS if tag in compared):
        return "ratio"
    return "KL" if any(math.isnan(compared[tag]) for tag in DIVERGENCES if tag in compared) else ""
