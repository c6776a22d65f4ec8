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
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from colport.base.errors import CheckpointError, InputError
from colport.base.foreign import shape_beside
from colport.families import base
from colport.families.base import GraphInput, Tensor
from colport.families.captions import pictures
from colport.families.captions.generation import Generation, stated
from colport.families.reference import skeletons
from colport.families.tokens import Tokens, check_ids, save_backend
from colport.hub.checkpoints import read_config, reading
from colport.tensors.weights import StoredTensor, TensorIndex

Reader = Literal["none", "text", "start", "encoder"]
"""What becomes of a prompt: the model takes none, the text goes on from it behind its beginning, it
takes the place of the beginning, or the image graph reads it."""

Given = tuple[dict[str, Any], int]
"""What the library's ``generate`` takes, and how many tokens it gives before those it generates."""

_SHAPE = {**shape_beside(__file__), "image": pictures.SHAPE}
_PAST, _PRESENT, _CROSS = (
    tuple(f"{name}.{{}}.{part}" for part in ("key", "value"))
    for name in ("past_key_values", "present", "cross_key_values")
)
"""Names of a layer's states, by its number."""

_BATCH, _TOKENS, _PAST_TOKENS, _SOURCE, _FEATURES = 2, 3, 5, 7, 4
"""Sizes to trace a decoder with."""

_COMPUTED = {r"\.(attn|crossattention)\.(masked_)?bias$": "masks that are computed"}


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

    feeds: base.Feeds
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
        base.check_settings(settings, _SHAPE, folder)
        self.generation = Generation.of(settings["generation"], folder)
        self._settings, self._reader = settings, settings["reader"]
        self._tokens = Tokens(folder / "tokenizer.json", settings["pad_id"], "right")

    def picture(self, image: Image.Image) -> np.ndarray:
        """One picture as the model takes it, ``float32 [3, height, width]``.

        Raises:
            PageError: It is none, or cannot be given the model's size.
        """
        return pictures.prepare(image, self._settings["image"])

    def begin(self, pictures: Sequence[np.ndarray], prompts: Sequence[str | None]) -> Beginning:
        """Inputs of a batch.

        Args:
            pictures: What :meth:`picture` gave for each.
            prompts: One for each picture, ``None`` for the model's own beginning.

        Raises:
            InputError: The model takes no prompts, or not this one; argument ``prompt``.
        """
        texts = []
        for index, prompt in enumerate(prompts):
            try:
                texts.append(self._written(prompt))
            except ValueError as error:
                raise InputError("prompt", index, str(error)) from error
        rows = self._tokens.encode(texts, special=False)
        feeds, start = {"pixel_values": np.stack(pictures)}, self._settings["begin"]
        if self._reader == "encoder":
            read = self._tokens.pad(rows)
            feeds |= {"prompt_ids": read.ids, "prompt_mask": read.mask}
            rows = [[] for _ in rows]
        is_behind = self._reader == "text"
        return Beginning(feeds, [row if row and not is_behind else [*start, *row] for row in rows])

    def _written(self, prompt: str | None) -> str:
        """A prompt as its library's processor writes it.

        Raises:
            ValueError: The processor refuses it.
        """
        if self._reader == "none" and prompt is not None:
            raise ValueError("is given to a model that takes none")
        text = prompt or ""
        for task, written in self._settings["tasks"].items():
            if task in text and "{input}" not in written and text != task:
                raise ValueError(f"has more than {task}, which stands alone")
            if task in text:
                text = written.replace("{input}", text.replace(task, "").strip())
                break
        return self._settings["template"].replace("{text}", text)

    def text(self, tokens: Sequence[int], begun: int) -> str:
        """A text of its ids, as the library's processor decodes it.

        Args:
            tokens: What it began with and what was generated, padding and end included.
            begun: How many of them it began with, padding on the left included.
        """
        shown, dropped = tokens[0 if self._reader == "text" else begun :], self._settings["dropped"]
        ids = [index for index in shown if index not in dropped]
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


