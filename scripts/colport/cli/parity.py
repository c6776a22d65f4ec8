"""How far an exported folder is from its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from colport.cli import options
from colport.cli.console import say, watch
from colport.cli.options import Base, Checkpoint, Folder, Quiet
from colport.errors import DatasetError, ParityError

_BATCH_SIZES = (1, 8)


def parity(
    folder: Folder,
    checkpoint: Checkpoint,
    queries: Annotated[
        Path | None, typer.Option(help="Text file, a query a line.", show_default=False)
    ] = None,
    documents: Annotated[
        Path | None,
        typer.Option(
            help="Folder of page images, or an image; of a text model, a text file with a passage "
            "a line, or a folder of text files.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(help="In their place a dataset's folder, in a ViDoRe schema."),
    ] = None,
    schema: Annotated[str, typer.Option(help="Schema of the dataset: qa or beir.")] = "qa",
    inputs: Annotated[int, typer.Option(min=1, help="Compare the first so many of each.")] = 16,
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
    quiet: Quiet = False,
) -> None:
    """Compare an exported folder with its checkpoint in PyTorch, on your inputs or a dataset's.

    Exit code 1 if it lost more than it may.

    \b
    Example: colport parity exported/colpali resources/checkpoints/colpali-demo
    --queries queries.txt --documents pages/ --output parity.json
    """
    from colport import families, variants
    from colport import parity as measuring
    from colport.artifacts import write_json
    from colport.encoder import Encoder

    if (dataset is None) == (queries is None) or (queries is None) != (documents is None):
        raise typer.BadParameter("give --queries and --documents, or --dataset in their place.")
    encoder = Encoder(folder, provider)
    family = families.get(encoder.manifest.family)
    if dataset:
        texts, items = _dataset_inputs(dataset, schema, encoder.document_type)
        texts, items = texts[:inputs], items[:inputs]
    else:
        texts = _lines(queries)[:inputs]
        items = read_documents(documents, encoder.document_type, inputs)
    chosen = {"min_cosine": min_cosine} if min_cosine is not None else None
    limits = measuring.Tolerance(**(chosen or variants.tolerance(encoder.manifest.precision)))
    with TemporaryDirectory() as scratch, watch("encoding", quiet) as watched:
        found = options.resolved(checkpoint, base, Path(scratch) / "checkpoint", quiet=True)
        watched.step(f"{len(texts)} queries and {len(items)} documents in PyTorch")
        original = family.reference(Path(found["folder"]), "cpu")
        reference = {
            "query": original.encode_queries(texts),
            "document": original.encode_documents(items),
        }
        watched.step(f"the same with {provider}, at batch sizes {_BATCH_SIZES}")
        record = measuring.measure(
            encoder,
            texts,
            items,
            reference,
            _BATCH_SIZES,
            limits,
            {"model": found["source"], "variant": folder.resolve().name, "provider": provider},
        )
    if output:
        write_json(output, {**record, "export": encoder.manifest.digest})
    for row in record["rows"]:
        say(_line(row))
    if failed := [f"{row['kind']}: {row['reason']}" for row in record["rows"] if not row["passed"]]:
        raise ParityError("; ".join(failed))


def read_documents(path: Path, document_type: str, count: int) -> list[Any]:
    """The first documents of a file or a folder, in the order of their names.

    Args:
        path: Of pages, an image or a folder of them; of passages, a text file with one a line, or
            a folder of text files.
        document_type: ``pages`` or ``passages``.
        count: Documents to read at most.

    Returns:
        Pillow images, or texts.

    Raises:
        DatasetError: There are none, or one cannot be read.
    """
    if document_type == "passages":
        if not path.is_dir():
            return _lines(path)[:count]
        return [_text(file) for file in _files(path, {".txt", ".md"})[:count]]
    from PIL import Image

    files = _files(path, set(Image.registered_extensions())) if path.is_dir() else [path]
    return [_page(file) for file in files[:count]]


def _page(file: Path) -> Any:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{file}: is not an image that can be read ({error}).") from error


def _dataset_inputs(
    folder: Path, schema: str, document_type: str
) -> tuple[Sequence[str], Sequence[Any]]:
    from colport.retrieval.datasets import load_retrieval_dataset

    settings = {"path": str(folder), "schema": schema, "documents": document_type}
    loaded = load_retrieval_dataset(folder.name, settings)
    return loaded.queries, loaded.documents


def _files(folder: Path, suffixes: set[str]) -> list[Path]:
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes)
    if not found:
        kind = "text file (.txt, .md)" if ".txt" in suffixes else "image"
        raise DatasetError(f"{folder}: holds no {kind}.")
    return found


def _lines(file: Path) -> list[str]:
    lines = [line.strip() for line in _text(file).splitlines()]
    if not (kept := [line for line in lines if line]):
        raise DatasetError(f"{file}: is empty, expected a text a line.")
    return kept


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: is not UTF-8 text (byte {error.start}).") from error


def _line(row: dict[str, Any]) -> str:
    if row["min_cosine"] is None:
        return f"{row['kind']}: {row['reason']}"
    return (
        f"{row['kind']}: cosine mean {row['mean_cosine']:.6f}, min {row['min_cosine']:.6f}, "
        f"max abs diff {row['max_abs_diff']:.3g}, {row['inputs']} inputs, {row['tokens']} tokens, "
        f"top-10 overlap {row['top10_overlap']:.3f}"
    )
