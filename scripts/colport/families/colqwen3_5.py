"""ColQwen3.5: Qwen3.5 with a projection, in colpali-engine.

Most layers of its language model attend linearly: a short causal convolution, and a state that each
token corrects (gated delta networks, Yang et al. 2024, arXiv:2412.06464).
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from colport.families.base import Tensor
from colport.families.pages.layouts import BiLayout, EngineLayout
from colport.families.pages.qwen_vl import Qwen3Family


class ColQwen3_5(Qwen3Family):  # noqa: N801
    """``ColQwen3_5`` of colpali-engine."""

    name = "colqwen3_5"
    layouts = (EngineLayout("ColQwen3_5", "qwen3_5"),)
    float_weights = (r"\.linear_attn\.in_proj_[ab]\.",)
    """The projections to a number a head: how fast its state fades, how far a token corrects it.

    They are 0.15% of a layer of Qwen3.5-0.8B. On random weights of 256 dimensions four bits cost
    them six times as much a parameter as those of query, key and value, and the whole model next
    to nothing; what trained ones would lose is not known here. Qwen's own FP8 checkpoints leave
    them as they are (``modules_to_not_convert`` of ``Qwen/Qwen3.5-27B-FP8``), and so does NVIDIA
    Model Optimizer (``default_disabled_quantizers``).
    """

    def prepare(self, backbone: Any) -> None:
        """See :meth:`PageFamily.prepare`."""
        super().prepare(backbone)
        for layer in backbone.language_model.layers:
            if layer.block_type == "linear_attention":
                layer.linear_attn.forward = MethodType(_gated_delta_net, layer.linear_attn)


class BiQwen3_5(ColQwen3_5):  # noqa: N801
    """``BiQwen3_5`` of colpali-engine, whose embedding is that of the last token."""

    name = "biqwen3_5"
    layouts = (BiLayout("BiQwen3_5", "qwen3_5"),)


def _gated_delta_net(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor,
    is_causal: bool = True,  # of full attention; this one always is
    **settings: Any,
) -> Tensor:
    """``forward`` of a ``Qwen3_5GatedDeltaNet``; in a trace, its recurrence is a node.

    transformers computes it in chunks of tokens, by loops that no graph of any length can hold.
    """
    import torch
    from transformers.activations import ACT2FN
    from transformers.models.qwen3_5.modeling_qwen3_5 import l2norm

    from colport.families.attention import GATED_DELTA_RULE, node, refuse_unwritten

    if not hidden_states.is_meta:
        return type(self).forward(self, hidden_states, attention_mask=attention_mask, **settings)
    refuse_unwritten(self, settings)
    dtype, tokens = hidden_states.dtype, hidden_states.shape[1]
    hidden_states = (hidden_states * attention_mask.unsqueeze(-1)).to(dtype)  # zero where padded
    mixed = self.conv1d(self.in_proj_qkv(hidden_states).transpose(1, 2))[:, :, :tokens]
    mixed = ACT2FN[self.activation](mixed).transpose(1, 2)
    query, key, value = mixed.split([self.key_dim, self.key_dim, self.value_dim], dim=-1)
    query, key = (
        l2norm(part.float().unflatten(-1, (self.num_k_heads, -1))).flatten(2)
        for part in (query, key)
    )
    steps = torch.nn.functional.softplus(self.in_proj_a(hidden_states).float() + self.dt_bias)
    output = node(
        GATED_DELTA_RULE,
        value.float(),
        query,
        key,
        -self.A_log.float().exp() * steps,
        self.in_proj_b(hidden_states).sigmoid().float(),
        key_heads=self.num_k_heads,
        heads=self.num_v_heads,
        scale=self.head_k_dim**-0.5,
    )
    output, gate = (
        part.unflatten(-1, (self.num_v_heads, -1))
        for part in (output.to(dtype), self.in_proj_z(hidden_states))
    )
    return self.out_proj(self.norm(output, gate).flatten(2))
