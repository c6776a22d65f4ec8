"""Page models in PyTorch, through their own processor: what every export is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colport.errors import CheckpointError
from colport.families.base import Document


class ProcessorReference:
    """A transformers ``*ForRetrieval`` model with its processor, fp32 on CPU or GPU.

    Args:
        model: Takes the processor's output, gives ``embeddings`` ``[batch, tokens, dim]``.
        processor: Has ``process_queries`` and ``process_images``.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor

    @classmethod
    def load(
        cls, model_class: Any, processor_class: Any, folder: Path, device: str
    ) -> ProcessorReference:
        """Load a checkpoint in fp32 on a torch device.

        Raises:
            CheckpointError: Weights are missing; transformers would make them up.
        """
        import torch

        model, loading = model_class.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        if missing := sorted(loading["missing_keys"]):
            raise CheckpointError(
                f"{folder}: {len(missing)} missing weights, first {missing[0]!r}."
            )
        return cls(model.eval().to(device), processor_class.from_pretrained(folder))

    def encode_queries(self, queries: Sequence[str], batch_size: int = 8) -> list[np.ndarray]:
        """Token embeddings of each query, ``float32 [tokens, dim]``."""
        return self._encode(queries, batch_size, lambda texts: {"text": texts})

    def encode_documents(
        self, documents: Sequence[Document], batch_size: int = 8
    ) -> list[np.ndarray]:
        """Token embeddings of each page, ``float32 [tokens, dim]``."""
        return self._encode(
            documents, batch_size, lambda pages: {"images": [page.convert("RGB") for page in pages]}
        )

    def _encode(
        self, inputs: Sequence[Any], batch_size: int, arguments: Callable[[list[Any]], dict]
    ) -> list[np.ndarray]:
        import torch

        embeddings: list[np.ndarray] = []
        for start in range(0, len(inputs), batch_size):
            batch = [inputs[i] for i in range(start, min(start + batch_size, len(inputs)))]
            features = self._processor(**arguments(batch)).to(self._model.device)
            features.pop("labels", None)
            with torch.inference_mode():
                output = self._model(**features).embeddings.float().cpu().numpy()
            keep = features["attention_mask"].bool().cpu().numpy()
            embeddings.extend(row[mask] for row, mask in zip(output, keep, strict=True))
        return embeddings
