"""What captioners share: their two graphs, their preprocessing, and their library's ``generate``.

``image.onnx`` is run once for a batch of pictures, ``decoder.onnx`` once for what a text begins
with and once for each token behind it. What the decoder takes of the image graph's outputs has the
same name in both: ``cross_key_values.{layer}.key|value`` of models with cross-attention, also
``encoder_attention_mask`` where sources differ in length, or ``image_features``, which models whose
pictures are the first tokens of the text take in the first call, and as zero tokens afterwards.
Beside them the decoder takes

- ``input_ids int64 [batch, tokens]``: tokens that are not in the cache yet;
- ``attention_mask int64 [batch, text_tokens]``, only where texts may begin with prompts of unequal
  length: of all text tokens up to now, padding on the left; a picture's tokens do not count;
- ``past_key_values.{layer}.key|value [batch, heads, past_tokens, head_dim]``: the last call's
  ``present.{layer}.key|value``, in the first call of zero tokens;

and gives ``logits float32 [batch, 1, vocabulary]`` of each text's last token.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from colport.base.errors import CheckpointError, InputError
from colport.base.foreign import shape_beside
from colport.families.base import (
    Family,
    Feeds,
    GraphDefinition,
    GraphInput,
    Processing,
    Room,
    Skeleton,
    Stack,
    Tensor,
    check_settings,
)
from colport.families.captions import pictures
from colport.families.captions.generation import Generation, stated
from colport.families.reference import skeletons
from colport.families.tokens import Tokens, check_ids, save_backend
from colport.hub.checkpoints import read_config, reading
from colport.tensors.weights import StoredTensor, TensorIndex

_SHAPE = shape_beside(__file__)

_PAST, _PRESENT, _CROSS = (
    tuple(f"{name}.{{}}.{part}" for part in ("key", "value"))
    for name in ("past_key_values", "present", "cross_key_values")
)
"""Names of a layer's states, by its number."""

_BATCH, _TOKENS, _PAST_TOKENS, _SOURCE, _FEATURES = 2, 3, 5, 7, 4
"""Sizes to trace a decoder with."""

AFTER_BEGIN: Mapping[str, Any] = {
    "reader": "decoder",
    "behind_begin": True,
    "template": "{text}",
    "tasks": {},
}
"""``prompts`` of models whose texts go on from a prompt behind what all texts begin with."""

_COMPUTED = {r"\.(attn|crossattention)\.(masked_)?bias$": "masks that are computed"}
_UNREAD: Mapping[str, str] = {
    **_COMPUTED,
    r"^encoder\.pooler\.": "makes one vector of a picture",
    r"^text_decoder\.cls\.predictions\.bias$": "stands in its layer, which is read, once more",
}
"""Weights that no text depends on, and why."""


@dataclass(frozen=True)
class Beginning:
    """What is known before the first token is generated.

    Attributes:
        feeds: Inputs of the image graph: ``pixel_values float32 [batch, 3, height, width]``, and
            where its encoder reads prompts ``prompt_ids`` and ``prompt_mask``, both
            ``int64 [batch, prompt_tokens]``.
        tokens: Ids that each text begins with, at least one; generated ids come behind them. Rows
            of unequal length share a call only if the decoder has an ``attention_mask``.
    """

    feeds: Feeds
    tokens: Sequence[Sequence[int]]


