"""The corpus benchmark writes, scores and removes real shards."""

from __future__ import annotations

import pytest

from benchmarks import corpus
from colport.base.errors import ArtifactError

SMALL = corpus.Shape(queries=3, query_tokens=4, page_tokens=6, dim=8, shard_documents=4)


def test_corpora_are_scored_in_shards_and_removed(tmp_path):
    lines = []
    record = corpus.run([3, 9], tmp_path, lines.append, SMALL)
    assert [row["pages"] for row in record["rows"]] == [3, 9]
    for row in record["rows"]:
        assert row["disk_gb"] * 1e9 > row["pages"] * 6 * 8 * 2
        assert row["ms_a_page"] == pytest.approx(1e3 * row["seconds"] / row["pages"])
        assert 20 < row["peak_anonymous_mb"] <= row["peak_rss_mb"]
    assert len(lines) == 2
    assert list(tmp_path.iterdir()) == []
    table = corpus.markdown(record)
    assert "3 queries of 4\ntokens against pages of 6 tokens, 8 dimensions" in table
    assert "| 1,000,000 | " in table


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
