"""Settings of a comparison: defaults, bounds, thresholds by environment."""

import re
from pathlib import Path
from typing import Any

import pytest

from rlkl.tools.compare import groups
from rlkl.tools.compare.settings import CompareConfig
from rlkl.utils.errors import ConfigError


def test_docs_list_every_key_with_its_default() -> None:
    text = (Path(__file__).parents[3] / "docs" / "compare.md").read_text()
    printed = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", text, re.MULTILINE))
    defaults = {name: getattr(CompareConfig(), name) for name in CompareConfig.__dataclass_fields__}
    assert printed == {key: groups.setting_text(value) for key, value in defaults.items()}


def test_threshold_holds_for_all_or_named_environments() -> None:
    assert CompareConfig().threshold_of("Unknown-v5") is None
    assert CompareConfig(threshold=400).threshold_of("ALE/Pong-v5") == (400, "set by threshold=")
    named = CompareConfig(threshold={"ALE/Pong-v5": 20})
    assert named.threshold_of("ALE/Pong-v5") == (20, "set by threshold=")
    assert named.threshold_of("Unknown-v5") is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": True}, "threshold=True: expected a return"),
        ({"threshold": {"CartPole-v1": float("nan")}}, "expected a return"),
        ({"references": {"CartPole-v1": [1, 1]}}, "with LOW < HIGH"),
        ({"references": {"CartPole-v1": [1, 2, 3]}}, "expected two returns"),
        ({"references": {"CartPole-v1": "high"}}, "expected two returns"),
        ({"normalize": "best"}, "normalize=best: expected one of references, runs"),
        ({"resamples": 2_000_000}, "at most 1"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        CompareConfig(**settings)
