"""Saved configs of older versions keep their meaning."""

import pytest

from rlkl.utils.config_upgrades import upgrade_config, upgrade_section


@pytest.mark.parametrize(
    ("old", "engine"), [("by_hand", "numpy"), ("autograd", "torch"), ("auto", "auto")]
)
def test_old_differentiation_becomes_the_engine(old: str, engine: str) -> None:
    upgraded = upgrade_section("policy", {"differentiation": old, "scale_actions": True})
    assert upgraded == {"engine": engine, "scale_actions": True}


def test_missing_keys_get_their_old_behaviour() -> None:
    upgraded = upgrade_config({"seed": 1, "policy": {"image_encoder": "auto"}})
    expected = {"scale_actions": False, "image_encoder": "nature_or_small"}
    assert upgraded == {"seed": 1, "policy": expected}


def test_other_sections_stay() -> None:
    assert upgrade_section("env", {"differentiation": "x"}) == {"differentiation": "x"}