class CaptionFamily(base.Family):
    """An image-to-text model of transformers, traced as two graphs over one file of weights."""

    task = "captioning"
    model_class: ClassVar[str]
    """Name of its class in transformers."""
    attends: ClassVar[str | Mapping[str, str]] = "colport"
    """Its attention, as transformers' ``attn_implementation``."""
    unread: ClassVar[Mapping[str, str]] = {
        **_COMPUTED,
        r"^encoder\.pooler\.": "makes one vector of a picture",
        r"^text_decoder\.cls\.predictions\.bias$": "stands in its layer, which is read, once more",
    }
    """Weights that no text depends on, and why."""
    reader: ClassVar[Reader] = "none"
    """See :data:`Reader`; a checkpoint whose prompts take the place of a beginning says so."""

    @abstractmethod
    def decoder(self, config: Any) -> Decoder:
        """Where a model of this configuration has its decoder.

        Raises:
            UnsupportedError: It is of a kind that is not exported.
        """

    @abstractmethod
    def encode(self, model: Any, pixels: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
        """What the decoder reads, ``[batch, source, width]``, and its mask where it has one."""

    def decode(self, body: Any, given: Mapping[str, Tensor], cache: Any) -> Tensor:
        """Hidden states ``[batch, tokens, width]`` of the decoder's new tokens.

        Args:
            body: The model's :attr:`Decoder.body`.
            given: The graph's inputs by name, and ``encoder_hidden_states`` of the right shape,
                whose values are not read.
            cache: What the layers read and write their states in.
        """
        known = {name: given[name] for name in ("input_ids", "encoder_hidden_states")}
        return body(**known, past_key_values=cache, use_cache=True).last_hidden_state

    def generation(self, folder: Path, config: Any) -> Any:
        """The library's own ``GenerationConfig`` of a checkpoint."""
        from transformers import GenerationConfig

        try:
            return GenerationConfig.from_pretrained(folder)
        except OSError:  # of an older library, which kept all in one file
            place = {"config_file_name": "config.json", "_from_model_config": True}
            return GenerationConfig.from_pretrained(folder, **place)

    def prompts(self, processor: Any, config: Any) -> dict[str, Any]:
        """``reader``, ``template`` and ``tasks`` of the settings."""
        return {"reader": self.reader, "template": "{text}", "tasks": {}}

    def inputs(self, processor: Any, images: Sequence[Any], prompt: str | None) -> Given:
        """See :data:`Given`, of pictures that share a prompt."""
        import torch

        given = dict(processor.image_processor(images, return_tensors="pt"))
        if not prompt:
            return given, 1
        ids = self.prompt_ids(processor.tokenizer, prompt)
        name = "input_ids" if self.reader == "text" else "decoder_input_ids"
        return {**given, name: torch.tensor([ids] * len(images))}, len(ids)

    def prompt_ids(self, tokenizer: Any, prompt: str) -> list[int]:
        """A prompt as the library's ``generate`` takes it."""
        return tokenizer(prompt, add_special_tokens=False)["input_ids"]

    def config(self, folder: Path) -> Any:
        """The library's configuration of a checkpoint."""
        with reading(folder, "transformers"):
            return self.library_class.config_class.from_pretrained(folder, trust_remote_code=False)

    def accepts(self, folder: Path) -> bool:
        """See :meth:`Family.accepts`; a checkpoint with code of its own is another model."""
        config = read_config(folder) if (folder / "config.json").is_file() else {}
        return self.model_class in (config.get("architectures") or ()) and "auto_map" not in config

    def skeleton(self, folder: Path, precision: str) -> base.Skeleton:
        """See :meth:`Family.skeleton`."""
        from colport.families.stacks import by_build, named_by_library

        image = pictures.image_settings(folder, self.processor(folder).image_processor)
        model, constants, tensors = self.build(folder, precision)
        decoder, text = self.decoder(model.config), model.config.get_text_config(decoder=True)
        place = f"{decoder.body}.{decoder.layers}"
        layers = model.get_submodule(place)
        own = (*_PAST, *_PRESENT, *(_CROSS if decoder.cross else ()))
        stack = base.Stack(place, by_build(["layer"] * len(layers), layers), own)
        others = (found for found in named_by_library(model) if found.name != place)
        graphs = self.graphs(model, stack, precision, pictures.picture_size(image))
        named = f"{model.config.model_type} with {text.model_type}"
        stacks, longest = (*others, stack), text.max_position_embeddings
        parts = (model, constants, tensors, graphs, text.hidden_size, named, stacks, self.unread)
        return base.Skeleton(*parts, longest)

    def build(
        self, folder: Path, precision: str, *, to_trace: bool = True
    ) -> tuple[Any, dict[str, Tensor], dict[str, StoredTensor]]:
        """The model on the meta device, its computed buffers, and its parameters' tensors.

        Raises:
            CheckpointError: Weights are missing, unexpected or of another shape.
            UnsupportedError: See :meth:`decoder`.
        """
        self.decoder(config := self.config(folder))
        attends = self.attends if to_trace else None
        model, constants = skeletons.build_on_meta(self.library_class, config, precision, attends)
        which = {"optional": self.unread, "ignored": _COMPUTED, "folder": folder}
        tensors = skeletons.map_tensors(model, TensorIndex(folder), **which)
        _untie(model, tensors)
        return model, constants, tensors

    def graphs(
        self, model: Any, stack: base.Stack, precision: str, size: tuple[int, int]
    ) -> tuple[base.GraphDefinition, ...]:
        """The two graphs of a model on the meta device.

        Args:
            model: The model.
            stack: Its decoder's layers.
            precision: What its states are in.
            size: Height and width of its pictures.
        """
        decoder, text = self.decoder(model.config), model.config.get_text_config(decoder=True)
        heads = getattr(text, "decoder_attention_heads", None) or text.num_attention_heads
        cross = _CROSS if decoder.cross else ()
        layers = range(len(stack.kinds))
        firsts = sorted({stack.first(number) for number in layers})

        def image(model: Any, pixels: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
            states, *mask = self.encode(model, pixels.to(model.dtype), *prompt)
            found = [states, *mask]
            for layer in model.get_submodule(stack.name) if cross else ():
                parts = [layer.get_submodule(place)(states) for place in decoder.cross]
                parts = parts if len(parts) > 1 else parts[0].chunk(2, -1)
                found += [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts]
            return tuple(found)

        def decode(model: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
            from colport.families.captions.caches import opened, states

            given = dict(zip((item.name for item in items), inputs, strict=True))
            past, read = (
                {n: [given[name.format(n)] for name in names] for n in firsts}
                for names in (_PAST, cross)
            )
            if cross:
                batch, _, source, _ = read[0][0].shape
                empty = read[0][0].new_empty(batch, source, text.hidden_size)
                given["encoder_hidden_states"] = empty
            cache = opened(past, read if cross else None)
            hidden = self.decode(model.get_submodule(decoder.body), given, cache)
            logits = model.get_submodule(decoder.head)(hidden[:, -1].unsqueeze(1)).float()
            return (logits, *states(cache))

        kind, width = skeletons.PRECISIONS[precision], text.hidden_size // heads
        prompt = ("prompt_ids", "prompt_mask") if self.reader == "encoder" else ()
        mask = ("encoder_attention_mask",) if prompt else ()
        pixels = GraphInput("pixel_values", "float32", (_BATCH, 3, *size), {0: "batch"})
        asked = (_ids(name, _PAST_TOKENS, "prompt_tokens") for name in prompt)
        made = ("encoder_hidden_states", *mask) if cross else ("image_features",)
        made += tuple(name.format(number) for number in layers for name in cross)
        items = [_ids("input_ids", _TOKENS, "tokens")]
        if self.reader == "text":
            items.append(_ids("attention_mask", _PAST_TOKENS + _TOKENS, "text_tokens"))
        if not cross:
            axes, shape = {0: "batch", 1: "image_tokens"}, (_BATCH, _FEATURES, text.hidden_size)
            items.append(GraphInput("image_features", kind, shape, axes))
        items += (_ids(name, _SOURCE, "source") for name in mask)
        for number in firsts:
            for names, length, axis in (
                (_PAST, _PAST_TOKENS, "past_tokens"),
                (cross, _SOURCE, "source"),
            ):
                shape, axes = (_BATCH, heads, length, width), {0: "batch", 2: axis}
                items += (GraphInput(name.format(number), kind, shape, axes) for name in names)
        outputs = ("logits", *(name.format(n) for n in firsts for name in _PRESENT))
        return (
            base.GraphDefinition("image", (pixels, *asked), image, made, (stack.name,)),
            base.GraphDefinition("decoder", tuple(items), decode, outputs),
        )

    def processing(self, folder: Path) -> base.Processing:
        """See :meth:`Family.processing`."""
        processor, config = self.processor(folder), self.config(folder)
        text, tokenizer = config.get_text_config(decoder=True), processor.tokenizer
        generation, prompts = self.generation(folder, config), self.prompts(processor, config)
        if prompts["reader"] != "none":
            unread = (getattr(config, "image_token_id", None),)
            check_ids(folder, tokenizer, text.vocab_size, unread)
        starts = (generation.decoder_start_token_id, generation.bos_token_id)
        if (start := next((index for index in starts if index is not None), None)) is None:
            raise CheckpointError(f"{folder}: says no decoder_start_token_id and no bos_token_id.")
        backend = save_backend(tokenizer, folder)
        if prompts["reader"] in ("start", "encoder"):  # other special tokens are tags in the text
            ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, start)
            dropped = {index for index in ends if index is not None}
        else:
            added = backend.get_added_tokens_decoder()
            dropped = {index for index, token in added.items() if token.special}
        # transformers does not clean up after a tokenizer of byte pairs.
        is_bytes, asked = (
            type(backend.model).__name__ == "BPE",
            tokenizer.clean_up_tokenization_spaces,
        )
        settings = {
            "image": pictures.image_settings(folder, processor.image_processor),
            "generation": stated(generation, text.max_position_embeddings, folder),
            "begin": [start],
            "dropped": sorted(dropped),
            "clean_up": bool(asked) and not is_bytes,
            "pad_id": tokenizer.pad_token_id or 0,
        }
        return base.Processing({**settings, **prompts}, backend)

    def runtime(self, settings: Mapping[str, Any], folder: Path) -> CaptionRuntime:
        """See :meth:`Family.runtime`."""
        return CaptionRuntime(settings, folder)

    def processor(self, folder: Path) -> Any:
        """``image_processor`` and ``tokenizer`` of the checkpoint's own library."""
        from transformers import AutoImageProcessor, AutoTokenizer

        with reading(folder, "transformers"):
            images = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return SimpleNamespace(image_processor=images, tokenizer=tokenizer)

    def open_reference(self, folder: Path, device: str, room: base.Room) -> Any:
        """See :meth:`Family.open_reference`."""
        from colport.families.captions.reference import Generator

        return Generator(self, folder, device, room)

    @property
    def library_class(self) -> Any:
        """Its class in transformers."""
        import transformers

        return getattr(transformers, self.model_class)


def _ids(name: str, size: int, axis: str) -> GraphInput:
    return GraphInput(name, "int64", (_BATCH, size), {0: "batch", 1: axis})


def _untie(model: Any, tensors: Mapping[str, Any]) -> None:
    """Give tied parameters that a checkpoint stores each for itself a place each."""
    import torch

    for target, source in (model.all_tied_weights_keys or {}).items():
        if tensors[target] is not tensors[source]:
            place, _, name = target.rpartition(".")
            own = torch.empty_like(model.get_parameter(target))
            setattr(model.get_submodule(place), name, torch.nn.Parameter(own))
