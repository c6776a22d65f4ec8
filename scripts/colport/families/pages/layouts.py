"""The libraries that page models come from: their classes, and where those keep what we need."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colport.base.errors import UnsupportedError
from colport.families.base import Embedder
from colport.families.text.layouts import MODULES, read_modules
from colport.hub.checkpoints import read_config, reading

if TYPE_CHECKING:
    import torch

    from colport.families.reference.memory import Room
    from colport.tensors.weights import StoredTensor

_OLD_SIZES = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}
UNREAD: Mapping[str, str] = {r"(^|\.)lm_head\.": "predicts words"}
"""Weights that no embedding depends on, and why."""


@dataclass(frozen=True)
class CheckpointLayout:
    """How one library stores a page model, and how it prompts it.

    Attributes:
        library: Name of the library.
        module: Its module that has the classes.
        model: Name of its model class.
        processor: Name of its processor class.
        accepts_config: Whether a ``config.json`` is of this layout.
        backbone: Place of the vision-language model in the model, and empty for the model itself.
        projection: Place of the layer that makes embeddings.
        query_end: What its processor puts behind a query's augmentation tokens.
    """

    library: str
    module: str
    model: str
    processor: str
    accepts_config: Callable[[Mapping[str, Any]], bool]
    backbone: str
    projection: str
    query_end: str

    def accepts(self, folder: Path) -> bool:
        """Whether ``config.json`` names this layout's model."""
        return (folder / "config.json").is_file() and self.accepts_config(read_config(folder))

    def build(
        self, folder: Path, precision: str, *, to_trace: bool = True
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """The model on the meta device and its computed buffers."""
        from colport.families.reference.skeletons import build_on_meta

        return build_on_meta(
            self._class(self.model), self.config(folder), precision, to_trace=to_trace
        )

    def sources(self, model: Any, folder: Path) -> dict[str, StoredTensor]:
        """Each parameter's tensor in the checkpoint, with its adapter if it has one.

        Raises:
            CheckpointError: Weights are missing, unexpected or of another shape.
        """
        from colport.families.adapters import merge
        from colport.families.reference.skeletons import map_tensors
        from colport.tensors.weights import TensorIndex

        _check_modules(folder)
        sources = map_tensors(
            model,
            TensorIndex(folder),
            key_mapping=self._key_mapping(),
            optional=UNREAD,
            ignored=UNREAD,
            source=str(folder),
        )
        read = {
            name: entry
            for name, entry in sources.items()
            if not any(re.search(pattern, name) for pattern in UNREAD)
        }
        return merge(folder, model, read, self._key_mapping())

    def load_processor(self, folder: Path) -> Any:
        """The library's own processor of a checkpoint.

        transformers 4 wrote ``size`` with other keys, which its successor keeps and does not read.
        """
        with reading(folder, self.library):
            processor = self._class(self.processor).from_pretrained(folder, trust_remote_code=False)
        size = processor.image_processor.size
        for key, old in _OLD_SIZES.items():
            if size.get(key) is None and size.get(old) is not None:
                size[key] = size[old]
        return processor

    def reference(self, folder: Path, device: str, room: Room) -> Embedder:
        """The library's own model and processor, in fp32.

        Raises:
            CheckpointError: Weights are missing or unexpected; the library would make them up.
        """
        from colport.families.reference.models import ProcessorReference, whole_model

        model, constants = self.build(folder, "fp32", to_trace=False)
        sources = self.sources(model, folder)
        if room.is_streamed:
            from colport.families.reference.stored_parameters import fill

            fill(model, sources, constants)
        else:
            model = whole_model(self._class(self.model), self.config(folder), folder)
        return ProcessorReference(model, self.load_processor(folder), device, room)

    def config(self, folder: Path) -> Any:
        """The configuration, without a quantization that the tensors do not have."""
        from colport.families.reference.skeletons import is_said_quantized, unquantized

        with reading(folder, self.library):
            config = self._class(self.model).config_class.from_pretrained(
                folder, trust_remote_code=False
            )
        return unquantized(config) if is_said_quantized(folder) else config

    def _class(self, name: str) -> Any:
        return getattr(import_module(self.module), name)

    def _key_mapping(self) -> Mapping[str, str]:
        """Older names of weights that the library still reads."""
        return getattr(self._class(self.model), "_checkpoint_conversion_mapping", {})


def _check_modules(folder: Path) -> None:
    """Refuse what sentence-transformers would do to the embeddings of a page model.

    Raises:
        UnsupportedError: ``modules.json`` has a projection behind it, or a mask that leaves out
            tokens.
    """
    for module in read_modules(folder)[1:] if (folder / MODULES).is_file() else ():
        given = read_config(module.folder) if module.name == "MultiVectorMask" else {}
        masked = [key for key in ("skiplist_words", "keep_only_token_ids") if given.get(key)]
        if module.name == "Dense" or masked:
            raise UnsupportedError(
                f"{folder / MODULES}: {' '.join([module.name, *masked])} in {module.folder.name!r} "
                "changes the embeddings of a page model; exported are those of its own projection."
            )


def transformers_layout(stem: str, backbone: str) -> CheckpointLayout:
    """``{stem}ForRetrieval`` of transformers, the ``-hf`` checkpoints of the Hub.

    Args:
        stem: The model's name.
        backbone: Model type of its vision-language model.
    """

    def accepts(config: Mapping[str, Any]) -> bool:
        inner = config.get("vlm_config") or {}
        found = inner.get("model_type", backbone) if isinstance(inner, dict) else None
        return config.get("model_type") == stem.lower() and found == backbone

    return CheckpointLayout(
        library="transformers",
        module="transformers",
        model=f"{stem}ForRetrieval",
        processor=f"{stem}Processor",
        accepts_config=accepts,
        backbone="vlm",
        projection="embedding_proj_layer",
        query_end="\n",
    )


def engine_layout(stem: str, backbone: str, place: str) -> CheckpointLayout:
    """``{stem}`` of colpali-engine, in which the models of the ColPali paper were trained.

    Args:
        stem: The model's name, which ``config.json`` lists as its architecture.
        backbone: Model type of its vision-language model.
        place: Where that is in the model.
    """

    def accepts(config: Mapping[str, Any]) -> bool:
        architectures = config.get("architectures") or []
        return config.get("model_type") == backbone and stem in architectures

    return CheckpointLayout(
        library="colpali-engine",
        module="colpali_engine.models",
        model=stem,
        processor=f"{stem}Processor",
        accepts_config=accepts,
        backbone=place,
        projection="custom_text_proj",
        query_end="",
    )
