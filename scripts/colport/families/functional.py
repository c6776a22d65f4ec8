"""Pieces that the families' graphs share. Every function takes and gives torch tensors."""

from __future__ import annotations

from typing import Any, Literal

from colport.families.base import Tensor

_SMALLEST_NORM = 1e-12  # a zero vector stays zero; the reference would divide by zero


def normalised(embeddings: Tensor, mask: Tensor) -> Tensor:
    """L2-normalise ``[batch, tokens, dim]`` in fp32 and set masked tokens to zero."""
    import torch

    values = embeddings.to(torch.float32)
    norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return values / norm.clamp_min(_SMALLEST_NORM) * mask.unsqueeze(-1).to(torch.float32)


def pooled(hidden: Tensor, mask: Tensor, pooling: Literal["last", "mean"]) -> Tensor:
    """One vector of all tokens ``[batch, tokens, width]``: ``[batch, 1, width]``.

    Args:
        hidden: Output of a language model.
        mask: ``int64 [batch, tokens]``.
        pooling: ``last`` takes the last place, which padding on the left leaves to the text;
            ``mean`` that of the tokens that are no padding.
    """
    if pooling == "last":
        return hidden[:, -1:]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)


def place_images(embeddings: Tensor, features: Tensor, is_image: Tensor) -> Tensor:
    """Put image features, in order, where the image tokens are.

    Args:
        embeddings: ``[batch, tokens, width]``.
        features: ``[image tokens of the whole batch, width]``.
        is_image: ``bool [batch, tokens]``.
    """
    order = is_image.flatten().long().cumsum(0) - 1
    placed = rows(features, from_zero(order).view(is_image.shape))
    return placed.where(is_image.unsqueeze(-1), embeddings)


def from_zero(indices: Tensor) -> Tensor:
    """Indices with 0 for negative ones: ``Max`` in ONNX.

    OpenVINO 2025.4 computes a ``Clip`` of int64 without an upper bound as 0 throughout.
    """
    import torch

    return torch.maximum(indices, torch.zeros_like(indices))


def positions(mask: Tensor, input_ids: Tensor) -> Tensor:
    """Places of the last tokens ``[batch, tokens]`` among those that are no padding, from 0.

    Args:
        mask: ``int64 [batch, text_tokens]``, padding on the left.
        input_ids: ``[batch, tokens]``, the last of them.
    """
    return from_zero(mask.cumsum(1) - 1)[:, mask.shape[1] - input_ids.shape[1] :]


def rows(table: Tensor, indices: Tensor) -> Tensor:
    """Rows of ``[rows, width]`` by index, ``[*indices, width]``: one copy of whole rows in ONNX."""
    import torch

    return torch.nn.functional.embedding(indices, table)


def attention_bias(mask: Tensor, dtype: Any, *, causal: bool) -> Tensor:
    """Additive bias ``[batch, 1, tokens or 1, tokens]``: 0 where attended, lowest elsewhere."""
    import torch

    attended = mask[:, None, None, :].to(torch.bool)
    if causal:
        position = torch.arange(mask.shape[1], device=mask.device)
        attended = attended & (position[None, :] <= position[:, None])
    zero = torch.zeros((), dtype=dtype, device=mask.device)
    return torch.where(attended, zero, torch.finfo(dtype).min)
