"""`python -m rlkl.tools.bench.measure`: makes one measurement and prints it as a JSON line."""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict

from rlkl.tools.bench.contestants import measure
from rlkl.tools.bench.work import BenchConfig, Entry


def main() -> None:
    """Measure what the only argument, a JSON object, describes."""
    request = json.loads(sys.argv[1])
    config, entry = BenchConfig(**request["config"]), Entry(**request["entry"])
    with redirect_stdout(sys.stderr):  # some peers print
        measurement = measure(config, entry, request["launched"])
    print(json.dumps(asdict(measurement)))


if __name__ == "__main__":
    main()
