"""From an exported folder to other libraries, and to the Hub."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import typer

from colport.base.errors import UnsupportedError
from colport.base.files import bytes_below, scratch_folder
from colport.cli.console import say, watch

PublishLayout = Literal["transformers.js"]


def publish(folder: Path, output: Path, layout: PublishLayout, quiet: bool = False) -> None:
    """Write an exported folder as another library loads it, with a README that says how.

    \b
    Example: colport publish exported/trocr --layout transformers.js -o exported/trocr-js
    """
    from colport.folder import layouts, manifest

    manifest.check_replaceable(output)
    with watch(layout, quiet) as watched:
        layouts.publish(folder, output, layout, watched.progress)
    say(f"{output}: {layout}, {bytes_below(output) / 1e6:,.1f} MB")


def push(
    folder: Path,
    repo_id: str,
    private: bool = False,
    parity: list[Path] | None = None,
    retrieval: list[Path] | None = None,
    results: Path | None = None,
    model: str | None = None,
    variant: str | None = None,
    layout: PublishLayout | None = None,
    revision: str | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> None:
    """Upload an exported folder to the Hub, with a model card that states what was measured.

    The token comes from HF_TOKEN or from `hf auth login`. Every file is hashed before anything
    is sent. With --layout, what colport publish writes is sent, and its README is the card.

    \b
    Example: colport push results/models/colpali-demo/int8 me/colpali-onnx --private
    --results results
    """
    from colport.folder import layouts, manifest
    from colport.hub import upload
    from colport.report import model_card

    if results is None and (model or variant):
        raise typer.BadParameter("--model and --variant go with --results.")
    if results and (parity or retrieval):
        raise typer.BadParameter("give --results, or single records in its place.")
    if layout and (results or parity or retrieval):
        raise typer.BadParameter("the card of --layout takes no records.")
    if not dry_run:
        upload.check_login()
    with scratch_folder(folder) if layout else nullcontext() as scratch:
        with watch("hashing", quiet) as watched:
            found = manifest.verify(folder, watched.progress)
            if layout:
                sent = scratch / folder.name
                layouts.publish(folder, sent, layout, watched.progress)
                names, card = layouts.files(sent), (sent / upload.CARD).read_text(encoding="utf-8")
            elif found.task == "captioning":
                raise UnsupportedError(
                    f"{folder}: is a captioner, whose card is that of a layout; add --layout."
                )
            else:
                sent, names = folder, [manifest.FILE, *found.files]
                measured = model_card.from_files(parity or [], retrieval or [], found)
                if results:
                    parts = folder.resolve().parts
                    measured = model_card.from_results(
                        results, model or parts[-2], variant or parts[-1], found
                    )
                card = model_card.write(found, repo_id, measured)
        if dry_run:
            for name in names:
                say(f"{(sent / name).stat().st_size:>14,} bytes  {name}")
            say(f"{len(card.encode()):>14,} bytes  {upload.CARD}\n\n{card}")
        else:
            quiet = quiet or not sys.stderr.isatty()
            place = {"private": private, "revision": revision, "quiet": quiet}
            say(upload.push(folder, repo_id, card, published=layout and sent, **place))
