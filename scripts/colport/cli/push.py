"""From an exported folder to the Hub."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from colport.cli.console import say, watch


def push(
    folder: Path,
    repo_id: str,
    private: bool = False,
    parity: list[Path] | None = None,
    retrieval: list[Path] | None = None,
    results: Path | None = None,
    model: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> None:
    """Upload an exported folder to the Hub, with a model card that states what was measured.

    The token comes from HF_TOKEN or from `hf auth login`. Every file is hashed before anything
    is sent.

    \b
    Example: colport push results/models/colpali-demo/int8 me/colpali-onnx --private
    --results results
    """
    from colport.folder import manifest
    from colport.hub import upload
    from colport.report import model_card

    if results is None and (model or variant):
        raise typer.BadParameter("--model and --variant go with --results.")
    if results and (parity or retrieval):
        raise typer.BadParameter("give --results, or single records in its place.")
    if not dry_run:
        upload.check_login()
    with watch("hashing", quiet) as watched:
        found = manifest.verify(folder, watched.progress)
        if results:
            parts = folder.resolve().parts
            measured = model_card.from_results(
                results, model or parts[-2], variant or parts[-1], found
            )
        else:
            measured = model_card.from_files(parity or [], retrieval or [], found)
        card = model_card.write(found, repo_id, measured)
    if dry_run:
        for name in (manifest.FILE, *found.files):
            say(f"{(folder / name).stat().st_size:>14,} bytes  {name}")
        say(f"{len(card.encode()):>14,} bytes  {upload.CARD}\n\n{card}")
    else:
        quiet = quiet or not sys.stderr.isatty()
        say(upload.push(folder, repo_id, card, private=private, revision=revision, quiet=quiet))
