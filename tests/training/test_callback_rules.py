"""The rules of `Callbacks`, without a run: reasons, names, states, and what passes through."""

from typing import Any

import pytest

import rlkl
from rlkl.training.callbacks import CallbackError, Callbacks
from rlkl.training.report import Report
from rlkl.training.run_folder import FolderError

LEARNER: Any = None
REPORT = Report(32, {}, {})


class Does(rlkl.Callback):
    """Returns a value, or raises it."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def on_update(self, learner: Any, report: Report) -> Any:
        if isinstance(self.what, BaseException):
            raise self.what
        return self.what

    def state_dict(self) -> dict[str, Any]:
        return {"what": self.what}


def test_reason_of_the_first_stop_is_kept() -> None:
    callbacks = Callbacks([Does(None), Does(rlkl.Stop("solved")), Does(rlkl.Stop("late"))])
    callbacks.all("on_update", LEARNER, REPORT)
    assert callbacks.stop_reason == "solved"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FolderError("the disk is full")])
def test_interrupts_and_full_disks_are_not_failures(error: BaseException) -> None:
    with pytest.raises(type(error)):
        Callbacks([Does(error)]).all("on_update", LEARNER, REPORT)


def test_callbacks_of_one_class_are_numbered() -> None:
    callbacks = Callbacks([Does(True), Does(False), Does(ValueError("no"))])
    with pytest.raises(CallbackError, match="callback Does 2: on_update returned bool"):
        Callbacks([Does(None), Does(True)]).all("on_update", LEARNER, REPORT)
    with pytest.raises(CallbackError, match="callback Does 3: state_dict has an object of type Va"):
        callbacks.state_dict()
    other = type("Does", (Does,), {})  # another class of the same name
    states = Callbacks([Does(True), other(False)]).state_dict()
    assert states == {"Does": {"what": True}, "Does 2": {"what": False}}


def test_run_that_did_not_begin_has_no_end() -> None:
    ended = []

    class Ends(rlkl.Callback):
        def on_run_end(self, learner: Any, summary: Any) -> None:
            ended.append(summary)

    callbacks, summary = Callbacks([Ends()]), object()
    callbacks.end(LEARNER, summary)  # type: ignore[arg-type]
    assert ended == []


def test_tags_are_no_single_string() -> None:
    class Odd(rlkl.Callback):
        tags = "custom/a"

    with pytest.raises(rlkl.ConfigError, match="callback Odd: tags is a string; expected a tuple"):
        Callbacks([Odd()])
