"""The ``colport`` command: every stage by hand, on one model, with the pipeline's own functions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from colport.errors import ColPortError, ParityError

app = typer.Typer(
    help="Take late-interaction retrieval models from a checkpoint to ONNX Runtime.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

bench = typer.Typer(help="Benchmarks; their tables are in benchmarks/.", no_args_is_help=True)
app.add_typer(bench, name="bench")

Folder = Annotated[Path, typer.Argument(help="An exported folder.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]


def main() -> None:
    """Run the command; a user's mistake is one sentence and exit code 1."""
    try:
        app()
    except ColPortError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="A local folder, or a Hub id.")],
    output: Output,
    revision: Annotated[str | None, typer.Option(help="Commit of a Hub id.")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or fp16.")] = "fp32",
    family: Annotated[
        str | None, typer.Option(help="Family name; read from the checkpoint by default.")
    ] = None,
    layout: Annotated[str, typer.Option(help="split, merge or shard.")] = "split",
    max_shard_bytes: Annotated[
        int | None, typer.Option(help="Largest shard file, for layout shard.")
    ] = None,
) -> None:
    """Export a checkpoint to ONNX.

    Example: colport export resources/checkpoints/colpali-demo -o exported/colpali
    """
    from colport import checkpoints
    from colport.export.folder import export as write
    from colport.external_data import Layout

    declaration = {"path": checkpoint}
    if not Path(checkpoint).is_dir() and checkpoint.count("/") == 1 and revision:
        declaration = {"hub": checkpoint, "revision": revision}
    manifest = write(
        checkpoints.resolve(declaration, output.with_name(f"{output.name}.checkpoint")),
        output,
        family=family,
        precision=precision,
        layout=Layout(layout, max_shard_bytes),
        source={"source": checkpoint if revision is None else f"{checkpoint}@{revision}"},
        report=_say,
    )
    _say(f"{output}: {manifest.family}, {', '.join(manifest.graphs)}")


@app.command()
def quantize(
    base: Folder,
    output: Output,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Part of a weight's name to leave in fp32.")
    ] = None,
    layout: Annotated[str, typer.Option(help="split, merge or shard.")] = "split",
    max_shard_bytes: Annotated[
        int | None, typer.Option(help="Largest shard file, for layout shard.")
    ] = None,
) -> None:
    """Write the dynamic int8 variant of an fp32 folder.

    Example: colport quantize exported/colpali -o exported/colpali-int8 --exclude embed_tokens
    """
    from colport.external_data import Layout
    from colport.quantize import QuantizeSettings
    from colport.quantize import quantize as write

    settings = QuantizeSettings(exclude=tuple(exclude or ()))
    write(base, output, settings, Layout(layout, max_shard_bytes), _say)
    _say(str(output))


@app.command()
def split(folder: Folder, output: Output) -> None:
    """Put all weights into one file beside the graphs.

    Example: colport split exported/merged -o exported/split
    """
    _convert(folder, output, "split")


@app.command()
def merge(folder: Folder, output: Output) -> None:
    """Put all weights into the graphs, one file each, up to protobuf's 2 GiB.

    Example: colport merge exported/colpali -o exported/merged
    """
    _convert(folder, output, "merge")


@app.command()
def shard(
    folder: Folder,
    output: Output,
    max_shard_bytes: Annotated[int, typer.Option(help="Largest weight file, in bytes.")],
) -> None:
    """Put the weights into files of at most a given size.

    Example: colport shard exported/colpali -o exported/sharded --max-shard-bytes 2000000000
    """
    _convert(folder, output, "shard", max_shard_bytes)


