"""`rlkl package`: make a folder with a trained policy to hand on."""

from argparse import Namespace
from functools import partial

from rlkl.cli.flags import Flag, RunCommand, choice, open_run, whole_number
from rlkl.tools.packaging import check_output, package_run
from rlkl.training.checkpoint import folder_of

COMMAND = RunCommand(
    "package",
    "Makes a folder with a trained policy to hand on: weights as safetensors, settings, an ONNX\n"
    "model and a model card with scores (extras: safetensors, export). rlkl evaluate, rlkl watch\n"
    "and rlkl.load_policy take the folder in place of a run's. Nothing in it is a pickle.",
    {
        "rlkl package RUN_DIR": "RUN_DIR/package, with the returns of 100 episodes",
        "rlkl package RUN_DIR --checkpoint best --output DIR": "the best policy, elsewhere",
        "rlkl package RUN_DIR --onnx no --episodes 0": "without the ONNX model and without scores",
        "rlkl package RUN_DIR env.id=my_package:make_env": "a run on your own callable",
    },
    (
        Flag("--output", "DIR", "a new folder; by default package in the run's folder"),
        Flag("--episodes", "N", "for the scores, with each kind of action (100); 0 for none",
             partial(whole_number, at_most=10**6), 100),
        Flag("--seed", "N", "of environments and actions (0)", whole_number, 0),
        Flag("--onnx", "yes|no", "whether to write policy.onnx (yes; extra: export)",
             partial(choice, choices=("yes", "no")), "yes"),
    ),
    ("env.id",),
)  # fmt: skip


def _package(given: Namespace) -> None:
    with_onnx = given.onnx == "yes"
    path = check_output(given.run_dir, given.output, onnx=with_onnx)
    run = open_run(given)
    package_run(run, folder_of(given.run_dir), path, given.episodes, given.seed, onnx=with_onnx)
    for file in sorted(path.iterdir()):
        print(f"{file.name:<20}  {file.stat().st_size:>10,} bytes")
    print(path)


help_text, main = COMMAND.help_text, partial(COMMAND.run, _package)
