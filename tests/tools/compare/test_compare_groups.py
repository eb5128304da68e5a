"""Groups of runs and their labels."""

import itertools
from pathlib import Path

from comparisons import grouped, read
from made_runs import make_run

from rlkl.tools.compare import groups
from rlkl.tools.rows import distinct, select


def labels(*folders: Path) -> dict[str, str]:
    found = groups.group_runs([read(folder) for folder in folders])
    return {member.run.folder.name: member.label for member in found}


def test_runs_that_differ_only_in_seed_are_grouped(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", [1.0], seed=0)
    second = make_run(
        tmp_path / "b",
        [1.0] * 5,
        seed=1,
        settings={"threads": 2, "device": "cuda", "policy.engine": "torch"},
    )
    assert set(labels(first, second).values()) == {"ppo_clip"}


def test_label_shows_what_distinguishes_the_group(tmp_path: Path) -> None:
    swept = [
        make_run(tmp_path / f"clip{x}", [1.0], settings={"algo.clip_ratio": x})
        for x in (0.1, 0.2, 0.3)
    ]
    trpo = make_run(tmp_path / "trpo", [1.0], algo="trpo")
    assert labels(*swept, trpo) == {
        "clip0.1": "ppo_clip clip_ratio=0.1",
        "clip0.2": "ppo_clip clip_ratio=0.2",
        "clip0.3": "ppo_clip clip_ratio=0.3",
        "trpo": "trpo",
    }


def test_different_common_settings_appear_in_all_labels(tmp_path: Path) -> None:
    small = make_run(tmp_path / "small", [1.0])
    large = make_run(tmp_path / "large", [1.0], algo="trpo", settings={"rollout_steps": 2048})
    assert labels(small, large) == {
        "small": "ppo_clip rollout_steps=128",
        "large": "trpo rollout_steps=2048",
    }


def test_labels_omit_defaults_of_partly_varying_settings(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", [1.0])
    other = make_run(tmp_path / "other", [1.0], env="Acrobot-v1")
    gru = make_run(tmp_path / "gru", [1.0], settings={"policy.memory": "gru"})
    assert labels(plain, other, gru) == {
        "plain": "ppo_clip",
        "other": "ppo_clip",
        "gru": "ppo_clip memory=gru",
    }


def test_missing_key_of_older_config_has_default(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", [1.0])
    gru = make_run(tmp_path / "gru", [1.0], settings={"policy.memory": "gru"})
    older = make_run(tmp_path / "older", [1.0], seed=1)
    text = (older / "config.yaml").read_text()
    (older / "config.yaml").write_text(text.replace("  memory: none\n", ""))
    found = labels(plain, gru, older)
    assert found["older"] == found["plain"] == "ppo_clip memory=none"


def test_label_has_the_fewest_sufficient_keys(tmp_path: Path) -> None:
    folders = [
        make_run(
            tmp_path / f"{rate}-{clip}", [1.0],
            # The epochs depend on the rate, so they distinguish nothing more.
            settings={"algo.learning_rate": rate, "algo.clip_ratio": clip,
                      "algo.num_epochs": 5 if rate == 0.1 else 6},
        )
        for rate in (0.1, 0.01) for clip in (0.1, 0.3)
    ]  # fmt: skip
    assert labels(*folders) == {
        f"{rate}-{clip}": f"ppo_clip learning_rate={rate} clip_ratio={clip}"
        for rate in (0.1, 0.01)
        for clip in (0.1, 0.3)
    }


def test_groups_that_need_many_keys_stay_separate(tmp_path: Path) -> None:
    keys = ["gamma", "gae_lambda", "rollout_steps", "critic.learning_rate", "critic.num_epochs"]
    folders = [make_run(tmp_path / "plain", [1.0])]
    folders += [make_run(tmp_path / key, [1.0], settings={key: 1}) for key in keys]
    found = labels(*folders)
    assert found == {"plain": "ppo_clip"} | {
        key: f"ppo_clip {key.removeprefix('policy.')}=1" for key in keys
    }
    # Also with another algorithm, and a key of one algorithm.
    folders.append(make_run(tmp_path / "clip", [1.0], settings={"algo.clip_ratio": 0.5}))
    folders.append(make_run(tmp_path / "trpo", [1.0], algo="trpo", settings={"gamma": 1}))
    assert labels(*folders) == found | {"clip": "ppo_clip clip_ratio=0.5", "trpo": "trpo gamma=1"}


def test_brief_labels_omit_the_most_common_value(
    tmp_path: Path,
) -> None:
    base = {"gamma": 0.5, "gae_lambda": 0.5, "rollout_steps": 64, "clip_rewards": True}
    folders = [make_run(tmp_path / "base", [1.0], settings=base)]
    for key in base:
        settings = {k: v for k, v in base.items() if k != key}
        folders.append(make_run(tmp_path / key, [1.0], settings=settings))
    assert labels(*folders) == {
        "base": "ppo_clip",
        "gamma": "ppo_clip gamma=0.99",
        "gae_lambda": "ppo_clip gae_lambda=0.95",
        "rollout_steps": "ppo_clip rollout_steps=128",
        "clip_rewards": "ppo_clip clip_rewards=null",
    }


def test_brief_labels_omit_defaults_if_equally_common(
    tmp_path: Path,
) -> None:
    values = {"algo.clip_ratio": 0.1, "algo.learning_rate": 1e-4, "gamma": 0.5, "gae_lambda": 0.5}
    folders = [
        make_run(tmp_path / "-".join(some), [1.0], settings={key: values[key] for key in some})
        for count in range(5)
        for some in itertools.combinations(values, count)
        if some
    ]
    found = labels(make_run(tmp_path / "plain", [1.0]), *folders)
    assert len(set(found.values())) == 16
    assert found["plain"] == "ppo_clip"
    assert found["gamma"] == "ppo_clip gamma=0.5"
    assert found["algo.clip_ratio-gamma"] == "ppo_clip clip_ratio=0.1 gamma=0.5"


def test_different_arguments_make_another_environment(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", [1.0])
    heavy = make_run(tmp_path / "heavy", [1.0], settings={"env.kwargs": {"gravity": 20.0}})
    found = groups.group_runs([read(plain), read(heavy)])
    assert [member.env for member in found] == ["CartPole-v1", "CartPole-v1 (gravity=20)"]
    assert [member.env for member in groups.group_runs([read(heavy)])] == ["CartPole-v1"]


def test_different_settings_are_listed_by_group(tmp_path: Path) -> None:
    for env in ("CartPole-v1", "Acrobot-v1"):
        make_run(tmp_path / env / "a", [1.0], env=env)
        rate = {"algo.learning_rate": 0.1}
        make_run(tmp_path / env / "b", [1.0], env=env, algo="vanilla_pg", settings=rate)
        make_run(tmp_path / env / "c", [1.0], env=env, algo="trpo")
    rows = groups.differences(grouped(tmp_path))
    (rate_row,) = select(rows, key="algo.learning_rate")
    assert rate_row == {
        "key": "algo.learning_rate", "environments": "Acrobot-v1, CartPole-v1",
        "vanilla_pg": "0.1", "ppo_clip": "0.0007", "trpo": "–",
    }  # fmt: skip
    assert "algo.max_kl" not in distinct(rows, "key")  # only one algorithm has it


def test_labels_are_sorted_by_their_numbers(tmp_path: Path) -> None:
    for ratio in (10.0, 3.0, 0.3, 1e-05):
        make_run(tmp_path / str(ratio), [1.0, 2], settings={"algo.clip_ratio": ratio})
    labels = [member.label for member in grouped(tmp_path)]
    assert [float(label.split("=")[1]) for label in labels] == [1e-05, 0.3, 3.0, 10.0]
