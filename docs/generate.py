"""Write the tables of docs/models.md and docs/costs.md again, from the data that the library has.

    python docs/generate.py            # after an edit of published.toml or forecast.toml
    python docs/generate.py --check    # writes nothing; exit code 1 where a page differs

A table stands between ``<!-- NAME -->`` and ``<!-- end of NAME -->``; the names are those of
``TABLES``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from colport.base.errors import ColPortError
from colport.families import registry
from colport.families.reference.memory import whole_mb
from colport.pipeline import needs
from colport.pipeline.forecast import FACTS
from colport.pipeline.published import PUBLISHED
from colport.report.formatting import parameters, significant, size_bytes, size_mb

ROOT = Path(__file__).parents[1]
TRIED = {
    "real": "real weights",
    "published": "random weights of the published configuration",
    "small": "random weights of a small configuration",
    None: "not yet",
}
SIZES = (
    "sentence-transformers/all-MiniLM-L6-v2",
    "answerdotai/answerai-colbert-small-v1",
    "lightonai/GTE-ModernColBERT-v1",
    "vidore/colqwen2-v1.0-hf",
    "vidore/colpali-v1.3-hf",
)
"""Checkpoints whose cost is shown."""
RATES = {"AVX2": 150e9, "AVX-512 VNNI": 200e9}
"""Of a large fp32 product on two cores, by processor class: AMD EPYC."""
CONTENDERS = ("pytorch", "fp32", "int8")
Row = tuple[str, ...]


def read() -> list[Row]:
    """Checkpoints that are read."""
    rows = [("checkpoint", "family", "layout", "parameters", "licence", "tried on", "scores")]
    for name, entry in PUBLISHED["read"].items():
        on = f" on `{entry['base']}`" if "base" in entry else ""
        scores = [f"{key} {score:.2f}" for key, score in averages(entry)]
        rows.append(
            (
                f"`{name}`" + (f", {entry['note']}" if "note" in entry else ""),
                f"`{entry['family']}`",
                entry.get("layout", "") + on,
                parameters(entry["parameters"]) if "parameters" in entry else "",
                entry.get("licence", ""),
                TRIED[entry.get("tried")],
                ", ".join(scores),
            )
        )
    return rows


def averages(entry: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Scores as leaderboards show them: means over the public datasets of a benchmark."""
    scores = {**PUBLISHED["scores"].get(entry.get("scores"), {})}
    scores["v3"] = scores.pop("v3_languages", None)
    found = [(key, np.mean(scores[key])) for key in PUBLISHED["benchmarks"] if scores.get(key)]
    return found + [(key, entry[key]) for key in ("beir",) if key in entry]


def refusal(files: Mapping[str, Any]) -> str:
    """What is said of a checkpoint with these files of JSON and some weights.

    Raises:
        AssertionError: It is read.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "checkpoint")
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        weights = {"linear.weight": np.zeros((128, 1024), np.float32)}
        save_file(weights, folder / "model.safetensors")
        try:
            family = registry.detect(folder)
            family.skeleton(folder, "fp32")
        except ColPortError as error:
            return str(error).replace(f"{place}/", "")
    raise AssertionError(f"{files} is read as {family.name}")


def refused() -> list[Row]:
    """Checkpoints that are refused, why, and what is said."""
    rows = [("model", "checkpoints", "why", "what `colport export` says")]
    for entry in PUBLISHED["refused"]:
        ids = ", ".join(f"`{name}`" for name in entry["ids"])
        rows.append((entry["name"], ids, entry["why"], refusal(entry["files"])))
    return rows


def backbones() -> list[Row]:
    """Backbones of ColBERT checkpoints, how they were tried, and whether they are read."""
    rows = [("backbone", "layouts tried", "padding tried", "result")]
    for kind, entry in PUBLISHED["backbones"].items():
        layouts = ["sentence-transformers", *entry.get("layouts", ())]
        result = f"refused: … {entry['refused']}." if "refused" in entry else "equal"
        padding = ", ".join(entry.get("padding", ()))
        rows.append((f"{entry['name']} (`{kind}`)", ", ".join(layouts), padding, result))
    return rows


def costs() -> list[Row]:
    """Disk, memory, and time of an input by processor class."""
    classes = [f"{kind}, {name}" for name in RATES for kind in ("document", "query")]
    rows = [("checkpoint", "runs as", "disk", "memory", *classes)]
    for name in SIZES:
        entry = PUBLISHED["read"][name]
        size, kind = entry["parameters"], registry.get(entry["family"]).document_type
        for contender in CONTENDERS:
            if contender == "pytorch":
                disk, memory = FACTS["published"][kind] * size, whole_mb(size)
            else:
                disk = int(FACTS["bytes"][contender] * size)
                memory = 500 + needs.Folder(contender, disk, size).session_mb()
            speeds = FACTS["speed"][contender]
            times = [
                2 * size * tokens / (rate * speeds.get(processor, speeds["any"]))
                for processor, rate in RATES.items()
                for tokens in (needs.TOKENS[kind], FACTS["query_tokens"])
            ]
            shown = {"pytorch": "PyTorch, fp32"}.get(contender, contender)
            rows.append(
                (f"`{name}`", shown, size_bytes(disk), size_mb(memory), *map(_duration, times))
            )
    return rows


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{significant(seconds * 1000, 2)} ms"
    return f"{significant(seconds, 2)} s"


TABLES = {
    "models.md": {"read": read, "backbones": backbones, "refused": refused},
    "costs.md": {"costs": costs},
}
"""Pages, their tables, and what makes them."""


def table(rows: Iterable[Row]) -> str:
    """Rows as Markdown, the first as the head."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines).replace("| --- ", "|---")


def written(name: str, text: str) -> str:
    """A page with its tables.

    Raises:
        SystemExit: It has no place for one.
    """
    for kind, make in TABLES[name].items():
        place = re.compile(rf"(<!-- {kind} -->\n).*?(<!-- end of {kind} -->)", re.DOTALL)
        if len(place.findall(text)) != 1:
            sys.exit(f"{name}: needs one table {kind}.")
        made = table(make())
        text = place.sub(lambda match, made=made: match[1] + made + match[2], text)
    return text


def main() -> None:
    """Write the pages, or say which differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    parser.add_argument("--root", type=Path, default=ROOT / "docs", help="folder of the pages")
    given = parser.parse_args()
    differs = False
    for name in TABLES:
        file = given.root / name
        text = file.read_text("utf-8")
        if (new := written(name, text)) == text:
            continue
        differs = True
        if given.check:
            print(f"{name}: differs from the data; run `make settings`.", file=sys.stderr)
        else:
            file.write_text(new, "utf-8")
            print(name)
    sys.exit(given.check and differs)


if __name__ == "__main__":
    main()
