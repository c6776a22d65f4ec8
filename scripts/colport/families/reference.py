"""Page models in PyTorch, through their own processor: what every export is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colport.checkpoints import reading
from colport.errors import CheckpointError, InputError
from colport.families.base import Document
from colport.families.images import as_page


class ProcessorReference:
    """A page model of transformers or colpali-engine with its processor, fp32 on CPU or GPU.

    Args:
        model: Takes the processor's output, gives embeddings ``[batch, tokens, dim]``.
        processor: Has ``process_queries`` and ``process_images``.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor

    @classmethod
    def load(
        cls, model_class: Any, processor: Any, folder: Path, device: str
    ) -> ProcessorReference:
        """Load a checkpoint, with its adapter if it has one, in fp32 on a torch device.

        Raises:
            CheckpointError: Weights are missing; transformers would make them up.
        """
        import torch

        with reading(folder, "its library"):
            model, loading = model_class.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        if missing := sorted(loading["missing_keys"]):
            raise CheckpointError(
                f"{folder}: {len(missing)} missing weights, first {missing[0]!r}."
            )
        for name in [name for name, _ in model.named_modules() if name.endswith("lm_head")]:
            # colpali-engine computes logits and drops them, from weights it need not have loaded.
            model.set_submodule(name, torch.nn.Identity())
        return cls(model.eval().to(device), processor)

    @property
    def module(self) -> Any:
        """The model, a ``torch.nn.Module``."""
        return self._model

    def encode_queries(self, queries: Sequence[str], batch_size: int = 8) -> list[np.ndarray]:
        """Token embeddings of each query, ``float32 [tokens, dim]``."""
        return self._encode("queries", queries, batch_size, self.prepare_queries)

    def encode_documents(
        self, documents: Sequence[Document], batch_size: int = 8
    ) -> list[np.ndarray]:
        """Token embeddings of each page, ``float32 [tokens, dim]``."""
        return self._encode("documents", documents, batch_size, self.prepare_documents)

    def prepare_queries(self, queries: Sequence[str]) -> Any:
        """The model's inputs for one batch of queries."""
        return self._processor.process_queries(list(queries))

    def prepare_documents(self, pages: Sequence[Any]) -> Any:
        """The model's inputs for one batch of pages."""
        return self._processor.process_images([as_page(page) for page in pages])

    def on_device(self, features: Any) -> Any:
        """Prepared inputs as the model's forward takes them."""
        import torch

        features = features.to(self._model.device)
        features.pop("labels", None)
        if self._model.config.model_type == "paligemma":
            # colpali-engine leaves them out for queries. transformers 5 then makes a batch with
            # padding causal, yet not a single query; ColPali was trained to attend both ways.
            features.setdefault("token_type_ids", torch.zeros_like(features["input_ids"]))
        for name, value in features.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                features[name] = value.to(self._model.dtype)
        return features

    def run(self, features: Any) -> np.ndarray:
        """The model's output ``float32 [batch, tokens, dim]`` for prepared inputs."""
        import torch

        features = self.on_device(features)
        with torch.inference_mode():
            output = self._model(**features)
        return getattr(output, "embeddings", output).float().cpu().numpy()

    def _encode(
        self,
        argument: str,
        inputs: Sequence[Any],
        batch_size: int,
        prepare: Callable[[list[Any]], Any],
    ) -> list[np.ndarray]:
        embeddings: list[np.ndarray] = []
        for start in range(0, len(inputs), batch_size):
            batch = [inputs[i] for i in range(start, min(start + batch_size, len(inputs)))]
            try:
                features = prepare(batch)
            except ValueError as error:
                raise _refusal(argument, batch, prepare, start) or error from error
            keep = features["attention_mask"].bool().cpu().numpy()
            output = self.run(features)
            embeddings.extend(row[mask] for row, mask in zip(output, keep, strict=True))
        return embeddings


def _refusal(
    argument: str, batch: Sequence[Any], prepare: Callable[[list[Any]], Any], first: int
) -> InputError | None:
    """The one of a batch's inputs that the library does not take by itself either."""
    for index, item in enumerate(batch, start=first):
        try:
            prepare([item])
        except ValueError as error:
            return InputError(argument, index, f"is refused by its library ({error})")
    return None
