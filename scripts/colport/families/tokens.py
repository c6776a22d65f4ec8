"""Tokenization without transformers: a ``tokenizers`` file, truncation and padding in NumPy."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from colport.base.errors import ArtifactError, CheckpointError, UnsupportedError
from colport.base.foreign import MAX_JSON_BYTES
from colport.base.redaction import plain

Side = Literal["left", "right"]

_PROBES = (
    *("", " two  spaces ", "line\nbreak\tand tab", "don't: 3.14 … — “x”", "ÜNÏCÖDE Straße"),
    *("de\u0301compose\u0301", "日本語 한국어", "🙂 \u200d", "MixedCase under_score"),
)
"""Texts that settings of tokenizers treat in different ways."""
_CLEAN = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")),
    *((" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)
"""``clean_up_tokenization`` of transformers, in its order."""


@dataclass(frozen=True)
class TokenBatch:
    """Token ids and attention mask, both ``int64 [batch, tokens]``."""

    ids: np.ndarray
    mask: np.ndarray

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        """Both by the names that graphs have for them."""
        return {"input_ids": self.ids, "attention_mask": self.mask}


class Tokens:
    """The tokenizer of an exported folder.

    Its settings are made once: methods change nothing, so that threads may share it.

    Args:
        file: A ``tokenizer.json``.
        pad_id: Id that fills the shorter rows of a batch.
        padding_side: Which side of a row is filled.
        truncation_side: Which side of a text is cut.
        split_special_tokens: Whether a special token that a text spells is text like any other.

    Raises:
        ArtifactError: The file is missing, damaged or absurdly large; methods raise it, too.
    """

    def __init__(
        self,
        file: Path,
        pad_id: int,
        padding_side: Side,
        truncation_side: Side = "right",
        split_special_tokens: bool = False,
    ) -> None:
        self._file = file
        if (size := file.stat().st_size if file.is_file() else 0) > MAX_JSON_BYTES:
            raise ArtifactError(f"{file}: has {size} bytes, more than {MAX_JSON_BYTES}.")
        for name, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
            if side not in ("left", "right"):
                raise ArtifactError(
                    f"{file.parent}: {name} is {side!r}; allowed are left and right."
                )
        with self._own_errors("is no tokenizer that can be read"):
            self._tokenizer = _plain(Tokenizer.from_file(str(file)), split_special_tokens)
        self.pad_id = pad_id
        self.padding_side = padding_side
        self.truncation_side = truncation_side

    def encode(
        self, texts: Sequence[str], max_length: int | None = None, *, special: bool = True
    ) -> list[list[int]]:
        """Ids of each text, by default ``special`` tokens included, truncated to ``max_length``."""
        added = self._tokenizer.num_special_tokens_to_add(False)
        if max_length is not None and max_length < added:
            raise ArtifactError(
                f"{self._file.parent}: max_length is {max_length}, less than the {added} special "
                "tokens of a text."
            )
        with self._own_errors("cannot tokenize"):
            if max_length is None:
                encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=special)
                return [encoding.ids for encoding in encodings]
            bare = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
            for encoding in bare:
                encoding.truncate(max_length - added, direction=self.truncation_side)
            return [self._tokenizer.post_process(encoding).ids for encoding in bare]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text begins and ends, in characters."""
        with self._own_errors("cannot tokenize"):
            return self._tokenizer.encode(text).offsets

    def decode(self, ids: Sequence[int], clean_up: bool) -> str:
        """The text of ids; ``clean_up`` takes out blanks as transformers does on request."""
        with self._own_errors("cannot decode"):
            text = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        for found, written in _CLEAN if clean_up else ():
            text = text.replace(found, written)
        return text

    def pad(self, rows: Sequence[Sequence[int]], length: int | None = None) -> TokenBatch:
        """Rows of equal length: the longest row's, or ``length`` if that is more, or one."""
        width = max([length or 1, *map(len, rows)])
        ids = np.full((len(rows), width), self.pad_id, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for index, row in enumerate(rows):
            start = width - len(row) if self.padding_side == "left" else 0
            ids[index, start : start + len(row)] = row
            mask[index, start : start + len(row)] = 1
        return TokenBatch(ids, mask)

    @contextmanager
    def _own_errors(self, what: str) -> Iterator[None]:
        """``tokenizers`` raises plain exceptions, and panics, for files that it cannot use."""
        try:
            yield
        except TypeError:  # an input that is no text
            raise
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ArtifactError(f"{self._file}: {what} ({plain(error)}).") from error


def _plain(tokenizer: Tokenizer, split_special_tokens: bool) -> Tokenizer:
    """The tokenizer without padding and truncation, which are done in NumPy."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = split_special_tokens
    return tokenizer


def check_ids(folder: Path, tokenizer: Any, rows: int, unread: Collection[int] = ()) -> None:
    """Refuse a tokenizer that says nothing of padding, or has tokens without a word embedding.

    Args:
        folder: The checkpoint, for messages.
        tokenizer: A transformers tokenizer.
        rows: Rows of the word embeddings.
        unread: Ids whose row no graph reads.

    Raises:
        CheckpointError: It has such tokens; a query with one could not be embedded.
        UnsupportedError: Its inputs have no attention mask.
    """
    if "attention_mask" not in tokenizer.model_input_names:
        raise UnsupportedError(
            f"{folder / 'tokenizer_config.json'}: model_input_names is "
            f"{tokenizer.model_input_names}; attention_mask has to be among them."
        )
    beyond = {
        index: token
        for token, index in tokenizer.get_vocab().items()
        if index >= rows and index not in unread
    }
    if beyond:
        raise CheckpointError(
            f"{folder}: the tokenizer has {len(beyond)} tokens beyond the {rows} rows of the word "
            f"embeddings, first {beyond[min(beyond)]!r} ({min(beyond)}); resize the embeddings, or "
            "take the tokens out."
        )


def save_backend(tokenizer: Any, folder: Path) -> Tokenizer:
    """A copy of a transformers tokenizer's fast backend, without truncation and padding.

    Args:
        tokenizer: As the checkpoint's own library has it.
        folder: The checkpoint, for messages.

    Raises:
        UnsupportedError: It is no fast one, or reads a text otherwise than its backend does.
    """
    name = type(tokenizer).__name__
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UnsupportedError(
            f"{folder}: its tokenizer ({name}) has no fast form; exported are those that have a "
            "tokenizer.json."
        )
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    _plain(backend, tokenizer.split_special_tokens)
    for text in (*_PROBES, " ".join(tokenizer.all_special_tokens)):
        if tokenizer(text)["input_ids"] != backend.encode(text).ids:
            raise UnsupportedError(
                f"{folder}: its tokenizer ({name}) reads {text!r} otherwise than its "
                "tokenizer.json does, by a setting that is not exported."
            )
    return backend
