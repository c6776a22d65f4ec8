"""Benchmarks; their tables are in ``benchmarks/``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

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


def bench_reference(
    checkpoints_folder: Annotated[
        Path, typer.Option("--demo", help="Folder with the demo checkpoints.")
    ] = Path("resources/checkpoints"),
    sizes: Annotated[
        str, typer.Option(help="Comma-separated sizes of `bench export`, and colqwen2-8B.")
    ] = "colpali-100M,colpali-3B,colqwen2-8B",
    memory_mb: Annotated[
        str, typer.Option(help="Comma-separated: MB that each size may take where it is streamed.")
    ] = "2000,6000,12000",
    inputs: Annotated[int, typer.Option(min=1, help="So many queries and so many pages.")] = 2,
    scratch: Annotated[
        Path, typer.Option(help="Where checkpoints and embeddings are written, then removed.")
    ] = Path("build/bench"),
    output: Annotated[Path | None, typer.Option(help="Markdown table to write.")] = None,
) -> None:
    """Measure PyTorch's memory and time with weights in memory and read in each pass.

    \b
    Example: colport bench reference --sizes colpali-3B --memory-mb 6000 --output reference.md
    """
    from colport.artifacts import write_text
    from colport.bench import reference as benchmark
    from colport.errors import ConfigError

    names, allowed = sizes.split(","), _whole_numbers("memory-mb", memory_mb)
    if len(names) != len(allowed):
        raise ConfigError(
            f"memory-mb: found {len(allowed)} numbers; allowed is one for each of the "
            f"{len(names)} sizes."
        )
    record = benchmark.run(
        dict(zip(names, allowed, strict=True)), inputs, checkpoints_folder, scratch, say
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
        rounds=7, min_samples=35, min_seconds=2, max_seconds=30, precision=0, threads=threads
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
        batch_sizes=(1,),
        rounds=6,
        min_samples=6,
        min_seconds=0.3,
        max_seconds=10,
        warmup_max_calls=1,
        precision=0,
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

    sizes = _whole_numbers("pages", pages)
    table = benchmark.markdown(benchmark.run(sizes, scratch, say))
    if output:
        write_text(output, table)
    say(table)


def bench_providers(
    providers: Annotated[
        str,
        typer.Option(
            help="Comma-separated types, or a YAML file with entries as under `providers` of a "
            "config. A GPU's type is measured plain, with I/O binding and with CUDA graphs."
        ),
    ] = "cuda,cpu",
    sizes: Annotated[
        str, typer.Option(help="Comma-separated sizes of `bench export`; empty for none.")
    ] = "colpali-100M,colqwen2-100M",
    text: Annotated[
        Path | None, typer.Option(help="Checkpoint folder of a text model, measured first.")
    ] = None,
    variants: Annotated[
        str, typer.Option(help="Comma-separated: fp32, fp16, bf16.")
    ] = "fp32,fp16,bf16",
    batch_sizes: Annotated[str, typer.Option(help="Comma-separated.")] = "1,8,32",
    limit_seconds: Annotated[
        float, typer.Option(help="Seconds for everything; what does not fit is listed.")
    ] = 480.0,
    threads: Annotated[
        int | None, typer.Option(help="Threads of every contender.", show_default="all cores")
    ] = None,
    checkpoints_folder: Annotated[
        Path, typer.Option("--demo", help="Folder with the demo checkpoints.")
    ] = Path("resources/checkpoints"),
    scratch: Annotated[
        Path, typer.Option(help="Where checkpoints and exports are written, then removed.")
    ] = Path("build/bench"),
    output: Annotated[
        Path | None, typer.Option(help="Markdown page to write, renewed after each model.")
    ] = None,
) -> None:
    """Measure providers on this machine beside PyTorch in fp32 and bf16: speed and parity.

    \b
    Example: colport bench providers --providers cuda,cpu --sizes colpali-1B --output gpu.md
    """
    from colport.artifacts import write_text
    from colport.bench import providers as benchmark
    from colport.bench.provider_plan import Plan, entries
    from colport.bench.provider_tables import markdown
    from colport.environment import usable_cores

    batches = _whole_numbers("batch-sizes", batch_sizes)
    plan = Plan(
        sizes.split(",") if sizes else [],
        entries(providers, batches),
        text,
        variants.split(","),
        batches,
        limit_seconds,
        threads or usable_cores(),
    )

    def keep(record: Mapping[str, Any]) -> None:
        if output:
            write_text(output, markdown(record))

    say(markdown(benchmark.run(plan, checkpoints_folder, scratch, say, keep)))


def _whole_numbers(option: str, text: str) -> list[int]:
    """Comma-separated whole numbers above 0.

    Raises:
        ConfigError: Something else.
    """
    from colport.errors import ConfigError

    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(
            f"{option}: found {text!r}; allowed are whole numbers above 0 and commas."
        )
    return [int(part) for part in parts]
