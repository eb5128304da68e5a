"""`rlkl watch` on the command line: what it prints of each episode."""

from types import SimpleNamespace
from typing import Any

import pytest

from rlkl.cli import watch
from rlkl.training.rendering import Episode


class Window:
    """An environment that only opens and closes."""

    def reset(self, seed: int) -> None:
        pass

    def close(self) -> None:
        pass


def test_unended_episodes_are_in_no_mean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes = iter([Episode(3.0, 5, True), Episode(9.0, 50, False), Episode(4.0, 6, True)])
    run: Any = SimpleNamespace(policy=None, env=None, max_episode_steps=50)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(watch, "open_run", lambda given: run)
    monkeypatch.setattr(watch, "make_rendered_env", lambda env, mode: Window())
    monkeypatch.setattr(watch, "play", lambda *_: next(episodes))
    assert watch.main(["run"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "episode 1: return 3, 5 steps",
        "episode 2: return 9, 50 steps, not ended",
        "episode 3: return 4, 6 steps",
        "mean return 3.5",
    ]
    assert printed.err == ("rlkl: 1 of 3 episodes did not end within 50 steps (--max-steps)\n")
