"""An exported folder at work without Python: embeddings of the user's own files, and a search."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from colport.base.errors import ArtifactError
from colport.base.files import sha256_file
from colport.base.names import PLURALS
from colport.cli.console import Watch, say, watch
from colport.cli.inputs import read_items
from colport.data.documents import Page, PageSettings
from colport.folder import manifest


def encode(
    folder: str,
    inputs: list[Path],
    output: Path,
    as_queries: bool = False,
    storage: Literal["float32", "float16"] = "float32",
    provider: str = "cpu",
    quiet: bool = False,
) -> None:
    """Write the embeddings of your own files as one safetensors file.

    The file says which model and which documents it is of; docs/serving.md says how it is read.

    \b
    Example: colport encode exported/colpali reports/ scan.png -o vectors.safetensors
    """
    from colport.runtime.encoder import Encoder
    from colport.scoring.store import read_embeddings, write_embeddings

    if output.exists():
        read_embeddings(output)  # nothing else is written over
    kind = "query" if as_queries else "document"
    with watch("encoding", quiet) as watched:
        encoder = Encoder(folder, provider)
        places, contents = read_items(inputs, "passages" if as_queries else encoder.document_type)
        facts = _facts(encoder.folder, kind, places, watched)
        found = _embedded(encoder, places, contents, kind, watched)
        stored = [tokens.astype(storage) for tokens in found]
        write_embeddings(output, [place.id for place in places], stored, facts)
    vectors = f"{sum(map(len, stored))} vectors of {encoder.dim} dimensions in {storage}"
    say(f"{output}: {len(stored)} {PLURALS[kind]}, {vectors}")


def search(
    folder: str,
    documents: Path,
    query: list[str],
    vectors: Path | None = None,
    best: int = 10,
    provider: str = "cpu",
    quiet: bool = False,
) -> None:
    """Find the pages or passages of your own files that match a query best, by exact MaxSim.

    With --vectors the documents' embeddings are kept in a file, and taken from it if it is there:
    a file of another model, or of documents that are no longer the same, is refused.

    \b
    Example: colport search exported/colpali reports/ --query "revenue by year"
    --vectors reports.safetensors
    """
    from colport.runtime.encoder import Encoder
    from colport.scoring.score import BestDocuments
    from colport.scoring.store import EmbeddingSet, read_embeddings, write_embeddings

    with watch("encoding", quiet) as watched:
        encoder = Encoder(folder, provider)
        places, contents = read_items([documents], encoder.document_type)
        facts = _facts(encoder.folder, "document", places, watched) if vectors else {}
        if vectors and vectors.exists():
            kept = read_embeddings(vectors)
            _check(vectors, kept.metadata, facts)
        else:
            found = _embedded(encoder, places, contents, "document", watched)
            kept = EmbeddingSet.from_arrays([place.id for place in places], found)
            if vectors:
                write_embeddings(vectors, kept.ids, found, facts)
        scores = encoder.score(encoder.encode_queries(query), kept)
    if not np.isfinite(scores).all():
        raise ArtifactError(f"{vectors or folder}: its embeddings hold NaN or infinity.")
    ranked = BestDocuments(len(query), best)
    ranked.add(scores, kept.ids)
    unit = {"pages": "page", "passages": "line"}[encoder.document_type]
    where = {place.id: place for place in places}
    for text, ranking in zip(query, ranked.rankings(), strict=True):
        say(text)
        for rank, (name, score) in enumerate(ranking, start=1):
            number = f"  {unit} {where[name].index + 1}" * where[name].is_one_of_several
            say(f"{rank:>4}  {score:8.4f}  {where[name].file}{number}")


def _embedded(
    encoder: Any, places: Sequence[Page], contents: Sequence[Any], kind: str, watched: Watch
) -> list[np.ndarray]:
    from colport.scoring.embed import encode_named

    names, many = [place.id for place in places], PLURALS[kind]
    encode, is_pages = getattr(encoder, f"encode_{many}"), not isinstance(contents, list)
    return encode_named(contents, names, encode, None, many, is_pages, watched.step)


def _facts(folder: Path, kind: str, places: Sequence[Page], watched: Watch) -> dict[str, str]:
    """What a file of vectors says of its model, whose files are checked, and of its documents."""
    manifest.verify(folder, watched.progress)
    files = {file: sha256_file(file) for file in {place.file for place in places}}
    drawn = {place.id: f"{files[place.file]} at {PageSettings.dpi} DPI" for place in places}
    model = sha256_file(folder / manifest.FILE)
    return {"kind": kind, "model": model, "contents": json.dumps(drawn)}


def _check(file: Path, kept: Mapping[str, str], facts: Mapping[str, str]) -> None:
    """Refuse vectors of another model, or of other documents than those that are there now."""
    if not kept.keys() >= facts.keys() or kept["kind"] != facts["kind"]:
        raise ArtifactError(f"{file}: holds no documents that colport encode or search wrote.")
    fault = "is of another model, or of another export of it"
    if kept["model"] == facts["model"]:
        before, now = (json.loads(of["contents"]) for of in (kept, facts))
        kinds = {
            "is gone": before.keys() - now,
            "has changed": {name for name in now if before.get(name, now[name]) != now[name]},
            "is new": now.keys() - before,
        }
        if not (found := [(name, kind) for kind, names in kinds.items() for name in sorted(names)]):
            return
        fault = f"is of other documents: {' '.join(found[0])} ({len(found)} such in all)"
    raise ArtifactError(f"{file}: {fault}; remove it to have the documents encoded anew.")
