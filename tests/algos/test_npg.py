"""NPG: TRPO's full step."""

import torch
from algorithm_checks import EVERY_KIND, updated


@EVERY_KIND
def test_npg_step_is_full_trpo_step(kind: str) -> None:
    settings = {"max_kl": 1e-3}
    assert torch.equal(updated("npg", kind, **settings), updated("trpo", kind, **settings))
