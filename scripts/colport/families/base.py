"""What every family provides: its graphs, its reference, and its torch-free preprocessing.

A family is one module of this package. Functions of the checkpoint side import torch when they
are called; the runtime side never does, so that an exported folder runs without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

    from colport.weights import StoredTensor

DocumentType = Literal["pages", "passages"]
Document = Image.Image | str
Feeds = dict[str, np.ndarray]


class Embedder(Protocol):
    """Anything that turns queries and documents into token embeddings."""

    def encode_queries(self, queries: Sequence[str], batch_size: int = 8) -> list[np.ndarray]:
        """Token embeddings of each query, ``float32 [tokens, dim]``."""
        ...

    def encode_documents(
        self, documents: Sequence[Document], batch_size: int = 8
    ) -> list[np.ndarray]:
        """Token embeddings of each document, ``float32 [tokens, dim]``."""
        ...


@dataclass(frozen=True)
class GraphInput:
    """One input of a graph.

    Attributes:
        name: Input name in the ONNX graph.
        dtype: ``int64`` or ``float32``.
        example: Shape to trace with.
        axes: Dynamic axes by position; the others are fixed at their example size.
    """

    name: str
    dtype: Literal["int64", "float32"]
    example: tuple[int, ...]
    axes: Mapping[int, str]


@dataclass(frozen=True)
class GraphDefinition:
    """One graph to trace: ``forward(model, *inputs)`` gives ``[batch, tokens, dim]``."""

    name: Literal["text", "image"]
    inputs: tuple[GraphInput, ...]
    forward: Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Skeleton:
    """A model without weights, ready to trace, and where its weights lie.

    Attributes:
        model: Module whose parameters and buffers are on the meta device.
        constants: Values of buffers that are computed, not stored in the checkpoint.
        sources: Module parameter name to its tensor in the checkpoint.
        graphs: What to trace.
        dim: Size of a token embedding.
    """

    model: torch.nn.Module
    constants: Mapping[str, torch.Tensor]
    sources: Mapping[str, StoredTensor]
    graphs: tuple[GraphDefinition, ...]
    dim: int


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


class Runtime(ABC):
    """Torch-free preprocessing of one exported folder."""

    @abstractmethod
    def query_batch(self, queries: Sequence[str]) -> Batch:
        """Inputs for a batch of queries."""

    @abstractmethod
    def document_batch(self, documents: Sequence[Document]) -> Batch:
        """Inputs for a batch of documents: RGB pages or passages, as the family takes them."""


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
    document_type: ClassVar[DocumentType]

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
        """How queries and documents become graph inputs."""

    @abstractmethod
    def runtime(self, settings: Mapping[str, Any], folder: Path) -> Runtime:
        """Preprocessing of an exported folder, from its ``processing`` settings."""

    @abstractmethod
    def reference(self, folder: Path, device: str) -> Embedder:
        """The checkpoint in its original library, in fp32, on a torch device."""
