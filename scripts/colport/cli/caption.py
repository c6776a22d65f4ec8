"""A captioner's folder at work without Python: texts about the user's own pictures."""

from __future__ import annotations

from pathlib import Path

from colport.cli.console import say, watch
from colport.cli.inputs import read_items


def caption(
    folder: str,
    inputs: list[Path],
    prompt: str | None = None,
    max_new_tokens: int | None = None,
    num_beams: int | None = None,
    provider: str = "cpu",
    quiet: bool = False,
) -> None:
    """Print a text about each picture, as the checkpoint's own library generates it.

    \b
    Example: colport caption exported/vit-gpt2 photos/ --num-beams 1
    """
    from colport.runtime.captioner import Captioner

    with watch("writing", quiet):
        captioner = Captioner(folder, provider)
        places, images = read_items(inputs, "pages")
        texts = captioner.generate(images, prompt, max_new_tokens, num_beams)
    for place, text in zip(places, texts, strict=True):
        say(f"{place.id}\t{text}")
