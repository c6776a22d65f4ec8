"""Run an exported folder: onnxruntime, numpy, tokenizers and Pillow, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from colport.base.errors import ArtifactError, InputError
from colport.base.foreign import local
from colport.base.redaction import plain
from colport.families import inputs, registry
from colport.families.base import Batch, Document
from colport.folder import manifest
from colport.providers import ProviderSettings
from colport.providers.graph import Graph
from colport.providers.integers import needs_exact_kernels
from colport.providers.session import open_session, require, require_opset
from colport.providers.table import MOST_THREADS
from colport.scoring.maxsim import maxsim


class Encoder:
    """A late-interaction retriever in ONNX Runtime.

    Its embeddings equal those of the checkpoint's own library: prompts, query expansion,
    skiplist, masking and page resizing included.

    One encoder serves any number of threads: each method may be called while others run, in any
    mix, and gives what it gives alone. Where ONNX Runtime allows one call of a graph at a time
    (``cuda_graph``, DirectML), calls wait for each other.

    Args:
        folder: An exported folder; ``~`` is the user's own.
        provider: A provider's type (``cpu``, ``cuda``, ``openvino``, …), or a mapping with
            ``type`` and settings, as under ``providers`` in the config.
        threads: Threads within an operator; goes before the provider's ``threads``.
        share_weights: Read weights from the mapped file instead of repacking them at load: both
            graphs, and every process that serves the folder, then share its pages. ONNX Runtime
            repacks by default, which costs each graph a copy of its weights in memory and makes
            short inputs faster (benchmarks/graphs.md).

    Raises:
        ArtifactError: The folder is not a whole exported folder, or gives no embeddings.
        TypeError: ``folder`` is no path, ``threads`` no whole number or ``share_weights`` no truth.
        ValueError: ``threads`` is out of range.
        ConfigError: The provider is unknown, or does not have such a setting.
        UnsupportedError: The provider is not on this machine, or does not take the graphs.
    """

    def __init__(
        self,
        folder: Path | str,
        provider: str | Mapping[str, Any] = "cpu",
        threads: int | None = None,
        share_weights: bool = False,
    ) -> None:
        threads = None if threads is None else inputs.whole("threads", threads, MOST_THREADS)
        inputs.typed("share_weights", share_weights, bool | np.bool_, "True or False")
        settings = ProviderSettings.of(provider)
        settings.refuse_other_python()
        self.folder = local(inputs.typed("folder", folder, str | PathLike, "a path"))
        self.manifest = manifest.read(self.folder)
        require(settings.provider.name)
        require_opset(settings.provider, self.manifest.opset)
        exact = needs_exact_kernels(self.manifest.integer_range, settings.provider, self.folder)
        options = {"threads": threads, "share_weights": share_weights, "exact_sums": exact}
        self._graphs = {
            name: Graph(open_session(self.folder / graph.file, settings, **options), settings)
            for name, graph in self.manifest.graphs.items()
        }
        family = registry.get(self.manifest.family)
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

        Raises:
            TypeError: ``queries`` is no list of texts, or ``batch_size`` no whole number.
            ValueError: ``batch_size`` is out of range.
            InputError: A query is none that the model takes; it is a ``ValueError``, too.
        """
        return self._encode("queries", queries, batch_size)

    def encode_documents(
        self, documents: Sequence[Document], batch_size: int = 8
    ) -> list[np.ndarray]:
        """Token embeddings of each document.

        Args:
            documents: Pages as Pillow images, or passages as texts, as the model takes them. A
                page of any mode whose white is known is turned upright and laid over white; of a
                file with several images it is the one that Pillow is at.
            batch_size: Documents in one graph call.

        Returns:
            One ``float32 [tokens, dim]`` a document, L2-normalised.

        Raises:
            TypeError: ``documents`` is no list of what the model takes, or ``batch_size`` no whole
                number.
            ValueError: ``batch_size`` is out of range.
            InputError: A document is none that the model takes; it is a ``ValueError``, too.
        """
        return self._encode("documents", documents, batch_size)

    def prepare_queries(self, queries: Sequence[str]) -> Batch:
        """The preprocessing of one batch of queries, as :meth:`encode_queries` does it."""
        return self._prepared("queries", queries)

    def prepare_documents(self, documents: Sequence[Document]) -> Batch:
        """The preprocessing of one batch of documents, as :meth:`encode_documents` does it."""
        return self._prepared("documents", documents)

    def run(self, batch: Batch) -> np.ndarray:
        """The graph of one prepared batch.

        Returns:
            ``float32 [batch, tokens, dim]``; ``batch.keep`` says which tokens are embeddings.

        Raises:
            TypeError: It is no prepared batch.
            ArtifactError: ONNX Runtime cannot run it.
        """
        return self._run(batch, "run")

    def run_on_device(self, batch: Batch) -> Any:
        """:meth:`run` with its result left where it was computed.

        Returns:
            An ``onnxruntime.OrtValue`` in the provider's memory; others read it through DLPack.
        """
        return self._run(batch, "run_on_device")

    def _run(self, batch: Batch, how: str) -> Any:
        if inputs.typed("batch", batch, Batch, "a prepared Batch").graph not in self._graphs:
            raise ArtifactError(f"{self.folder / manifest.FILE}: has no {batch.graph} graph.")
        try:
            return getattr(self._graphs[batch.graph], how)(batch.feeds)
        except Exception as error:  # onnxruntime's classes share no public base
            raise ArtifactError(
                f"{self.folder}: the {batch.graph} graph cannot be run ({plain(error)})."
            ) from error

    def score(self, queries: Sequence[np.ndarray], documents: Sequence[np.ndarray]) -> np.ndarray:
        """MaxSim of every query with every document, ``float32 [queries, documents]``.

        Raises:
            TypeError: ``queries`` or ``documents`` is no list of arrays of numbers.
            ValueError: One is not ``[tokens, dim]``, or a document has no tokens.
        """
        return maxsim(queries, documents)

    def _prepared(self, argument: str, chosen: Sequence[Any], first: int = 0) -> Batch:
        is_query = argument == "queries"
        kind = "passages" if is_query else self.document_type
        taken = inputs.checked(argument, inputs.listed(argument, chosen), kind, first)
        try:
            return (self._runtime.query_batch if is_query else self._runtime.document_batch)(taken)
        except InputError as error:
            raise error.behind(first) from error
        except (ArithmeticError, LookupError, MemoryError, ValueError) as error:
            reason = "out of memory" if isinstance(error, MemoryError) else plain(error)
            raise ArtifactError(
                f"{self.folder / manifest.FILE}: inputs cannot be prepared by its processing "
                f"settings ({reason})."
            ) from error

    def _encode(self, argument: str, given: Any, batch_size: int) -> list[np.ndarray]:
        embeddings: list[np.ndarray] = []
        for first, chosen in inputs.batches(argument, given, batch_size):
            batch = self._prepared(argument, chosen, first)
            output = self.run(batch)
            if (shape := np.shape(output))[:2] != batch.keep.shape:
                raise ArtifactError(
                    f"{self.folder}: the {batch.graph} graph gives {list(shape)}, expected an "
                    f"embedding for each of {list(batch.keep.shape)} tokens."
                )
            embeddings.extend(row[kept] for row, kept in zip(output, batch.keep, strict=True))
        return embeddings
