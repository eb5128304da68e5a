"""CSV files of a run: their rows, their digests, and other files as YAML and JSON."""

import hashlib
import json
import math
from pathlib import Path

import pytest

import rlkl
from rlkl.rollouts.rollout import Episode
from rlkl.training.loggers import CSVLogger, as_yaml, without_returns, write_json
from rlkl.training.report import TAGS, Report, scalars_of


def report(env_steps: int, **scalars: float) -> Report:
    values = {name.replace("_", "/", 1): value for name, value in scalars.items()}
    return Report(env_steps, scalars_of(values), {}, [Episode(env_steps - 1, 2.5, 9)])


def test_rows_are_written_at_each_iteration(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log(report(32, kl_max=0.125, return_train=-2.0))
    rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert rows[0] == ["env_steps", *TAGS]
    row = dict(zip(*rows, strict=True))
    assert (row["env_steps"], row["kl/max"], row["return/train"]) == ("32", "0.125", "-2.0")
    assert row["kl/k1"] == ""  # NaN
    assert (tmp_path / "episodes.csv").read_bytes() == b"env_steps,return,length\r\n31,2.5,9\r\n"
    logger.close("finished")


def test_reopened_files_are_continued(tmp_path: Path) -> None:
    for env_steps in (32, 64):
        logger = CSVLogger(tmp_path)
        logger.log(report(env_steps))
        logger.sync()
        logger.close("stopped")
    content = (tmp_path / "episodes.csv").read_bytes()
    assert content == b"env_steps,return,length\r\n31,2.5,9\r\n63,2.5,9\r\n"
    digest = hashlib.sha256(content.replace(b"\r", b"")).hexdigest()
    assert logger.digests()["episodes.csv"] == {"rows": 2, "sha256": digest}
    assert logger.digests()["metrics.csv"]["rows"] == 2


def test_digest_ignores_line_endings() -> None:
    assert without_returns(b"1,2\r\n") == without_returns(b"1,2\n") == b"1,2\n"


def test_json_has_null_for_nonfinite_numbers(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": math.nan, "b": -math.inf, "c": 1.5, "d": "x"})
    expected = {"a": None, "b": None, "c": 1.5, "d": "x"}
    assert json.loads((tmp_path / "a.json").read_text()) == expected


def test_yaml_keeps_the_order_and_refuses_objects() -> None:
    assert as_yaml({"b": (1, 2), "a": {"ü": None}}) == "b:\n- 1\n- 2\na:\n  ü: null\n"
    with pytest.raises(rlkl.ConfigError, match=r"^a\.b is of type object"):
        as_yaml({"a": {"b": object()}})


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(rlkl.ConfigError, match=r"logger\.histogram_interval=-1"):
        rlkl.LoggerConfig(histogram_interval=-1)
    with pytest.raises(rlkl.ConfigError, match=r"logger\.progress=liv: .*did you mean live"):
        rlkl.LoggerConfig(progress="liv")
