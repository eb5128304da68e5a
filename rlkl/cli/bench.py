"""`rlkl bench`: checks the command line, then measures each work."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import packages_distributions, version

from rlkl.cli.compose_tools import load_works
from rlkl.cli.schema import options
from rlkl.cli.text import check_no_flags, help_page, wide_console
from rlkl.tools.bench.compare import interleave, run_in_process
from rlkl.tools.bench.tables import failures, markdown, show
from rlkl.tools.bench.work import PEERS, BenchConfig, Case, cases_of
from rlkl.training.summary import hardware
from rlkl.utils.lines import paragraph
from rlkl.version import __version__

EXAMPLES = {
    "rlkl bench": "PPO on CartPole, all installed peers",
    "rlkl bench work=ppo_halfcheetah_8 'peers=[sb3,skrl]' repetitions=3": "two peers, three times",
    "rlkl bench work=scale 'num_envs=[1,64]' 'peers=[]'": "rlkl and the environments, no peers",
    "rlkl bench work=gpu output=gpu": "rlkl on a GPU; add device=cpu for a CPU",
    "rlkl bench work=all output=results": "write results.md and results.json",
}

KEYS = {
    "work=NAME": "one of the above, a list of them, all (without gpu_...), or gpu (all gpu_...)",
    "peers=[NAME,...]": f"of {', '.join(PEERS)}; by default all that are installed",
    "repetitions=5": "of every measurement, each in a new process",
    "output=PATH": "write PATH.md and PATH.json, which must not exist yet",
    "env_steps=32768": "environment steps that are measured, at least ten iterations",
    "warmup_env_steps=2048": "environment steps before the measurement",
    "num_envs=[8]": "numbers of sub-environments, each measured separately",
    "env_id=ID": "the environment",
    "device=cuda": "measure rlkl alone, on this device",
    "algos=[ppo_clip]": "algorithms of rlkl",
}


def help_text() -> str:
    """Return the help text."""
    described = {key.partition("=")[0] for key in KEYS}
    rest = [field.name for field in fields(BenchConfig) if field.name not in described]
    contents = {"Examples": EXAMPLES, "Works": options("bench"), "Keys": KEYS}
    others = paragraph(f"and {', '.join(rest)}", "  ", "  ")
    return "\n".join([help_page("bench [KEY=VALUE ...]", "", contents), *others])


def main(arguments: list[str]) -> int:
    """Measure and return the exit code."""
    check_no_flags("bench", arguments)
    works = [(config, *cases_of(config)) for config in load_works(arguments)]
    titles = options("bench")
    console = wide_console(130)
    pages, contents, failed = [], [], False
    for config, cases, left_out in works:
        results = interleave(
            cases,
            config.repetitions,
            partial(run_in_process, config),
            partial(print, config.work, file=sys.stderr, flush=True),
        )
        show(console, config, titles[config.work], results, left_out)
        pages.append(markdown(config, titles[config.work], results, left_out))
        measured = [asdict(result) for result in results]
        contents.append({"config": asdict(config), "results": measured})
        failed = failed or bool(failures(results))
    command = shlex.join(["rlkl", "bench", *arguments])
    machine = f"{platform.platform()}, {os.cpu_count()} CPUs"
    for device in dict.fromkeys(filter(None, (config.device for config, *_ in works))):
        machine += f", {hardware(device).get('gpu', device)}"
    versions = _versions(case for _, cases, _ in works for case in cases)
    head = [f"    {command}", f"{machine}; {', '.join(map(' '.join, versions.items()))}."]
    report = {"command": command, "machine": machine, "versions": versions, "works": contents}
    texts = ["\n\n".join([*head, *pages]), json.dumps(report, indent=1) + "\n"]
    for file, text in zip(works[0][0].files, texts, strict=False):  # without `output` no files
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    return int(failed)


def _versions(cases: Iterable[Case]) -> dict[str, str]:
    """Return the versions of rlkl, its main dependencies and the peers that are measured."""
    peers = [PEERS[case.library] for case in cases if case.library in PEERS]
    distributions = packages_distributions()
    return {"rlkl": __version__, "python": platform.python_version()} | {
        name: version(distributions[name][0]) for name in ("torch", "gymnasium", *peers)
    }
