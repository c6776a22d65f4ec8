"""Quantization: integer variants of an exported float folder, streamed tensor by tensor."""
