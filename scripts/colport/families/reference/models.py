"""Models in PyTorch, page models through their own processor: what exports are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from colport.base.errors import InputError
from colport.base.names import PLURALS
from colport.families.base import Embedder
from colport.families.pages.images import as_page
from colport.families.reference.memory import Room


class PyTorchReference(Embedder):
    """A model in PyTorch, and which inputs share a pass through it.

    Args:
        model: A ``torch.nn.Module``.
        room: The memory that it was opened for.
    """

    def __init__(self, model: Any, room: Room) -> None:
        self.module = model
        self.room = room

    @property
    def queries_at_once(self) -> int | None:
        """Queries to ask for in one call, of which it makes as few passes as memory allows."""
        return self.room.tokens if self.room.is_streamed else None

    def _batches(
        self, inputs: Sequence[Any], batch_size: int, prepare: Callable[[list[Any]], Any]
    ) -> Iterator[list[Any]]:
        """Inputs of one pass each: ``batch_size``, or of a streamed model what memory allows."""
        batch: list[Any] = []
        longest, length = 0, 1
        tokens = self.room.tokens if self.room.is_streamed else batch_size
        for item in inputs:
            if self.room.is_streamed:
                length = prepare([item])["input_ids"].shape[1]
            longest = max(longest, length)
            if batch and longest * (len(batch) + 1) > tokens:
                yield batch
                batch, longest = [], length
            batch.append(item)
        if batch:
            yield batch


class ProcessorReference(PyTorchReference):
    """A page model of transformers or colpali-engine with its processor, on CPU or GPU.

    Args:
        model: Takes the processor's output, gives embeddings ``[batch, tokens, dim]``.
        processor: Has ``process_queries`` and ``process_images``.
        device: A torch device.
        room: The memory that it was opened for.
        zeros: Inputs of the model that are zeros where the processor gives none.
    """

    def __init__(
        self, model: Any, processor: Any, device: str, room: Room, zeros: Sequence[str] = ()
    ) -> None:
        unread = ("lm_head", "vision_model.head")
        for name in [name for name, _ in model.named_modules() if name.endswith(unread)]:
            # Logits and the like are computed and dropped, from weights that need not be loaded.
            model.set_submodule(name, torch.nn.Identity())
        super().__init__(model.eval().to(device), room)
        self._processor, self._zeros = processor, zeros

    def prepare_queries(self, queries: Sequence[str]) -> Any:
        """The model's inputs for one batch of queries."""
        return self._processor.process_queries(list(queries))

    def prepare_documents(self, pages: Sequence[Any]) -> Any:
        """The model's inputs for one batch of pages."""
        return self._processor.process_images([as_page(page) for page in pages])

    def on_device(self, features: Any) -> Any:
        """Prepared inputs as the model's forward takes them."""
        features = features.to(self.module.device)
        features.pop("labels", None)
        for name in self._zeros:
            features.setdefault(name, torch.zeros_like(features["input_ids"]))
        for name, value in features.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                features[name] = value.to(self.module.dtype)
        return features

    def run(self, features: Any) -> np.ndarray:
        """The model's output ``float32 [batch, tokens, dim]`` for prepared inputs.

        A model of one vector an input gives ``[batch, 1, dim]``.
        """
        features = self.on_device(features)
        with torch.inference_mode():
            output = self.module(**features)
        rows = getattr(output, "embeddings", output).float().cpu().numpy()
        return rows if rows.ndim == 3 else rows[:, None]

    def _encode(self, inputs: Sequence[Any], kind: str, batch_size: int) -> list[np.ndarray]:
        prepare = {"query": self.prepare_queries, "document": self.prepare_documents}[kind]
        embeddings: list[np.ndarray] = []
        try:
            for batch in self._batches(inputs, batch_size, prepare):
                features = prepare(batch)
                rows, keep = self.run(features), features["attention_mask"].bool().cpu().numpy()
                if rows.shape[1] != keep.shape[1]:  # one vector an input
                    keep = np.ones(rows.shape[:2], bool)
                embeddings += [row[kept] for row, kept in zip(rows, keep, strict=True)]
        except ValueError as error:
            raise _refusal(PLURALS[kind], inputs, prepare) or error from error
        return embeddings


def _refusal(
    argument: str, inputs: Sequence[Any], prepare: Callable[[list[Any]], Any]
) -> InputError | None:
    """The one of the inputs that the library does not take by itself either."""
    for index, item in enumerate(inputs):
        try:
            prepare([item])
        except ValueError as error:
            return InputError(argument, index, f"is refused by its library ({error})")
    return None
