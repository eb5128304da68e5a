"""The data of a rollout."""

from diaries import collector_of
from gymnasium.vector import AutoresetMode


def test_ends_are_terminations_and_truncations() -> None:
    collector, _ = collector_of(AutoresetMode.SAME_STEP, ("2T 1L", "2B 2L"))
    collector.rollout_steps = 6
    rollout = collector.collect()
    assert rollout.terminated.T.astype(int).tolist() == [[0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1]]
    assert rollout.truncated.T.astype(int).tolist() == [[0, 0, 1, 0, 0, 1], [0, 1, 0, 1, 0, 1]]
    assert rollout.ends.T.astype(int).tolist() == [[0, 1, 1, 0, 1, 1], [0, 1, 0, 1, 0, 1]]