@app.command()
def inspect(folder: Folder) -> None:
    """Say what an exported folder is and whether its files are whole.

    Example: colport inspect exported/colpali
    """
    from colport import manifest

    found = manifest.read(folder)
    _say(f"{found.family}, {found.precision}, {found.dim} dimensions, opset {found.opset}")
    for name, graph in found.graphs.items():
        inputs = ", ".join(f"{key}{value['shape']}" for key, value in graph.inputs.items())
        _say(f"{name}: {graph.nodes} nodes, {graph.parameters:,} parameters; {inputs}")
    for name, facts in found.files.items():
        _say(f"{facts['size_bytes']:>14,} bytes  {name}")


@app.command()
def parity(
    folder: Folder,
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint it came from.")],
    dataset: Annotated[Path, typer.Option(help="Folder of a dataset in a ViDoRe schema.")],
    schema: Annotated[str, typer.Option(help="qa or beir.")] = "qa",
    inputs: Annotated[int, typer.Option(help="First queries and documents to compare.")] = 16,
    provider: Annotated[str, typer.Option(help="Execution provider.")] = "cpu",
    min_cosine: Annotated[float, typer.Option(help="Smallest cosine that passes.")] = 0.99999,
) -> None:
    """Compare an exported folder with its PyTorch reference on real inputs.

    Example: colport parity exported/colpali resources/checkpoints/colpali-demo
    --dataset resources/datasets/demo-pages-qa
    """
    from colport import families
    from colport import parity as measuring
    from colport.encoder import Encoder
    from colport.retrieval.datasets import load_retrieval_dataset

    encoder = Encoder(folder, provider)
    kind = {"path": str(dataset), "schema": schema, "documents": encoder.document_type}
    data = load_retrieval_dataset(dataset.name, kind)
    queries, documents = data.queries[:inputs], data.documents[:inputs]
    original = families.get(encoder.manifest.family).reference(checkpoint, "cpu")
    record = measuring.measure(
        encoder,
        queries,
        documents,
        {
            "query": original.encode_queries(queries),
            "document": original.encode_documents(documents),
        },
        [1, 8],
        measuring.Tolerance(min_cosine=min_cosine),
        {"model": checkpoint.name, "variant": folder.name, "provider": provider},
    )
    for row in record["rows"]:
        _say(
            f"{row['kind']}: max abs diff {row['max_abs_diff']:.3g}, "
            f"cosine mean {row['mean_cosine']:.6f}, min {row['min_cosine']:.6f}"
        )
    if failed := [row["reason"] for row in record["rows"] if not row["passed"]]:
        raise ParityError("; ".join(failed))


@bench.command("export")
def bench_export(
    checkpoints_folder: Annotated[
        Path, typer.Option("--demo", help="Folder with the demo checkpoints.")
    ] = Path("resources/checkpoints"),
    sizes: Annotated[
        str, typer.Option(help="Comma-separated: colpali-10M, -100M, -1B, -3B, colqwen2-2B.")
    ] = "colpali-10M,colpali-100M,colpali-1B,colpali-3B,colqwen2-2B",
    precisions: Annotated[str, typer.Option(help="Comma-separated.")] = "fp16,fp32,int8",
    scratch: Annotated[
        Path, typer.Option(help="Where checkpoints and exports are written, then removed.")
    ] = Path("build/bench"),
    output: Annotated[Path | None, typer.Option(help="Markdown table to write.")] = None,
) -> None:
    """Measure memory and time of exports of random checkpoints with published configurations.

    Example: colport bench export --sizes colpali-3B --precisions fp16 --output export.md
    """
    from colport.artifacts import write_text
    from colport.bench import export as benchmark

    record = benchmark.run(
        sizes.split(","), precisions.split(","), checkpoints_folder, scratch, _say
    )
    table = benchmark.markdown(record)
    if output:
        write_text(output, table)
    _say(table)


def _convert(folder: Path, output: Path, layout: str, max_shard_bytes: int | None = None) -> None:
    from colport.convert import convert
    from colport.external_data import Layout

    manifest = convert(folder, output, Layout(layout, max_shard_bytes))
    _say(f"{output}: {', '.join(manifest.external_data['files']) or 'weights in the graphs'}")


def _say(message: str) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    main()
