"""The export benchmark measures real exports of random checkpoints."""

from pathlib import Path

import pytest

from benchmarks import export, random_checkpoints
from colport.base.errors import ConfigError
from tests.conftest import RESOURCES


def test_a_random_checkpoint_is_exported_and_removed(tmp_path):
    lines = []
    record = export.run(
        ["colpali-10M"], ["fp32", "int8"], RESOURCES / "checkpoints", tmp_path, lines.append
    )
    full, eighth = record["rows"]
    assert full["parameters"] == eighth["parameters"] > 7_000_000
    assert full["folder_gb"] * 1e9 == pytest.approx(4 * full["parameters"], rel=0.03)
    for row, size in ((full, 4), (eighth, 1)):
        beyond = row["folder_gb"] * 1e9 / (size * row["parameters"]) - 1
        assert row["overhead_percent"] == pytest.approx(100 * beyond)
    assert eighth["folder_gb"] * 1e9 == pytest.approx(1.118 * full["parameters"], rel=0.01)
    assert len(lines) == 2
    assert list(tmp_path.iterdir()) == []
    assert "| colpali-10M | 8 M | fp32 |" in export.markdown(record)


def test_the_precision_is_that_of_the_variant(tmp_path, monkeypatch):
    asked, parameters = [], 1000

    def written(source, output, precision):
        asked.append((source.name, output.name, precision))
        output.mkdir()
        (output / "graph").write_bytes(bytes(2 * parameters))
        return 1.0

    (tmp_path / "checkpoint").mkdir()
    monkeypatch.setattr(export, "_export", written)
    assert export._measured(tmp_path, "fp16", parameters)["overhead_percent"] == 0
    assert asked == [("checkpoint", "fp16", "fp16")]
    monkeypatch.setattr(
        "colport.export.folder.export", lambda *given, **named: asked.append((*given, named))
    )
    export.write_variant("checkpoint", "fp16", "fp16")
    assert asked[1:] == [(Path("checkpoint"), Path("fp16"), {"precision": "fp16"})]


def test_an_unknown_size_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="size: 'colpali-9T' is unknown; allowed are colpali-3B"):
        random_checkpoints.write("colpali-9T", RESOURCES, tmp_path)
