"""A dataset is embedded shard by shard, and read back as one."""

from __future__ import annotations

import numpy as np
import pytest

from colport.base.errors import ArtifactError, DatasetError, InputError, UnsupportedError
from colport.base.files import write_unsupported
from colport.data.base import RetrievalDataset
from colport.scoring.embed import embed, read_documents, read_queries, shard_count


class Encoder:
    """As many tokens as the text has characters."""

    def encode_queries(self, texts, batch_size):
        return [np.full((len(text), 2), len(text), np.float32) for text in texts]

    encode_documents = encode_queries


class Documents(list):
    """Remembers which documents were asked for."""

    def __init__(self, items, asked):
        super().__init__(items)
        self.asked = asked

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if isinstance(index, slice):
            return Documents(found, self.asked)
        self.asked.append(found)
        return found


def write(folder, shard: int, shard_documents: int = 2) -> tuple[list[str], list[str]]:
    asked, lines = [], []
    documents = Documents(["a", "bb", "ccc", "dddd", "eeeee"], asked)
    names = [f"d{index}" for index in range(5)]
    embed(
        Encoder(),
        RetrievalDataset("five", ["q0", "q1"], ["a", "bb"], names, documents, {}),
        folder / str(shard),
        shard=shard,
        shard_documents=shard_documents,
        batch_size=2,
        labels={"provider": "cpu"},
        report=lines.append,
    )
    return asked, lines


def test_a_shard_reads_only_its_documents(tmp_path):
    assert shard_count(5, 2) == 3
    assert shard_count(4, 2) == 2
    asked, lines = write(tmp_path, 1)
    assert asked == ["ccc", "dddd"]
    assert [file.name for file in (tmp_path / "1").iterdir()] == ["documents.safetensors"]
    assert lines[0].startswith("embedded 2 documents of shard 2/3 in ")


def test_shards_are_read_as_one_dataset(tmp_path):
    for shard in (2, 0, 1):
        write(tmp_path, shard)
    queries, documents = read_queries(tmp_path / "0"), read_documents(tmp_path / "0")
    assert queries.ids == ("q0", "q1")
    assert queries.metadata["provider"] == "cpu"
    assert len(documents) == 3
    assert [shard.ids for shard in documents] == [("d0", "d1"), ("d2", "d3"), ("d4",)]
    assert [item.shape for shard in documents for item in shard] == [(n, 2) for n in range(1, 6)]
    with pytest.raises(IndexError):
        documents[3]


def test_one_shard_is_enough_for_a_small_dataset(tmp_path):
    asked, lines = write(tmp_path, 0, shard_documents=5)
    assert len(asked) == 5
    assert [line.split(" in ")[0] for line in lines] == [
        "embedded 2 queries",
        "embedded 5 documents",
    ]
    assert len(read_documents(tmp_path / "0")) == 1


@pytest.mark.parametrize(
    ("refused", "shard", "shard_documents", "named"),
    [("bb", 0, 5, "d1"), ("ccc", 0, 5, "d2"), ("eeeee", 0, 5, "d4"), ("dddd", 1, 2, "d3")],
)
def test_a_document_that_is_refused_is_named_in_any_batch_and_shard(
    refused, shard, shard_documents, named, monkeypatch, tmp_path
):
    def encode(self, texts, batch_size):
        if refused in texts:
            raise InputError("documents", texts.index(refused), "is refused")
        return [np.ones((1, 2), np.float32) for _ in texts]

    monkeypatch.setattr(Encoder, "encode_documents", encode)
    with pytest.raises(DatasetError, match=f"^five: {named} is refused"):
        write(tmp_path, shard, shard_documents)


def test_a_query_that_is_refused_is_named(monkeypatch, tmp_path):
    def encode(self, texts, batch_size):
        raise InputError("queries", 1, "is refused")

    monkeypatch.setattr(Encoder, "encode_queries", encode)
    with pytest.raises(DatasetError, match=r"^five: query q1 is refused"):
        write(tmp_path, 0)


def test_a_shard_of_another_cut_is_refused(tmp_path):
    for shard in (0, 1, 2):
        write(tmp_path, shard)
    write(tmp_path, 0, shard_documents=3)
    documents = read_documents(tmp_path / "0")
    assert len(documents) == 2
    with pytest.raises(ArtifactError, match=r"1/documents.safetensors: is one of 3 shards, expec"):
        list(documents)


def test_a_missing_shard_is_named(tmp_path):
    write(tmp_path, 0)
    with pytest.raises(ArtifactError, match=r"1/documents.safetensors: embeddings cannot be read"):
        list(read_documents(tmp_path / "0"))


def test_a_known_limit_is_passed_on(tmp_path):
    write_unsupported(tmp_path / "0", "no such provider")
    for read in (read_queries, read_documents):
        with pytest.raises(UnsupportedError, match="no such provider"):
            read(tmp_path / "0")
