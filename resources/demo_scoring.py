"""Late-interaction scores and ranking quality, as a reference for the demo models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import load_dataset
from torch import Tensor

CUTOFF = 5

Row = dict[str, object]


def maxsim(queries: Tensor, pages: Tensor, page_mask: Tensor) -> Tensor:
    """Score every query against every page by late interaction.

    Query padding is zero and adds nothing; page padding must not win the maximum.
    """
    similarity = torch.einsum("qnd,psd->qpns", queries, pages)
    similarity = similarity.masked_fill(page_mask[None, :, None, :] == 0, -torch.inf)
    return similarity.amax(dim=3).sum(dim=2)


def ndcg(scores: Tensor, relevance: Sequence[Sequence[int]]) -> float:
    """Mean NDCG at the cutoff with linear gains."""
    discounts = 1 / torch.log2(torch.arange(CUTOFF) + 2.0)
    gains = torch.tensor(relevance, dtype=torch.float)
    found = gains.gather(1, scores.topk(CUTOFF, dim=1).indices) @ discounts
    ideal = gains.topk(CUTOFF, dim=1).values @ discounts
    return (found / ideal).mean().item()


def load_rows(folder: Path, config: str = "default") -> list[Row]:
    """Read a demo dataset as rows.

    Streaming reads the files themselves. The library's cache may still hold an older version of
    a dataset that was made anew.
    """
    return list(load_dataset(str(folder), config, split="test", streaming=True))


def load_beir(folder: Path) -> tuple[list[Row], list[Row], list[list[int]]]:
    """Load the corpus and queries of a BEIR-form dataset, and a score for each pair of them."""
    corpus, queries, qrels = (load_rows(folder, name) for name in ("corpus", "queries", "qrels"))
    judged = {(row["query-id"], row["corpus-id"]): row["score"] for row in qrels}
    relevance = [
        [judged.get((query["query-id"], document["corpus-id"]), 0) for document in corpus]
        for query in queries
    ]
    return corpus, queries, relevance
