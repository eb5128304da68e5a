"""A study: trials chosen by the results of earlier ones, stored so that it can resume."""

import math
import os
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkl.tools.tuning.space import Dimension, Interval, Space
from rlkl.tools.tuning.training import Outcome, Plan, Stop, train, train_in_parallel
from rlkl.training.config import TrainConfig
from rlkl.utils.atomic_files import check_plain_path
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import check_fields, limited
from rlkl.utils.seeding import RandomStreams
from rlkl.utils.validation import check_text, described, one_line

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.log"


@dataclass(frozen=True)
class TuneConfig:
    """Search settings; docs/tuning.md describes them.

    Attributes:
        trials: of the whole study, including earlier calls.
        seeds: runs of each trial, with the seeds from `seed` on.
        startup_trials: random trials; complete trials before the first pruning.
        reports: of each trial; the first quarter prunes nothing.
        parallel: trials at a time; None for one per core.
        study: folder; None for runs/tuning/<env>/<algo>.
    """

    trials: int = limited(30, at_least=1, at_most=100_000)
    seeds: int = limited(2, at_least=1, at_most=100)
    sampler: str = limited("tpe", choices=("tpe", "random"))
    pruner: str = limited("median", choices=("median", "none"))
    startup_trials: int = limited(8, at_least=1, at_most=100_000)
    reports: int = limited(20, at_least=1, at_most=10_000)
    parallel: int | None = limited(None, at_least=1, at_most=1000)
    study: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.study is not None:
            check_text("study", self.study)


@dataclass(frozen=True)
class Trial:
    """A trial that has ended."""

    number: int  # from 1
    state: str  # `complete`, `pruned` or `failed`
    values: dict[str, str]  # value of each key in command-line syntax
    params: dict[str, Any]  # value of each key from the sampler
    value: float  # mean over seeds of the training return at the last report, or NaN
    curve: dict[int, float]  # this mean at each report, by environment steps
    returns: list[float]  # of each seed, if complete
    reason: str  # why it failed
    seconds: float


