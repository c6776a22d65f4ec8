"""Draw why a page scored for a query."""

from __future__ import annotations

from pathlib import Path

import typer

from colport.base.errors import DatasetError
from colport.cli.console import say, watch
from colport.cli.inputs import read_documents
from colport.cli.options import resolved

_BOX = (420, 560)  # pixels of a picture


def explain(
    folders: list[Path],
    query: str,
    page: Path,
    output: Path,
    checkpoint: str | None = None,
    base: str | None = None,
    provider: str = "cpu",
    reference_memory: float | None = None,
    quiet: bool = False,
) -> None:
    """Draw which patches of a page matched which words of a query.

    A row of pictures for each folder: the mean similarity of all words with each patch, then
    the words that add most to the score, on one scale. Matched patches are outlined.

    \b
    Example: colport explain exported/int8 --query "revenue by year" --page page.png -o heat.png
    """
    import numpy as np

    from colport.base.files import atomic_path, scratch_folder
    from colport.explain.explanation import Explanation, preprocessing
    from colport.explain.picture import sheet
    from colport.families.base import Embedder
    from colport.runtime.encoder import Encoder

    if output.suffix.lower() != ".png":
        raise typer.BadParameter(f"--output {output}: write to a .png file.")
    if page.is_dir():
        raise DatasetError(f"{page}: is a folder, expected an image.")
    runtime = preprocessing(folders[0])
    runtime.query_tokens(query)  # refuses passages and single vectors before anything is encoded
    image, *others = read_documents(page, "pages", 2)
    if others:
        raise DatasetError(f"{page}: holds several pages, expected an image of one.")
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(name: str, encoder: Embedder) -> None:
        watched.step(f"encoding with {name}")
        found[name] = encoder.encode_queries([query])[0], encoder.encode_documents([image])[0]

    with watch("encoding", quiet) as watched:
        if checkpoint:
            from colport.families import registry

            with scratch_folder(output) as workspace:
                record = resolved(checkpoint, base, workspace, quiet, watched.step)
                place = Path(record["folder"])
                add("PyTorch", registry.detect(place).reference(place, "cpu", reference_memory))
        for folder in folders:
            same_name = sum(other.name == folder.name for other in folders) > 1
            add(str(folder) if same_name else folder.name, Encoder(folder, provider))
    explanation = Explanation.of(runtime, query, image, found)
    rows = []
    for name, match in explanation.matches.items():
        say(f"{name}: MaxSim {match.score:.4f}")
        labels = ["all words"]
        for token in explanation.shown:
            word, place = explanation.tokens[token].text, match.place(token)
            where = f"row {place[0] + 1}, column {place[1] + 1}" if place else "not on a patch"
            say(f"  token {token + 1:<3} {match.strengths[token]:.4f}  {where:<20} {word}")
            # Pillow's own font has no other letters.
            shown = word if word.isascii() else f"token {token + 1}"
            labels.append(f"{shown}  {match.strengths[token]:.3f}")
        pictures = explanation.pictures(name, _BOX)
        rows.append((f"{name}: MaxSim {match.score:.3f}", list(zip(labels, pictures, strict=True))))
    with atomic_path(output) as temporary:
        sheet(rows, explanation.scale).save(temporary, "PNG")
