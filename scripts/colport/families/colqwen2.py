"""ColQwen2: Qwen2-VL with a projection (Faysse et al. 2024, arXiv:2407.01449)."""

from colport.families.pages.layouts import EngineLayout, TransformersLayout
from colport.families.pages.qwen_vl import QwenFamily


class ColQwen2(QwenFamily):
    """``ColQwen2ForRetrieval`` of transformers, ``ColQwen2`` of colpali-engine."""

    name = "colqwen2"
    layouts = (
        TransformersLayout("ColQwen2", "qwen2_vl"),
        EngineLayout("ColQwen2", "qwen2_vl"),
    )


FAMILIES = (ColQwen2(),)