class Study:
    """The trials of a search space, stored in a folder.

    The sampler of a trial depends on the seed, the number of the trial, and the trials that ended
    before its batch of `parallel` trials. So an interrupted study gives the same trials.

    `configure` returns the config of a run for values of the space's keys. `first` are the values
    of the first trial: those of the user's config, if the space contains them.
    """

    def __init__(
        self,
        folder: Path,  # exists, and this process has locked it
        config: TuneConfig,
        space: Space,
        seed: int,  # of the search, and of each trial's first run
        configure: Callable[[dict[str, str]], TrainConfig],
        first: dict[str, Any] | None = None,
    ) -> None:
        import optuna  # noqa: PLC0415 (an extra)

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config, self.space, self.first = config, space, first
        self._parallel = config.parallel or 1
        self._configure = configure
        self._streams = RandomStreams(seed)
        self._optuna, self._states = optuna, optuna.trial.TrialState
        median = optuna.pruners.MedianPruner(config.startup_trials, config.reports // 4)
        try:
            self.study = optuna.create_study(
                storage=_storage(folder / JOURNAL),
                study_name="rlkl",
                direction="maximize",
                pruner=median if config.pruner == "median" else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
        except ValueError as error:
            raise ConfigError(
                f"{folder / JOURNAL} cannot be read ({one_line(error)}); restore it, or name "
                "another study"
            ) from error
        for trial in self.study.get_trials(deepcopy=False, states=[self._states.RUNNING]):
            self.study.tell(trial.number, state=self._states.FAIL)  # its process was killed

    @property
    def trials(self) -> list[Trial]:
        """The trials that were not interrupted; a failed one has a reason."""
        finished = (self._states.COMPLETE, self._states.PRUNED)
        trials = self.study.get_trials(deepcopy=False)
        ended = [t for t in trials if t.state in finished or "reason" in t.user_attrs]
        return [self._read(number, trial) for number, trial in enumerate(ended, 1)]

    def _read(self, number: int, trial: "optuna.trial.FrozenTrial") -> Trial:
        attributes = trial.user_attrs
        budget = attributes.get("budget", 0)
        curve = {
            round(budget * report / self.config.reports): value
            for report, value in sorted(trial.intermediate_values.items())
        }
        states = {self._states.COMPLETE: "complete", self._states.PRUNED: "pruned"}
        return Trial(
            number,
            states.get(trial.state, "failed"),
            {key: self.space[key].text(value) for key, value in trial.params.items()},
            dict(trial.params),
            list(curve.values())[-1] if curve else math.nan,
            curve,
            attributes.get("returns", []),
            attributes.get("reason", ""),
            attributes.get("seconds", 0.0),
        )

    def run(self, stop: Stop, report: Callable[[Trial, Trial | None], None]) -> None:
        """Run the missing trials; call `report` after each with it and the best so far."""
        trials = self.trials
        while len(trials) < self.config.trials and not stop():
            before = len(trials)
            at_once = min(self._parallel, self.config.trials - before)
            if not self._run_batch(range(before, before + at_once), stop):
                return
            trials = self.trials
            for trial in trials[before:]:
                report(trial, best_of(trials[: trial.number]))

    def _run_batch(self, numbers: range, stop: Stop) -> bool:
        """Run trials in parallel; return False if they were stopped.

        Stopped batches do not count: the next one would have been sampled from only some of them.
        """
        waiting = self.study.get_trials(deepcopy=False, states=(self._states.WAITING,))
        if numbers[0] == 0 and self.first is not None and not waiting:
            self.study.enqueue_trial(self.first)  # again if it was interrupted
        sampled = []
        for number in numbers:
            self.study.sampler = self._sampler(number)
            space = {key: self._distribution(d) for key, d in self.space.items()}
            sampled.append(self.study.ask(space))
        outcomes = self._train(sampled, stop)
        if any(outcome.state == "stopped" for outcome in outcomes):
            for trial in sampled:
                self.study.tell(trial, state=self._states.FAIL)
            return False
        states = {"complete": self._states.COMPLETE, "pruned": self._states.PRUNED}
        for trial, outcome in zip(sampled, outcomes, strict=True):
            if outcome.reason:
                trial.set_user_attr("reason", outcome.reason)
            trial.set_user_attr("returns", outcome.returns)
            trial.set_user_attr("seconds", outcome.seconds)
            value = outcome.value if outcome.state == "complete" else None
            self.study.tell(trial, value, state=states.get(outcome.state, self._states.FAIL))
        return True

    def _train(self, trials: "list[optuna.Trial]", stop: Stop) -> list[Outcome]:
        """Train trials; those without a valid config fail."""
        outcomes: dict[int, Outcome] = {}
        plans: dict[int, Plan] = {}
        for index, trial in enumerate(trials):
            texts = {key: self.space[key].text(value) for key, value in trial.params.items()}
            try:
                config = self._configure(texts)
            except Exception as error:  # a failed trial does not end the study
                outcomes[index] = Outcome("failed", reason=described(error))
            else:
                trial.set_user_attr("budget", config.total_env_steps)
                plans[index] = Plan(config, self.config.seeds, self.config.reports)
        indices = list(plans)

        def should_continue(plan: int, report: int, value: float) -> bool:
            trial = trials[indices[plan]]
            trial.report(value, report)
            return not trial.should_prune()

        if self._parallel == 1:
            with chdir(Path.cwd()):  # an environment may change it
                done = [train(plan, partial(should_continue, 0), stop) for plan in plans.values()]
        else:
            done = train_in_parallel(list(plans.values()), should_continue, stop)
        outcomes |= zip(indices, done, strict=True)
        return [outcomes[index] for index in range(len(trials))]

    def _sampler(self, count: int) -> "optuna.samplers.BaseSampler":
        (seed,) = self._streams.integers(f"trial {count}", 1)
        if self.config.sampler == "random":
            return self._optuna.samplers.RandomSampler(seed)
        return self._optuna.samplers.TPESampler(
            n_startup_trials=self.config.startup_trials,
            seed=seed,
            constant_liar=self._parallel > 1,  # spreads the trials of a batch
        )

    def _distribution(self, dimension: Dimension) -> Any:
        kinds = self._optuna.distributions
        if not isinstance(dimension, Interval):
            return kinds.CategoricalDistribution(dimension.values)
        low, high, log = dimension.low, dimension.high, dimension.log
        if dimension.step:
            return kinds.IntDistribution(int(low), int(high), log, dimension.step)
        return kinds.FloatDistribution(low, high, log)


def _storage(path: Path) -> "optuna.storages.BaseStorage":
    """Return Optuna's journal, without what a killed process left: a partial line, a lock file."""
    from optuna.storages import JournalStorage  # noqa: PLC0415 (an extra)
    from optuna.storages.journal import JournalFileBackend  # noqa: PLC0415 (an extra)

    path = path.absolute()
    check_plain_path(path)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    return JournalStorage(JournalFileBackend(str(path)))


def best_of(trials: list[Trial]) -> Trial | None:
    """Return the best complete trial."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return max(complete, key=lambda trial: trial.value, default=None)


def importances(study: Study) -> dict[str, float]:
    """Return the share of each key in separating good trials from the rest; shares sum to 1.

    PED-ANOVA (Watanabe et al. 2023) of the best quarter of the complete trials. Empty if fewer than
    8 trials are complete, or with a single key.
    """
    import optuna  # noqa: PLC0415 (an extra)

    complete = [trial for trial in study.trials if trial.state == "complete"]
    if len(complete) < 8 or len(study.space) < 2 or len({t.value for t in complete}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return optuna.importance.get_param_importances(study.study, evaluator=evaluator)
