"""Benchmarks; their tables are in ``benchmarks/``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from colport.cli.console import say


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

    \b
    Example: colport bench export --sizes colpali-3B --precisions fp16 --output export.md
    """
    from colport.artifacts import write_text
    from colport.bench import export as benchmark

    record = benchmark.run(
        sizes.split(","), precisions.split(","), checkpoints_folder, scratch, say
    )
    table = benchmark.markdown(record)
    if output:
        write_text(output, table)
    say(table)


def bench_graphs(
    checkpoint: Annotated[
        Path, typer.Argument(help="Folder of a text model, as results/checkpoints/minilm-colbert.")
    ],
    checkpoints_folder: Annotated[
        Path, typer.Option("--demo", help="Folder with the demo checkpoints.")
    ] = Path("resources/checkpoints"),
    cases: Annotated[
        str, typer.Option(help="Comma-separated: text, and sizes of `bench export`.")
    ] = "text,colpali-100M,colqwen2-100M",
    threads: Annotated[int, typer.Option(help="Threads of every contender.")] = 2,
    scratch: Annotated[
        Path, typer.Option(help="Where checkpoints and exports are written, then removed.")
    ] = Path("build/bench"),
    output: Annotated[Path | None, typer.Option(help="Markdown table to write.")] = None,
) -> None:
    """Compare exported graphs with PyTorch and with plain exports of the same modules.

    \b
    Example: colport bench graphs results/checkpoints/minilm-colbert --output graphs.md
    """
    from colport.artifacts import write_text
    from colport.bench import graphs as benchmark
    from colport.latency.settings import LatencySettings

    settings = LatencySettings(
        rounds=7, min_samples=35, min_seconds=2, max_seconds=30, threads=threads
    )
    record = benchmark.run(cases.split(","), checkpoint, checkpoints_folder, scratch, settings, say)
    table = benchmark.markdown(record)
    if output:
        write_text(output, table)
    say(table)


def bench_maxsim(
    cases: Annotated[
        str,
        typer.Option(
            help="Comma-separated: colpali, colbert, rerank (random embeddings), or folders with "
            "queries.safetensors and documents.safetensors."
        ),
    ] = "colpali,colbert,rerank",
    threads: Annotated[int, typer.Option(help="Threads of every contender.")] = 2,
    scratch: Annotated[
        Path, typer.Option(help="Where embeddings are written, then removed.")
    ] = Path("build/bench"),
    output: Annotated[Path | None, typer.Option(help="Markdown table to write.")] = None,
) -> None:
    """Compare the scoring of embeddings with other libraries and with plain matrix products.

    \b
    Example: colport bench maxsim --cases colpali,rerank --output maxsim.md
    """
    from colport.artifacts import write_text
    from colport.bench import maxsim as benchmark
    from colport.latency.settings import LatencySettings

    settings = LatencySettings(
        rounds=6,
        min_samples=6,
        min_seconds=0.3,
        max_seconds=10,
        warmup_max_calls=1,
        threads=threads,
    )
    table = benchmark.markdown(benchmark.run(cases.split(","), scratch, settings, say))
    if output:
        write_text(output, table)
    say(table)


def bench_corpus(
    pages: Annotated[str, typer.Option(help="Comma-separated sizes.")] = "1000,10000,50000",
    scratch: Annotated[
        Path, typer.Option(help="Where embeddings are written, then removed: 264 kB a page.")
    ] = Path("build/bench"),
    output: Annotated[Path | None, typer.Option(help="Markdown table to write.")] = None,
) -> None:
    """Measure memory and time of scoring as the corpus grows, on synthetic embeddings.

    \b
    Example: colport bench corpus --pages 1000,10000 --output corpus.md
    """
    from colport.artifacts import write_text
    from colport.bench import corpus as benchmark
    from colport.errors import ConfigError

    if not all(size.isdecimal() and int(size) for size in pages.split(",")):
        raise ConfigError(f"pages: found {pages!r}; allowed are whole numbers above 0 and commas.")
    sizes = [int(size) for size in pages.split(",")]
    table = benchmark.markdown(benchmark.run(sizes, scratch, say))
    if output:
        write_text(output, table)
    say(table)
