"""Quantization: integer variants of an exported float folder, streamed tensor by tensor."""

from __future__ import annotations
