"""`import rlkl` has the names of rlkl.api, and imports them when one is used."""

import pytest

import rlkl
from rlkl import api


def test_names_are_those_of_api() -> None:
    names = {name for name in vars(api) if not name.startswith("__")} | {"__version__"}
    assert set(rlkl.__all__) == names <= set(dir(rlkl))
    assert rlkl.TrainConfig is api.TrainConfig
    assert rlkl.training.trainer.train is rlkl.train


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'rlkl' has no attribute 'trian'$"):
        rlkl.trian  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'trian'"):
        exec("from rlkl import trian")
