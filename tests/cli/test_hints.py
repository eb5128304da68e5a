"""Names from other libraries are answered with rlkl's keys, in messages and in docs/names.md."""

import pytest

from rlkl.cli.hints import explain_unknown_key
from rlkl.cli.schema import GROUPS, known_keys, register_schemas

register_schemas()


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("algo.ent_coef", "here it is algo.entropy_coefficient"),
        ("--ent-coef", "here it is algo.entropy_coefficient"),
        ("lr", "here it is algo.learning_rate and critic.learning_rate"),
        ("critic.lr", "here it is critic.learning_rate"),
        ("policy.learning_rate", "here it is algo.learning_rate and critic.learning_rate"),
        ("train.gamma", "here it is gamma"),
        ("use_wandb", "here it is logger.tracker, wandb, mlflow or trackio"),
        ("save_model", "rlkl has no such key: every run saves checkpoints"),
        ("algo.learning_rat", "there is no key 'algo.learning_rat' (did you mean algo.learning_r"),
        ("zzz", "there is no key 'zzz'; see --help"),
    ],
)
def test_unknown_keys_are_explained(typed: str, answer: str) -> None:
    keys = {*known_keys(), *GROUPS}
    assert explain_unknown_key(typed.lstrip("-"), keys, "; see --help").startswith(answer)
