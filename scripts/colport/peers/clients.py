"""Run what a peer wrote as its users would: its graphs in ONNX Runtime, its files around them.

A graph without a preprocessing of its own gets that of the checkpoint's library, so that a
difference is the graph's.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colport.base.errors import ArtifactError, PeerError, UnsupportedError
from colport.base.files import check_supported, read_json
from colport.families import registry
from colport.families.base import Embedder
from colport.families.pages.images import as_page
from colport.peers.catalogue import FILE
from colport.processes.child import one_line
from colport.providers import ProviderSettings
from colport.providers.session import open_session

_PROVIDER = "cpu"


class Client(Embedder):
    """Embeds with a peer's graphs.

    Args:
        folder: What the peer wrote.
        record: Its ``peer.json``.
        threads: Threads within an operator; ONNX Runtime's own choice when ``None``.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any], threads: int | None) -> None:
        self.graphs = {
            name: _Graph(folder / file, threads) for name, file in record["graphs"].items()
        }

    @abstractmethod
    def embed(self, kind: str, inputs: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """One batch of a ``query`` or ``document``: ``float32 [batch, tokens, dim]``, and which
        tokens are embeddings, ``bool [batch, tokens]``."""

    def _encode(self, inputs: Sequence[Any], kind: str, batch_size: int) -> list[np.ndarray]:
        embeddings: list[np.ndarray] = []
        for start in range(0, len(inputs), batch_size):
            rows, keep = self.embed(kind, list(inputs[start : start + batch_size]))
            embeddings += [row[kept] for row, kept in zip(rows, keep, strict=True)]
        return embeddings


class TokenClient(Client):
    """A text graph behind the tokens of the checkpoint's library, normalised if it is not."""

    def __init__(self, folder: Path, record: Mapping[str, Any], threads: int | None) -> None:
        super().__init__(folder, record, threads)
        self._runtime = registry.get(record["family"]).runtime(record["processing"], folder)

    def embed(self, kind: str, inputs: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Client.embed`."""
        make = self._runtime.query_batch if kind == "query" else self._runtime.document_batch
        batch = make(inputs)
        return _normalised(self.graphs["text"].run(batch.feeds)), batch.keep


class ProcessorClient(Client):
    """A text and an image graph behind the checkpoint's own processor."""

    def __init__(self, folder: Path, record: Mapping[str, Any], threads: int | None) -> None:
        super().__init__(folder, record, threads)
        family = registry.get(record["family"])
        self._processor = family.processor(Path(record["checkpoint"]))

    def embed(self, kind: str, inputs: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Client.embed`."""
        if kind == "query":
            features = self._processor.process_queries(list(inputs))
        else:
            features = self._processor.process_images([as_page(page) for page in inputs])
        feeds = {name: value.numpy() for name, value in features.items()}
        graph = self.graphs["text" if kind == "query" else "image"]
        return graph.run(feeds), feeds["attention_mask"].astype(bool)


class PylateClient(Client):
    """A graph of pylate-onnx-export, run from its published files as next-plaid's client does.

    That client (``onnx/src/lib.rs`` of lightonai/next-plaid) puts the prefix before the text,
    takes tokens as ``tokenizer.json`` gives them, cuts and pads them to a batch, and leaves out
    padding and, for documents, the words of the skiplist.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any], threads: int | None) -> None:
        from tokenizers import Tokenizer

        super().__init__(folder, record, threads)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._config = json.loads((folder / "config_sentence_transformers.json").read_text())
        ids = [self._tokenizer.token_to_id(word) for word in self._config["skiplist_words"]]
        self._skiplist = [token for token in ids if token is not None]

    def embed(self, kind: str, inputs: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Client.embed`."""
        config = self._config
        prefix, limit = config[f"{kind}_prefix"], config[f"{kind}_length"]
        rows = self._tokenizer.encode_batch([prefix + text for text in inputs])
        expands = kind == "query" and config["do_query_expansion"]
        width = limit if expands else min(limit, max(len(row.ids) for row in rows))
        filler = config["mask_token_id"] if expands else config["pad_token_id"]
        ids = np.full((len(rows), width), filler, np.int64)
        mask = np.full((len(rows), width), int(expands), np.int64)
        for index, row in enumerate(rows):
            cut = min(limit, len(row.ids))
            ids[index, :cut], mask[index, :cut] = row.ids[:cut], row.attention_mask[:cut]
        feeds = {"input_ids": ids, "attention_mask": mask}
        if config["uses_token_type_ids"]:
            feeds["token_type_ids"] = np.zeros_like(ids)
        keep = np.ones_like(mask, bool) if expands else mask.astype(bool)
        if kind == "document":
            keep &= ~np.isin(ids, self._skiplist)
        return self.graphs["text"].run(feeds), keep


CLIENTS: Mapping[str, type[Client]] = {
    "tokens": TokenClient,
    "processor": ProcessorClient,
    "pylate": PylateClient,
}
"""What :class:`colport.peers.catalogue.PeerVariant` names."""


def load(folder: Path | str, provider: str = _PROVIDER, threads: int | None = None) -> Client:
    """The client of a peer's folder.

    Raises:
        PeerError: The peer failed, or ONNX Runtime cannot load what it wrote.
        UnsupportedError: The peer cannot do such a model; or another provider than the CPU.
    """
    check_supported(folder)
    if provider != _PROVIDER:
        raise UnsupportedError(f"peers run on {_PROVIDER} only, not on {provider}.")
    record = read_json(Path(folder) / FILE)
    return CLIENTS[record["client"]](Path(folder), record, threads)


class _Graph:
    """One ONNX file in ONNX Runtime; whatever goes wrong in it is the peer's result."""

    def __init__(self, file: Path, threads: int | None) -> None:
        try:
            self._session = open_session(file, ProviderSettings.of(_PROVIDER), threads)
        except (ArtifactError, UnsupportedError) as error:
            raise PeerError(str(error)) from error
        self._inputs = [item.name for item in self._session.get_inputs()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """The first output, from those of the inputs that the graph has."""
        chosen = {name: feeds[name] for name in self._inputs if name in feeds}
        if "token_type_ids" in self._inputs:
            chosen.setdefault("token_type_ids", np.zeros_like(feeds["input_ids"]))
        try:
            return self._session.run(None, chosen)[0]
        except Exception as error:
            raise PeerError(f"ONNX Runtime, running the graph: {one_line(str(error))}") from error


def _normalised(rows: np.ndarray) -> np.ndarray:
    """Unit length along the last axis; rows that have it stay as they are, to the bit."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows if np.allclose(norms, 1, atol=1e-3) else rows / np.maximum(norms, 1e-12)
