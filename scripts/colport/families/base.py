"""What every family provides: its graphs, its reference, and its torch-free preprocessing.

A family is one module of this package. Functions of the checkpoint side import torch when they
are called; the runtime side never does, so that an exported folder runs without it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from PIL import Image

from colport.base.errors import ArtifactError, UnsupportedError
from colport.base.foreign import misfit
from colport.families.reference.memory import Room
from colport.hub.checkpoints import reading
from colport.tensors.weights import StoredTensor

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # an exported folder runs without torch

Task = Literal["retrieval", "captioning"]
DocumentType = Literal["pages", "passages"]
Document = Image.Image | str
Feeds = dict[str, np.ndarray]

_NO_PATCHES = "a passage has no patches; heat maps are drawn for pages only."
BATCH_SIZE = 8
"""Inputs of a batch where neither a caller nor an encoder says how many."""


class Embedder(ABC):
    """Turns queries and documents into token embeddings; others that do may stand in its place."""

    def encode_queries(
        self, queries: Sequence[str], batch_size: int | None = None
    ) -> list[np.ndarray]:
        """Token embeddings of each query, ``float32 [tokens, dim]``, in batches of 8 by default."""
        return self._encode(queries, "query", BATCH_SIZE if batch_size is None else batch_size)

    def encode_documents(
        self, documents: Sequence[Document], batch_size: int | None = None
    ) -> list[np.ndarray]:
        """Token embeddings of each document, ``float32 [tokens, dim]``; see the other."""
        return self._encode(documents, "document", BATCH_SIZE if batch_size is None else batch_size)

    @abstractmethod
    def _encode(self, inputs: Sequence[Any], kind: str, batch_size: int) -> list[np.ndarray]:
        """Token embeddings of each ``query`` or ``document``."""


@dataclass(frozen=True)
class GraphInput:
    """One input of a graph.

    Attributes:
        name: Input name in the ONNX graph.
        dtype: ``int64`` or a float type of torch.
        example: Shape to trace with.
        axes: Dynamic axes by position; the others are fixed at their example size.
    """

    name: str
    dtype: Literal["int64", "float32", "float16", "bfloat16"]
    example: tuple[int, ...]
    axes: Mapping[int, str]


def token_inputs(tokens: int, *more: str) -> tuple[GraphInput, ...]:
    """Token ids and attention mask, and further inputs of their form by name."""
    names = ("input_ids", "attention_mask", *more)
    axes = {0: "batch", 1: "tokens"}
    return tuple(GraphInput(name, "int64", (2, tokens), axes) for name in names)


@dataclass(frozen=True)
class GraphDefinition:
    """One graph to trace: ``forward(model, *inputs)`` gives its outputs.

    Attributes:
        name: ``text`` and ``image`` of a retriever, ``image`` and ``decoder`` of a captioner.
        inputs: In the order in which they are given.
        forward: Gives one tensor, or a tuple of as many as there are outputs.
        outputs: Their names; by default L2-normalised ``float32 [batch, tokens, dim]``.
        whole: Stacks whose layers it reads in another way than to run them.
    """

    name: Literal["text", "image", "decoder"]
    inputs: tuple[GraphInput, ...]
    forward: Callable[..., Tensor | tuple[Tensor, ...]]
    outputs: tuple[str, ...] = ("embeddings",)
    whole: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stack:
    """Layers that run one after the other, of which one of each kind is traced.

    Layers of one kind differ in their weights alone: they are built alike and called alike.

    Attributes:
        name: Place of the module list that holds them in the model.
        kinds: The kind of each layer, as ``page`` and ``window``; a family's own words.
        own: Names of inputs and outputs of a graph that each layer has for itself, with ``{}`` for
            its number. A graph is traced with those of the first layer of each kind.
    """

    name: str
    kinds: tuple[str, ...]
    own: tuple[str, ...] = ()

    def first(self, number: int) -> int:
        """The first layer of that layer's kind."""
        return self.kinds.index(self.kinds[number])


