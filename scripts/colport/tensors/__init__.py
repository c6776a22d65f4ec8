"""Weights in files: safetensors by rows, external data, edits of graphs."""
