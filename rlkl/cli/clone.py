"""`rlkl clone`: fits a policy to the actions of another policy, or of a data set."""

import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from rlkl.cli.command_line import for_hydra, parse
from rlkl.cli.compose import load, overridden, typed_values
from rlkl.cli.compose_tools import read_settings
from rlkl.cli.hints import explain_unknown_key
from rlkl.cli.schema import FREE_KEYS, GROUPS, known_keys
from rlkl.cli.text import check_no_flags, help_page
from rlkl.envs.ids import check_module
from rlkl.tools.cloning.clone import CloneSummary, clone_from, open_source
from rlkl.tools.cloning.config import CloneConfig
from rlkl.tools.cloning.minari_source import MinariSource
from rlkl.training.config import TrainConfig
from rlkl.utils.errors import ConfigError
from rlkl.utils.lines import paragraph
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.streams import tell
from rlkl.utils.validation import nearest

EXAMPLES = {
    "rlkl clone RUN_DIR": "50,000 steps of the run's policy, into networks like its own",
    "rlkl clone RUN_DIR episodes=20 'policy.actor_hidden_sizes=[16]'": "a smaller network",
    "rlkl clone D4RL/pen/human-v2 normalize_observations=true": "a Minari data set",
}

KEYS = {
    "env_steps=50000": "of the data: recorded of a run, or the first episodes of a data set; by "
    "default all of a data set",
    "episodes=N": "whole episodes instead",
    "checkpoint=last": "of a run: last or best",
    "held_out=0.1": "share of the episodes that are not fitted but measured",
    "epochs=50": "largest number of passes over the others",
    "patience=5": "epochs without a lower held-out loss after which the fit ends; null for never",
    "batch_size=256": "transitions of a gradient step",
    "learning_rate=1e-3": "of Adam",
    "max_grad_norm=0.5": "clip of the gradient's norm, or null",
    "fit_critic=true": "whether to fit the critic too",
    "KEY=VALUE": "of rlkl train, for the new run: policy.*, env.*, gamma, seed, run_dir, "
    "normalize_observations, eval_episodes, ...; by default as in the run's config",
}


help_text = partial(
    help_page,
    "clone DATA [KEY=VALUE ...]",
    "Behaviour cloning: fits a new policy to actions by maximum likelihood, and its critic to the "
    "returns. DATA is a run's folder, whose policy is recorded, or the id or folder of a Minari "
    "data set (extra: minari). The result is the folder of a run: rlkl evaluate, watch and export "
    "take it, and rlkl train starts from it with init_from=FOLDER.",
    {"Examples": EXAMPLES, "Keys": KEYS},
)


def main(arguments: list[str]) -> int:
    """Clone; return the exit code."""
    check_no_flags("clone", arguments)
    data, *overrides = arguments
    if "=" in data and not Path(data).exists():
        raise ConfigError(
            f"{data}: expected a run's folder or a Minari data set first; see rlkl clone --help"
        )
    config, others = read_settings(CloneConfig, overrides)
    _check_keys(others)
    source = open_source(data, config.checkpoint)
    if isinstance(source, MinariSource):
        train = _in_data_set(source, others)
    else:
        train = overridden(source.train, [for_hydra(text) for text in others], "a clone of a run")
    summary, run_dir = clone_from(
        source, config, train, (lambda text: None) if train.logger.progress == "none" else _report
    )
    _print(summary)
    print(run_dir)
    return 0


def _report(text: str) -> None:
    print("\n".join(paragraph(for_terminal(text), others="  ")), file=sys.stderr, flush=True)


def _check_keys(overrides: list[str]) -> None:
    """Raise unless each override is one of `rlkl train`."""
    own = [field.name for field in fields(CloneConfig)]
    known = {*own, *known_keys(), *GROUPS}
    for text in overrides:
        key = parse(text).key_or_group
        if key not in known and not key.startswith(FREE_KEYS):
            problem = explain_unknown_key(key, known, f"; expected one of {', '.join(own)}")
            if hint := nearest(key, own):  # before names of other libraries
                problem = f"there is no key {key!r}{hint}"
            raise ConfigError(f"{text}: {problem}; see rlkl clone --help")


def _in_data_set(source: MinariSource, overrides: list[str]) -> TrainConfig:
    """Return the config of a run in a data set's environment, unless the overrides name another."""
    overrides = [for_hydra(text) for text in overrides]
    env = source.env
    if not {"env", "env.id", "experiment"} & set(typed_values(overrides)):
        env = source.train.env
        if note := check_module(env.id, source.folder):
            tell(note)
        overrides = [f"env.id={env.id}", *overrides]
    train = load(overrides)
    if env is None or env.id != train.env.id:
        return train
    return replace(train, env=replace(train.env, kwargs=env.kwargs | train.env.kwargs))


def _print(summary: CloneSummary) -> None:
    kept = f"policy of epoch {summary.policy_epoch}"
    if summary.critic_epoch is not None:
        kept += f", critic of epoch {summary.critic_epoch}"
    print(kept)
    for name, value in summary.results.items():
        if value is not None:
            print(f"{name:<26}  {value:.6g}")
    if summary.eval_return is not None:
        print(f"{'return/eval':<26}  {summary.eval_return:.6g}")
