"""Vectors of ``colport encode`` in Qdrant, whose MAX_SIM is exact without an index.

colport encode exported/colpali reports/ -o documents.safetensors
colport encode exported/colpali queries.txt --queries -o queries.safetensors
python examples/databases/in_qdrant.py documents.safetensors queries.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

from qdrant_client import QdrantClient, models

from colport.scoring.store import EmbeddingSet, read_embeddings


def fill(client: QdrantClient, name: str, documents: EmbeddingSet) -> None:
    """Make a collection of documents; the payload of each is its id."""
    multi = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    vectors = models.VectorParams(
        size=documents.dim,
        distance=models.Distance.DOT,  # as MaxSim has it; of vectors of length 1 also the cosine
        multivector_config=multi,
        hnsw_config=models.HnswConfigDiff(m=0),  # no index: every document is compared
    )
    client.create_collection(name, vectors_config=vectors)
    points = (
        models.PointStruct(id=number, vector=tokens.tolist(), payload={"id": document})
        for number, (document, tokens) in enumerate(zip(documents.ids, documents, strict=True))
    )
    client.upload_points(name, points, wait=True)


def search(client: QdrantClient, name: str, query, best: int = 10) -> list[tuple[str, float]]:
    """Ids and scores of the documents that match ``[tokens, dim]`` of a query best."""
    found = client.query_points(name, query=query.tolist(), limit=best)
    return [(point.payload["id"], point.score) for point in found.points]


if __name__ == "__main__":
    documents, queries = (read_embeddings(Path(file)) for file in sys.argv[1:3])
    database = QdrantClient(":memory:")  # or url="http://localhost:6333"
    fill(database, "documents", documents)
    for query, tokens in zip(queries.ids, queries, strict=True):
        print(query)
        for document, score in search(database, "documents", tokens):
            print(f"  {score:8.4f}  {document}")
