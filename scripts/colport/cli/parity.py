"""How far an exported folder is from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from colport.base.declared import PARITY_BATCH_SIZES, PARITY_INPUTS
from colport.base.errors import ParityError
from colport.cli import options
from colport.cli.console import say, watch
from colport.cli.inputs import Dataset, Documents, Inputs, Queries, Schema
from colport.cli.options import Base, Checkpoint, Folder, Quiet, ReferenceMemory


def parity(
    folder: Folder,
    checkpoint: Checkpoint,
    queries: Queries = None,
    documents: Documents = None,
    dataset: Dataset = None,
    schema: Schema = "qa",
    inputs: Annotated[
        int, typer.Option(min=1, help="Compare the first so many of each.")
    ] = PARITY_INPUTS,
    provider: Annotated[str, typer.Option(help="Execution provider.")] = "cpu",
    min_cosine: Annotated[
        float | None,
        typer.Option(
            help="Smallest cosine of a token that passes; by default what the ready-made variant "
            "of this precision may lose.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="JSON record to write, for colport push."),
    ] = None,
    base: Base = None,
    reference_memory: ReferenceMemory = None,
    quiet: Quiet = False,
) -> None:
    """Compare an exported folder with its checkpoint in PyTorch, on your inputs or a dataset's.

    Exit code 1 if it lost more than it may.

    \b
    Example: colport parity exported/colpali resources/checkpoints/colpali-demo
    --queries queries.txt --documents pages/ --output parity.json
    """
    from colport import families
    from colport.base.files import write_json
    from colport.folder import manifest
    from colport.hub.checkpoints import reading
    from colport.measure import overflow
    from colport.measure import parity as measuring
    from colport.pipeline import variants
    from colport.providers import ProviderSettings
    from colport.providers.session import require
    from colport.runtime.encoder import Encoder

    given = Inputs(queries, documents, dataset, schema)
    exported = manifest.read(folder)
    require(ProviderSettings.of(provider).provider.name)
    family = families.get(exported.family)
    read = given.read(family.document_type, inputs)
    texts, items = read.queries, read.documents
    chosen = {"min_cosine": min_cosine} if min_cosine is not None else None
    limits = measuring.Tolerance(**(chosen or variants.tolerance(exported.precision)))
    with TemporaryDirectory() as scratch, watch("encoding", quiet) as watched:
        at = Path(scratch) / "checkpoint"
        found = options.resolved(checkpoint, base, at, quiet=True, report=watched.step)
        watched.step(f"{len(texts)} queries and {len(items)} documents in PyTorch")
        memory = options.megabytes(reference_memory)
        source = Path(found["folder"])
        with reading(source, "its own library", "run"):
            original = family.reference(source, "cpu", memory)
            reference = measuring.embeddings(original, texts, items)
        weights, note = original.room.weights, original.note
        del original  # before the export comes: they need not be in memory together
        watched.step(f"the same with {provider}, at batch sizes {PARITY_BATCH_SIZES}")
        record = measuring.measure(
            Encoder(folder, provider),
            texts,
            items,
            reference,
            PARITY_BATCH_SIZES,
            limits,
            {"model": found["source"], "variant": folder.resolve().name, "provider": provider},
            overflow.reaches(folder, exported, provider, texts, items, Path(scratch) / "reach"),
        )
    record["settings"]["reference"] = weights
    if output:
        write_json(output, {**record, "export": exported.digest})
    if note:
        say(f"reference: {note}")
    for row in record["rows"]:
        say(_line(row))
    if failed := [f"{row['kind']}: {row['reason']}" for row in record["rows"] if not row["passed"]]:
        raise ParityError("; ".join(failed))


def _line(row: dict[str, Any]) -> str:
    if row["min_cosine"] is None:
        return f"{row['kind']}: {row['reason']}"
    reached = row["largest_activation"]
    return (
        f"{row['kind']}: cosine mean {row['mean_cosine']:.6f}, min {row['min_cosine']:.6f}, "
        f"max abs diff {row['max_abs_diff']:.3g}, {row['inputs']} inputs, {row['tokens']} tokens, "
        f"top-10 overlap {row['top10_overlap']:.3f}"
        + ("" if reached is None else f", largest activation {reached:.4g}")
    )
