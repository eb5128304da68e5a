"""Callbacks: follow a run, log numbers and pictures of their own, and end it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rlkl.training.evaluation import Evaluation
from rlkl.training.learner import Learner
from rlkl.training.report import Report, check_own_tag
from rlkl.training.run_folder import FolderError
from rlkl.training.summary import Summary
from rlkl.utils.errors import ConfigError
from rlkl.utils.streams import tell
from rlkl.utils.validation import described


@dataclass(frozen=True)
class Stop:
    """Returned by a callback to end the run after the current iteration.

    The run makes its final evaluation, and its status is `finished`.

    Attributes:
        reason: the reason in `summary.json`.
    """

    reason: str

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValueError("Stop: expected a reason that is not empty")


class Callback:
    """Is called by a run at its events; a subclass has the methods that it needs.

    On several ranks only rank 0 calls it. A callback that has `state_dict()` and
    `load_state_dict(state)` is saved in checkpoints: the state is numbers, strings, None, tensors,
    and lists, tuples and dicts of them.

    Attributes:
        tags: the numbers that it logs, such as `("custom/distance",)`; they become columns of
            `metrics.csv`.
    """

    tags: Sequence[str] = ()

    def on_run_begin(self, learner: Learner, run_dir: Path) -> None:
        """Run before the first iteration, also of a resumed run.

        Args:
            learner: the parts of the run, such as `learner.policy`.
            run_dir: the run's folder, which exists.
        """

    def on_rollout(self, learner: Learner, rollout: Any) -> Stop | None:
        """Run after a rollout is collected, before the update.

        Args:
            learner: with π_old.
            rollout: `Rollout` `[T, N, ...]`, or `TensorRollout` with `env.backend=tensor`.
        """
        return None

    def on_update(self, learner: Learner, report: Report) -> Stop | None:
        """Run after the update of policy and critic.

        Args:
            learner: with π_θ.
            report: of the iteration; `report.log` adds a number.
        """
        return None

    def on_evaluation(
        self, learner: Learner, report: Report, evaluation: Evaluation
    ) -> Stop | None:
        """Run after an evaluation, every `eval_interval` iterations and at the end.

        Args:
            learner: with the policy that was evaluated.
            report: of the iteration; `report.log` adds a number.
            evaluation: its returns and lengths.
        """
        return None

    def on_run_end(self, learner: Learner, summary: Summary) -> None:
        """Run at the end, also of a stopped or failed run, before loggers and environments close.

        Args:
            learner: as after the last iteration.
            summary: as it will be written.
        """


class CallbackError(Exception):
    """A callback failed; the message is one line and names it."""


class Callbacks:
    """The callbacks of a run; an exception of theirs becomes a `CallbackError` of one line.

    Args:
        callbacks: called in this order.
        states: of the checkpoint, by name, in a resumed run.

    Attributes:
        tags: all numbers that they log.
        stop_reason: the reason of the first `Stop`; empty before.

    Raises:
        ConfigError: an entry is not a callback, or its tags cannot be used.
    """

    def __init__(
        self, callbacks: Sequence[Callback], states: Mapping[str, Any] | None = None
    ) -> None:
        check_callbacks(callbacks)
        self._named = _named(callbacks)
        self.tags = [tag for callback in callbacks for tag in callback.tags]
        self.stop_reason = ""
        self._has_begun = False
        self._states = dict(states or {})

    def begin(self, learner: Learner, run_dir: Path) -> None:
        """Load the states of the checkpoint, and begin the run."""
        self._has_begun = True
        for name, callback in self._named.items():
            if name in self._states:
                load: Any = getattr(callback, "load_state_dict", lambda state: None)
                self._call(name, "load_state_dict", load, self._states[name])
        for name in self._states.keys() - self._named.keys():
            tell(
                f"the checkpoint has the state of the callback {name}, which is missing here; "
                "resume in Python with callbacks=[...] to continue it"
            )
        if any(type(each).on_rollout is not Callback.on_rollout for each in self._named.values()):
            learner.on_rollout = lambda rollout: self.all("on_rollout", learner, rollout)
        self.all("on_run_begin", learner, run_dir)

    def all(self, method: str, learner: Learner, *given: Any) -> None:
        """Call a method of every callback.

        Raises:
            CallbackError: it failed, returned something other than None or `Stop`, or logged a
                number that is not in its tags.
        """
        for name, callback in self._named.items():
            report = next((part for part in given if isinstance(part, Report)), None)
            before = set(report.scalars) if report is not None else set()
            answer = self._call(name, method, getattr(callback, method), learner, *given)
            logged = set(report.scalars) - before if report is not None else set()
            if unknown := sorted(logged - set(callback.tags)):
                raise CallbackError(
                    f"callback {name}: {method} logged {unknown[0]}, which is not in its tags; "
                    f"write tags = ({unknown[0]!r},) in the class: metrics.csv needs its columns "
                    "at the start"
                )
            if isinstance(answer, Stop):
                self.stop_reason = self.stop_reason or answer.reason
            elif answer is not None:
                raise CallbackError(
                    f"callback {name}: {method} returned {type(answer).__name__}; expected None, "
                    "or Stop('reason')"
                )

    def end(self, learner: Learner, summary: Summary) -> None:
        """End the run if it has started."""
        if self._has_begun:
            self.all("on_run_end", learner, summary)

    def state_dict(self) -> dict[str, Any]:
        """Return the states by name; those of callbacks that are missing here are kept.

        Raises:
            CallbackError: a state is not plain data.
        """
        states = dict(self._states)
        for name, callback in self._named.items():
            if (get := getattr(callback, "state_dict", None)) is not None:
                state = states[name] = self._call(name, "state_dict", get)
                if (bad := _not_data(state)) is not None:
                    raise CallbackError(
                        f"callback {name}: state_dict has an object of type {bad}; expected "
                        "numbers, strings, None, tensors, and lists, tuples and dicts of them"
                    )
        return states

    def _call(self, name: str, method: str, function: Callable[..., Any], *given: Any) -> Any:
        try:
            return function(*given)
        except (KeyboardInterrupt, FolderError):
            raise
        except BaseException as error:  # sys.exit() too
            text = f"callback {name}: {method} failed: {described(error)}"
            raise CallbackError(text.rstrip(": ")) from error


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Raise ConfigError unless these are callbacks whose tags can be used."""
    seen: dict[str, str] = {}
    for callback in callbacks:
        name = type(callback).__name__
        if not isinstance(callback, Callback):
            kind = f"the class {callback.__name__}" if isinstance(callback, type) else name
            raise ConfigError(
                f"callbacks: expected objects of subclasses of rlkl.Callback, such as [Mine()], "
                f"but one is {kind}"
            )
        if isinstance(callback.tags, str):
            raise ConfigError(f"callback {name}: tags is a string; expected a tuple of strings")
        for tag in callback.tags:
            try:
                check_own_tag(tag)
            except ValueError as error:
                raise ConfigError(f"callback {name}: {error}") from error
            if tag in seen:
                raise ConfigError(f"callback {name}: {seen[tag]} logs the tag {tag} too; rename it")
            seen[tag] = name


def _named(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """Return the callbacks by the name of their class, with a number from the second on."""
    named: dict[str, Callback] = {}
    for callback in callbacks:
        name = type(callback).__name__
        count = sum(type(other).__name__ == name for other in named.values())
        named[f"{name} {count + 1}" if count else name] = callback
    return named


def _not_data(node: Any) -> str | None:
    """Return the type of the first object that a checkpoint cannot hold."""
    if node is None or type(node) in (bool, int, float, str) or type(node) is Tensor:
        return None
    if type(node) is dict:
        parts: list[Any] = [*node, *node.values()]
    elif type(node) in (list, tuple):
        parts = list(node)
    else:
        return type(node).__name__
    return next((found for part in parts if (found := _not_data(part)) is not None), None)
