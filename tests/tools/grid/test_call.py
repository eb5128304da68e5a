"""The folder of a call: status of jobs, configs and stop requests."""

from dataclasses import asdict
from pathlib import Path

import rlkl
from rlkl.tools.grid.call import Status, new_call


def test_calls_have_separate_folders_and_stop_requests(tmp_path: Path) -> None:
    call, other = new_call(tmp_path / "grid"), new_call(tmp_path / "grid")
    assert call.folder != other.folder
    assert call.status("trpo-seed0") == Status("waiting")
    call.write_status("trpo-seed0", Status("failed", "a reason"))
    assert call.status("trpo-seed0") == Status("failed", "a reason")
    config = rlkl.TrainConfig(algo=rlkl.TRPOConfig(max_kl=1 / 3), gamma=0.1, run_dir="here")
    call.write("trpo-seed0", asdict(config))
    assert call.config("trpo-seed0") == config
    assert [call.stop_requests(), other.stop_requests()] == [0, 0]
    for expected in (1, 2, 3, 3):
        call.request_stop()
        assert call.stop_requests() == expected
    assert other.stop_requests() == 0
