"""``python -m benchmarks.throughput``: a whole corpus, as users encode one."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.command import Output, publish, start, whole_numbers
from benchmarks.tables import Table, measured_on
from colport import Encoder
from colport.base import machine
from colport.base.errors import ConfigError
from colport.families import registry
from colport.measure.operations import operations, profiled_calls

TABLE = Table(
    {
        "contender": "",
        "inputs_a_second": ",.1f",
        "vs_pytorch": ".2f",
        "of_product_rate": ".0%",
    }
)
"""The fastest of the rounds, since whatever else runs only makes them longer. ``vs_pytorch`` is
against the best of PyTorch's batch sizes; the product rate is that of fp32."""

_SIDE, _PRODUCTS = 1024, 40  # of the product whose rate is the limit, and how often it runs
_PAGE_SIDES = (336, 1584)


def passages(count: int, tokenizer: Any, seed: int = 0) -> list[str]:
    """Texts of 10 to 500 words that are tokens, their lengths even on a logarithmic scale."""
    rng = random.Random(seed)
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii())
    sizes = (round(10 * 50 ** rng.random()) for _ in range(count))
    return [" ".join(rng.choices(words, k=size)) for size in sizes]


def pages(count: int, size: Sequence[int] = (), seed: int = 0) -> list[Any]:
    """Pages of noise of one width and height; without them, of sides of 336 to 1584 pixels."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    shapes = rng.integers(*_PAGE_SIDES, (count, 2), endpoint=True)
    if size:
        shapes[:] = size[::-1]
    return [Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)) for shape in shapes]


def run(
    checkpoint: Path,
    folders: Mapping[str, Path],
    count: int,
    batch_sizes: Sequence[int],
    rounds: int,
    report: Callable[[str], None],
    page_size: Sequence[int] = (),
) -> dict[str, Any]:
    """Encode one corpus by every contender in turn, several times.

    Args:
        checkpoint: A checkpoint's folder, which its own library runs.
        folders: Exported folders of it by name; each runs as its encoder chooses.
        count: Passages or pages.
        batch_sizes: PyTorch's.
        rounds: How often.
        report: Called with each row at the end.
        page_size: Width and height of all pages; by default they are of mixed shapes.

    Returns:
        ``rows`` with the columns of :data:`TABLE`, what the corpus ``inputs`` are, and the
        ``environment``.
    """
    family = registry.detect(checkpoint)
    reference = family.reference(checkpoint, "cpu")
    encoders = {name: Encoder(folder) for name, folder in folders.items()}
    is_text = family.document_type == "passages"
    corpus = passages(count, reference.module.tokenizer) if is_text else pages(count, page_size)
    calls = {f"pytorch, batches of {size}": _loop(reference, is_text, size) for size in batch_sizes}
    calls |= {name: encoder.encode_documents for name, encoder in encoders.items()}
    best, rates = dict.fromkeys(calls, math.inf), []
    for call in calls.values():
        call(corpus[:8])
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call(corpus)
            best[name] = min(best[name], time.perf_counter() - begin)
        rates.append(_product_rate())
    needed = _operations(next(iter(encoders.values())), corpus)
    pytorch = min(best[name] for name in calls if name not in folders)
    rows = [
        {
            "contender": name,
            "inputs_a_second": count / seconds,
            "vs_pytorch": pytorch / seconds,
            "of_product_rate": needed / seconds / max(rates),
        }
        for name, seconds in best.items()
    ]
    for row in rows:
        report(TABLE.line(row))
    of = f"{page_size[0]}x{page_size[1]} pixels" if page_size else "mixed shapes"
    what = "passages of 10 to 500 words" if is_text else f"pages of {of}"
    return {"rows": rows, "inputs": f"{count:,} {what}", "environment": machine.describe()}


def _loop(reference: Any, is_text: bool, size: int) -> Callable[[list[Any]], Any]:
    """What users of the library write: sentence-transformers sorts by length itself."""
    if is_text and hasattr(reference.module, "encode_document"):
        return lambda items: reference.module.encode_document(
            items, batch_size=size, convert_to_numpy=True, show_progress_bar=False
        )
    return lambda items: reference.encode_documents(items, batch_size=size)


def _operations(encoder: Encoder, corpus: Sequence[Any]) -> float:
    """Multiplications and additions of the corpus without padding.

    They grow with the square of an input's tokens; three inputs tell how.
    """
    counts, examples = Counter(), {}
    for item in corpus:
        batch = encoder.prepare_documents([item])
        counts[length := batch.keep.shape[1]] += 1
        examples.setdefault(length, batch)
    lengths = sorted(counts)
    chosen = sorted({lengths[0], lengths[len(lengths) // 2], lengths[-1]})
    found = []
    for length in chosen:
        batch = examples[length]
        file = encoder.folder / encoder.manifest.graphs[batch.graph].file
        (call,), _ = profiled_calls(file, batch.feeds, threads=0, warmup=0, calls=1)
        found.append(operations(call))
    fit = np.polyfit(chosen, found, len(chosen) - 1)
    return float(sum(counts[length] * np.polyval(fit, length) for length in lengths))


def _product_rate() -> float:
    """Multiplications and additions a second of a large fp32 product on all cores."""
    import torch

    one = torch.ones(_SIDE, _SIDE)
    seconds = []
    for _ in range(_PRODUCTS):
        begin = time.perf_counter()
        one @ one
        seconds.append(time.perf_counter() - begin)
    return 2 * _SIDE**3 / min(seconds)


def markdown(record: Mapping[str, Any]) -> str:
    """The table, with the machine it was measured on."""
    first = measured_on(record["environment"], "torch", "onnxruntime")
    return "\n".join([f"{first} {record['inputs']}.", "", *TABLE.markdown(record["rows"])]) + "\n"


def main(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint's folder.")],
    folders: Annotated[list[Path], typer.Argument(help="Exported folders of it.")],
    count: Annotated[int, typer.Option(min=1, help="Passages, or pages.")] = 1000,
    batch_sizes: Annotated[str, typer.Option(help="PyTorch's, comma-separated.")] = "1,8,32",
    rounds: Annotated[int, typer.Option(min=1, help="How often each encodes all.")] = 3,
    page_size: Annotated[str, typer.Option(help="Width and height of every page: 1224,1584.")] = "",
    output: Output = None,
) -> None:
    """Encode a corpus of unequal inputs by PyTorch's usual loop and by exported folders, in turn.

    \b
    Example: python -m benchmarks.throughput checkpoints/model exported/fp32 exported/int8
    """
    sizes = whole_numbers("batch-sizes", batch_sizes)
    page = whole_numbers("page-size", page_size) if page_size else ()
    if page and len(page) != 2:
        raise ConfigError(f"page-size: found {page_size!r}; allowed are a width and a height.")
    named = {folder.name: folder for folder in folders}
    publish(markdown(run(checkpoint, named, count, sizes, rounds, typer.echo, page)), output)


if __name__ == "__main__":
    start(main)
