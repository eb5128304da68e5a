"""`rlkl export`: write a trained policy as an ONNX file."""

import os
from argparse import Namespace
from functools import partial

from rlkl.cli.flags import Flag, RunCommand, new_file, open_run
from rlkl.tools.export import OPSET, export_onnx
from rlkl.training.checkpoint import folder_of
from rlkl.utils.errors import ConfigError

COMMAND = RunCommand(
    "export",
    "Writes a trained policy as an ONNX model from raw observations to the parameters of the\n"
    "action distribution and the deterministic action, and compares it with the policy in ONNX\n"
    "Runtime (extra: export). The normalizer is part of the model.",
    {
        "rlkl export RUN_DIR": "RUN_DIR/last.onnx",
        "rlkl export RUN_DIR --checkpoint best --output FILE.onnx": "the best policy",
    },
    (
        Flag("--output", "FILE.onnx", "a new file; by default in the run's folder",
             partial(new_file, suffixes=(".onnx",))),
    ),
)  # fmt: skip


def _export(given: Namespace) -> None:
    run = open_run(given, with_environment=False)
    path = given.output or folder_of(given.run_dir) / f"{given.checkpoint}.onnx"
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists already and is not overwritten; name another --output")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{path.parent} is not writable; name another --output")
    exported = export_onnx(run.policy)
    for heading, values in (("input", exported.inputs), ("output", exported.outputs)):
        for name, shape in values.items():
            print(f"{heading:<6}  {name}: {shape}")
    for part, (start, stop) in exported.columns.items():
        print(f"vector  columns {start} to {stop - 1}: {part or 'the observation'}")
    print(
        f"opset {OPSET}; largest difference from the policy on {exported.num_observations} random "
        f"observations: {exported.difference:.3g} in parameters, "
        f"{exported.action_difference:.3g} in actions"
    )
    with path.open("xb") as file:
        file.write(exported.model)
    print(path)


help_text, main = COMMAND.help_text, partial(COMMAND.run, _export)
