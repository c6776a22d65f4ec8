"""Names that stand in records and tables and that more than one room reads."""

from __future__ import annotations

REFERENCE_VARIANT = "pytorch"
"""Variant of the rows of the checkpoint's own library."""

KINDS = ("query", "document")
"""What a retriever encodes; rows and samples are of one of them."""

CAPTION_KINDS = ("picture", "first_token", "caption")
"""What of a captioner is timed: its image graph, a text up to its first token, a whole text."""

CALLS = {
    "query": "encode_queries",
    "document": "encode_documents",
    "picture": "encode_pictures",
    "first_token": "first_tokens",
    "caption": "captions",
}
"""Kind to the method of a contender that is timed."""

PLURALS = {
    "query": "queries",
    "document": "documents",
    "picture": "pictures",
    "first_token": "first tokens",
    "caption": "captions",
}
"""Kind to several of it; of a retriever the arguments that hold them."""

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
