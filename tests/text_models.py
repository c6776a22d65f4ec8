"""Tiny multi-vector text models, built and saved by sentence-transformers itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

from tests.fixtures.backbones import make_backbone

WIDTH, DIM = 16, 8


def dense(inputs: int = WIDTH, outputs: int = DIM, **settings: Any) -> Dense:
    """A projection of token embeddings."""
    given = {"bias": False, "activation_function": torch.nn.Identity(), **settings}
    return Dense(inputs, outputs, module_input_name="token_embeddings", **given)


def make_checkpoint(
    folder: Path,
    kind: str,
    *,
    head: Sequence[torch.nn.Module] | None = None,
    mask: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
    prompts: dict[str, str] | None = None,
    **transformer: Any,
) -> Path:
    """Save a random model.

    Args:
        folder: Where it goes.
        kind: A backbone of ``tests/fixtures/backbones.py``.
        head: Projections, one ``Dense`` without bias by default.
        mask: Arguments of ``MultiVectorMask``.
        config: Values of the backbone's configuration.
        tokenizer: Values of ``tokenizer_config.json``.
        prompts: As ``MultiVectorEncoder`` takes them.
        transformer: Arguments of sentence-transformers' ``Transformer``.
    """
    base = make_backbone(kind, folder.with_name(f"{folder.name}-base"), **(config or {}))
    edit(base / "tokenizer_config.json", **(tokenizer or {}))
    torch.manual_seed(11)
    modules = [
        Transformer(str(base), **transformer),
        *([dense()] if head is None else head),
        MultiVectorMask(**(mask or {})),
        Normalize("token_embeddings"),
    ]
    encoder = MultiVectorEncoder(modules=modules, device="cpu", prompts=prompts)
    encoder.save_pretrained(str(folder), create_model_card=False)
    return folder


def edit(file: Path, **changes: Any) -> None:
    """Set keys of a JSON object; ``None`` takes one out."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Apply ``change`` to the tensors of a safetensors file."""
    tensors = load_file(file)
    changed = change(tensors)
    tensors = tensors if changed is None else changed
    save_file({key: t.contiguous() for key, t in tensors.items()}, file, {"format": "pt"})