class CaptionRuntime:
    """Torch-free preparation of one exported captioner; methods change nothing.

    Args:
        settings: The ``processing`` section of ``colport.json``.
        folder: The exported folder.

    Attributes:
        generation: How the checkpoint generates.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        check_settings(settings, {**_SHAPE["settings"], "image": pictures.SHAPE}, folder)
        self._image, self._prompts = settings["image"], settings["prompts"]
        if self._prompts is not None:
            check_settings(self._prompts, _SHAPE["prompts"], folder)
        self.generation = Generation.of(settings["generation"], folder)
        self._settings = settings
        self._tokens = Tokens(folder / "tokenizer.json", settings["pad_id"], "right")

    def picture(self, image: Image.Image) -> np.ndarray:
        """One picture as the model takes it, ``float32 [3, height, width]``.

        Raises:
            PageError: It is none, or cannot be given the model's size.
        """
        return pictures.prepare(image, self._image)

    def begin(self, pictures: Sequence[np.ndarray], prompts: Sequence[str | None]) -> Beginning:
        """Inputs of a batch.

        Args:
            pictures: What :meth:`picture` gave for each.
            prompts: One for each picture, ``None`` for the model's own beginning.

        Raises:
            InputError: The model takes no prompts, or not this one; argument ``prompt``.
        """
        feeds, begin, given = {"pixel_values": np.stack(pictures)}, self._settings["begin"], []
        for index, prompt in enumerate(prompts):
            if prompt is not None and self._prompts is None:
                raise InputError("prompt", index, "is given to a model that takes none")
            try:
                given.append(None if self._prompts is None else self._written(prompt))
            except ValueError as error:
                raise InputError("prompt", index, str(error)) from error
        rows = self._tokens.encode([text or "" for text in given], special=False)
        if self._prompts is None or self._prompts["reader"] == "decoder":
            is_behind = self._prompts is not None and self._prompts["behind_begin"]
            texts = [[*begin, *row] if is_behind or not row else row for row in rows]
            return Beginning(feeds, texts)
        read = self._tokens.pad(rows)
        return Beginning(
            {**feeds, "prompt_ids": read.ids, "prompt_mask": read.mask}, [begin] * len(rows)
        )

    def _written(self, prompt: str | None) -> str | None:
        """A prompt as its library's processor writes it.

        Raises:
            ValueError: The processor refuses it.
        """
        text, given = prompt or "", self._prompts
        for task, written in given["tasks"].items():
            if task in text and "{input}" not in written and text != task:
                raise ValueError(f"has more than {task}, which stands alone")
            if task in text:
                text = written.replace("{input}", text.replace(task, "").strip())
                break
        if prompt is None and given["reader"] == "decoder":
            return None
        return given["template"].replace("{text}", text)

    def text(self, tokens: Sequence[int], begun: int) -> str:
        """A text of its ids, as the library's processor decodes it.

        Args:
            tokens: What it began with and what was generated, padding and end included.
            begun: How many of them it began with, padding on the left included.
        """
        shown = self._prompts is not None and self._prompts["behind_begin"]
        dropped = self._settings["dropped"]
        ids = [index for index in tokens[0 if shown else begun :] if index not in dropped]
        return self._tokens.decode(ids, self._settings["clean_up"])


@dataclass(frozen=True)
class Decoder:
    """Where a model has what its decoder's graph needs.

    Attributes:
        body: Place of the module that runs the layers.
        layers: Place of the list of layers in it.
        head: Place of the module that makes logits of the body's hidden states.
        cross: Places in a layer of what makes keys and values of the encoder's hidden states, one
            for both or one for each; empty for a model whose pictures begin its text.
    """

    body: str
    layers: str
    head: str
    cross: tuple[str, ...] = ()


class CaptionFamily(Family):
    """An image-to-text model of transformers, traced as two graphs over one file of weights."""

    task = "captioning"
    unread: ClassVar[Mapping[str, str]] = _UNREAD
    """Patterns of weights that no text depends on, and why."""
    model_class: ClassVar[str]
    """Name of its class in transformers."""
    attends: ClassVar[str | Mapping[str, str]] = "colport"
    """Its attention, as transformers' ``attn_implementation``."""
    prompts: ClassVar[Mapping[str, Any] | None] = None
    """``prompts`` of its settings; a checkpoint may have others."""
    image_inputs: ClassVar[tuple[str, ...]] = ()
    """Inputs of the image graph beside ``pixel_values``, all ``int64 [batch, prompt_tokens]``."""

    @abstractmethod
    def decoder(self, config: Any) -> Decoder:
        """Where a model of this configuration has its decoder.

        Raises:
            UnsupportedError: It is of a kind that is not exported.
        """

    @abstractmethod
    def text_config(self, config: Any) -> Any:
        """The decoder's part of a configuration."""

    @abstractmethod
    def encode(self, model: Any, pixels: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
        """What the decoder reads, ``[batch, source, width]``, and its mask where it has one."""

    def decode(self, model: Any, body: Any, given: Mapping[str, Tensor], cache: Any) -> Tensor:
        """Hidden states ``[batch, tokens, width]`` of the decoder's new tokens.

        Args:
            model: The model.
            body: Its :attr:`Decoder.body`.
            given: The graph's inputs by name, and ``encoder_hidden_states`` of the right shape,
                whose values are not read.
            cache: What the layers read and write their states in.
        """
        return body(
            input_ids=given["input_ids"],
            encoder_hidden_states=given["encoder_hidden_states"],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def begin(self, config: Any, generation: Any) -> list[int]:
        """Ids that a text without a prompt begins with."""
        start = generation.decoder_start_token_id
        return [generation.bos_token_id if start is None else start]

    def generation(self, folder: Path, config: Any) -> Any:
        """The library's own ``GenerationConfig`` of a checkpoint."""
        from transformers import GenerationConfig

        try:
            return GenerationConfig.from_pretrained(folder)
        except OSError:  # of an older library, which kept all in one file
            place = {"config_file_name": "config.json", "_from_model_config": True}
            return GenerationConfig.from_pretrained(folder, **place)

    def prompt_settings(self, processor: Any, config: Any) -> Mapping[str, Any] | None:
        """``prompts`` of the settings."""
        return self.prompts

    def inputs(self, processor: Any, images: Sequence[Any], prompt: str | None) -> dict[str, Any]:
        """What the library's ``generate`` takes: tensors for pictures that share a prompt."""
        return dict(processor.image_processor(images, return_tensors="pt"))

    def begun(self, inputs: Mapping[str, Any]) -> int:
        """How many tokens the library's ``generate`` puts before those that it generates."""
        return inputs["decoder_input_ids"].shape[1] if "decoder_input_ids" in inputs else 1

    def logits(self, model: Any, inputs: Mapping[str, Any], tokens: Tensor) -> Tensor:
        """The library's logits behind each of ``int64 [batch, tokens]``, in one pass."""
        kept = {key: value for key, value in inputs.items() if key != "decoder_input_ids"}
        return model(**kept, decoder_input_ids=tokens).logits

    def config(self, folder: Path) -> Any:
        """The library's configuration of a checkpoint."""
        with reading(folder, "transformers"):
            return self.library_class.config_class.from_pretrained(folder, trust_remote_code=False)

    def accepts(self, folder: Path) -> bool:
        """See :meth:`Family.accepts`; a checkpoint with code of its own is another model."""
        config = read_config(folder) if (folder / "config.json").is_file() else {}
        return self.model_class in (config.get("architectures") or ()) and "auto_map" not in config

    def skeleton(self, folder: Path, precision: str) -> Skeleton:
        """See :meth:`Family.skeleton`."""
        from colport.families.stacks import by_build, named_by_library

        config = self.config(folder)
        decoder, text = self.decoder(config), self.text_config(config)
        image = pictures.image_settings(folder, self.processor(folder).image_processor)
        model, constants, tensors = self.build(folder, precision)
        place = f"{decoder.body}.{decoder.layers}"
        layers = model.get_submodule(place)
        own = (*_PAST, *_PRESENT, *(_CROSS if decoder.cross else ()))
        stack = Stack(place, by_build(["layer"] * len(layers), layers), own)
        stacks = [found for found in named_by_library(model) if found.name != place]
        return Skeleton(
            model,
            constants,
            tensors,
            self.graphs(model, stack, precision, pictures.picture_size(image)),
            text.hidden_size,
            f"{config.model_type} with {text.model_type}",
            (*stacks, stack),
            self.unread,
            text.max_position_embeddings,
        )

    def build(
        self, folder: Path, precision: str, *, to_trace: bool = True
    ) -> tuple[Any, dict[str, Tensor], dict[str, StoredTensor]]:
        """The model on the meta device, its computed buffers, and its parameters' tensors.

        Raises:
            CheckpointError: Weights are missing, unexpected or of another shape.
        """
        attends = {"to_trace": to_trace, "attends": self.attends}
        model, constants = skeletons.build_on_meta(
            self.library_class, self.config(folder), precision, **attends
        )
        tensors = skeletons.map_tensors(
            model, TensorIndex(folder), optional=self.unread, ignored=_COMPUTED, folder=folder
        )
        _untie(model, tensors)
        return model, constants, tensors

    def complete(self, model: Any) -> None:
        """Give a model what its library leaves out when it reads a checkpoint."""

    def graphs(
        self, model: Any, stack: Stack, precision: str, size: tuple[int, int]
    ) -> tuple[GraphDefinition, ...]:
        """The two graphs of a model on the meta device.

        Args:
            model: The model.
            stack: Its decoder's layers.
            precision: What its states are in.
            size: Height and width of its pictures.
        """
        decoder, text = self.decoder(model.config), self.text_config(model.config)
        heads = getattr(text, "decoder_attention_heads", None) or text.num_attention_heads
        layers = range(len(stack.kinds))

        def image(model: Any, pixels: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
            states, *mask = self.encode(model, pixels.to(model.dtype), *prompt)
            found = [states, *mask]
            for layer in model.get_submodule(stack.name) if decoder.cross else ():
                parts = [layer.get_submodule(place)(states) for place in decoder.cross]
                parts = parts if len(parts) > 1 else parts[0].chunk(2, -1)
                found += [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts]
            return tuple(found)

        def decode(model: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
            from colport.families.captions.caches import opened, states

            given = dict(zip((item.name for item in items), inputs, strict=True))
            past, cross = ({n: _pair(given, names, n) for n in firsts} for names in (_PAST, _CROSS))
            if decoder.cross:
                (keys, _), *_ = cross.values()
                batch, _, source, _ = keys.shape
                given["encoder_hidden_states"] = keys.new_empty(batch, source, text.hidden_size)
            cache = opened(past, cross if decoder.cross else None)
            hidden = self.decode(model, model.get_submodule(decoder.body), given, cache)
            logits = model.get_submodule(decoder.head)(hidden[:, -1].unsqueeze(1)).float()
            return (logits, *states(cache))

        width, kind = text.hidden_size // heads, skeletons.PRECISIONS[precision]
        firsts = sorted({stack.first(number) for number in layers})
        pixels = GraphInput("pixel_values", "float32", (_BATCH, 3, *size), {0: "batch"})
        asked = [_ids(name, _PAST_TOKENS, "prompt_tokens") for name in self.image_inputs]
        mask = ("encoder_attention_mask",) if self.image_inputs else ()
        first = ("encoder_hidden_states", *mask) if decoder.cross else ("image_features",)
        made = [name.format(n) for n in layers for name in _CROSS] if decoder.cross else []
        items = [_ids("input_ids", _TOKENS, "tokens")]
        if self.has_mask:
            items.append(_ids("attention_mask", _PAST_TOKENS + _TOKENS, "text_tokens"))
        if not decoder.cross:
            axes, shape = {0: "batch", 1: "image_tokens"}, (_BATCH, _FEATURES, text.hidden_size)
            items.append(GraphInput("image_features", kind, shape, axes))
        items += [_ids(name, _SOURCE, "source") for name in mask]
        lengths = [(_PAST, _PAST_TOKENS, "past_tokens")]
        lengths += [(_CROSS, _SOURCE, "source")] if decoder.cross else []
        items += [
            GraphInput(
                name.format(number), kind, (_BATCH, heads, length, width), {0: "batch", 2: axis}
            )
            for number in firsts
            for names, length, axis in lengths
            for name in names
        ]
        outputs = ("logits", *(name.format(n) for n in firsts for name in _PRESENT))
        return (
            GraphDefinition("image", (pixels, *asked), image, (*first, *made), (stack.name,)),
            GraphDefinition("decoder", tuple(items), decode, outputs),
        )

    def processing(self, folder: Path) -> Processing:
        """See :meth:`Family.processing`."""
        processor, config = self.processor(folder), self.config(folder)
        text, tokenizer = self.text_config(config), processor.tokenizer
        prompts, generation = (
            self.prompt_settings(processor, config),
            self.generation(folder, config),
        )
        if prompts is not None:
            unread = (getattr(config, "image_token_id", None),)
            check_ids(folder, tokenizer, text.vocab_size, unread)
        begin = self.begin(config, generation)
        if None in begin:
            raise CheckpointError(
                f"{folder}: says no decoder_start_token_id or bos_token_id that a text begins with."
            )
        backend = save_backend(tokenizer, folder)
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, *begin)
        added = backend.get_added_tokens_decoder()
        dropped = {index for index, token in added.items() if token.special}
        if prompts is not None and not prompts["behind_begin"]:  # other special tokens are tags
            dropped = {index for index in ends if index is not None}
        settings = {
            "image": pictures.image_settings(folder, processor.image_processor),
            "generation": stated(generation, text.max_position_embeddings, folder),
            "begin": begin,
            "prompts": prompts and dict(prompts),
            "dropped": sorted(dropped),
            # transformers does not clean up after a tokenizer of byte pairs.
            "clean_up": bool(tokenizer.clean_up_tokenization_spaces)
            and type(backend.model).__name__ != "BPE",
            "pad_id": tokenizer.pad_token_id or 0,
        }
        return Processing(settings, backend)

    def runtime(self, settings: Mapping[str, Any], folder: Path) -> CaptionRuntime:
        """See :meth:`Family.runtime`."""
        return CaptionRuntime(settings, folder)

    def processor(self, folder: Path) -> Any:
        """``image_processor`` and ``tokenizer`` of the checkpoint's own library."""
        from transformers import AutoImageProcessor, AutoTokenizer

        with reading(folder, "transformers"):
            parts = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}
            opened = {
                name: part.from_pretrained(folder, trust_remote_code=False)
                for name, part in parts.items()
            }
        return SimpleNamespace(**opened)

    def open_reference(self, folder: Path, device: str, room: Room) -> Any:
        """See :meth:`Family.open_reference`."""
        from colport.families.captions.reference import Generator

        return Generator(self, folder, device, room)

    @property
    def has_mask(self) -> bool:
        """Whether texts may begin with prompts of unequal length."""
        return bool(self.prompts and self.prompts["behind_begin"])

    @property
    def library_class(self) -> Any:
        """Its class in transformers."""
        import transformers

        return getattr(transformers, self.model_class)


def _ids(name: str, size: int, axis: str) -> GraphInput:
    return GraphInput(name, "int64", (_BATCH, size), {0: "batch", 1: axis})


def _pair(given: Mapping[str, Tensor], names: Sequence[str], number: int) -> list[Tensor]:
    return [given[name.format(number)] for name in names if name.format(number) in given]


def _untie(model: Any, tensors: Mapping[str, Any]) -> None:
    """Give tied parameters that a checkpoint stores each for itself a place each."""
    import torch

    for target, source in (model.all_tied_weights_keys or {}).items():
        if tensors[target] is not tensors[source]:
            place, _, name = target.rpartition(".")
            own = torch.empty_like(model.get_parameter(target))
            setattr(model.get_submodule(place), name, torch.nn.Parameter(own))
