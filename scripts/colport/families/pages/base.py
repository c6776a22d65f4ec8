"""What the page models share: layouts, graphs around a vision-language model, and queries."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from colport.base.errors import CheckpointError, InputError, UnsupportedError
from colport.base.foreign import shape_beside
from colport.families import base, functional
from colport.families.base import Tensor
from colport.families.pages import processors
from colport.families.pages.images import PageError
from colport.families.pages.layouts import UNREAD, CheckpointLayout
from colport.families.tokens import TokenBatch, Tokens, check_ids, save_backend

_AUGMENTATION_TOKENS = 10  # behind every query, in transformers and in colpali-engine
_SHAPE = shape_beside(__file__)

Tensors = Mapping[str, Any]
"""Tensors of torch by name."""

Fact = tuple[str, Any, Any]
"""A name, what a processor says of it, and what the model's configuration does."""


class PageFamily(base.Retriever):
    """A vision-language model with a projection, in the layouts of several libraries.

    ``backbone`` is the model without its projection: a vision tower and a language model.
    """

    document_type = "pages"
    layouts: ClassVar[tuple[CheckpointLayout, ...]]
    images_class: ClassVar[str]
    """Name of the image processor's class."""
    image_token_has_no_row: ClassVar[bool] = False
    """Whether the image token may lie beyond the word embeddings."""
    has_windows: ClassVar[bool] = False
    """Whether its masks hold the windows of sliding layers."""
    image_steps: ClassVar[processors.Steps] = ()
    """Settings of its image processor that change pages, and the values that are exported."""
    text_steps: ClassVar[processors.Steps] = ()
    """The same of its text model's configuration."""

    def prepare(self, backbone: Any) -> None:
        """Make a backbone on the meta device ready to trace.

        Raises:
            UnsupportedError: Its configuration has what no graph is written for.
        """
        text = backbone.config.text_config
        kinds = getattr(text, "layer_types", None) or ()
        if "sliding_attention" in kinds and not self.has_windows:
            raise UnsupportedError("text_config: sliding-window layers are not exported yet.")
        processors.refuse_others("text_config has", text, self.text_steps)

    @abstractmethod
    def page_inputs(self, layout: CheckpointLayout, config: Any) -> tuple[base.GraphInput, ...]:
        """Inputs of the image graph besides token ids and mask, for a backbone's configuration."""

    def embed_words(self, backbone: Any, input_ids: Tensor) -> Tensor:
        """Word embeddings ``[batch, tokens, width]``; those of image tokens are not read."""
        return backbone.get_input_embeddings()(input_ids)

    @abstractmethod
    def embed_pages(self, backbone: Any, inputs: Tensors) -> Sequence[Tensor]:
        """Image features ``[image tokens of the whole batch, width]`` from ``page_inputs``.

        The first take the place of word embeddings. A language model that reads features of deeper
        layers of the vision tower as well, behind layers of its own, has further ones.
        """

    def is_image(self, backbone: Any, input_ids: Tensor) -> Tensor:
        """Tokens whose place image features take, ``bool [batch, tokens]``."""
        return input_ids == backbone.config.image_token_id

    @abstractmethod
    def hidden_states(
        self, backbone: Any, words: Tensor, inputs: Tensors, *deeper: Tensor
    ) -> Tensor:
        """Output of the language model ``[batch, tokens, width]``.

        Args:
            backbone: The vision-language model.
            words: ``[batch, tokens, width]``, with image features in their place.
            inputs: The graph's, by name.
            *deeper: The further image features, as ``words``; zeros elsewhere.
        """

    def stacks(self, model: Any, layout: CheckpointLayout) -> tuple[base.Stack, ...]:
        """The layers that repeat, see :func:`colport.families.stacks.named_by_library`."""
        from colport.families.stacks import named_by_library

        return named_by_library(model)

    def prompts(self, layout: CheckpointLayout, processor: Any) -> dict[str, Any]:
        """``query_template``, ``document_prompt`` and what else the runtime needs for them."""
        return {
            "query_template": query_template(layout, processor),
            "document_prompt": processor.visual_prompt_prefix,
            "image_token": processor.image_token,
            "image_token_id": processor.image_token_id,
        }

    @abstractmethod
    def image_settings(self, processor: Any, config: Any) -> dict[str, Any]:
        """How an image processor sizes a page for a backbone of this configuration."""

    def agreed(self, layout: CheckpointLayout, processor: Any, config: Any) -> Iterable[Fact]:
        """What the processor and the backbone's configuration have to agree on."""
        return ()

    def accepts(self, folder: Path) -> bool:
        """Whether ``config.json`` is of one of the layouts."""
        return any(layout.accepts(folder) for layout in self.layouts)

    def skeleton(self, folder: Path, precision: str) -> base.Skeleton:
        """See :meth:`Family.skeleton`."""
        layout = self._layout(folder)
        model, constants = layout.build(folder, precision)
        tensors = layout.tensors(model, folder)
        backbone = model.get_submodule(layout.backbone)
        self.prepare(backbone)

        def embed(model: Any, *tensors: Tensor) -> Tensor:
            given = dict(zip(names, tensors, strict=False))
            backbone, ids = model.get_submodule(layout.backbone), given["input_ids"]
            words, deeper = self.embed_words(backbone, ids), ()
            if len(given) == len(names):
                is_image = self.is_image(backbone, ids)
                features, *deeper = self.embed_pages(backbone, given)
                words = functional.place_images(words, features, is_image)
                zeros = words.new_zeros(()).expand(words.shape)
                deeper = (functional.place_images(zeros, more, is_image) for more in deeper)
            hidden = self.hidden_states(backbone, words, given, *deeper)
            return layout.embed(model, hidden, given["attention_mask"])

        pages = self.page_inputs(layout, backbone.config)
        inputs = {"text": base.token_inputs(20), "image": (*base.token_inputs(33), *pages)}
        names = [item.name for item in inputs["image"]]
        return base.Skeleton(
            model,
            constants,
            tensors,
            tuple(base.GraphDefinition(*graph, embed) for graph in inputs.items()),
            layout.dim(model),
            backbone.config.model_type,
            self.stacks(model, layout),
            UNREAD,
        )

    def processing(self, folder: Path) -> base.Processing:
        """See :meth:`Family.processing`."""
        layout = self._layout(folder)
        processor, config = layout.load_processor(folder), layout.config(folder)
        tokenizer, images = processor.tokenizer, processor.image_processor
        backbone = getattr(config, "vlm_config", config)
        values = processors.values(folder, images, [self.images_class], self.image_steps)
        sizes = self.image_settings(images, backbone)
        if lacking := [key for key, value in sizes.items() if value is None]:
            raise UnsupportedError(
                f"{folder}: the image processor's size is {dict(images.size)}, which gives no "
                f"{' and no '.join(lacking)}."
            )
        unread = (processor.image_token_id,) if self.image_token_has_no_row else ()
        check_ids(folder, tokenizer, config.get_text_config().vocab_size, unread)
        if tokenizer.split_special_tokens:
            raise UnsupportedError(
                f"{folder / 'tokenizer_config.json'}: split_special_tokens is true, with which "
                f"{layout.library} takes no page: its image tokens are text; exported is false."
            )
        for name, found, expected in self.agreed(layout, processor, backbone):
            if found != expected:
                raise CheckpointError(
                    f"{folder}: the processor's {name} is {found}, the model takes {expected}."
                )
        prompts = self.prompts(layout, processor)
        if not _asks(processor, prompts):
            raise UnsupportedError(
                f"{folder}: the processor writes a query otherwise than exported, which is "
                f"{prompts['query_template']!r:.200}."
            )
        settings = {
            "library": layout.library,
            **prompts,
            "reserved": _reserved(processor),
            "pad_id": tokenizer.pad_token_id,
            "padding_side": tokenizer.padding_side,
            "pooling": layout.pooling,
            "image": {**sizes, **values},
        }
        return base.Processing(settings, save_backend(tokenizer, folder))

    def open_reference(self, folder: Path, device: str, room: base.Room) -> base.Embedder:
        """The model and processor of the checkpoint's own library, in fp32."""
        return self._layout(folder).reference(folder, device, room)

    def processor(self, folder: Path) -> Any:
        """The processor of the checkpoint's own library."""
        return self._layout(folder).load_processor(folder)

    def _layout(self, folder: Path) -> CheckpointLayout:
        for layout in self.layouts:
            if layout.accepts(folder):
                return layout
        raise CheckpointError(f"{folder}: is not a {self.name} checkpoint.")


