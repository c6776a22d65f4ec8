"""Texts about pictures: a captioner's folder at work, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from colport.base.errors import InputError
from colport.families import inputs
from colport.families.base import BATCH_SIZE
from colport.families.captions.base import Beginning
from colport.families.pages.images import PageError
from colport.providers.graph import Graph
from colport.runtime import batching
from colport.runtime.generation import PADDING, Told, generate
from colport.runtime.opened import Opened

Prompt = str | Sequence[str | None] | None
Stream = Callable[[int, str], object]
"""Called with the place of a picture and its text as far as it is, once a token."""

_LOGITS, _MASK, _FEATURES = "logits", "attention_mask", "image_features"
_READ = "encoder_hidden_states", _FEATURES
_PAST, _PRESENT = "past_key_values.", "present."


class Captioner(Opened):
    """An image-to-text model in ONNX Runtime.

    Its tokens equal those of ``generate`` of the checkpoint's own library, with the checkpoint's
    own settings. One captioner serves any number of threads, as
    :class:`~colport.runtime.encoder.Encoder` does.

    Args:
        folder: An exported folder, or the id of a repository of the Hub that holds one; see
            :class:`~colport.runtime.encoder.Encoder`, also for the others.
        provider: A provider's type, or a mapping with ``type`` and settings.
        threads: Threads within an operator.
        share_weights: Read weights from the mapped file instead of repacking them at load.
        revision: Commit, tag or branch of the Hub's repository.

    Raises:
        ArtifactError: The folder is not a whole exported folder, or is one of a retriever.
        TypeError: An argument is of another type.
        ValueError: ``threads`` is out of range.
        ConfigError: The provider is unknown, does not have such a setting, or has one that fits no
            captioner; or ``revision`` goes with a folder of this machine.
        UnsupportedError: The provider is not on this machine, or does not take the graphs.
    """

    task = "captioning"

    needed = "image", "decoder"

    def generate(
        self,
        images: Iterable[Image.Image],
        prompt: Prompt = None,
        max_new_tokens: int | None = None,
        num_beams: int | None = None,
        batch_size: int = BATCH_SIZE,
        stream: Stream | None = None,
    ) -> list[str]:
        """A text about each picture, in the order in which they were given.

        Args:
            images: Pictures as Pillow images, of any mode whose white is known.
            prompt: A text for all of them, or a list with one for each (``None`` for none), where
                the model takes prompts; how it uses them is the model's own.
            max_new_tokens: Tokens of a text at most; by default what the checkpoint says.
            num_beams: Beams; 1 is greedy search. By default what the checkpoint says.
            batch_size: Pictures in one graph call at most.
            stream: Called with the place of a picture and its text up to now, for each token as
                soon as it is chosen. Beam search chooses at the end, so that it cannot be streamed.

        Returns:
            One text a picture, as the checkpoint's own library decodes it.

        Raises:
            TypeError: An argument is of another type.
            ValueError: ``max_new_tokens``, ``num_beams`` or ``batch_size`` is out of range,
                ``prompt`` is a list of another length, or ``stream`` goes with beams.
            InputError: A picture cannot be read, or the model does not take the prompt; it is a
                ``ValueError``, too.
            ArtifactError: ONNX Runtime cannot run the folder.
        """
        if stream is not None:
            inputs.typed("stream", stream, Callable, "a function of a number and a text")
        found = self._all(images, prompt, max_new_tokens, num_beams, batch_size, stream)
        return [self._runtime.text([*begun, *new], len(begun)) for begun, new in found]

    def generate_tokens(
        self, images: Iterable[Image.Image], prompt: Prompt = None, **settings: Any
    ) -> list[np.ndarray]:
        """The ids of each text, ``int64 [tokens]``, as the library's ``generate`` gives them.

        What the text begins with and its end token are among them, padding is not.

        Args:
            images: See :meth:`generate`, also for errors.
            prompt: The same.
            **settings: ``max_new_tokens``, ``num_beams`` and ``batch_size`` of it, and
                ``min_new_tokens``, before which no text ends.
        """
        found = self._all(images, prompt, **settings)
        return [np.array([*begun, *new], np.int64) for begun, new in found]

    def encode_pictures(self, images: Sequence[Image.Image]) -> np.ndarray:
        """What the decoder reads of each picture, ``float32 [batch, source, width]``."""
        feeds = self._begin(list(images), [None] * len(images), 0).feeds
        with self._running("image"):
            found = self._graphs["image"].call(feeds)
        return next(found[name] for name in _READ if name in found).numpy()

    def logits(
        self, images: Sequence[Image.Image], tokens: np.ndarray, prompt: str | None = None
    ) -> np.ndarray:
        """The decoder's logits behind each token of given texts, with its cache step by step.

        Args:
            images: Pictures, which are one batch.
            tokens: ``int64 [batch, tokens]``, what each text begins with included.
            prompt: Of all of them, where the model's encoder reads it.

        Returns:
            ``float32 [batch, tokens, vocabulary]``.
        """
        beginning = self._begin(list(images), [prompt] * len(images), 0)
        step = self._decoding(beginning.feeds).step
        columns = tokens.T[:, :, None]
        return np.stack([step(column, None).copy() for column in columns], axis=1)

    def _all(
        self,
        images: Iterable[Image.Image],
        prompt: Prompt,
        max_new_tokens: int | None = None,
        num_beams: int | None = None,
        batch_size: int = BATCH_SIZE,
        stream: Stream | None = None,
        min_new_tokens: int | None = None,
    ) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """What each text begins with, and what was generated behind it."""
        lengths = {"max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens}
        given = {**lengths, "num_beams": num_beams}
        given = {name: inputs.whole(name, n) for name, n in given.items() if n is not None}
        generation = replace(self._runtime.generation, **given)
        size = inputs.whole("batch_size", batch_size)
        if not isinstance(prompt, str | None):
            inputs.typed("prompt", prompt, Sequence, "a text, a list of texts, or None")
            images = [image for _, some in inputs.windows("images", images, size) for image in some]
            if len(prompt) != len(images):
                raise ValueError(
                    f"prompt: found {len(prompt)} texts; allowed is one, or one for each of "
                    f"{len(images)} images."
                )
        for first, chosen in inputs.windows("images", images, size):
            is_one, end = isinstance(prompt, str | None), first + len(chosen)
            prompts = [prompt] * len(chosen) if is_one else prompt[first:end]
            beginning = self._begin(chosen, prompts, first)
            begun, found = beginning.tokens, {}
            for rows in self._together(begun):
                texts, places = [begun[row] for row in rows], [first + row for row in rows]
                step = self._decoding({key: of[rows] for key, of in beginning.feeds.items()}).step
                told = stream and self._told(stream, places, texts)
                found |= zip(rows, generate(step, texts, generation, told), strict=True)
            for row, first_ids in enumerate(begun):
                yield first_ids, found[row]

    def _told(self, stream: Stream, places: Sequence[int], texts: Sequence[Sequence[int]]) -> Told:
        """What tells ``stream`` of texts that lie at these places and begin so."""
        ids = [list(text) for text in texts]

        def told(row: int, token: int) -> None:
            ids[row].append(token)
            text = self._runtime.text(ids[row], len(texts[row]))
            stream(places[row], text.rstrip("\ufffd"))  # bytes of half a character

        return told

    def _begin(
        self, images: Sequence[Image.Image], prompts: Sequence[str | None], first: int
    ) -> Beginning:
        """Inputs of a batch; pictures are prepared beside each other.

        Raises:
            InputError: The first picture or prompt that the model does not take, by its place.
        """
        places = range(first, first + len(images))
        for place, prompt in zip(places, prompts, strict=True):
            inputs.typed(f"prompt[{place}]", prompt, str | None, "a text or None")

        def prepared(index: int, page: Image.Image) -> np.ndarray:
            try:
                return self._runtime.picture(page)
            except PageError as error:
                raise InputError("images", index, str(error)) from error

        beside, _ = batching.workers(self._settings, self._threads, None, 0)
        with ThreadPoolExecutor(min(len(images), beside)) as pool:
            pages = inputs.checked("images", images, "pages", places, pool.map)
            with self._preparing(places):
                pictures = list(pool.map(prepared, range(len(pages)), pages))
                return self._runtime.begin(pictures, prompts)

    def _together(self, begun: Sequence[Sequence[int]]) -> list[list[int]]:
        """Rows that share a call: all, or where no mask tells padding, those of equal length."""
        lengths = [0 if _MASK in self._graphs["decoder"].axes else len(row) for row in begun]
        return [
            [row for row, length in enumerate(lengths) if length == wanted]
            for wanted in sorted(set(lengths))
        ]

    def _decoding(self, feeds: Mapping[str, np.ndarray]) -> _Decoding:
        with self._running("image"):
            read = self._graphs["image"].call(feeds)
        return _Decoding(self, self._graphs["decoder"], read)


class _Decoding:
    """The decoder at one batch of pictures: its cache, which stays where it was computed.

    Args:
        captioner: Whose errors it raises.
        decoder: The graph.
        read: What the image graph gave.
    """

    def __init__(self, captioner: Captioner, decoder: Graph, read: Mapping[str, Any]) -> None:
        self._captioner, self._graph = captioner, decoder
        self._read = {name: value for name, value in read.items() if name in decoder.axes}
        self._past: dict[str, Any] = {}
        self._seen: np.ndarray | None = None
        self._owners: np.ndarray | None = None

    def step(self, ids: np.ndarray, parents: np.ndarray | None) -> np.ndarray:
        """See :data:`colport.runtime.generation.Step`."""
        with self._captioner._running("decoder"):
            logits = self._step(ids, parents)
            if np.isnan(logits.max()):
                raise ValueError("its logits are no numbers")
            return logits

    def _step(self, ids: np.ndarray, parents: np.ndarray | None) -> np.ndarray:
        graph, rows = self._graph, len(ids)
        if self._seen is None:
            self._seen, self._owners = np.empty((rows, 0), bool), np.arange(rows)
            self._past = {
                name: graph.empty(name, batch=rows, past_tokens=0)
                for name in graph.axes
                if name.startswith(_PAST)
            }
        elif _FEATURES in self._read:  # they are in the cache now
            self._read[_FEATURES] = graph.empty(_FEATURES, batch=rows, image_tokens=0)
        if parents is not None:
            self._go_on_from(parents)
        self._seen = np.concatenate([self._seen, ids != PADDING], axis=1)
        feeds = {"input_ids": np.maximum(ids, 0), **self._past, **self._read}
        if _MASK in graph.axes:
            feeds[_MASK] = self._seen.astype(np.int64)
        given = graph.call(feeds, on_host=[_LOGITS])
        logits = given.pop(_LOGITS).numpy()[:, -1]
        self._past = {_PAST + name.removeprefix(_PRESENT): value for name, value in given.items()}
        return logits

    def _go_on_from(self, parents: np.ndarray) -> None:
        """Make the cache that of these rows; beams of a picture share what was read of it."""
        if not np.array_equal(parents, np.arange(len(self._seen))):
            self._seen, self._past = self._seen[parents], self._rows(self._past, parents)
        owners = self._owners[parents]
        if not np.array_equal(owners, self._owners):
            features = self._read.pop(_FEATURES, None)
            self._read = self._rows(self._read, parents)
            if features is not None:
                self._read[_FEATURES] = features
            self._owners = owners

    def _rows(self, values: Mapping[str, Any], at: np.ndarray) -> dict[str, Any]:
        return {name: self._graph.rows(value, at) for name, value in values.items()}
