"""Attention as one operator of the trace, so that each graph can write the form that runs best.

transformers' own doors are used: an attention function and a mask function under one name.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, eager_mask

from colport.errors import UnsupportedError
from colport.families.functional import attention_bias

IMPLEMENTATION = "colport"
"""The name to give as ``attn_implementation``."""


@torch.library.custom_op("colport::attention", mutates_args=())
def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    lengths: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Scaled dot-product attention with softmax in fp32.

    Args:
        query: ``[batch, heads, tokens, size]``.
        key: ``[batch, key heads, tokens, size]``; key heads divide heads.
        value: As ``key``.
        bias: Added to the scores, broadcast to ``[batch, heads, tokens, tokens]``.
        lengths: ``int64 [batch]``; keys from this one on are padding. In place of a bias.
        scale: Factor of the scores.

    Returns:
        ``[batch, heads, tokens, size]``.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * scale
    if bias is not None:
        scores = scores + bias
    if lengths is not None:
        places = torch.arange(key.shape[2], device=key.device)
        attended = (places < lengths[:, None])[:, None, None]
        scores = scores.masked_fill(~attended, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value)


@attention.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    lengths: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    return torch.empty_like(query)


def register() -> None:
    """Make :data:`IMPLEMENTATION` known to transformers."""
    AttentionInterface.register(IMPLEMENTATION, _attend)
    AttentionMaskInterface.register(IMPLEMENTATION, _mask)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    if softcap is not None:
        raise UnsupportedError(f"{type(module).__name__}: softcapped attention is not exported.")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = attention(query, key, value, attention_mask, None, scale)
    return output.transpose(1, 2), None


def _mask(**settings: Any) -> torch.Tensor:
    """An additive mask; padding alone needs no row for each query."""
    padding = settings["attention_mask"]
    if settings["mask_function"] is bidirectional_mask_function and padding is not None:
        return attention_bias(padding, settings["dtype"], causal=False)
    return eager_mask(**settings)