def query_template(layout: CheckpointLayout, processor: Any, start: str = "") -> str:
    """A query's text with ``{text}`` for the query, as the layout's processor writes it."""
    augmentation = processor.query_augmentation_token * _AUGMENTATION_TOKENS
    return f"{start}{processor.query_prefix}{{text}}{augmentation}{layout.query_end}"


_QUERIES = ("", "a", "a\n\t \u3000", "\n  Two  {{ text }} <b>'&\r\n lines\n\nİ", "x" * 9999)
"""Texts that processors treat in different ways."""


def chat_query(processor: Any, written: str) -> dict[str, Any]:
    """``query_template`` and ``trim`` of a processor that asks through a chat template.

    Args:
        processor: Its ``process_queries`` are what every query must come out as.
        written: What the chat template makes of ``{text}``.

    Raises:
        UnsupportedError: The template does more to a text than to put it between others, with or
            without blanks at its end.
    """
    for trim in (False, True):
        settings = {"query_template": written, "trim": trim}
        if _asks(processor, settings):
            return settings
    raise UnsupportedError(
        f"the chat template writes a query as {written!r:.200}, and changes its text; exported are "
        "those that put it between others, or take off the blanks at its end."
    )


def _asks(processor: Any, settings: Mapping[str, Any]) -> bool:
    """Whether queries of these settings are tokens for tokens the processor's own."""
    asked = [processor.process_queries([query])["input_ids"][0].tolist() for query in _QUERIES]
    texts = ["".join(_query_parts(settings, query)) for query in _QUERIES]
    return processor.tokenizer(texts)["input_ids"] == asked


