"""A study: trials that learn from those before them, kept on the disk, so that it can go on."""

import math
import os
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkl.tools.tuning.space import Interval, Space
from rlkl.tools.tuning.training import Outcome, Plan, Stop, train, train_at_once
from rlkl.training.config import TrainConfig
from rlkl.utils.atomic_files import check_own
from rlkl.utils.seeding import RandomStreams
from rlkl.utils.validation import ConfigError, check_choice, check_range, check_text, one_line

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "none")
JOURNAL = "journal.log"
STUDY = "rlkl"


@dataclass(frozen=True)
class TuneConfig:
    """How is searched.

    Attributes:
        trials: of the whole study, those of earlier calls included.
        seeds: runs of each trial, with seeds from `seed` on; a trial is as good as their mean.
        sampler: `tpe` draws where good trials were (Bergstra 2011), `random` anywhere.
        pruner: `median` ends a trial that has never been as good as the median of finished trials
            was at the same step; `none` lets every trial end.
        startup_trials: so many are drawn at random, and so many finish, before either judges.
        reports: times that a trial's return is looked at; the first quarter prunes nothing.
        parallel: trials at a time, which know nothing of each other; null for as many as there are
            cores when the study begins.
        study: folder of the study; null for runs/tuning/<env>/<algo>.
    """

    trials: int = 30
    seeds: int = 2
    sampler: str = "tpe"
    pruner: str = "median"
    startup_trials: int = 8
    reports: int = 20
    parallel: int | None = None
    study: str | None = None

    def __post_init__(self) -> None:
        check_range("trials", self.trials, at_least=1, at_most=100_000)
        check_range("seeds", self.seeds, at_least=1, at_most=100)
        check_choice("sampler", self.sampler, SAMPLERS)
        check_choice("pruner", self.pruner, PRUNERS)
        check_range("startup_trials", self.startup_trials, at_least=1, at_most=100_000)
        check_range("reports", self.reports, at_least=1, at_most=10_000)
        if self.parallel is not None:
            check_range("parallel", self.parallel, at_least=1, at_most=1000)
        if self.study is not None:
            check_text("study", self.study)


@dataclass(frozen=True)
class Trial:
    """What was tried, and what came of it.

    Attributes:
        number: from 1.
        state: `complete`, `pruned` or `failed`.
        values: of each key, as a command line has them.
        params: of each key, as the sampler drew them.
        value: mean over seeds of the training return (mean of the last 100 episodes): at the end,
            or where it was pruned; NaN if it failed before the first.
        course: the same at each report, by environment steps.
        returns: of each seed, at the end.
        reason: why it failed.
        seconds: that it took.
    """

    number: int
    state: str
    values: dict[str, str]
    params: dict[str, Any]
    value: float
    course: dict[int, float]
    returns: list[float]
    reason: str
    seconds: float


