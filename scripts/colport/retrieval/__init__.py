"""Retrieval quality: datasets, embeddings on disk, exact MaxSim, metrics and their uncertainty."""
