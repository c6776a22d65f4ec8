"""ColIdefics3, published as ColSmol: Idefics3 or SmolVLM with a projection."""

from colport.families.pages.layouts import BiLayout, EngineLayout
from colport.families.pages.tiles import TileFamily


class ColIdefics3(TileFamily):
    """``ColIdefics3`` of colpali-engine."""

    name = "colidefics3"
    layouts = (EngineLayout("ColIdefics3", "idefics3", "model", projection="linear"),)


class BiIdefics3(TileFamily):
    """``BiIdefics3`` of colpali-engine: one vector, that of the last token."""

    name = "biidefics3"
    layouts = (BiLayout("BiIdefics3", "idefics3", "model"),)