class Study:
    """Trials of a space, in a folder.

    Each trial's chance comes from the seed and from how many trials there were before it, and what
    it knows are the trials that had ended when its `parallel` were drawn. So a study that was
    interrupted ends as one that was not.

    Args:
        folder: exists, and belongs to this process.
        config: how is searched.
        space: what may be tried.
        seed: of the search, and the first of each trial's.
        configure: values of the space's keys to the config of a run.
        first: values to begin with, if any: those of the config as it stands.
    """

    def __init__(
        self,
        folder: Path,
        config: TuneConfig,
        space: Space,
        seed: int,
        configure: Callable[[dict[str, str]], TrainConfig],
        first: dict[str, Any] | None = None,
    ) -> None:
        import optuna  # noqa: PLC0415 (an extra)

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config = config
        self._parallel = config.parallel or 1
        self.space = space
        self.configure = configure
        self.first = first
        self._streams = RandomStreams(seed)
        self._optuna, self._states = optuna, optuna.trial.TrialState
        pruners: dict[str, optuna.pruners.BasePruner] = {
            "median": optuna.pruners.MedianPruner(config.startup_trials, config.reports // 4),
            "none": optuna.pruners.NopPruner(),
        }
        try:
            self.study = optuna.create_study(
                storage=_storage(folder / JOURNAL),
                study_name=STUDY,
                direction="maximize",
                pruner=pruners[config.pruner],
                load_if_exists=True,
            )
        except ValueError as error:
            raise ConfigError(
                f"{folder / JOURNAL} cannot be read ({one_line(error)}); put it back, or name "
                "another study"
            ) from error
        for trial in self.study.get_trials(deepcopy=False, states=[self._states.RUNNING]):
            self.study.tell(trial.number, state=self._states.FAIL)  # its process was killed

    @property
    def trials(self) -> list[Trial]:
        """Those that came to an end of their own: one that was interrupted has no reason."""
        ended = [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state in (self._states.COMPLETE, self._states.PRUNED)
            or "reason" in trial.user_attrs
        ]
        return [self._read(number, trial) for number, trial in enumerate(ended, 1)]

    def _read(self, number: int, trial: "optuna.trial.FrozenTrial") -> Trial:
        told = trial.user_attrs
        budget = told.get("budget", 0)
        course = {
            round(budget * mark / self.config.reports): value
            for mark, value in sorted(trial.intermediate_values.items())
        }
        states = {self._states.COMPLETE: "complete", self._states.PRUNED: "pruned"}
        return Trial(
            number,
            states.get(trial.state, "failed"),
            {key: self.space[key].text(value) for key, value in trial.params.items()},
            dict(trial.params),
            list(course.values())[-1] if course else math.nan,
            course,
            told.get("returns", []),
            told.get("reason", ""),
            told.get("seconds", 0.0),
        )

    def go(self, stop: Stop, tell: Callable[[Trial, Trial | None], None]) -> None:
        """Try until there are as many trials as wanted, or the user wants an end.

        Args:
            stop: looked at before each iteration.
            tell: called after each trial, with it and the best so far.
        """
        trials = self.trials
        while len(trials) < self.config.trials and not stop.is_set():
            before = len(trials)
            at_once = min(self._parallel, self.config.trials - before)
            if not self._try(range(before, before + at_once), stop):
                return
            trials = self.trials
            for trial in trials[before:]:
                tell(trial, best_of(trials[: trial.number]))

    def _try(self, numbers: range, stop: Stop) -> bool:
        """Make trials at the same time; return whether all came to an end of their own.

        Otherwise none of them counts: those that come next would have known of some of them alone.

        Args:
            numbers: from 0.
            stop: looked at before each iteration.
        """
        waiting = self.study.get_trials(deepcopy=False, states=(self._states.WAITING,))
        if numbers[0] == 0 and self.first is not None and not waiting:
            # Also where an attempt at it was cut off before.
            self.study.enqueue_trial(self.first)
        drawn = []
        for number in numbers:
            self.study.sampler = self._sampler(number)
            drawn.append(self.study.ask(self._distributions()))
        outcomes = self._made(drawn, stop)
        if any(outcome.state == "stopped" for outcome in outcomes):
            for trial in drawn:
                self.study.tell(trial, state=self._states.FAIL)
            return False
        states = {"complete": self._states.COMPLETE, "pruned": self._states.PRUNED}
        for trial, outcome in zip(drawn, outcomes, strict=True):
            if outcome.reason:
                trial.set_user_attr("reason", outcome.reason)
            trial.set_user_attr("returns", outcome.returns)
            trial.set_user_attr("seconds", outcome.seconds)
            value = outcome.value if outcome.state == "complete" else None
            self.study.tell(trial, value, state=states.get(outcome.state, self._states.FAIL))
        return True

    def _made(self, drawn: "list[optuna.Trial]", stop: Stop) -> list[Outcome]:
        """Train what was drawn; what makes no config has failed."""
        outcomes: dict[int, Outcome] = {}
        plans: dict[int, Plan] = {}
        for place, trial in enumerate(drawn):
            texts = {key: self.space[key].text(value) for key, value in trial.params.items()}
            try:
                config = self.configure(texts)
            except Exception as error:  # one trial's end is not the study's
                reason = f"{type(error).__name__}: {one_line(error)}"
                outcomes[place] = Outcome("failed", reason=reason)
                continue
            trial.set_user_attr("budget", config.total_env_steps)
            plans[place] = Plan(config, self.config.seeds, self.config.reports)
        places = list(plans)

        def is_worth_it(plan: int, mark: int, value: float) -> bool:
            trial = drawn[places[plan]]
            trial.report(value, mark)
            return not trial.should_prune()

        if self._parallel == 1:
            with chdir(Path.cwd()):  # an environment may change it
                made = [train(plan, partial(is_worth_it, 0), stop) for plan in plans.values()]
        else:
            made = train_at_once(list(plans.values()), is_worth_it, stop)
        outcomes |= zip(places, made, strict=True)
        return [outcomes[place] for place in range(len(drawn))]

    def _sampler(self, count: int) -> "optuna.samplers.BaseSampler":
        (seed,) = self._streams.integers(f"trial {count}", 1)
        if self.config.sampler == "random":
            return self._optuna.samplers.RandomSampler(seed)
        return self._optuna.samplers.TPESampler(
            n_startup_trials=self.config.startup_trials,
            seed=seed,
            constant_liar=self._parallel > 1,  # keeps those of a time apart
        )

    def _distributions(self) -> "dict[str, optuna.distributions.BaseDistribution]":
        kinds, found = self._optuna.distributions, {}
        for key, dimension in self.space.items():
            kind: optuna.distributions.BaseDistribution
            if not isinstance(dimension, Interval):
                kind = kinds.CategoricalDistribution(dimension.values)
            elif dimension.step:
                low, high = int(dimension.low), int(dimension.high)
                kind = kinds.IntDistribution(low, high, dimension.log, dimension.step)
            else:
                kind = kinds.FloatDistribution(dimension.low, dimension.high, dimension.log)
            found[key] = kind
        return found


def _storage(path: Path) -> "optuna.storages.BaseStorage":
    """Return the storage of a study: a journal, a line for all that happens, written through.

    A process that was killed may leave a part of a line at the end, which nobody has relied on, and
    Optuna's lock, which nobody else can hold, for the folder belongs to this process.
    """
    from optuna.storages import JournalStorage  # noqa: PLC0415 (an extra)
    from optuna.storages.journal import JournalFileBackend  # noqa: PLC0415 (an extra)

    path = path.absolute()
    check_own(path)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
    return JournalStorage(JournalFileBackend(str(path)))


def best_of(trials: list[Trial]) -> Trial | None:
    """Return the best of the trials that were completed."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return max(complete, key=lambda trial: trial.value, default=None)


def importances(study: Study) -> dict[str, float]:
    """Return how much of the difference between good trials and the rest each key makes.

    PED-ANOVA (Watanabe 2023) with the better quarter of the completed trials; shares that add up
    to 1. Empty with fewer than 8 of them, or fewer than two keys: there is nothing to divide.
    """
    import optuna  # noqa: PLC0415 (an extra)

    complete = [trial for trial in study.trials if trial.state == "complete"]
    if len(complete) < 8 or len(study.space) < 2 or len({t.value for t in complete}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return optuna.importance.get_param_importances(study.study, evaluator=evaluator)
