"""Names that stand in records and tables and that more than one room reads."""

from __future__ import annotations

REFERENCE_VARIANT = "pytorch"
"""Variant of the rows of the checkpoint's own library."""

KINDS = ("query", "document")
"""What a model encodes; rows and samples are of one of them."""

PLURALS = {"query": "queries", "document": "documents"}
"""Kind to the argument that holds several."""

FULL = "full"
"""The embeddings as the model gives them, beside the stored forms."""

CONTROL = "-"
"""Model and provider in the rows of a dataset's controls, which have neither."""

AGREEMENT = ("agreement", "agreement_low", "agreement_high")
"""Columns of the share of PyTorch's best documents that are kept, and of its interval."""

PEER_PREFIX = "peer-"
"""Variants whose names start so are peers'."""


def is_peer(variant: str) -> bool:
    """Whether a variant of the tables is a peer's."""
    return variant.startswith(PEER_PREFIX)
