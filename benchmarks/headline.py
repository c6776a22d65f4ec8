"""``python -m benchmarks.headline``: the figures that README quotes, in one run on one machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from benchmarks import throughput
from benchmarks.command import Output, publish, start
from benchmarks.processes import run_alone
from benchmarks.tables import Table, measured_on
from colport.base import machine
from colport.base.errors import ConfigError
from colport.base.files import read_json
from colport.families import registry

_HERE = Path(__file__).resolve().parent
_CASES = [(kind, size) for size in (1, 8) for kind in ("query", "document")]
_PASSAGES, _PAGES, _PAGE_SIZE = 1000, 64, (1224, 1584)
_BATCH_SIZES, _ROUNDS = (8, 32), 2

TABLE = Table(
    {
        "model": "",
        "variant": "",
        **dict.fromkeys((f"{kind}, batch {size}" for kind, size in _CASES), ""),
        "corpus": ".2f",
        "MB": ".0f",
        "NDCG@5": "",
    }
)
"""Times PyTorch with a 95% interval; a whole corpus against PyTorch's best batch size; NDCG@5
less PyTorch's, with a 95% interval over queries."""


def rows(results: Path, corpus: Mapping[tuple[str, str], float]) -> list[dict[str, Any]]:
    """One row for each model and variant that ran.

    Args:
        results: A run's ``results`` folder.
        corpus: Model and variant to its speed-up on a whole corpus.
    """
    summary, latency = (
        pd.read_csv(results / "tables" / f"{name}.csv") for name in ("summary", "latency")
    )
    keys = ["provider", "model", "variant", "kind", "batch_size"]
    times = latency.set_index(keys).loc["cpu"]
    found = []
    for row in summary[summary["provider"] == "cpu"].to_dict("records"):
        model, variant = row["model"], row["variant"]
        cells = {
            f"{kind}, batch {size}": _times(times.loc[(model, variant, kind, size)])
            for kind, size in _CASES
        }
        delta = [row[f"ndcg_at_5_delta{end}"] for end in ("", "_low", "_high")]
        quality = "{:+.3f} ({:+.3f} to {:+.3f})".format(*delta)
        found.append(
            {
                "model": model,
                "variant": variant,
                **cells,
                "corpus": corpus[model, variant],
                "MB": row["size_mb"],
                "NDCG@5": quality,
            }
        )
    return found


def corpus_speedups(checkpoint: str, folders: Mapping[str, str]) -> dict[str, float]:
    """Variant to how many times as fast as PyTorch it encodes a corpus."""
    paths = {name: Path(folder) for name, folder in folders.items()}
    is_text = registry.detect(Path(checkpoint)).document_type == "passages"
    record = throughput.run(
        Path(checkpoint),
        paths,
        _PASSAGES if is_text else _PAGES,
        _BATCH_SIZES,
        _ROUNDS,
        lambda line: None,
        _PAGE_SIZE,
    )
    return {row["contender"]: row["vs_pytorch"] for row in record["rows"]}


def _times(row: Any) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(
        *row[["speedup_vs_pytorch", "speedup_low", "speedup_high"]]
    )


def main(
    folder: Annotated[
        Path, typer.Option(help="Where the pipeline writes its results, which stay there.")
    ] = Path("build/bench/headline"),
    output: Output = None,
) -> None:
    """Run the pipeline with `benchmarks/headline.yaml`, then encode whole corpora.

    \b
    Example: python -m benchmarks.headline --output benchmarks/headline.md
    """
    folder.mkdir(parents=True, exist_ok=True)
    snakefile, config = _HERE.parent / "Snakefile", _HERE / "headline.yaml"
    options = ["-s", snakefile, "--configfile", config, "--cores", "all", "--quiet"]
    if subprocess.run([sys.executable, "-m", "snakemake", *options], cwd=folder).returncode:
        raise ConfigError(f"{folder}: the pipeline failed; its log is above.")
    results = folder / "results"
    corpus: dict[tuple[str, str], float] = {}
    for file in sorted((results / "checkpoints").glob("*.json")):
        model = file.stem
        exported = {
            path.name: str(path.resolve()) for path in (results / "models" / model).iterdir()
        }
        checkpoint = read_json(file)["folder"]
        found = run_alone("benchmarks.headline:corpus_speedups", checkpoint, exported)
        corpus |= {(model, variant): value for variant, value in found.items()}
        typer.echo(f"{model}: whole corpus measured")
    first = measured_on(machine.describe(), "torch", "onnxruntime")
    lines = [first, "", *TABLE.markdown(rows(results, corpus))]
    publish("\n".join(lines) + "\n", output)


if __name__ == "__main__":
    start(main)
