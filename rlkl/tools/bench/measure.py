"""`python -m rlkl.tools.bench.measure`: one measurement, in its own process, as a JSON line."""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict

from rlkl.tools.bench.contestants import measure
from rlkl.tools.bench.work import BenchConfig, Entry


def main() -> None:
    """Measure what the one argument, a JSON object, describes."""
    asked = json.loads(sys.argv[1])
    # Some peers print as they go; the last line of standard output is the measurement's alone.
    with redirect_stdout(sys.stderr):
        measurement = measure(
            BenchConfig(**asked["config"]), Entry(**asked["entry"]), asked["launched"]
        )
    print(json.dumps(asdict(measurement)))


if __name__ == "__main__":
    main()
