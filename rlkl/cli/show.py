"""`rlkl show`: checks the command line, then runs an experiment and draws its figure."""

import sys
from dataclasses import fields
from datetime import datetime
from pathlib import Path

from rich.table import Table

from rlkl.cli.compose_tools import load_experiment
from rlkl.cli.text import check_no_flags, help_page, wide_console
from rlkl.tools.experiments import EXPERIMENTS
from rlkl.tools.experiments.base import TrainingExperimentConfig
from rlkl.tools.experiments.drawing import new_figure, save
from rlkl.tools.rows import Rows, csv_text
from rlkl.training.run_folder import check_folder
from rlkl.utils.errors import ConfigError
from rlkl.utils.lines import paragraph
from rlkl.utils.validation import check_choice, check_installed

EXAMPLES = {
    "rlkl show directions": "takes a second, no training",
    "rlkl show collapse seed=1 batches=3": "other policies, fewer updates",
    "rlkl show clip env=cartpole total_env_steps=30000": "another environment",
    "rlkl show collapse checkpoint=RUN_DIR": "a policy that you trained",
    "rlkl show beta algo.learning_rate_schedule=constant": "other hyperparameters",
}


def help_text() -> str:
    """Return the help text."""
    purposes = {name: experiment.purpose for name, experiment in EXPERIMENTS.items()}
    contents = {"Examples": EXAMPLES, "Experiments": purposes}
    lines = [help_page("show EXPERIMENT [KEY=VALUE ...]", "", contents), "", "Keys"]
    lines += ["  output=DIR: for NAME.png, NAME.svg and NAME.csv, which must not exist"]
    for name, experiment in EXPERIMENTS.items():
        default = experiment.config()
        own = [
            f"{field.name}={_text(getattr(default, field.name))}"
            for field in fields(default)
            if field.name not in ("output", "train")
        ]
        known = [" ".join(own)] if own else []
        if isinstance(default, TrainingExperimentConfig):
            here = f" (here {' '.join(experiment.overrides)})" if experiment.overrides else ""
            known.append(f"and the keys of `rlkl train`{here}")
        lines += paragraph(f"{name}: {', '.join(known) or 'no other keys'}", "  ", "      ")
    return "\n".join(lines)


def _text(value: object) -> str:
    return "null" if value is None else str(value).replace(" ", "")


def main(arguments: list[str]) -> int:
    """Run an experiment and return the exit code."""
    name, *overrides = arguments
    check_choice("rlkl show", name, EXPERIMENTS)
    check_no_flags("show", overrides)
    check_installed("matplotlib", "plots", "rlkl show")
    experiment, config = EXPERIMENTS[name], load_experiment(name, overrides)
    if config.output is None:
        folder = Path("runs", "show", f"{name}-{datetime.now():%Y-%m-%d_%H-%M-%S}")
    else:
        folder = check_folder("output", config.output)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output={config.output} is a file; expected a folder or a new name")
    files = {suffix: folder / f"{name}.{suffix}" for suffix in ("csv", "png", "svg")}
    if existing := [path for path in files.values() if path.exists()]:
        raise ConfigError(f"{existing[0]} exists already; choose another output")
    rows = experiment.calculate(config, lambda text: print(text, file=sys.stderr, flush=True))
    figure = new_figure(experiment.inches)
    experiment.draw(figure, rows)
    folder.mkdir(parents=True, exist_ok=True)
    with files["csv"].open("x", encoding="utf-8", newline="") as file:
        file.write(csv_text(rows))
    save(figure, files["png"])
    save(figure, files["svg"])
    print(f"\n{name}: {experiment.purpose}\n")
    _print(experiment.tabulate(rows))
    print(f"\n{', '.join(str(path) for path in files.values())}")
    return 0


def _print(rows: Rows) -> None:
    table = Table(box=None, pad_edge=False)
    for key, value in rows[0].items():
        table.add_column(key.strip(), justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    wide_console(130).print(table)
