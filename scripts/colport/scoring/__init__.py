"""From embeddings to a retrieval record: stored forms, ranking, metrics, statistics."""
