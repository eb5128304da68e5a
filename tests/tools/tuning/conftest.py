"""Studies train a fake learner where a test asks for it."""

import pytest
from made_studies import FakeLearner

from rlkl.tools.tuning import training as module


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeLearner]:
    FakeLearner.made = []
    FakeLearner.curve = lambda config, steps: config.gamma * steps - 10 * (config.seed - 5)
    monkeypatch.setattr(module, "Learner", FakeLearner)
    return FakeLearner
