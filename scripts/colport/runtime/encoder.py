"""Run an exported folder: onnxruntime, numpy, tokenizers and Pillow, without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from colport.base.errors import ArtifactError, InputError
from colport.families import inputs
from colport.families.base import Batch, Document, DocumentType
from colport.folder import manifest
from colport.providers.graph import Graph
from colport.providers.table import MOST_THREADS
from colport.runtime import batching
from colport.runtime.opened import Opened
from colport.scoring.maxsim import maxsim

_WINDOW = {"passages": 1024, "pages": 16}
"""Inputs that are sorted by length, and held in memory, at a time."""

Progress = Callable[[int], object]
"""Called with the number of inputs that are done, whenever it has grown."""

_OneOrAll = np.ndarray | list[np.ndarray]

_Limits = tuple[int | None, int | None]
"""``batch_size`` and ``batch_tokens``."""


class Encoder(Opened):
    """A late-interaction retriever in ONNX Runtime.

    Its embeddings equal those of the checkpoint's own library: prompts, query expansion,
    skiplist, masking and page resizing included. A model that pools them to a single vector gives
    one row an input, and its scores are cosines.

    One encoder serves any number of threads: each method may be called while others run, in any
    mix, and gives what it gives alone. Where ONNX Runtime allows one call of a graph at a time
    (``cuda_graph``, DirectML), calls wait for each other.

    Args:
        folder: An exported folder; ``~`` is the user's own. Or, where there is no such folder, the
            id of a repository of the Hub that holds one, ``owner/name``: the files that its
            ``colport.json`` names are fetched into the Hub's cache, which needs huggingface_hub.
        provider: A provider's type (``cpu``, ``cuda``, ``openvino``, …), or a mapping with
            ``type`` and settings, as under ``providers`` in the config.
        threads: Threads within an operator; goes before the provider's ``threads``, and these
            before ``OMP_NUM_THREADS``. Without any, ONNX Runtime's own choice.
        share_weights: Read weights from the mapped file instead of repacking them at load: both
            graphs, and every process that serves the folder, then share its pages. ONNX Runtime
            repacks by default, which costs each graph a copy of its weights in memory and makes
            short inputs faster (benchmarks/graphs.md).
        workers: Batches of one ``encode_…`` call that run beside each other, each on its share of
            the threads. By default one for each core of a CPU, up to 16, which costs weights of up
            to a quarter of the available memory another copy, made when a call has more than one
            batch; larger ones run one batch at a time on all threads, as with 1. A service that
            encodes in threads of its own takes 1.
        revision: Commit, tag or branch of the Hub's repository, ``main`` by default. Without a
            commit, what is run may change with the repository.

    Raises:
        ArtifactError: The folder is not a whole exported folder, or gives no embeddings; or it
            cannot be fetched and is not in the Hub's cache.
        TypeError: ``folder`` is no path, ``threads`` or ``workers`` no whole number,
            ``share_weights`` no truth or ``revision`` no text.
        ValueError: ``threads`` or ``workers`` is out of range.
        ConfigError: The provider is unknown, or does not have such a setting; or ``revision`` goes
            with a folder of this machine.
        UnsupportedError: The provider is not on this machine, or does not take the graphs.
    """

    task = "retrieval"

    def __init__(
        self,
        folder: Path | str,
        provider: str | Mapping[str, Any] = "cpu",
        threads: int | None = None,
        share_weights: bool = False,
        workers: int | None = None,
        revision: str | None = None,
    ) -> None:
        workers = None if workers is None else inputs.whole("workers", workers, MOST_THREADS)
        super().__init__(folder, provider, threads, share_weights, revision)
        second_mb = 0 if share_weights else self.manifest.size_mb
        self._workers, self._share = batching.workers(self._settings, threads, workers, second_mb)
        self._beside: dict[str, Graph] = {}
        self._opening = Lock()
        self.document_type = self._family.document_type

    @property
    def dim(self) -> int:
        """Size of a vector."""
        return self.manifest.dim

    def encode_queries(
        self,
        queries: Iterable[str],
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> list[np.ndarray]:
        """Token embeddings of each query; see :meth:`encode_documents`.

        Args:
            queries: Texts, without the model's prompt.
            batch_size: Queries in one graph call.
            batch_tokens: Tokens in one graph call.
            progress: Called with the number of queries that are done.

        Returns:
            One ``float32 [tokens, dim]`` a query, L2-normalised.
        """
        return self._encode("queries", queries, (batch_size, batch_tokens), progress)

    def encode_documents(
        self,
        documents: Iterable[Document],
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> list[np.ndarray]:
        """Token embeddings of each document, in the order in which they were given.

        Documents of like lengths share a batch, and batches run beside each other. An iterable is
        read as far as that needs: 1024 passages or 16 pages at a time.

        Args:
            documents: Pages as Pillow images, or passages as texts, as the model takes them. A
                page of any mode whose white is known is turned upright and laid over white; of a
                file with several images it is the one that Pillow is at.
            batch_size: Documents in one graph call, at most. Without it and ``batch_tokens``, as
                many as run fastest.
            batch_tokens: Tokens in one graph call at most, padding included.
            progress: Called with the number of documents that are done.

        Returns:
            One ``float32 [tokens, dim]`` a document, L2-normalised.

        Raises:
            TypeError: ``documents`` gives no inputs that the model takes, ``batch_size`` or
                ``batch_tokens`` is no whole number, or ``progress`` cannot be called.
            ValueError: ``batch_size`` or ``batch_tokens`` is out of range, or a document has more
                tokens than a batch may have.
            InputError: A document is none that the model takes; it is a ``ValueError``, too.
        """
        return self._encode("documents", documents, (batch_size, batch_tokens), progress)

    def encode_query(self, query: str | Iterable[str], **options: Any) -> _OneOrAll:
        """:meth:`encode_queries` by the name that sentence-transformers gives it.

        Args:
            query: One query, or several.
            **options: Those of :meth:`encode_queries`.

        Returns:
            ``float32 [tokens, dim]`` of one query; of several, one such array each.
        """
        return _one_or_all(self.encode_queries, query, options)

    def encode_document(self, document: Document | Iterable[Document], **options: Any) -> _OneOrAll:
        """:meth:`encode_documents` by the name that sentence-transformers gives it.

        Args:
            document: One page or passage, or several.
            **options: Those of :meth:`encode_documents`.

        Returns:
            ``float32 [tokens, dim]`` of one document; of several, one such array each.
        """
        return _one_or_all(self.encode_documents, document, options)

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
        (output,) = self._run(batch, "call").values()
        return output

    def _run(self, batch: Batch, how: str, beside: bool = False) -> Any:
        if inputs.typed("batch", batch, Batch, "a prepared Batch").graph not in self._graphs:
            raise ArtifactError(f"{self.folder / manifest.FILE}: has no {batch.graph} graph.")
        graphs = self._beside if beside else self._graphs
        with self._running(batch.graph):
            return getattr(graphs[batch.graph], how)(batch.feeds)

    def score(self, queries: Sequence[np.ndarray], documents: Sequence[np.ndarray]) -> np.ndarray:
        """MaxSim of every query with every document, ``float32 [queries, documents]``.

        Of two single vectors it is their cosine.

        Raises:
            TypeError: ``queries`` or ``documents`` is no list of arrays of numbers.
            ValueError: One is not ``[tokens, dim]``, or a document has no tokens.
        """
        return maxsim(queries, documents)

    def _prepared(
        self,
        argument: str,
        chosen: Sequence[Any],
        places: Sequence[int] | None = None,
        beside: bool = False,
    ) -> Batch:
        """A batch of inputs that lie at these places among those that were given.

        Where no other batch is prepared ``beside`` it, its pages are, on as many threads.
        """
        if places is None:
            chosen = [item for _, items in inputs.windows(argument, chosen, 1) for item in items]
            places = range(len(chosen))
        kind, threads = self._kind(argument), min(len(chosen), self._workers)
        is_shared = kind == "pages" and threads > 1 and not beside
        is_query = argument == "queries"
        prepare = self._runtime.query_batch if is_query else self._runtime.document_batch
        with ThreadPoolExecutor(threads) if is_shared else nullcontext() as pool:
            each = (pool.map,) if pool else ()
            taken = inputs.checked(argument, chosen, kind, places, *each)
            with self._preparing(places):
                return prepare(taken, *each)

    def _kind(self, argument: str) -> DocumentType:
        return "passages" if argument == "queries" else self.document_type

    def _encode(
        self, argument: str, given: Any, limits: _Limits, progress: Progress | None
    ) -> list[np.ndarray]:
        for name, limit in zip(("batch_size", "batch_tokens"), limits, strict=True):
            if limit is not None:
                inputs.whole(name, limit)
        if progress is not None:
            inputs.typed("progress", progress, Callable, "a function of a number")
        embeddings: list[np.ndarray] = []
        for first, chosen in inputs.windows(argument, given, _WINDOW[self._kind(argument)]):
            found: dict[int, np.ndarray] = {}
            for part in self._window(argument, chosen, first, limits):
                found |= part
                if progress is not None:
                    progress(first + len(found))
            embeddings += [found[place] for place in sorted(found)]
        return embeddings

    def _window(
        self, argument: str, chosen: Sequence[Any], first: int, limits: _Limits
    ) -> Iterator[dict[int, np.ndarray]]:
        """Embeddings of some inputs by their places, batch by batch.

        Raises:
            InputError: The first of those that are refused, once the others are done.
        """
        places, kind = range(first, first + len(chosen)), self._kind(argument)
        size, tokens = limits
        check = inputs.checked if kind == "passages" else inputs.typed_inputs  # pages: when read
        check(argument, chosen, kind, places)
        with self._preparing(places):
            of = "query" if argument == "queries" else "document"
            lengths = self._runtime.lengths(of, chosen)
        if tokens is not None and max(lengths) > tokens:
            longest = int(np.argmax(lengths))
            raise ValueError(
                f"batch_tokens: found {tokens}; {argument}[{places[longest]}] alone has "
                f"{lengths[longest]} tokens."
            )
        if tokens is None:
            graph = self.manifest.graphs["image" if kind == "pages" else "text"]
            free = batching.budget(lengths, self._settings, self._workers, graph.parameters)
            tokens = free if size is None else math.inf
        most = self._settings.fixed_shapes.get("batch", (math.inf,))[-1]
        batches = batching.by_length(lengths, size or most, tokens)
        refused: list[InputError] = []

        def embed(batch: Sequence[int], beside: bool) -> dict[int, np.ndarray]:
            own = [places[place] for place in batch]
            try:
                prepared = self._prepared(argument, [chosen[place] for place in batch], own, beside)
                return dict(zip(own, self._embedded(prepared, beside), strict=True))
            except InputError as error:
                refused.append(error)
                return {}

        yield from self._run_all(batches, embed)
        if refused:
            raise min(refused, key=lambda error: error.index)

    def _run_all(
        self,
        batches: Sequence[Sequence[int]],
        embed: Callable[[Sequence[int], bool], dict[int, np.ndarray]],
    ) -> Iterator[dict[int, np.ndarray]]:
        """Results of batches, of which those that leave no core idle run beside each other."""
        alone = batching.last_alone(len(batches), self._workers)
        together = batches[: len(batches) - alone]
        if together:
            with self._opening:
                if self._share is not None and not self._beside:
                    self._beside = self._open(self._share)
            pool = ThreadPoolExecutor(self._workers)
            try:
                yield from pool.map(partial(embed, beside=self._share is not None), together)
            finally:
                pool.shutdown(cancel_futures=True)
        for batch in batches[len(batches) - alone :]:
            yield embed(batch, False)

    def _embedded(self, batch: Batch, beside: bool) -> list[np.ndarray]:
        output = self._run(batch, "run", beside)
        if (shape := np.shape(output))[:2] != batch.keep.shape:
            raise ArtifactError(
                f"{self.folder}: the {batch.graph} graph gives {list(shape)}, expected an "
                f"embedding for each of {list(batch.keep.shape)} tokens."
            )
        return [row[kept] for row, kept in zip(output, batch.keep, strict=True)]


def _one_or_all(encode: Callable[..., Any], given: Any, options: Mapping[str, Any]) -> _OneOrAll:
    is_one = isinstance(given, Document)
    return encode([given], **options)[0] if is_one else encode(given, **options)
