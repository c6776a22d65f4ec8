"""The libraries that page models come from: their classes, and where those keep what we need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from colport.base.errors import UnsupportedError
from colport.families import functional
from colport.families.adapters import merge
from colport.families.base import Embedder, Room, Tensor
from colport.families.reference import skeletons
from colport.families.text.layouts import MODULES, read_modules
from colport.hub.checkpoints import read_config, reading
from colport.tensors.weights import StoredTensor, TensorIndex

_PROCESSORS = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
_OLD_SIZES = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}
UNREAD: Mapping[str, str] = {
    r"(^|\.)lm_head\.": "predicts words",
    r"^mtp\.": "predicts words further ahead",
    r"(^|\.)vision_model\.head\.": "makes one vector of an image",
}
"""Weights that no embedding depends on, and why."""
_LINEAR = ("weight", "bias")
_PLAIN = {
    "module_input_name": ("token_embeddings",),
    "module_output_name": ("token_embeddings", None),
    "activation_function": ("torch.nn.modules.linear.Identity",),
    "use_residual": (False, None),
}
"""Settings with which a ``Dense`` of sentence-transformers is a linear layer alone."""
_ROUNDING = 2**-7  # of the largest weight; bfloat16 rounds each one by up to 2**-9 of itself


@dataclass(frozen=True)
class CheckpointLayout(ABC):
    """How one library stores a page model, and how it prompts it.

    Attributes:
        stem: The model's name.
        vlm: Model type of its vision-language model.
        backbone: Place of that in the model, and empty for the model itself.
        projection: Place of the layer that makes embeddings; without one, the hidden states are
            normalised themselves.
        pooling: How one vector is made of all tokens, see :func:`functional.pooled`; without it
            there is one a token.
        processor: Name of the processor's class; by default the stem with "Processor" behind.
        query_end: What its processor puts behind a query's augmentation tokens.
        zeros: Inputs of the model, as many as token ids, that are zeros where the processor gives
            none.
        older: Patterns in names of weights that the model's class does not know, and what stands
            for them today.
        library: Name of the library.
        module: Its module that has the classes.
        head: What the name of its model class has behind the stem.
    """

    stem: str
    vlm: str
    backbone: str = ""
    projection: str | None = None
    pooling: Literal["last", "mean"] | None = None
    processor: str = ""
    query_end: str = ""
    zeros: tuple[str, ...] = ()
    older: Mapping[str, str] = field(default_factory=dict)
    library: ClassVar[str]
    module: ClassVar[str]
    head: ClassVar[str] = ""

    @abstractmethod
    def accepts_config(self, config: Mapping[str, Any]) -> bool:
        """Whether a ``config.json`` is of this layout."""

    def accepts(self, folder: Path) -> bool:
        """Whether ``config.json`` names this layout's model."""
        return (folder / "config.json").is_file() and self.accepts_config(read_config(folder))

    def build(
        self, folder: Path, precision: str, *, to_trace: bool = True
    ) -> tuple[Any, dict[str, Tensor]]:
        """The model on the meta device and its computed buffers."""
        return skeletons.build_on_meta(
            self._model_class, self.config(folder), precision, "colport" if to_trace else None
        )

    def tensors(self, model: Any, folder: Path) -> dict[str, StoredTensor]:
        """Each parameter's tensor in the checkpoint, with its adapter if it has one.

        Raises:
            CheckpointError: Weights are missing, unexpected or of another shape.
        """
        kinds = {"key_mapping": self._older, "optional": UNREAD, "ignored": UNREAD}
        found = skeletons.map_tensors(model, TensorIndex(folder), folder=folder, **kinds)
        read = {name: found[name] for name in found if not skeletons.reason(UNREAD, name)}
        merged = merge(folder, model, read, self._older)
        named = {f"linear.{end}": merged.get(f"{self.projection}.{end}") for end in _LINEAR}
        _check_modules(folder, {name: entry for name, entry in named.items() if entry})
        return merged

    def load_processor(self, folder: Path) -> Any:
        """The library's own processor of a checkpoint.

        transformers 4 wrote ``size`` with other keys, which its successor keeps and does not read.
        """
        with reading(folder, self.library):
            known = self._class(self._processor)
            processor = known.from_pretrained(folder, trust_remote_code=False)
        size, known = processor.image_processor.size, type(processor.image_processor).size or {}
        for key, old in _OLD_SIZES.items():
            if key in known and size.get(key) is None and size.get(old) is not None:
                size[key] = size[old]
        return processor

    def reference(self, folder: Path, device: str, room: Room) -> Embedder:
        """The library's own model and processor, in fp32.

        Raises:
            CheckpointError: Weights are missing or unexpected; the library would make them up.
        """
        from colport.families.reference.models import ProcessorReference
        from colport.families.reference.stored_parameters import fill

        model, constants = self.build(folder, "fp32", to_trace=False)
        tensors = self.tensors(model, folder)
        if room.is_streamed:
            fill(model, tensors, constants)
        else:
            model = self._whole(folder)
        return ProcessorReference(model, self.load_processor(folder), device, room, self.zeros)

    def _whole(self, folder: Path) -> Any:
        """The model in memory, with its adapter if it has one, in fp32."""
        import torch

        with reading(folder, "its library"):
            model, loading = self._model_class.from_pretrained(
                folder,
                config=self.config(folder),
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                key_mapping=self._older or None,
                output_loading_info=True,
            )
        missing = (key for key in loading["missing_keys"] if not skeletons.reason(UNREAD, key))
        skeletons.refuse_weights("missing", missing, folder)
        return model

    def config(self, folder: Path) -> Any:
        """The configuration, without a quantization that the tensors do not have."""
        with reading(folder, self.library):
            known = self._model_class.config_class
            config = known.from_pretrained(folder, trust_remote_code=False)
        return skeletons.unquantized(config) if skeletons.is_said_quantized(folder) else config

    def embed(self, model: Any, hidden: Tensor, mask: Tensor) -> Tensor:
        """Embeddings ``float32 [batch, tokens or 1, dim]`` of the language model's output."""
        if self.pooling:
            hidden = functional.pooled(hidden, mask, self.pooling)
            mask = (mask[:, :1] >= 0).to(mask.dtype)  # one embedding of each input
        if self.projection:
            hidden = model.get_submodule(self.projection)(hidden)
        return functional.normalised(hidden, mask)

    def dim(self, model: Any) -> int:
        """Size of an embedding."""
        if self.projection:
            return model.get_submodule(self.projection).out_features
        return model.get_submodule(self.backbone).config.get_text_config().hidden_size

    @property
    def _older(self) -> dict[str, str]:
        """Older names of weights, as the library's class says or the layout."""
        return {**getattr(self._model_class, "_checkpoint_conversion_mapping", {}), **self.older}

    @property
    def _processor(self) -> str:
        return self.processor or f"{self.stem}Processor"

    @property
    def _model_class(self) -> Any:
        return self._class(f"{self.stem}{self.head}")

    def _class(self, name: str) -> Any:
        return getattr(import_module(self.module), name)


