"""Plain ``torch.onnx.export`` of the reference library's own modules, nothing prepared.

Started as ``python -m colport.peers.torch_onnx MODE CHECKPOINT OUTPUT``: ``torchscript`` or
``dynamo``, a checkpoint's folder and the folder to write.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from colport.families import registry

MODES = ("torchscript", "dynamo")
_TEXTS = ["a first text", "and another one, which is longer"]


def export(mode: str, checkpoint: Path, output: Path) -> None:
    """Write ``{graph}/model.onnx`` for each graph of a checkpoint."""
    for name, module, features in _graphs(checkpoint):
        file = output / name / "model.onnx"
        file.parent.mkdir(parents=True)
        axes = {key: _dynamic(key, value) for key, value in features.items()}
        arguments = {"dynamo": False, "dynamic_axes": {**axes, "output": {0: "batch", 1: "tokens"}}}
        if mode == "dynamo":
            shapes = (dict.fromkeys(names, torch.export.Dim.AUTO) for names in axes.values())
            arguments = {"dynamo": True, "dynamic_shapes": (tuple(shapes),)}
        with torch.inference_mode(mode == "torchscript"):
            torch.onnx.export(
                _Positional(module, list(features)),
                tuple(features.values()),
                file,
                input_names=list(features),
                output_names=["output"],
                **arguments,
            )


def _graphs(checkpoint: Path) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Graph name, the library's module, and its inputs for two texts or pages."""
    family = registry.detect(checkpoint)
    reference = family.reference(checkpoint, "cpu", math.inf)  # an exporter takes the weights
    if family.document_type == "pages":
        page = Image.new("RGB", (320, 448), "white")
        texts, pages = reference.prepare_queries(_TEXTS), reference.prepare_documents([page] * 2)
        yield "text", reference.module, dict(reference.on_device(texts))
        yield "image", reference.module, dict(reference.on_device(pages))
        return
    with TemporaryDirectory() as folder:
        processing = family.processing(checkpoint)
        processing.tokenizer.save(str(Path(folder, "tokenizer.json")))
        feeds = family.runtime(processing.settings, Path(folder)).document_batch(_TEXTS).feeds
    yield "text", reference.module, {key: torch.from_numpy(value) for key, value in feeds.items()}


def _dynamic(name: str, value: Any) -> dict[int, str]:
    """Axes that change from call to call: texts in both, what belongs to an image in the first."""
    if value.dim() == 2 and name in ("input_ids", "attention_mask", "token_type_ids"):
        return {0: "batch", 1: "tokens"}
    return {0: "batch" if name == "pixel_values" and value.dim() == 4 else f"{name}_rows"}


class _Positional(torch.nn.Module):
    """Takes tensors in the order of ``names``, gives embeddings ``[batch, tokens, dim]``."""

    def __init__(self, module: Any, names: list[str]) -> None:
        super().__init__()
        self.module, self.names = module, names
        self.eval()

    def forward(self, *tensors: Any) -> Any:
        """The module's embeddings."""
        features = dict(zip(self.names, tensors, strict=True))
        if hasattr(self.module, "encode_query"):  # sentence-transformers' modules in a row
            return self.module(features)["token_embeddings"]
        output = self.module(**features)
        return getattr(output, "embeddings", output)


if __name__ == "__main__":
    mode, checkpoint, output = sys.argv[1:]
    if mode not in MODES:
        sys.exit(f"mode: {mode!r} is unknown; allowed are {', '.join(MODES)}.")
    export(mode, Path(checkpoint), Path(output))
