"""A captioner in PyTorch: the library's ``generate`` behind its own processor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from colport.families.base import Room
from colport.families.pages.images import as_page
from colport.families.reference import skeletons
from colport.families.reference.stored_parameters import fill


class Generator:
    """A captioner of transformers with its processor, in fp32.

    Args:
        family: Its :class:`~colport.families.captions.base.CaptionFamily`.
        folder: The checkpoint.
        device: A torch device.
        room: The memory that it may take.

    Raises:
        CheckpointError: Weights are missing; the library would make them up.
    """

    def __init__(self, family: Any, folder: Path, device: str, room: Room) -> None:
        if room.is_streamed:
            model, constants, tensors = family.build(folder, "fp32", to_trace=False)
            fill(model, tensors, constants)
            model.generation_config = family.generation(folder, model.config)
        else:
            kept = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
            model, loading = family.library_class.from_pretrained(
                folder, **kept, trust_remote_code=False
            )
            missing = (
                key for key in loading["missing_keys"] if not skeletons.reason(family.unread, key)
            )
            skeletons.refuse_weights("missing", missing, folder)
        self.module, self.room = model.eval().to(device), room
        self.processor, self._family = family.processor(folder), family
        self._ends = family.generation(folder, model.config).eos_token_id

    def generate(
        self, images: Sequence[Any], prompts: Sequence[str | None], batch_size: int
    ) -> list[str]:
        """Texts by the checkpoint's own settings.

        Args:
            images: Pictures.
            prompts: One a picture.
            batch_size: Pictures of a batch at most, which are neighbours with one prompt.
        """
        tokenizer, texts = self.processor.tokenizer, []
        read = self._family.prompts(self.processor, self.module.config)["reader"]
        tagged = read in ("start", "encoder")
        ends = filter(None, (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token))
        dropped = re.compile("|".join(map(re.escape, ends)))
        for prompt, group in groupby(zip(images, prompts, strict=True), key=lambda pair: pair[1]):
            chosen = [image for image, _ in group]
            for first in range(0, len(chosen), batch_size):
                begun, rows = self._generated(chosen[first : first + batch_size], prompt, {})
                if tagged:
                    shown = tokenizer.batch_decode([row[begun:] for row in rows])
                    texts += [dropped.sub("", text) for text in shown]
                else:
                    texts += tokenizer.batch_decode(rows, skip_special_tokens=True)
        return texts

    def generate_tokens(
        self, images: Sequence[Any], prompt: str | None = None, **settings: Any
    ) -> list[np.ndarray]:
        """The ids of each text as the library's ``generate`` gives them, ``int64 [tokens]``.

        What the text begins with and its end token are among them, padding is not.

        Args:
            images: Pictures, which are one batch.
            prompt: Of all of them.
            **settings: Of the library's ``generate``, before the checkpoint's own.
        """
        return self._generated(images, prompt, settings)[1]

    def encode_pictures(self, images: Sequence[Any]) -> np.ndarray:
        """What the decoder reads of each picture, ``float32 [batch, source, width]``."""
        inputs, _ = self._inputs(images, None)
        names = ("input_ids", "attention_mask") if self._family.reader == "encoder" else ()
        prompt = [inputs[name] for name in names]
        with torch.inference_mode():
            states, *_ = self._family.encode(self.module, inputs["pixel_values"], *prompt)
        return states.float().cpu().numpy()

    def logits(
        self, images: Sequence[Any], tokens: np.ndarray, prompt: str | None = None
    ) -> np.ndarray:
        """Logits behind each token of texts, in one pass: ``float32 [batch, tokens, vocabulary]``.

        Args:
            images: Pictures, which are one batch.
            tokens: ``int64 [batch, tokens]``, what a text begins with included.
            prompt: Of all of them, where the model's encoder reads it.
        """
        inputs, _ = self._inputs(images, prompt)
        is_alone = self._family.reader == "text"  # of a model with one kind of token
        inputs["input_ids" if is_alone else "decoder_input_ids"] = torch.from_numpy(tokens)
        with torch.inference_mode():
            found = self.module(**inputs).logits[:, -tokens.shape[1] :]
        return found.float().cpu().numpy()

    def _inputs(self, images: Sequence[Any], prompt: str | None) -> tuple[dict[str, Any], int]:
        pages = [as_page(image) for image in images]
        inputs, begun = self._family.inputs(self.processor, pages, prompt)
        return {name: value.to(self.module.device) for name, value in inputs.items()}, begun

    def _generated(
        self, images: Sequence[Any], prompt: str | None, settings: Mapping[str, Any]
    ) -> tuple[int, list[np.ndarray]]:
        """How many tokens each text begins with, and its ids without padding."""
        inputs, begun = self._inputs(images, prompt)
        with torch.inference_mode():
            rows = self.module.generate(**inputs, **settings).cpu().numpy()
        ended = np.isin(rows[:, begun:], self._ends)
        ends = np.where(ended.any(axis=1), begun + ended.argmax(axis=1) + 1, rows.shape[1])
        return begun, [row[:end] for row, end in zip(rows, ends, strict=True)]
