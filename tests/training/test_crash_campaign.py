"""The campaign of crashes, with few of them: what is killed ends as what is left alone."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "crash_campaign.py"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["native", "shared"])
def test_run_killed_at_random_moments_has_same_bits(backend: str, tmp_path: Path) -> None:
    settings = ["total_env_steps=30000", "checkpoint.interval=3", f"env.backend={backend}"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "--kills", "8", *settings],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit-for-bit identical" in done.stdout
    assert "differs" not in done.stdout
    assert "kills=8" in done.stdout
    assert not list(tmp_path.rglob("*.partial"))
