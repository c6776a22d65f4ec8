"""How far an exported folder is from its checkpoint, and how it scores on mteb's tasks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from colport.base.declared import PARITY_BATCH_SIZES, PARITY_INPUTS
from colport.base.errors import ParityError
from colport.base.files import write_json
from colport.cli import options
from colport.cli.console import say, watch
from colport.cli.inputs import InputOptions


def parity(
    folder: Path,
    checkpoint: str,
    queries: Path | None = None,
    documents: Path | None = None,
    dataset: Path | None = None,
    schema: str = "qa",
    inputs: int = PARITY_INPUTS,
    provider: str = "cpu",
    min_cosine: float | None = None,
    output: Path | None = None,
    base: str | None = None,
    reference_memory: float | None = None,
    quiet: bool = False,
) -> None:
    """Compare an exported folder with its checkpoint in PyTorch, on your inputs or a dataset's.

    Exit code 1 if it lost more than it may.

    \b
    Example: colport parity exported/colpali resources/checkpoints/colpali-demo
    --queries queries.txt --documents pages/ --output parity.json
    """
    from colport.families import registry
    from colport.folder import manifest
    from colport.hub.checkpoints import reading
    from colport.measure import overflow
    from colport.measure import parity as measuring
    from colport.pipeline import variants
    from colport.providers import ProviderSettings
    from colport.providers.session import require
    from colport.runtime.encoder import Encoder

    given = InputOptions(queries, documents, dataset, schema)
    exported = manifest.read(folder)
    require(ProviderSettings.of(provider).provider.name)
    family = registry.get(exported.family)
    read = given.read(family.reads, inputs)
    texts, items = read.queries, read.documents
    chosen = {"min_cosine": min_cosine} if min_cosine is not None else None
    limits = measuring.Tolerance(**(chosen or variants.tolerance(exported.precision)))
    with TemporaryDirectory() as scratch, watch("encoding", quiet) as watched:
        at = Path(scratch) / "checkpoint"
        found = options.resolved(checkpoint, base, at, quiet=True, report=watched.step)
        watched.step(f"{len(texts)} queries and {len(items)} documents in PyTorch")
        place = Path(found["folder"])
        registry.require(family.name, place)
        with reading(place, "its own library", "run"):
            original = family.reference(place, "cpu", reference_memory)
            reference = measuring.embeddings(original, texts, items)
        weights, note = original.room.weights, original.room.note
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


def mteb(
    folder: Path,
    tasks: list[str],
    output: Path,
    name: str | None = None,
    provider: str = "cpu",
    batch_size: int = 8,
    quiet: bool = False,
) -> None:
    """Score an exported folder on mteb's own retrieval tasks, with mteb's own result files.

    They lie below the output folder in results/NAME/DIGEST/TASK.json, where mteb.ResultCache
    finds them; a result that is there is not computed again. Needs the extra mteb of colport.

    \b
    Example: colport mteb exported/colpali --tasks VidoreDocVQARetrieval --output scores
    """
    from colport.measure import mteb_adapter

    encoder = mteb_adapter.ColPortEncoder(folder, name=name, provider=provider)
    chosen = mteb_adapter.named_tasks(tasks)
    with watch("encoding", quiet) as watched:
        watched.step(f"{', '.join(tasks)} with {provider}")
        scores = mteb_adapter.evaluate(encoder, chosen, output, batch_size)
    for task in chosen:
        say(f"{task.metadata.name}: {task.metadata.main_score} {scores[task.metadata.name]:.5f}")
