"""Returns and lengths of training episodes: means, the best, and their state."""

import math

import pytest

from rlkl.rollouts.rollout import Episode
from rlkl.training.running_means import EpisodeTracker


def episodes(*returns: float) -> list[Episode]:
    """Return episodes with these returns; each is as long as its number in the list."""
    return [Episode(0, value, length) for length, value in enumerate(returns, 1)]


def test_nothing_is_known_before_the_first_episode() -> None:
    tracker = EpisodeTracker()
    tracker.add([])
    assert math.isnan(tracker.return_mean)
    assert (tracker.count, tracker.longest, tracker.return_best) == (0, 0, -math.inf)
    assert tracker.metrics()["episode/count"] == 0


def test_means_are_over_the_last_hundred() -> None:
    tracker = EpisodeTracker()
    tracker.add(episodes(*[1000.0] * 50))
    tracker.add(episodes(*[3.0] * 60, *[5.0] * 40))
    assert tracker.return_mean == pytest.approx(3.8)
    assert tracker.metrics() == pytest.approx(
        {"return/train": 3.8, "episode/length": 50.5, "episode/count": 150}
    )
    assert tracker.longest == 100


def test_best_is_of_the_ends_of_iterations() -> None:
    tracker = EpisodeTracker()
    tracker.add(episodes(100.0, 0.0))
    assert tracker.return_best == 50
    tracker.add(episodes(0.0))
    assert (tracker.return_best, tracker.return_mean) == (50, pytest.approx(100 / 3))


def test_state_continues_in_a_new_tracker() -> None:
    first, second = EpisodeTracker(), EpisodeTracker()
    first.add(episodes(4.0, 8.0))
    second.load_state_dict(first.state_dict() | {"something": "else"})
    for tracker in (first, second):
        tracker.add(episodes(1.0))
    assert first.state_dict() == second.state_dict()
    assert second.return_mean == pytest.approx(13 / 3)
