"""Random streams depend on the seed and their name, and on nothing else."""

import torch

from rlkl.utils.seeding import RandomStreams


def draw(seed: int, name: str) -> list[float]:
    return torch.rand(4, generator=RandomStreams(seed).torch(name)).tolist()


def test_a_stream_is_the_same_whatever_else_was_drawn() -> None:
    streams = RandomStreams(1)
    torch.rand(100, generator=streams.torch("other"))
    assert torch.rand(4, generator=streams.torch("mine")).tolist() == draw(1, "mine")


def test_streams_of_other_names_and_seeds_differ() -> None:
    drawn = {tuple(draw(seed, name)) for seed in range(5) for name in ("a", "b", "ab")}
    assert len(drawn) == 15


def test_environments_of_neighbouring_seeds_share_nothing() -> None:
    numbers = [n for seed in range(50) for n in RandomStreams(seed).integers("envs", 16)]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 2**31 for number in numbers)


def test_more_numbers_begin_with_the_fewer() -> None:
    assert RandomStreams(3).integers("envs", 16)[:4] == RandomStreams(3).integers("envs", 4)
