"""A corpus through the checkpoint's own library and through its exports."""

from __future__ import annotations

import pytest

from benchmarks import throughput


@pytest.mark.parametrize("family", ["colbert", "colqwen2"])
def test_every_contender_encodes_all_inputs(exported, checkpoint_folders, family, monkeypatch):
    monkeypatch.setattr(throughput, "_PAGE_SIDES", (40, 120))
    lines = []
    folders = {"fp32": exported[family]}
    record = throughput.run(checkpoint_folders[family], folders, 5, [1, 4], 1, lines.append)
    rows = {row["contender"]: row for row in record["rows"]}
    assert list(rows) == ["pytorch, batches of 1", "pytorch, batches of 4", "fp32"]
    pytorch = [rows[name]["vs_pytorch"] for name in list(rows)[:2]]
    assert max(pytorch) == 1.0  # the best of its batch sizes is the measure
    for row in rows.values():
        assert row["vs_pytorch"] == pytest.approx(
            row["inputs_a_second"] / max(rows[n]["inputs_a_second"] for n in list(rows)[:2])
        )
        assert row["of_product_rate"] > 0
    assert len(lines) == 3
    what = {"colbert": "5 passages of 10 to 500 words", "colqwen2": "5 pages of mixed shapes"}
    assert what[family] in throughput.markdown(record)


def test_pages_are_of_mixed_shapes_or_of_one_size():
    assert len({page.size for page in throughput.pages(4)}) == 4
    assert [page.size for page in throughput.pages(2, (30, 20))] == [(30, 20)] * 2


def test_lengths_of_passages_are_even_on_a_logarithmic_scale():
    class Tokenizer:
        def get_vocab(self):
            return {"word": 0, "##piece": 1, "é": 2, "other": 3, "[MASK]": 4}

    texts = throughput.passages(400, Tokenizer())
    sizes = sorted(len(text.split()) for text in texts)
    assert (sizes[0], sizes[-1]) == (10, 497)
    assert 60 <= sizes[200] <= 80  # the middle of 10 and 500
    assert {word for text in texts for word in text.split()} == {"other", "word"}
    assert throughput.passages(400, Tokenizer()) == texts