def _check_modules(folder: Path, projection: Mapping[str, StoredTensor]) -> None:
    """Refuse what sentence-transformers would do to the embeddings of a page model.

    Args:
        folder: The checkpoint.
        projection: Tensors of its own projection by the names that a ``Dense`` has for them.

    Raises:
        UnsupportedError: ``modules.json`` has another projection behind it, or a mask that leaves
            out tokens.
    """
    for module in read_modules(folder)[1:] if (folder / MODULES).is_file() else ():
        is_dense, is_mask = module.name == "Dense", module.name == "MultiVectorMask"
        given = read_config(module.folder) if is_dense or is_mask else {}
        masked = [key for key in ("skiplist_words", "keep_only_token_ids") if given.get(key)]
        if (is_dense and not _is_once_more(module.folder, given, projection)) or (
            is_mask and masked
        ):
            raise UnsupportedError(
                f"{folder / MODULES}: {' '.join([module.name, *masked])} in {module.folder.name!r} "
                "changes the embeddings of a page model; exported are those of its own projection."
            )


def _is_once_more(
    folder: Path, config: Mapping[str, Any], projection: Mapping[str, StoredTensor]
) -> bool:
    """Whether a ``Dense`` is the projection itself, as far as bfloat16 keeps it."""
    if not projection or any(config.get(key) not in allowed for key, allowed in _PLAIN.items()):
        return False
    given = TensorIndex(folder)
    return given.keys() == projection.keys() and all(
        given[name].shape == own.shape and _is_close(given[name].read(), own.read())
        for name, own in projection.items()
    )


def _is_close(one: np.ndarray, other: np.ndarray) -> bool:
    one, other = one.astype(np.float32), other.astype(np.float32)
    return bool((np.abs(one - other) <= _ROUNDING * np.abs(other).max()).all())


@dataclass(frozen=True)
class TransformersLayout(CheckpointLayout):
    """``{stem}ForRetrieval`` of transformers, the ``-hf`` checkpoints of the Hub."""

    backbone: str = "vlm"
    projection: str | None = "embedding_proj_layer"
    query_end: str = "\n"
    library = module = "transformers"
    head = "ForRetrieval"

    def accepts_config(self, config: Mapping[str, Any]) -> bool:
        """See :meth:`CheckpointLayout.accepts_config`."""
        inner = config.get("vlm_config") or {}
        found = inner.get("model_type", self.vlm) if isinstance(inner, dict) else None
        return config.get("model_type") == self.stem.lower() and found == self.vlm


@dataclass(frozen=True)
class EngineLayout(CheckpointLayout):
    """``{stem}`` of colpali-engine, in which the models of the ColPali paper were trained."""

    projection: str | None = "custom_text_proj"
    library = "colpali-engine"
    module = "colpali_engine.models"

    def accepts_config(self, config: Mapping[str, Any]) -> bool:
        """See :meth:`CheckpointLayout.accepts_config`."""
        architectures = config.get("architectures") or []
        return config.get("model_type") == self.vlm and self.stem in architectures


@dataclass(frozen=True)
class BiLayout(EngineLayout):
    """``Bi…`` of colpali-engine: one vector, by default that of the last token, as it is."""

    projection: str | None = None
    pooling: Literal["last", "mean"] | None = "last"

    def accepts(self, folder: Path) -> bool:
        """See :meth:`CheckpointLayout.accepts`; what a plain model becomes, its processor says.

        Such a model is the base of an adapter: the class has no weights of its own.
        """
        if super().accepts(folder) or not (folder / "config.json").is_file():
            return super().accepts(folder)
        config = read_config(folder)
        plain = str(config.get("architectures")).endswith("ForConditionalGeneration']")
        files = (read_config(folder, n) for n in _PROCESSORS if (folder / n).is_file())
        named = any(file.get("processor_class") == self._processor for file in files)
        return plain and named and config.get("model_type") == self.vlm
