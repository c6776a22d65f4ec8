"""ColModernVBert: SigLIP and ModernBERT with a projection (Teiletche et al., arXiv:2510.01149)."""

from colport.families.pages.layouts import BiLayout, EngineLayout, TransformersLayout
from colport.families.pages.tiles import TileFamily


class ColModernVBert(TileFamily):
    """``ColModernVBertForRetrieval`` of transformers, ``ColModernVBert`` of colpali-engine."""

    name = "colmodernvbert"
    layouts = (
        TransformersLayout("ColModernVBert", "modernvbert", query_end=""),
        EngineLayout("ColModernVBert", "modernvbert", "model"),
    )


class BiModernVBert(TileFamily):
    """``BiModernVBert`` of colpali-engine: one vector, the mean of all tokens."""

    name = "bimodernvbert"
    layouts = (BiLayout("BiModernVBert", "modernvbert", "model", pooling="mean"),)
