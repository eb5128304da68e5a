"""`rlkl export` on the command line: the file it writes and what it prints."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from rlkl.cli import export
from rlkl.tools.export import Exported


def test_file_is_named_after_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"": (0, 4), "mask": (4, 6)}
    inputs, outputs = {"vector": "[batch, 6]"}, {"action": "[batch]"}
    exported = Exported(b"a model", inputs, outputs, 2e-7, 0.0, 64, columns)
    monkeypatch.setattr(export, "open_run", lambda *_, **__: SimpleNamespace(policy=None))
    monkeypatch.setattr(export, "export_onnx", lambda trained: exported)
    assert export.main([str(tmp_path), "--checkpoint", "best"]) == 0
    assert (tmp_path / "best.onnx").read_bytes() == b"a model"
    *lines, summary, name = capsys.readouterr().out.splitlines()
    assert lines == [
        "input   vector: [batch, 6]",
        "output  action: [batch]",
        "vector  columns 0 to 3: the observation",
        "vector  columns 4 to 5: mask",
    ]
    assert summary.endswith("on 64 random observations: 2e-07 in parameters, 0 in actions")
    assert name == str(tmp_path / "best.onnx")
