"""The benchmark's tables of literal results."""

from dataclasses import replace

from measurements import measured

from rlkl.tools.bench.clock import PHASES
from rlkl.tools.bench.compare import Result
from rlkl.tools.bench.tables import markdown
from rlkl.tools.bench.work import BenchConfig, Case


def results_of_a_work() -> list[Result]:
    phases = dict(zip(PHASES, (5.0, 1.0, 3.0, 0.5, 0.5), strict=True))
    own = measured(10.0, phases=phases, rollout_megabytes=0.5)
    return [
        Result(Case("rlkl", 8, "ppo_clip"), [own, replace(own, seconds=5.0)]),
        Result(Case("sb3", 8, "ppo_clip"), [measured(5.0), measured(4.0)]),
        Result(Case("skrl", 8, "ppo_clip"), [measured(2.0), measured(2.0)]),
        Result(Case("tianshou", 8, "ppo_clip"), error="KeyError: 'x'"),
        Result(Case("upper_bound", 8), [measured(40.0), measured(40.0)]),
    ]


MARKDOWN = """\
### ppo_cartpole

What it is.

|  | envs | steps/s | rlkl ppo_clip / this | of the upper bound | start-up s | peak MB |
| --- | --: | --: | --: | --: | --: | --: |
| rlkl ppo_clip | 8 | 15 [10, 20] |  | 38% | 2.0 | 210 |
| sb3 ppo_clip | 8 | 4 [4, 5] | 3.50 [2.00, 5.00] | 11% | 2.0 | 210 |
| skrl ppo_clip | 8 | 2 [2, 2] | 7.50 [5.00, 10.00] | 5% | 2.0 | 210 |
| tianshou ppo_clip | 8 | failed: KeyError: 'x' |  |  |  |  |
| upper_bound | 8 | 40 [40, 40] | 0.38 [0.25, 0.50] | 100% | 2.0 | 210 |

|  | envs | iteration ms | collect | prepare | update | report | log | rollout MB | training adds MB |
| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |
| rlkl ppo_clip | 8 | 750.0 | 500.0 (67%) | 100.0 (13%) | 300.0 (40%) | 50.0 (7%) | 50.0 (7%) | 0.50 | 10.0 |

- rlkl ppo_clip makes 3.50 [2.00, 5.00] times the steps per second of sb3 ppo_clip, the fastest peer.
- tianshou ppo_clip × 8 failed: KeyError: 'x'
- Left out: rsl_rl: no.
"""  # noqa: E501


def test_markdown_of_literal_results() -> None:
    config = BenchConfig(work="ppo_cartpole")
    assert markdown(config, "What it is.", results_of_a_work(), ["rsl_rl: no"]) == MARKDOWN
