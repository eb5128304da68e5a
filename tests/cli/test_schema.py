"""The schema of the command line: options of groups, keys and their types."""

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from rlkl.cli.schema import (
    env_settings,
    known_keys,
    options,
    search_path,
    structured,
    typed_keys,
)


@dataclass(frozen=True)
class Part:
    count: int = 1
    rates: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Whole:
    part: Part = field(default_factory=Part)
    sizes: list[int] = field(default_factory=list)
    more: dict[str, int] = field(default_factory=dict)


def test_options_are_described_by_their_first_comment(tmp_path: Path) -> None:
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo" / "mine.yaml").write_text("# @package _global_\n# Ours.\n# More.\na: 1\n")
    (tmp_path / "algo" / "plain.yaml").write_text("a: 1\n")
    found = options("algo", [tmp_path])
    assert (found["mine"], found["plain"]) == ("Ours.", "")
    assert "ppo_clip" in found
    assert "mine" not in options("algo")


def test_typed_keys_mark_whole_numbers() -> None:
    assert dict(typed_keys(OmegaConf.structured(Whole))) == {
        "part.count": True, "part.rates": False, "sizes": True, "more": False,
    }  # fmt: skip


def test_frozen_dataclasses_can_be_overridden() -> None:
    settings = structured(Whole)
    settings.part.count = 5
    assert OmegaConf.to_object(settings) == Whole(Part(5))


def test_keys_of_every_algorithm_are_known() -> None:
    keys = known_keys()
    assert {"algo.clip_ratio", "algo.max_kl", "env.kwargs", "gamma"} <= set(keys)
    assert (keys["rollout_steps"], keys["gamma"], keys["policy.actor_hidden_sizes"]) == (
        True, False, True,
    )  # fmt: skip


def test_settings_of_environments_have_dotted_keys() -> None:
    assert env_settings()["cartpole"] == {"env.id": "CartPole-v1", "total_env_steps": 100_000}


def test_search_path_has_absolute_folders(tmp_path: Path) -> None:
    assert search_path([]) == "hydra.searchpath=[]"
    first, second = tmp_path / "a", tmp_path / "b"
    assert search_path([first, second]) == f"hydra.searchpath=[file://{first},file://{second}]"
