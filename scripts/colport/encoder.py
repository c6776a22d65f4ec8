"""Run an exported folder: onnxruntime, numpy, tokenizers and Pillow, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from colport import families, manifest, providers
from colport.errors import ArtifactError, UnsupportedError
from colport.families.base import Batch, Document
from colport.redaction import plain
from colport.retrieval.maxsim import maxsim


class Encoder:
    """A late-interaction retriever in ONNX Runtime.

    Its embeddings equal those of the checkpoint's own library: prompts, query expansion,
    skiplist, masking and page resizing included.

    Args:
        folder: An exported folder.
        provider: Name of an execution provider: ``cpu``, ``cuda``, ``tensorrt``, ``openvino``.
        threads: Threads within an operator; ONNX Runtime's own choice when ``None``.
        options: Provider options, over the defaults.
        share_weights: Read weights from the mapped file instead of repacking them at load: both
            graphs, and every process that serves the folder, then share its pages. ONNX Runtime
            repacks by default, which costs each graph a copy of its weights in memory and makes
            short inputs faster (benchmarks/graphs.md).

    Raises:
        ArtifactError: The folder is not a whole exported folder, or gives no embeddings.
        UnsupportedError: The provider is not on this machine.
    """

    def __init__(
        self,
        folder: Path | str,
        provider: str = "cpu",
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
        share_weights: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.manifest = manifest.read(self.folder)
        self._sessions = {
            name: _session(
                self.folder / graph.file, provider, threads, options or {}, share_weights
            )
            for name, graph in self.manifest.graphs.items()
        }
        family = families.get(self.manifest.family)
        self.document_type = family.document_type
        self._runtime = family.runtime(self.manifest.processing, self.folder)

    @property
    def dim(self) -> int:
        """Size of a token embedding."""
        return self.manifest.dim

    def encode_queries(self, queries: Sequence[str], batch_size: int = 8) -> list[np.ndarray]:
        """Token embeddings of each query.

        Args:
            queries: Texts, without the model's prompt.
            batch_size: Queries in one graph call.

        Returns:
            One ``float32 [tokens, dim]`` a query, L2-normalised.
        """
        return self._encode(queries, batch_size, self.prepare_queries)

    def encode_documents(
        self, documents: Sequence[Document], batch_size: int = 8
    ) -> list[np.ndarray]:
        """Token embeddings of each document.

        Args:
            documents: Pages as Pillow images, or passages as texts, as the model takes them.
            batch_size: Documents in one graph call.

        Returns:
            One ``float32 [tokens, dim]`` a document, L2-normalised.

        Raises:
            TypeError: Pages were given to a text model, or texts to a page model.
        """
        return self._encode(documents, batch_size, self.prepare_documents)

    def prepare_queries(self, queries: Sequence[str]) -> Batch:
        """The preprocessing of one batch of queries, as :meth:`encode_queries` does it."""
        return self._runtime.query_batch(queries)

    def prepare_documents(self, documents: Sequence[Document]) -> Batch:
        """The preprocessing of one batch of documents, as :meth:`encode_documents` does it.

        Raises:
            TypeError: Pages were given to a text model, or texts to a page model.
        """
        expected = Image.Image if self.document_type == "pages" else str
        for document in documents:
            if not isinstance(document, expected):
                raise TypeError(
                    f"{self.manifest.family} takes {self.document_type}, "
                    f"found {type(document).__name__}."
                )
        return self._runtime.document_batch(documents)

    def run(self, batch: Batch) -> np.ndarray:
        """The graph of one prepared batch.

        Returns:
            ``float32 [batch, tokens, dim]``; ``batch.keep`` says which tokens are embeddings.

        Raises:
            ArtifactError: ONNX Runtime cannot run it.
        """
        if batch.graph not in self._sessions:
            raise ArtifactError(f"{self.folder / manifest.FILE}: has no {batch.graph} graph.")
        try:
            (output,) = self._sessions[batch.graph].run(None, batch.feeds)
        except Exception as error:  # onnxruntime's classes share no public base
            raise ArtifactError(
                f"{self.folder}: the {batch.graph} graph cannot be run ({plain(error)})."
            ) from error
        return output

    def score(self, queries: Sequence[np.ndarray], documents: Sequence[np.ndarray]) -> np.ndarray:
        """MaxSim of every query with every document, ``float32 [queries, documents]``."""
        return maxsim(queries, documents)

    def _encode(self, inputs: Sequence[Any], batch_size: int, prepare: Any) -> list[np.ndarray]:
        if isinstance(inputs, str):
            raise TypeError("expected a list of inputs, found a single string.")
        embeddings: list[np.ndarray] = []
        for start in range(0, len(inputs), batch_size):
            stop = min(start + batch_size, len(inputs))
            chosen = [inputs[index] for index in range(start, stop)]
            try:
                batch = prepare(chosen)
            except (ArithmeticError, LookupError, MemoryError, ValueError) as error:
                reason = "out of memory" if isinstance(error, MemoryError) else plain(error)
                raise ArtifactError(
                    f"{self.folder / manifest.FILE}: inputs cannot be prepared by its processing "
                    f"settings ({reason})."
                ) from error
            output = self.run(batch)
            if (shape := np.shape(output))[:2] != batch.keep.shape:
                raise ArtifactError(
                    f"{self.folder}: the {batch.graph} graph gives {list(shape)}, expected an "
                    f"embedding for each of {list(batch.keep.shape)} tokens."
                )
            embeddings.extend(row[kept] for row, kept in zip(output, batch.keep, strict=True))
        return embeddings


def _session(
    file: Path,
    provider: str,
    threads: int | None,
    options: Mapping[str, Any],
    share_weights: bool,
) -> onnxruntime.InferenceSession:
    chosen = providers.require(provider)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    # Idle session threads would spin against the preprocessing of the next batch.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    if share_weights:
        settings.add_session_config_entry("session.disable_prepacking", "1")
    if threads:
        settings.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            file,
            settings,
            providers=[(chosen.execution_provider, {**chosen.options, **options})],
        )
    except Exception as error:  # onnxruntime's classes share no public base
        first = plain(error)
        if "NOT_IMPLEMENTED" in first:
            raise UnsupportedError(
                f"{chosen.execution_provider} has no kernel for an operator of {file.name} at its "
                f"precision ({first})."
            ) from error
        raise ArtifactError(f"{file}: ONNX Runtime cannot load it ({first}).") from error
    if chosen.execution_provider not in session.get_providers():
        raise UnsupportedError(
            f"{chosen.execution_provider} is installed but cannot start on this machine."
        )
    return session
