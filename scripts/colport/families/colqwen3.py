"""ColQwen3: Qwen3-VL with a projection, in colpali-engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from colport.base.errors import UnsupportedError
from colport.families.base import Tensor
from colport.families.pages.base import Tensors
from colport.families.pages.layouts import BiLayout, EngineLayout
from colport.families.pages.qwen_vl import Qwen3Family


class ColQwen3(Qwen3Family):
    """``ColQwen3`` of colpali-engine.

    Features of deeper layers of the vision tower are added to the hidden states behind the first
    layers of the language model (DeepStack, Meng et al. 2024, arXiv:2406.04334).
    """

    name = "colqwen3"
    layouts = (EngineLayout("ColQwen3", "qwen3_vl"),)

    def prepare(self, backbone: Any) -> None:
        """See :meth:`PageFamily.prepare`."""
        super().prepare(backbone)
        if (dim := getattr(backbone.config, "dim", None)) is not None:
            raise UnsupportedError(
                f"config.json: dim is {dim}, of a library that begins queries with another prompt; "
                "exported are checkpoints of colpali-engine, which have none."
            )
        # They are placed among zeros, so that all rows can be added.
        backbone.language_model._deepstack_process = lambda hidden, _, deeper: hidden + deeper

    def embed_pages(self, backbone: Any, inputs: Tensors) -> Sequence[Tensor]:
        """See :meth:`PageFamily.embed_pages`."""
        found = self.tower(backbone, inputs)
        return (found.pooler_output, *found.deepstack_features)

    def hidden_states(
        self, backbone: Any, words: Tensor, inputs: Tensors, *deeper: Tensor
    ) -> Tensor:
        """See :meth:`PageFamily.hidden_states`."""
        return super().hidden_states(backbone, words, inputs, deepstack_visual_embeds=deeper)


class BiQwen3(ColQwen3):
    """``BiQwen3`` of colpali-engine, whose embedding is that of the last token."""

    name = "biqwen3"
    layouts = (BiLayout("BiQwen3", "qwen3_vl"),)
