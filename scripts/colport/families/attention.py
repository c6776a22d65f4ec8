"""Attention as one operator of the trace, so that each graph can write the form that runs best.

transformers' own doors are used: an attention function and a mask function under one name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, eager_mask

from colport.base.errors import UnsupportedError
from colport.families.functional import attention_bias
from colport.families.stacks import is_same

IMPLEMENTATION = "colport"
"""The name to give as ``attn_implementation``."""

VIEWED = f"{IMPLEMENTATION}_viewed"
"""The same for models that take a view of attention's output, as it lies in memory."""

_IDLE = frozenset(
    {
        *("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "position_ids"),
        *("cache_position", "deterministic", "output_attentions", "return_dict", "use_cache"),
    }
)
"""Keywords of attention calls that change no result: what other implementations need."""

_OFF = {"dropout": 0.0, "is_causal": False}
"""Keywords that change no result where they have this value."""


DOMAIN = "colport"
"""Of our own operators, which a trace carries as single nodes, to be rewritten before writing."""

ATTENTION = "Attention"
"""``attention(query, key, value[, bias, lengths])``, attribute ``scale``."""

GATED_DELTA_RULE = "GatedDeltaRule"
"""``rule(value, query, key, decay, beta)``, all ``float32 [batch, tokens, width]`` and causal, see
``export/operators/linear_attention.py``; attributes ``key_heads``, ``heads``, ``scale``."""


def node(operator: str, *inputs: torch.Tensor | None, **attributes: Any) -> torch.Tensor:
    """An operator of our own in a trace; its output has the type and shape of the first input."""
    (first, *_), name = inputs, f"{DOMAIN}::{operator}"
    form = {"dtype": first.dtype, "shape": first.shape, "version": 1}
    return torch.onnx.ops.symbolic(name, inputs, attributes, **form).to(first.device)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    lengths: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Scaled dot-product attention with softmax in fp32; in a trace, on the meta device, a node.

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
    if query.is_meta:
        return node(ATTENTION, query, key, value, bias, lengths, scale=scale)
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


def register() -> None:
    """Make :data:`IMPLEMENTATION` known to transformers."""
    AttentionInterface.register(IMPLEMENTATION, _attend)
    AttentionInterface.register(VIEWED, _attend_contiguously)
    AttentionMaskInterface.register(IMPLEMENTATION, _mask)


def refuse_unwritten(module: Any, settings: Mapping[str, Any]) -> None:
    """Refuse keywords of an attention call that no graph would hold.

    Args:
        module: What calls.
        settings: Its keywords but for those that are written into the graph.

    Raises:
        UnsupportedError: A keyword may change the result.
    """
    for name, value in settings.items():
        if value is not None and name not in _IDLE and not is_same(value, _OFF.get(name)):
            raise UnsupportedError(f"{type(module).__name__}: attention's {name} is not exported.")


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    if attention_mask is None:  # a mask says which keys are attended; without one, these do
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        settings |= {"is_causal": causal, "sliding_window": sliding_window}
    refuse_unwritten(module, settings)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    biases = [_additive(module, bias, query) for bias in (attention_mask, position_bias)]
    given = [bias for bias in biases if bias is not None]
    output = attention(query, key, value, sum(given) if given else None, None, scale)
    return output.transpose(1, 2), None


def _attend_contiguously(*states: Any, **settings: Any) -> tuple[torch.Tensor, None]:
    output, _ = _attend(*states, **settings)
    return output.contiguous(), None


def _additive(module: Any, bias: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor | None:
    """A mask as what is added to the scores."""
    if bias is None or (bias.dim() == 4 and bias.is_floating_point()):
        return bias
    if bias.dim() == 4 and bias.dtype == torch.bool:
        return torch.where(bias, states.new_zeros(()), torch.finfo(states.dtype).min)
    raise UnsupportedError(
        f"{type(module).__name__}: attention has a mask of {bias.dtype} and {bias.dim()} axes; "
        "exported are 4 axes, of booleans or what is added to the scores."
    )


def _mask(**settings: Any) -> torch.Tensor | None:
    """An additive mask; padding alone needs no row for each query, and where all keys are attended
    there is none."""
    padding = settings["attention_mask"]
    if settings["mask_function"] is bidirectional_mask_function:
        return None if padding is None else attention_bias(padding, settings["dtype"], causal=False)
    return eager_mask(**settings)


def give_zeros(model: Any) -> None:
    """Let a model's attention give zeros to tokens whose keys are all masked.

    Expansion tokens that nobody attends to are scored all the same. Out of reach of a sliding
    window, or before the text under a causal mask, such a token has no key at all. PyTorch's
    attention, which the libraries use, then gives zeros; a softmax over equally low scores gives an
    average.
    """
    name = model.config._attn_implementation
    attend, mask = AttentionInterface()[name], AttentionMaskInterface()[name]

    def attend_or_zero(module: Any, *states: Any, **settings: Any) -> tuple[torch.Tensor, Any]:
        output, weights = attend(module, *states, **settings)
        attention_mask = states[3] if len(states) > 3 else settings["attention_mask"]
        if attention_mask is None or attention_mask.shape[2] == 1:  # every token has the same keys
            return output, weights
        seen = (attention_mask == 0).any(dim=-1).transpose(1, 2).unsqueeze(-1)
        return output * seen.to(output.dtype), weights

    AttentionInterface.register(f"{name}_or_zero", attend_or_zero)
    AttentionMaskInterface.register(f"{name}_or_zero", mask)
    model.set_attn_implementation(f"{name}_or_zero")
