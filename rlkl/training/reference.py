"""A fixed policy from which a run's policy is kept near, by an addition to any objective."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from rlkl.algos.base import Metrics, PolicyOptimizer
from rlkl.algos.ppo_kl import adapted_kl_coefficient
from rlkl.engines.acting import policy_from
from rlkl.engines.base import Engine
from rlkl.engines.make import make_engine
from rlkl.envs.observations import VECTOR
from rlkl.models.policy import Inputs
from rlkl.numerics.tensor_normalization import TensorObservationNormalizer
from rlkl.rollouts.batch import Batch
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import check_fields, limited
from rlkl.utils.ranks import Ranks
from rlkl.utils.validation import check_between, check_text

DIRECTIONS = ("new_reference", "reference_new")
BOUNDS = (1e-4, 1e4)


@dataclass(frozen=True)
class ReferenceConfig:
    """A fixed policy π_ref, and the weight of the KL to it in every loss of the actor.

    Attributes:
        run_dir: the folder of the run whose policy it is, or one of its checkpoints; null for none.
        kl_coefficient: β, the weight of the KL; of the first update if there is a target.
        target_kl: the KL that β steers towards, in nats, by the rule of ppo_kl; null for a fixed β.
        kl_coefficient_min: lower bound of an adaptive β.
        kl_coefficient_max: upper bound of it.
        direction: `new_reference` is KL(π_θ ‖ π_ref), `reference_new` is KL(π_ref ‖ π_θ).
    """

    run_dir: str | None = None
    kl_coefficient: float = limited(0.1, at_least=0)
    target_kl: float | None = limited(None, above=0)
    kl_coefficient_min: float = BOUNDS[0]
    kl_coefficient_max: float = BOUNDS[1]
    direction: str = limited(DIRECTIONS[0], choices=DIRECTIONS)

    def __post_init__(self) -> None:
        check_fields(self, "reference.")
        if self.run_dir is not None:
            check_text("reference.run_dir", self.run_dir)
        elif any(getattr(self, field.name) != field.default for field in fields(self)):
            raise ConfigError(
                "reference: its settings need a policy; set reference=RUN_DIR, or leave them out"
            )
        bounds = self.kl_coefficient_min, self.kl_coefficient_max
        if self.target_kl is not None:
            check_between("reference.kl_coefficient", self.kl_coefficient, *bounds)
        elif bounds != BOUNDS:
            raise ConfigError(
                "reference.kl_coefficient_min and reference.kl_coefficient_max: they change "
                "nothing without reference.target_kl; set it, or leave them out"
            )


class Reference:
    """π_ref at the observations of each batch, and the weight of the KL to it.

    Args:
        config: what is added to the loss.
        state: `policy_description`, `policy` and `normalizer` of a checkpoint.
        engine: of the policy in training.
        policy_optimizer: to whose loss the KL is added.
        ranks: of the run.
    """

    def __init__(
        self,
        config: ReferenceConfig,
        state: dict[str, Any],
        engine: Engine,
        policy_optimizer: PolicyOptimizer,
        ranks: Ranks,
    ) -> None:
        self.config, self.engine = config, engine
        self._state = {k: state[k] for k in ("policy_description", "policy", "normalizer")}
        coefficient = float(state.get("kl_coefficient", config.kl_coefficient))
        self.penalty = policy_optimizer.penalize(coefficient, config.direction)
        trained = policy_from(state, engine.policy.device, engine="auto")
        self._reference = make_engine(trained.policy, ranks)
        self._normalizer: TensorObservationNormalizer | None = None
        if (arrays := trained.normalizer) is not None:
            self._normalizer = TensorObservationNormalizer(
                arrays.mean.shape, engine.policy.device, arrays.clip, arrays.is_measured
            )
            self._normalizer.load_state_dict(state["normalizer"])

    def added(self, batch: Batch, raw_vectors: Any) -> Batch:
        """Return a batch with the parameters of π_ref.

        Args:
            batch: whose observations are normalized if training normalizes.
            raw_vectors: the same before normalization, `[B, D]`; None if it does not.
        """
        observations = dict(batch.inputs.observations)
        if VECTOR in observations:
            shown = observations[VECTOR] if raw_vectors is None else raw_vectors
            raw = torch.as_tensor(shown, device=self.engine.policy.device)
            seen = raw if self._normalizer is None else self._normalizer(raw)
            observations[VECTOR] = self.engine.policy.tensor(seen)
        found = self._reference.distribution(Inputs(observations)).parameters
        return replace(batch, reference_parameters=found)

    def metrics(self, batch: Batch, *, adapts: bool) -> Metrics:
        """Return the mean KL after an update, over a batch in float64, and β of the update.

        Then β adapts for the next update, if wanted and if there is a target.
        """
        assert batch.reference_parameters is not None
        reference = self.engine.policy.family(batch.reference_parameters.double())
        new = self.engine.distribution(batch.inputs, torch.float64)
        is_reverse = self.config.direction == "new_reference"
        kl = new.kl(reference) if is_reverse else reference.kl(new)
        mean = float(np.mean(kl.cpu().numpy()))
        metrics = {"kl/reference": mean, "kl/reference_coefficient": self.penalty.coefficient}
        config = self.config
        if adapts and config.target_kl is not None:
            bounds = config.kl_coefficient_min, config.kl_coefficient_max
            self.penalty.coefficient = adapted_kl_coefficient(
                self.penalty.coefficient, mean, config.target_kl, *bounds
            )
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return β and the reference policy, so that a resumed run does not need its folder."""
        return self._state | {"kl_coefficient": self.penalty.coefficient}
