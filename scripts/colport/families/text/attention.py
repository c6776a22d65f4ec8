"""Attention for tokens that have nothing to attend to.

Expansion tokens that nobody attends to are scored all the same. Out of reach of a sliding window,
or before the text under a causal mask, such a token has no key at all. PyTorch's attention, which
the libraries use, then gives zeros; a softmax over equally low scores gives an average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def give_zeros(model: PreTrainedModel) -> None:
    """Let a model's attention give zeros to tokens whose keys are all masked."""
    from transformers import AttentionInterface, AttentionMaskInterface

    name = model.config._attn_implementation
    attend, mask = AttentionInterface()[name], AttentionMaskInterface()[name]

    def attend_or_zero(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **settings: Any,
    ) -> tuple[torch.Tensor, Any]:
        output, weights = attend(module, query, key, value, attention_mask, **settings)
        if attention_mask is None or attention_mask.shape[2] == 1:  # every token has the same keys
            return output, weights
        seen = (attention_mask == 0).any(dim=-1).transpose(1, 2).unsqueeze(-1)
        return output * seen.to(output.dtype), weights

    AttentionInterface.register(f"{name}_or_zero", attend_or_zero)
    AttentionMaskInterface.register(f"{name}_or_zero", mask)
    model.set_attn_implementation(f"{name}_or_zero")
