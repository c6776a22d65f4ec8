"""The embedder of a variant's folder, whoever wrote it: ours or a peer's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colport.errors import PeerError
from colport.families.base import Embedder
from colport.peers.catalogue import is_folder


def load(
    folder: Path | str,
    provider: str,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Embedder:
    """An exported folder or a peer's in ONNX Runtime.

    Args:
        folder: See :class:`colport.encoder.Encoder` and :mod:`colport.peers.clients`.
        provider: Name of an execution provider.
        threads: Threads within an operator; ONNX Runtime's own choice when ``None``.
        options: Provider options; peers run with the defaults.

    Raises:
        ArtifactError: The folder is not whole.
        UnsupportedError: The provider is not on this machine, or there is nothing to run.
    """
    if is_folder(folder):
        from colport.peers.clients import load as load_peer

        return load_peer(folder, provider, threads)
    from colport.encoder import Encoder

    return Encoder(folder, provider, threads, options)


def usable_batch(embedder: Embedder, dataset: Any, batch_size: int) -> tuple[int, str]:
    """The batch size that a dataset is embedded with, and why if it is another than asked for.

    Graphs of peers may run single inputs only; their users would do that. How the graph does at
    other sizes is what parity and latency say.
    """
    if digest(embedder) is not None:
        return batch_size, ""
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
