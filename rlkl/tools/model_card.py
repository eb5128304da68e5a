"""The model card of a packaged policy: what it is, its scores, and how to use it."""

import json
import shlex
from dataclasses import asdict
from numbers import Real
from textwrap import indent
from typing import Any

from rlkl.algos import ALGORITHMS
from rlkl.engines.acting import TrainedPolicy
from rlkl.tools.export import Exported
from rlkl.tools.rows import markdown_table
from rlkl.training.config import AUTOMATIC_VALUES, OUTPUT_KEYS, TrainConfig, leaves
from rlkl.training.loggers import as_yaml
from rlkl.training.trained_policy import ACTIONS
from rlkl.utils.field_types import plain_data
from rlkl.utils.safe_text import for_markdown, for_terminal

COLUMNS = {
    "mean": "mean",
    "95% interval": "mean_low mean_high",
    "interquartile mean": "interquartile_mean",
    "std": "standard_deviation",
    "min": "min",
    "max": "max",
    "mean length": "mean_length",
}
"""Headings of the scores, and the statistics below each."""


def model_card(
    name: str, content: dict[str, Any], exported: Exported | None, trained: TrainedPolicy
) -> str:
    """Return the text of a package's `README.md`.

    The name is that of its folder, and the content that of its `policy.yaml`.
    """
    algo = content["config"]["algo"]["name"]
    parts = [
        f"# {_text(algo)} on {_text(content['env']['id'])}",
        _origin(algo, content),
        markdown_table(("", ""), _facts(content, trained)),
        "## Scores",
        _scores(shlex.quote(name), content),
        "## Use",
        _use(name, content, trained),
        *(["## ONNX", _onnx(exported)] if exported else []),
        "## Settings",
        "What differs from rlkl's defaults; `policy.yaml` has all settings.",
        indent(as_yaml(changed_settings(content["config"])).rstrip(), "    "),
        "## Versions",
        _versions(content),
    ]
    return "\n\n".join(parts) + "\n"


def score_cells(statistics: dict[str, Any]) -> list[str]:
    """Return the texts of a row with the COLUMNS, from `Evaluation.statistics`."""
    texts = {key: "-" if n is None else f"{n:.6g}" for key, n in statistics.items()}
    return [" to ".join(texts[key] for key in keys.split()) for keys in COLUMNS.values()]


