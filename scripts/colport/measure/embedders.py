"""The embedder of a variant's folder, whoever wrote it: ours or a peer's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colport.base.errors import PeerError, UnsupportedError
from colport.families.base import BATCH_SIZE, Embedder
from colport.measure.caption_calls import CaptionCalls
from colport.peers.catalogue import is_folder
from colport.providers import ProviderSettings
from colport.runtime.remote import open_encoder

_ONE_BATCH = 4096
"""More than any latency run gives in a call."""


def load(
    folder: Path | str,
    provider: str | Mapping[str, Any],
    threads: int | None = None,
    tokens: int | None = None,
) -> Embedder | CaptionCalls:
    """An exported folder or a peer's in ONNX Runtime.

    Args:
        folder: See :class:`colport.runtime.encoder.Encoder` and :mod:`colport.peers.clients`.
        provider: A provider's type, or its entry; peers run with its defaults, in this Python.
        threads: Threads within an operator; see :class:`colport.runtime.encoder.Encoder`.
        tokens: Of a captioner, the tokens of each caption.

    Raises:
        ArtifactError: The folder is not whole.
        UnsupportedError: The provider is not on this machine, or there is nothing to run.
    """
    if tokens is not None:
        from colport.measure import captions

        captioner = captions.load(folder, provider, threads)
        return CaptionCalls(captioner, tokens, batch_size=_ONE_BATCH)
    if is_folder(folder):
        from colport.peers.clients import load as load_peer

        settings = ProviderSettings.of(provider)
        if settings.python is not None:
            raise UnsupportedError("a peer's graph is not run in another provider's environment.")
        return load_peer(folder, settings.provider.name, threads)
    return open_encoder(folder, provider, threads)


def usable_batch(
    embedder: Embedder, dataset: Any, batch_size: int | None
) -> tuple[int | None, str]:
    """The batch size that a dataset is embedded with, and why if it is another than asked for.

    Graphs of peers may run single inputs only; their users would do that. How the graph does at
    other sizes is what parity and latency say.
    """
    if digest(embedder) is not None:
        return batch_size, ""
    batch_size = batch_size or BATCH_SIZE
    try:
        embedder.encode_queries(dataset.queries[:batch_size], batch_size)
        embedder.encode_documents(dataset.documents[:batch_size], batch_size)
    except PeerError as error:
        return 1, f"embedded one by one, since in batches of {batch_size}: {error}"
    return batch_size, ""


def digest(embedder: Any) -> str | None:
    """Hex SHA-256 of an exported folder's content; none for a peer's."""
    manifest = getattr(embedder, "manifest", None)
    return None if manifest is None else manifest.digest
