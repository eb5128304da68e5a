"""Random streams depend only on the seed and their name."""

import torch

from rlkl.utils.seeding import RandomStreams


def draw(seed: int, name: str) -> list[float]:
    return torch.rand(4, generator=RandomStreams(seed).torch(name)).tolist()


def test_streams_do_not_affect_each_other() -> None:
    streams = RandomStreams(1)
    torch.rand(100, generator=streams.torch("other"))
    assert torch.rand(4, generator=streams.torch("mine")).tolist() == draw(1, "mine")


def test_names_and_seeds_give_different_streams() -> None:
    drawn = {tuple(draw(seed, name)) for seed in range(5) for name in ("a", "b", "ab")}
    assert len(drawn) == 15


def test_neighbouring_seeds_share_no_environment_seed() -> None:
    numbers = [n for seed in range(50) for n in RandomStreams(seed).integers("envs", 16)]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 2**31 for number in numbers)


def test_shorter_stream_is_a_prefix() -> None:
    assert RandomStreams(3).integers("envs", 16)[:4] == RandomStreams(3).integers("envs", 4)
