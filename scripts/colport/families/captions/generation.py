"""How a checkpoint generates: settings that its library states and ``colport.json`` keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colport.base.errors import ArtifactError, CheckpointError, InputError, UnsupportedError
from colport.base.foreign import misfit, shape_beside
from colport.families.base import check_settings

_SHAPE = shape_beside(__file__)
_BUILT = {key.removesuffix("?") for key in _SHAPE} - {"positions"}
_LISTS = ("eos_token_id", "forced_eos_token_id")
"""Of which transformers takes a single id for a list of one."""

_INERT = (
    *("_from_model_config", "transformers_version", "bos_token_id", "pad_token_id"),
    *("decoder_start_token_id", "use_cache", "cache_implementation", "disable_compile"),
    *("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff"),
    *("eta_cutoff", "output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("return_dict_in_generate",),
)
"""Of no influence on the tokens that greedy and beam search choose; start and padding are the
family's."""

_NEW_TOKENS = 20
"""Where neither a checkpoint nor a caller says how many, by transformers' rule."""


@dataclass(frozen=True)
class Generation:
    """Settings of greedy and beam search, by the names and meanings of transformers 5.

    Attributes:
        positions: Tokens that the decoder can place, those of a picture left out.
        max_length: Tokens of prompt and caption together, at most.
        max_new_tokens: Tokens of a caption at most; goes before ``max_length``. Without either, 20.
        min_length: Tokens of prompt and caption before an end token is allowed.
        min_new_tokens: The same of a caption alone; goes before ``min_length``.
        num_beams: Beams; with 1 the search is greedy.
        length_penalty: Power of a caption's length by which the sum of its log probabilities is
            divided.
        early_stopping: When beam search ends: as soon as there are as many captions as beams, when
            the running ones are no better at their present length, or (``never``) when they could
            not become better.
        no_repeat_ngram_size: Length of n-grams that occur once at most; 0 for any number of times.
        repetition_penalty: Divides a positive and multiplies a negative score of every token that
            there is already.
        forced_bos_token_id: Second token of all, behind a prompt of one.
        forced_eos_token_id: Last token of a caption that reaches the length limit.
        suppress_tokens: Tokens that never follow.
        begin_suppress_tokens: Tokens that do not begin a caption.
        bad_words_ids: Sequences of tokens that do not occur.
        eos_token_id: Tokens that end a caption.
    """

    positions: int
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: Sequence[int] = ()
    suppress_tokens: Sequence[int] = ()
    begin_suppress_tokens: Sequence[int] = ()
    bad_words_ids: Sequence[Sequence[int]] = ()
    eos_token_id: Sequence[int] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any], folder: Path) -> Generation:
        """The settings of an exported folder.

        Args:
            settings: ``generation`` of its ``processing`` section.
            folder: The folder, for messages.

        Raises:
            ArtifactError: A setting is unknown, of another type, or out of its range.
        """
        check_settings({"generation": settings}, {"generation": _SHAPE}, folder)
        found = cls(**settings)
        if fault := found._fault():
            raise ArtifactError(f"{folder / 'colport.json'}: processing.generation.{fault}.")
        return found

    def limit(self, prompt: int) -> int:
        """Tokens of prompt and caption together, at most.

        Args:
            prompt: Tokens that the text begins with, the start token included.

        Raises:
            InputError: The prompt leaves no room, or the decoder does not have the positions.
        """
        most = self.positions + 1  # the last token is given to no decoder
        if self.max_new_tokens is not None:
            asked = prompt + self.max_new_tokens
        else:
            asked = self.max_length or min(prompt + _NEW_TOKENS, most)
        if asked > most:
            raise InputError(
                f"max_new_tokens: found {self.max_new_tokens}; behind {prompt} tokens the decoder "
                f"has positions for {max(0, most - prompt)} more."
            )
        if asked <= prompt:
            raise InputError(
                f"prompt: has {prompt} tokens, and with its text the checkpoint allows {asked}; "
                "give max_new_tokens."
            )
        return asked

    def _fault(self) -> str | None:
        """The first setting that is out of its range, what it is, and what is allowed."""
        most = self.positions + 1
        allowed = (
            ("num_beams", self.num_beams >= 1, "1 and more"),
            ("repetition_penalty", self.repetition_penalty > 0, "more than 0"),
            ("early_stopping", self.early_stopping in (True, False, "never"), "true, false, never"),
            # Of several the library takes any: their scores are equal.
            ("forced_eos_token_id", len(self.forced_eos_token_id) < 2, "one token"),
            (
                "max_length",
                (self.max_length or 1) in range(1, most + 1),
                f"1 to {most}, by positions",
            ),
        )
        wrong = ((name, what) for name, fits, what in allowed if not fits)
        return next((f"{n} is {getattr(self, n)!r}, allowed is {what}" for n, what in wrong), None)


def stated(config: Any, positions: int, folder: Path) -> dict[str, Any]:
    """The ``generation`` settings of a folder to export.

    Args:
        config: transformers' ``GenerationConfig`` of the model.
        positions: Tokens that its decoder can place, those of a picture left out.
        folder: The checkpoint, for messages.

    Raises:
        UnsupportedError: A setting changes the tokens in a way that is not built.
        CheckpointError: A setting is of another type, or out of its range; its length is more than
            the decoder's positions.
    """
    neutral = config._get_default_generation_params()
    settings: dict[str, Any] = {"positions": positions}
    for key, value in config.to_dict().items():
        if value is None:
            continue
        if key in _BUILT:
            settings[key] = [value] if key in _LISTS and isinstance(value, int) else value
        elif key not in _INERT and value is not False and value != neutral.get(key):
            raise UnsupportedError(
                f"{folder}: its generation settings say {key}: {value!r}; of greedy and beam "
                f"search {', '.join(sorted(_BUILT))} are built."
            )
    if wrong := misfit(settings, _SHAPE) or Generation(**settings)._fault():
        raise CheckpointError(f"{folder}: of its generation settings, {wrong}.")
    return settings
