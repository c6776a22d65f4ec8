"""From an exported folder to the Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from colport.cli.console import say, watch
from colport.cli.options import Folder, Quiet


def push(
    folder: Folder,
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub: org/name.")],
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository as private.")
    ] = False,
    parity: Annotated[
        list[Path] | None,
        typer.Option(help="Record of colport parity or of the pipeline; may be repeated."),
    ] = None,
    retrieval: Annotated[
        list[Path] | None,
        typer.Option(help="Record of the pipeline's retrieval scores; may be repeated."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Results folder of the pipeline, in place of single records."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model in the results; by default read from the folder's path."),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="Variant in the results; by default read from the folder's path."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch to push to; made if it is not there.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the files and the model card, send nothing.")
    ] = False,
    quiet: Quiet = False,
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