def changed_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that differ from the defaults, by their keys."""
    name = config["algo"]["name"]
    algo = ALGORITHMS[name].config() if name in ALGORITHMS else TrainConfig().algo
    defaults = dict(leaves(plain_data(asdict(TrainConfig(algo=algo)))))
    found = {}
    for key, value in leaves(plain_data(config)):
        is_silent = key in AUTOMATIC_VALUES or key.partition(".")[0] in OUTPUT_KEYS
        if key in ("algo.name", "env.id") or (not is_silent and defaults.get(key) != value):
            found[key] = value
    return found


def _origin(algo: str, content: dict[str, Any]) -> str:
    if "policy_epoch" in content["run"]:
        return "A policy that `rlkl clone` fitted to recorded actions."
    steps, best = content["env_steps"], content["checkpoint"] == "best"
    note = ", the best one of its run" if best else ""
    return f"A policy trained by rlkl with `{_text(algo)}` for {steps:,} environment steps{note}."


def _facts(content: dict[str, Any], trained: TrainedPolicy) -> list[tuple[str, str]]:
    policy, config, run = trained.policy, trained.policy.config, content["run"]
    networks = f"actor {config.actor_hidden_sizes}, critic {config.critic_hidden_sizes}"
    if config.memory != "none":
        networks += f", {config.memory} of {config.memory_size}"
    if policy.encoder.images:
        networks += f", images by {config.image_encoder}"
    if own := config.own_networks:
        networks += f"; of the user's code: {', '.join(f'{k}={v}' for k, v in own.items())}"
    facts = {
        "environment": content["env"]["id"],
        "observations": policy.encoder.space,
        "actions": policy.decoder.space,
        "networks": f"{networks}; {policy.num_parameters:,} parameters",
        "observations normalized": "yes" if trained.normalizer else "no",
        "seed of training": content["config"]["seed"],
    }
    if isinstance(mean := run.get("return_mean"), Real):
        facts["training return"] = f"{mean:.6g} (mean of the last 100 episodes)"
    if isinstance(seconds := run.get("wall_seconds"), Real):
        facts["time of training"] = f"{seconds:,.0f} s"
    return [(key, _text(value)) for key, value in facts.items()]


def _scores(name: str, content: dict[str, Any]) -> str:
    evaluation = content.get("evaluation")
    if evaluation is None:
        return "Not evaluated: it was packaged with `--episodes 0`."
    episodes, seed = evaluation["episodes"], evaluation["seed"]
    rows = [(kind, *score_cells(evaluation[kind])) for kind in ACTIONS]
    parts = [
        f"Returns of {episodes} new episodes with each kind of action:",
        markdown_table(("actions", *COLUMNS), rows, "--:"),
    ]
    if any(evaluation[kind]["unended"] for kind in ACTIONS):
        cut = ", ".join(f"{evaluation[kind]['unended']} {kind}" for kind in ACTIONS)
        limit = f"{content['max_episode_steps']:,}"
        parts.append(f"Episodes that did not end within {limit} steps, left out above: {cut}.")
    parts += [
        "To repeat them, in the folder that contains this one:",
        f"    rlkl evaluate {name} --episodes {episodes} --seed {seed}",
        "The returns are exactly equal on the same type of processor with the versions below.\n"
        "Elsewhere, rounding may change single episodes. The interval is that of this policy's\n"
        "mean return; it does not cover other training seeds.",
    ]
    return "\n\n".join(parts)


def _use(name: str, content: dict[str, Any], trained: TrainedPolicy) -> str:
    lines = [
        "import rlkl",
        "",
        f"policy = rlkl.load_policy({json.dumps(for_terminal(name))})",
        "action = policy.act(observation)  # as env.reset() and env.step() return it",
    ]
    if trained.policy.state_size:
        lines.append("policy.reset()  # at the start of each episode: it has a memory")
    code = "\n".join(lines)
    parts = [
        "With rlkl and its extra `safetensors`. Loading runs no code of this folder and reads no\n"
        "pickle.",
        f"```python\n{code}\n```",
        f"    rlkl watch {shlex.quote(name)}",
    ]
    if own := trained.policy.config.own_networks:
        module = trained.policy.config.module or "the module that registers them"
        parts.insert(
            1,
            f"The code of the networks {_text(', '.join(own.values()))} is not in this folder.\n"
            f"Import {_text(module)} first, or add `--module NAME` to commands.",
        )
    if ":" in content["env"]["id"]:
        parts.append("The code of the environment is not in this folder.")
    return "\n\n".join(parts)


def _onnx(exported: Exported) -> str:
    rows = [
        (kind, f"`{_text(name)}`", _text(shape))
        for kind, values in (("input", exported.inputs), ("output", exported.outputs))
        for name, shape in values.items()
    ]
    parts = [
        "`policy.onnx` needs neither rlkl nor torch. It maps raw observations to the parameters\n"
        "of the action distribution and the deterministic action, normalizer included.",
        markdown_table(("", "name", "type and shape"), rows),
    ]
    if len(exported.columns) > 1:
        columns = (f"{k} {start} to {end - 1}" for k, (start, end) in exported.columns.items())
        parts.append(f"Columns of `vector`: {_text(', '.join(columns))}.")
    return "\n\n".join(parts)


def _versions(content: dict[str, Any]) -> str:
    trained = content["run"].get("versions")
    evaluated = content.get("evaluation", {}).get("versions")
    rows = [
        (what, _text(", ".join(f"{k} {v}" for k, v in found.items())))
        for what, found in (("trained with", trained), ("evaluated with", evaluated))
        if isinstance(found, dict)
    ]
    return markdown_table(("", ""), [*rows, ("packaged with", f"rlkl {content['rlkl']}")])


def _text(value: Any) -> str:
    """Return a text as one line that is safe in a table of Markdown."""
    line = for_terminal(" ".join(str(value).split()))
    return for_markdown(line).replace("|", "\\|")