def _query_parts(settings: Mapping[str, Any], query: str) -> tuple[str, str, str]:
    """What stands before a query, its own text, and what stands behind it."""
    before, _, behind = settings["query_template"].partition("{text}")
    if settings.get("trim"):
        kept = (before + query).rstrip()
        return kept[: len(before)], kept[len(before) :], behind
    return before, query, behind


def _reserved(processor: Any) -> list[str]:
    """Tokens that a query may not spell, since the library takes them for those of a page."""
    found = []
    for token in dict.fromkeys([processor.image_token, *processor.tokenizer.all_special_tokens]):
        try:
            processor.process_queries([token])
        except ValueError:
            found.append(token)
    return found


class PageRuntime(base.Runtime):
    """Queries of a page model; what becomes of a page is left to the family.

    Args:
        settings: The ``processing`` section of ``colport.json``.
        folder: The exported folder.
    """

    own_settings: ClassVar[Mapping[str, Any]]
    """Shapes of the family's settings; ``image`` has those of every page beside its own."""

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        own = self.own_settings
        shape = {**_SHAPE, **own, "image": {**own["image"], **processors.SHAPE}}
        base.check_settings(settings, shape, folder)
        self._settings = settings
        self._image = {"resample": "bicubic", **settings["image"]}
        self._tokens = Tokens(
            folder / "tokenizer.json", settings["pad_id"], settings["padding_side"]
        )

    def query_batch(self, queries: Sequence[str]) -> base.Batch:
        """See :meth:`Runtime.query_batch`."""
        for index, query in enumerate(queries):
            if fault := base.spelled(query, self._settings.get("reserved", ())):
                raise InputError("queries", index, fault)
        return self._batch("text", self._tokens.pad(self._query_rows(queries)))

    def _batch(self, graph: str, tokens: TokenBatch, **feeds: np.ndarray) -> base.Batch:
        """Inputs of a graph, of which every token is kept that is no padding, or the one vector."""
        keep = tokens.mask.astype(bool)
        if self._settings.get("pooling"):
            keep = np.ones((len(keep), 1), bool)
        return base.Batch(graph, {**tokens.feeds, **feeds}, keep)

    def _page_tokens(self, images: Sequence[str]) -> TokenBatch:
        """The prompt of each page, with what stands in the place of its image."""
        prompt, token = self._settings["document_prompt"], self._settings["image_token"]
        return self._tokens.pad(self._tokens.encode([prompt.replace(token, i, 1) for i in images]))

    def document_batch(
        self, documents: Sequence[Any], each: Callable[..., Iterable[Any]] = map
    ) -> base.Batch:
        """See :meth:`Runtime.document_batch`.

        Args:
            documents: Pages.
            each: ``map``, or one that prepares pages beside each other in threads.
        """

        def prepared(index: int, page: Any) -> Any:
            try:
                return self.page(page)
            except PageError as error:
                raise InputError("documents", index, str(error)) from error

        return self.page_batch(list(each(prepared, range(len(documents)), documents)))

    @abstractmethod
    def page(self, page: Any) -> Any:
        """What a batch takes of a page, computed of this page alone.

        Raises:
            PageError: The model does not take it.
        """

    @abstractmethod
    def page_batch(self, pages: Sequence[Any]) -> base.Batch:
        """Inputs for a batch of pages, from what :meth:`page` gives for each."""

    def patches(self, document: Any) -> base.PatchGrid:
        """See :meth:`Runtime.patches`.

        Raises:
            UnsupportedError: A page has one vector.
        """
        self._refuse_pooled()
        return self.grid(document)

    def _refuse_pooled(self) -> None:
        if self._settings.get("pooling"):
            raise UnsupportedError(
                "one vector of a page has no patches; heat maps need one a token."
            )

    @abstractmethod
    def grid(self, page: Any) -> base.PatchGrid:
        """See :meth:`patches`."""

    def lengths(self, kind: str, chosen: Sequence[Any]) -> list[int]:
        """See :meth:`Runtime.lengths`."""
        if kind == "document":
            return [self.page_length(page) for page in chosen]
        return [len(row) for row in self._query_rows(chosen)]

    @abstractmethod
    def page_length(self, page: Any) -> int:
        """Tokens of a page, or about as many."""

    def _query_rows(self, queries: Sequence[str]) -> list[list[int]]:
        texts = ["".join(_query_parts(self._settings, query)) for query in queries]
        return self._tokens.encode(texts)

    def query_tokens(self, query: str) -> list[base.QueryToken]:
        """See :meth:`Runtime.query_tokens`."""
        self._refuse_pooled()
        before, query, behind = _query_parts(self._settings, query)
        text, end = before + query + behind, len(before) + len(query)
        words = {at: word[0] for word in re.finditer(r"\w+", text) for at in range(*word.span())}
        tokens = []
        for start, stop in self._tokens.spans(text):
            part = text[start:stop].strip()
            role = "augmentation" if start >= end and part else "prompt"
            own = len(before) < stop and start < end
            tokens.append(base.QueryToken(part, "query" if own else role, words.get(stop - 1, "")))
        return tokens
