"""The state of an object is that of the attributes it names."""

import torch

from rlkl.utils.state import Stateful


class Part(Stateful):
    saved = ("tensor", "number", "generator")

    def __init__(self, number: float) -> None:
        self.tensor = torch.full((2,), number)
        self.number = number
        self.generator = torch.Generator().manual_seed(int(number))


class Whole(Stateful):
    saved = ("part",)

    def __init__(self, number: float) -> None:
        self.part = Part(number)


def test_loaded_state_is_that_of_the_other() -> None:
    first, second = Whole(1.0), Whole(2.0)
    tensor, generator = second.part.tensor, second.part.generator
    second.load_state_dict(first.state_dict())
    assert tensor.tolist() == [1.0, 1.0]  # in place
    assert second.part.number == 1.0
    assert torch.rand((), generator=generator) == torch.rand((), generator=first.part.generator)


def test_state_has_the_names_of_attributes() -> None:
    state = Whole(1.0).state_dict()
    assert list(state["part"]) == ["tensor", "number", "generator"]


def test_whole_number_is_saved_and_restored() -> None:
    first, second = Part(1), Part(2)
    second.load_state_dict(first.state_dict())
    assert second.number == 1
