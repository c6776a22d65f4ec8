"""An exported page model against its own library: what every family is held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from colport import Encoder
from colport.export.folder import export
from colport.families import registry
from tests import page_models

TOLERANCE = 1e-4
LEAST_COSINE = 0.99999

SHAPES = [
    (60, 85),
    (85, 60),
    (1, 1),
    (28, 28),
    (200, 1),
    (1, 200),
    (1400, 7),
    (290, 50),
    (640, 480),
]
QUERIES = [
    *("a red pie chart", "", " spaces\tand\nlines ", "ünïcode: 图表 🙂", "{text} and more"),
    "Which page shows a blue table, a green line chart and a photo of something orange?",
]


def check_end_to_end(family: str, checkpoint: Path, output: Path) -> Encoder:
    """Export a checkpoint; queries and pages of all shapes, alone and together, are the library's.

    Returns:
        The encoder of the exported folder.
    """
    assert registry.detect(checkpoint).name == family
    export(checkpoint, output)
    encoder, reference = Encoder(output), registry.get(family).reference(checkpoint, "cpu")
    pages = [page_models.page(*shape) for shape in SHAPES]
    for expected, batches in (
        (reference.encode_queries(QUERIES, 2), lambda size: encoder.encode_queries(QUERIES, size)),
        (reference.encode_documents(pages, 2), lambda size: encoder.encode_documents(pages, size)),
    ):
        for size in (1, len(expected)):
            check_equal(batches(size), expected)
    return encoder


def check_library(encoder: Encoder, model: Any, processor: Any) -> None:
    """Embeddings are those of the library's own model and processor, without our reference."""
    pages = [page_models.page(*shape) for shape in SHAPES]
    for features, found in (
        (processor.process_images(pages), encoder.encode_documents(pages)),
        (processor.process_queries(QUERIES), encoder.encode_queries(QUERIES)),
    ):
        with torch.inference_mode():
            rows = model(**features)
        if rows.dim() == 2:  # one vector an input
            expected = [row[None].numpy() for row in rows]
        else:
            kept = features["attention_mask"].bool()
            expected = [row[keep].numpy() for row, keep in zip(rows, kept, strict=True)]
        check_equal(found, expected)


def check_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Embeddings are equal within :data:`TOLERANCE`, and point the same way."""
    assert page_models.largest_difference(found, expected) < TOLERANCE
    cosines = [(one * other).sum(axis=1) for one, other in zip(found, expected, strict=True)]
    assert np.concatenate(cosines).min() > LEAST_COSINE
