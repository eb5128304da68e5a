"""Published returns that the leaderboard is compared with."""

from typing import NamedTuple


class Published(NamedTuple):
    """A published return.

    Attributes:
        env: Gymnasium id of the environment here; the published runs have older versions.
        algo: the algorithm here.
        source: who published it, and what differs.
        value: mean over seeds.
        spread: standard deviation over seeds or what is printed after ±; 0 if there is none.
        steps: environment steps at which it was read; None for the end of training.
    """

    env: str
    algo: str
    source: str
    value: float
    spread: float = 0.0
    steps: int | None = None


MUJOCO = (
    "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Swimmer-v5", "Reacher-v5",
    "InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Ant-v5",
)  # fmt: skip

Number = tuple[float, float] | None

SOURCES: dict[tuple[str, str], tuple[Number, ...]] = {
    ("ppo_clip", "CleanRL, v4, 3 seeds"): (
        (1443, 46), (2383, 272), (2288, 572), None, None, (963, 22), None, None,
    ),
    ("ppo_clip", "Tianshou, 10 seeds, maximum over training"): (
        (5784, 1244), (2609, 701), (3589, 757), (67, 99), (-4.1, 0.3), (1000, 0), (9231, 270),
        (3258, 1079),
    ),
    ("ppo_clip", "KLip-PPO, v4, 5 seeds"): (
        (1955, 312), (2598, 278), (3717, 425), None, None, None, None, (2193, 361),
    ),
    ("ppo_kl_fixed", "KLip-PPO, v4, 5 seeds, β = 1"): (
        (2111, 1066), (2616, 208), (3995, 402), None, None, None, None, (16, 16),
    ),
    ("ppo_kl", "KLip-PPO, v4, 5 seeds, target 0.02"): (
        (2207, 1117), (2236, 365), (3639, 374), None, None, None, None, (159, 86),
    ),
    ("trpo", "Tianshou, maximum over training"): (
        (4471, 805), (2046, 1038), (3827, 783), (41, 20), (-5.1, 0.8), (1000, 0), (8435, 1073),
        (2867, 708),
    ),
    ("trpo", "sb3-contrib, v3, 3 seeds"): (
        (1803, 46), (3372, 215), (4502, 234), (359, 2), None, None, None, (3554, 591),
    ),
    ("npg", "Tianshou, maximum over training"): (
        (3485, 717), (1915, 551), (2503, 963), (32, 8), (-4.5, 0.5), (1000, 0), (9243, 276),
        (2358, 518),
    ),
    ("vanilla_pg", "Spinning Up"): (
        (-49, 102), (391, 37), (293, 13), (36, 1), None, None, None, (-28, 6),
    ),
}  # fmt: skip
"""Returns at the end of a million steps, by algorithm and source: mean and spread in `MUJOCO`."""

CLASSIC = (
    Published("CartPole-v1", "ppo_clip", "RL Zoo, 100k steps", 500),
    Published("CartPole-v1", "ppo_clip", "KLip-PPO", 478, 18),
    Published("CartPole-v1", "ppo_kl_fixed", "KLip-PPO, β = 1", 484, 23),
    Published("CartPole-v1", "ppo_kl", "KLip-PPO, target 0.02", 492, 9),
    Published("CartPole-v1", "trpo", "RL Zoo, 100k steps", 500),
    Published("CartPole-v1", "vanilla_pg", "SLM-Lab, REINFORCE, 200k steps", 483),
    Published("Acrobot-v1", "ppo_clip", "CleanRL, 500k steps", -86, 1),
    Published("Acrobot-v1", "trpo", "RL Zoo, 100k steps", -83, 19),
    Published("Pendulum-v1", "ppo_clip", "RL Zoo, 100k steps", -172, 104),
    Published("Pendulum-v1", "trpo", "RL Zoo, 100k steps", -175, 128),
)

EARLY = {
    ("Hopper-v5", "ppo_clip", "KLip-PPO"): (424, 1304),
    ("Hopper-v5", "ppo_kl", "KLip-PPO"): (616, 1694),
    ("Hopper-v5", "trpo", "OpenAI baselines"): (1062, 1644),
    ("HalfCheetah-v5", "ppo_clip", "KLip-PPO"): (-4, 900),
    ("HalfCheetah-v5", "ppo_kl", "KLip-PPO"): (51, 923),
    ("HalfCheetah-v5", "trpo", "OpenAI baselines"): (-310, 182),
    ("Walker2d-v5", "ppo_clip", "KLip-PPO"): (344, 686),
}
"""Training returns at 100,000 and 200,000 steps."""


def published() -> list[Published]:
    """Return every published number, at the end of training and early in it."""
    final = [
        Published(env, algo, source, *numbers)
        for (algo, source), row in SOURCES.items()
        for env, numbers in zip(MUJOCO, row, strict=True)
        if numbers is not None
    ]
    early = [
        Published(env, algo, f"{source}, at {steps // 1000}k steps", value, 0.0, steps)
        for (env, algo, source), values in EARLY.items()
        for steps, value in zip((100_000, 200_000), values, strict=True)
    ]
    return [*sorted([*final, *CLASSIC], key=lambda entry: entry.env), *early]
