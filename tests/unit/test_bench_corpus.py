"""The corpus benchmark writes, scores and removes real shards."""

from __future__ import annotations

import shutil

import pytest

from benchmarks import corpus
from colport.base.errors import ArtifactError

SMALL = corpus.Shape(queries=3, query_tokens=4, page_tokens=6, dim=8, shard_documents=4)


def test_corpora_are_scored_in_shards_and_removed(tmp_path):
    lines = []
    expected = {}
    for count in (3, 9):
        corpus._write(tmp_path / str(count), count, SMALL)
        files = list((tmp_path / str(count)).rglob("*.safetensors"))
        expected[count] = sum(file.stat().st_size for file in files)
        shutil.rmtree(tmp_path / str(count))
    record = corpus.run([3, 9], tmp_path, lines.append, SMALL)
    assert [row["pages"] for row in record["rows"]] == [3, 9]
    for row in record["rows"]:
        assert row["disk_gb"] == expected[row["pages"]] / 1e9
        assert row["ms_a_page"] == pytest.approx(1e3 * row["seconds"] / row["pages"])
        assert row["cpu_ms_a_page"] == pytest.approx(1e3 * row["cpu_seconds"] / row["pages"])
    assert len(lines) == 2
    assert list(tmp_path.iterdir()) == []
    table = corpus.markdown(record)
    assert "3 queries of 4\ntokens against pages of 6 tokens, 8 dimensions" in table
    assert "| 1,000,000 | " in table


def test_the_most_memory_counts(tmp_path, monkeypatch):
    readings = iter([300.0])
    monkeypatch.setattr(corpus.processes, "anonymous_mb", lambda: next(readings, 200.0))
    monkeypatch.setattr(corpus.environment, "peak_rss_mb", lambda: 400.0)
    corpus._write(tmp_path, 9, SMALL)
    found = corpus.score(str(tmp_path / "0"))
    assert (found["pages"], found["peak_anonymous_mb"], found["peak_rss_mb"]) == (9, 300, 400)


def test_cost_by_hand():
    row = corpus.cost(1_000_000, 0.0018, corpus.Shape())
    assert tuple(row) == corpus.COSTS.columns
    assert row["float16"] == pytest.approx(0.26368)
    assert row["int8"] == pytest.approx(0.1339)
    assert row["pooled-3-binary"] == pytest.approx(343 * 16 / 1e6)
    assert row["node-hours"] == pytest.approx(0.5)
    assert (row["nodes for 1 h"], row["nodes for 1 min"]) == (1, 30)


def test_a_disk_that_is_too_small_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="no space left on device"):
        corpus.run([10**12], tmp_path, print)
