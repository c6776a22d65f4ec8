"""What the page models' runtimes share: the tokenizer, and queries from a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from colport.families.base import Batch, Runtime
from colport.families.tokens import Tokens


class PageRuntime(Runtime):
    """Queries of a page model; documents are left to the family.

    Args:
        settings: The ``processing`` section of ``colport.json``.
        folder: The exported folder.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        self._settings = settings
        self._tokens = Tokens(
            folder / "tokenizer.json", settings["pad_id"], settings["padding_side"]
        )

    def query_batch(self, queries: Sequence[str]) -> Batch:
        """See :meth:`Runtime.query_batch`."""
        template = self._settings["query_template"]
        texts = [template.replace("{text}", query) for query in queries]
        batch = self._tokens.pad(self._tokens.encode(texts))
        feeds = {"input_ids": batch.ids, "attention_mask": batch.mask}
        return Batch("text", feeds, batch.mask.astype(bool))
