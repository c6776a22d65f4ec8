"""ColQwen2: Qwen2-VL with a projection (Faysse et al. 2024, arXiv:2407.01449)."""

from colport.families.pages.layouts import BiLayout, EngineLayout, TransformersLayout
from colport.families.pages.qwen_vl import OLDER_NAMES, QwenFamily


class ColQwen2(QwenFamily):
    """``ColQwen2ForRetrieval`` of transformers, ``ColQwen2`` of colpali-engine."""

    name = "colqwen2"
    layouts = (TransformersLayout("ColQwen2", "qwen2_vl"), EngineLayout("ColQwen2", "qwen2_vl"))


class BiQwen2(ColQwen2):
    """``BiQwen2`` of colpali-engine: one vector, that of the last token."""

    name = "biqwen2"
    layouts = (BiLayout("BiQwen2", "qwen2_vl", older=OLDER_NAMES),)
