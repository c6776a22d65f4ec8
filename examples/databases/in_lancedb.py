"""Vectors of ``colport encode`` in LanceDB, which ranks multi-vectors by their cosines.

colport encode exported/colpali reports/ -o documents.safetensors
colport encode exported/colpali queries.txt --queries -o queries.safetensors
python examples/databases/in_lancedb.py documents.safetensors queries.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa

from colport.scoring.store import EmbeddingSet, read_embeddings


def fill(database: lancedb.DBConnection, name: str, documents: EmbeddingSet) -> lancedb.table.Table:
    """Make a table with a row a document."""
    vectors = pa.list_(pa.list_(pa.float32(), documents.dim))
    schema = pa.schema([pa.field("id", pa.string()), pa.field("vector", vectors)])
    rows = [
        {"id": document, "vector": tokens.astype(np.float32).tolist()}
        for document, tokens in zip(documents.ids, documents, strict=True)
    ]
    return database.create_table(name, rows, schema=schema)


def search(
    table: lancedb.table.Table, query: np.ndarray, best: int = 10
) -> list[tuple[str, float]]:
    """Ids and scores of the documents that match ``[tokens, dim]`` of a query best."""
    found = table.search(query.astype(np.float32)).distance_type("cosine").limit(best).to_list()
    # The distance is the sum of 1 - cosine over the query's tokens.
    return [(row["id"], len(query) - row["_distance"]) for row in found]


if __name__ == "__main__":
    documents, queries = (read_embeddings(Path(file)) for file in sys.argv[1:3])
    table = fill(lancedb.connect("vectors.lance"), "documents", documents)
    for query, tokens in zip(queries.ids, queries, strict=True):
        print(query)
        for document, score in search(table, tokens):
            print(f"  {score:8.4f}  {document}")