@dataclass(frozen=True)
class Skeleton:
    """A model without weights, ready to trace, and where its weights lie.

    Attributes:
        model: Module whose parameters and buffers are on the meta device.
        constants: Values of buffers that are computed, not stored in the checkpoint.
        tensors: Module parameter name to its tensor in the checkpoint.
        graphs: What to trace.
        dim: Size of a token embedding; of a captioner, of its decoder's hidden states.
        backbone: Model type of the transformer, for messages.
        stacks: Layers that are repeated; a module list that is not named is traced whole.
        unread: Regular expressions, searched in names of the checkpoint's tensors and of the
            model's parameters, of what no graph needs to read, and the reason.
        longest: Tokens that the runtime gives a graph at most.
    """

    model: Any
    constants: Mapping[str, Tensor]
    tensors: Mapping[str, StoredTensor]
    graphs: tuple[GraphDefinition, ...]
    dim: int
    backbone: str = "unknown"
    stacks: tuple[Stack, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    longest: float = math.inf


@dataclass(frozen=True)
class Batch:
    """Inputs of one graph call, and which output tokens are kept.

    Attributes:
        graph: ``text`` or ``image``.
        feeds: Graph inputs.
        keep: ``bool [batch, tokens]``; output tokens that belong to the embedding.
    """

    graph: str
    feeds: Feeds
    keep: np.ndarray


@dataclass(frozen=True, eq=False)
class PatchGrid:
    """Which tokens of a page's embedding are its patches; these part the whole page evenly.

    Attributes:
        places: ``int [rows, columns]``; for each patch, from top to bottom and from left to right,
            its place among the tokens of the page's embedding.
        page: Parts of the patches' whole width and height that the page takes; what lies to the
            right of it and below was added to it.
        overview: As ``places``, of the same page seen once more in fewer patches; or none.
    """

    places: np.ndarray
    page: tuple[float, float] = (1.0, 1.0)
    overview: np.ndarray = field(default_factory=lambda: np.empty((1, 0), int))

    @classmethod
    def block(cls, rows: int, columns: int, first: int) -> PatchGrid:
        """Patches that follow each other row by row, from a place among the tokens on."""
        return cls(first + np.arange(rows * columns).reshape(rows, columns))

    @property
    def rows(self) -> int:
        """Patches from top to bottom."""
        return self.places.shape[0]

    @property
    def columns(self) -> int:
        """Patches from left to right."""
        return self.places.shape[1]

    def place(self, token: int) -> tuple[int, int] | None:
        """Row and column of a token of the page; ``None`` if it is not a patch.

        A patch of the overview is where its middle is.
        """
        for places in (self.places, self.overview):
            for found in np.argwhere(places == token):
                row, column = (found + 0.5) * self.places.shape // places.shape
                return int(row), int(column)
        return None

    def region(
        self, row: int, column: int, width: int, height: int
    ) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of a patch on the page drawn at a size in pixels."""
        across, down = width / self.page[0] / self.columns, height / self.page[1] / self.rows
        right, bottom = min(width, (column + 1) * across), min(height, (row + 1) * down)
        return column * across, row * down, right, bottom


@dataclass(frozen=True)
class QueryToken:
    """One token of a query's embedding.

    Attributes:
        text: What it stands for; empty for a blank.
        role: ``query`` for the query's own words, ``prompt`` for what the model puts around every
            query, ``augmentation`` for the tokens that it adds to be matched freely.
        word: The whole word that it is part of; empty where it is none.
    """

    text: str
    role: Literal["query", "prompt", "augmentation"]
    word: str = ""


class Runtime(ABC):
    """Torch-free preprocessing of one exported folder."""

    @abstractmethod
    def query_batch(self, queries: Sequence[str]) -> Batch:
        """Inputs for a batch of queries."""

    @abstractmethod
    def document_batch(self, documents: Sequence[Document]) -> Batch:
        """Inputs for a batch of documents: RGB pages or passages, as the family takes them."""

    @abstractmethod
    def lengths(self, kind: str, chosen: Sequence[Any]) -> list[int]:
        """Tokens of each ``query`` or ``document``, known before it is prepared."""

    def patches(self, document: Document) -> PatchGrid:
        """The patches of a page among the tokens of its embedding.

        Raises:
            UnsupportedError: The family reads passages.
        """
        raise UnsupportedError(_NO_PATCHES)

    def query_tokens(self, query: str) -> list[QueryToken]:
        """What each token of a query's embedding stands for; see :meth:`patches` for errors."""
        raise UnsupportedError(_NO_PATCHES)


def spelled(query: str, reserved: Iterable[str]) -> str | None:
    """Why a query is refused that spells a token of pages; ends a sentence about it."""
    found = next((token for token in reserved if token in query), None)
    return found and f"spells {found}, which the model keeps for pages"


def check_settings(settings: Mapping[str, Any], shape: Mapping[str, Any], folder: Path) -> None:
    """Refuse ``processing`` settings of another shape, see :func:`colport.base.foreign.misfit`.

    Raises:
        ArtifactError: A setting is missing, of another type, or unknown: embeddings of a newer
            ColPort that heeds it would be others.
    """
    if wrong := misfit(settings, shape, "processing", closed=True):
        raise ArtifactError(f"{folder / 'colport.json'}: {wrong}.")


@dataclass(frozen=True)
class Processing:
    """What an exported folder says about preprocessing.

    Attributes:
        settings: The ``processing`` section of ``colport.json``, read by the family's runtime.
        tokenizer: A ``tokenizers.Tokenizer`` without truncation and padding.
    """

    settings: Mapping[str, Any]
    tokenizer: Any


class Family(ABC):
    """All that differs between model families."""

    name: ClassVar[str]
    task: ClassVar[Task]
    float_weights: ClassVar[tuple[str, ...]] = ()
    """Regular expressions searched in weight names: those that no variant makes integers."""

    @property
    def reads(self) -> str:
        """What its datasets hold: ``pages``, ``passages``, or ``captions`` of pictures."""
        return getattr(self, "document_type", "captions")

    @abstractmethod
    def accepts(self, folder: Path) -> bool:
        """Whether the checkpoint in ``folder`` is of this family, by its configuration files."""

    @abstractmethod
    def skeleton(self, folder: Path, precision: str) -> Skeleton:
        """The model on the meta device, in ``fp32``, ``fp16`` or ``bf16``, with its
        weights' places.

        Raises:
            CheckpointError: Weights are missing, unexpected or of another shape.
        """

    @abstractmethod
    def processing(self, folder: Path) -> Processing:
        """How its inputs become graph inputs."""

    @abstractmethod
    def runtime(self, settings: Mapping[str, Any], folder: Path) -> Any:
        """Preprocessing of an exported folder, from its ``processing`` settings.

        A :class:`Runtime`, or a :class:`~colport.families.captions.base.CaptionRuntime`.
        """

    def processor(self, folder: Path) -> Any:
        """The processor of the checkpoint's own library.

        Raises:
            UnsupportedError: The family reads passages.
        """
        raise UnsupportedError(f"{folder}: a model of passages has a tokenizer, no processor.")

    def reference(self, folder: Path, device: str, memory_mb: float | None = None) -> Any:
        """The checkpoint in its original library, in fp32, on a torch device: an :class:`Embedder`,
        or a :class:`~colport.families.captions.reference.Generator`.

        Where its weights do not fit, they are read from its files in each pass, over as many inputs
        as memory allows; ``room`` of the embedder says so
        (:class:`~colport.families.reference.memory.Room`).

        Args:
            folder: The checkpoint.
            device: ``cpu`` or ``cuda``.
            memory_mb: MB (10**6 bytes) of the host that it may take; by default what is available.

        Raises:
            CheckpointError: The library cannot open it.
        """
        with reading(folder, f"family {self.name}"):
            return self.open_reference(folder, device, Room.of(folder, memory_mb))

    @abstractmethod
    def open_reference(self, folder: Path, device: str, room: Room) -> Any:
        """See :meth:`reference`."""


class Retriever(Family):
    """A family whose models embed queries and documents."""

    task = "retrieval"
    document_type: ClassVar[DocumentType]
    is_single_vector: ClassVar[bool] = False
    """Whether a document has one vector, in all of its checkpoints."""
    reserved: ClassVar[tuple[str, ...]] = ()
    """Tokens of pages, which its libraries refuse in a query; a checkpoint may have others."""

    def page_fault(self, width: int, height: int) -> str | None:
        """Why the family's library takes no page of so many pixels; ends a sentence about it."""
        return None
