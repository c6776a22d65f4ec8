"""The export benchmark measures real exports of random checkpoints."""

import pytest

from benchmarks import export, random_checkpoints
from colport.base.errors import ConfigError
from tests.conftest import RESOURCES


def test_a_random_checkpoint_is_exported_and_removed(tmp_path):
    lines = []
    record = export.run(
        ["colpali-10M"], ["fp16", "int8"], RESOURCES / "checkpoints", tmp_path, lines.append
    )
    half, eighth = record["rows"]
    assert half["parameters"] == eighth["parameters"] > 7_000_000
    assert half["folder_gb"] * 1e9 == pytest.approx(2 * half["parameters"], rel=0.06)
    for row, size in ((half, 2), (eighth, 1)):
        beyond = row["folder_gb"] * 1e9 / (size * row["parameters"]) - 1
        assert row["overhead_percent"] == pytest.approx(100 * beyond)
    assert eighth["folder_gb"] * 1e9 == pytest.approx(1.118 * half["parameters"], rel=0.01)
    assert len(lines) == 2
    assert list(tmp_path.iterdir()) == []
    assert "| colpali-10M | 8 M | fp16 |" in export.markdown(record)


def test_an_unknown_size_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="size: 'colpali-9T' is unknown; allowed are colpali-3B"):
        random_checkpoints.write("colpali-9T", RESOURCES, tmp_path)
