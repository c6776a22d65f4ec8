"""What counts as worse in each stage but latency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from colport.base.names import AGREEMENT, CONTROL, REFERENCE_VARIANT
from colport.compare.findings import Finding, changed
from colport.compare.results import KEYS, Results, Row, common, is_number, place, same_machine
from colport.scoring.score import HEADLINE, OVERLAP
from colport.scoring.statistics import paired_difference
from colport.tables import STAGES
from colport.tables.recommendation import SIGNIFICANCE

SIZE = 0.01
"""Share by which a folder may grow."""

COST = 0.20
"""Share by which export time and peak memory may grow: one sample each, on a machine at work."""

LEAST_SECONDS = 1.0
"""A smaller change of the export time is not looked at."""

COSINE = 0.10
"""Share by which a cosine's distance to 1 may grow."""

LEAST_COSINE = 1e-5
"""A smaller change of a cosine is rounding."""

LEAST_OVERLAP = 0.01
"""Share of PyTorch's best documents that may be lost on a dataset without judgements."""


def presence(old: Results, new: Results) -> Iterator[Finding]:
    """Rows that vanished, are new, or changed their status."""
    yield from _vanished_or_new(old, new, "worse", "vanished")
    yield from _vanished_or_new(new, old, "new", "new")
    for stage in STAGES:
        after = new.rows(stage)
        for key, row in old.rows(stage).items():
            if key not in after or row["status"] == after[key]["status"]:
                continue
            status, reason = after[key]["status"], after[key]["reason"]
            verdict = "better" if status == "ok" else "worse"
            text = f"{stage} {row['status']} -> {status}" + (f" ({reason})" if reason else "")
            weight = {"ok": 0.0, "unsupported": 2.0, "failed": 3.0}[status]
            name = place(row, *KEYS[stage][2:])
            yield Finding("rows", verdict, name, text, "status", weight=weight)


def _vanished_or_new(old: Results, new: Results, verdict: str, word: str) -> Iterator[Finding]:
    """One line for all rows of a model, variant and provider that only ``old`` has."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for stage in STAGES:
        for key, row in old.rows(stage).items():
            # A row without figures is no loss; a new one may well be the news.
            if key not in new.rows(stage) and (verdict == "new" or row["status"] == "ok"):
                owner = (row["model"], row["variant"], row.get("provider", ""))
                counts.setdefault(owner, Counter())[stage] += 1
    for owner, stages in counts.items():
        what = ", ".join(f"{number} {stage}" for stage, number in stages.items())
        plural = "" if sum(stages.values()) == 1 else "s"
        name = " ".join(part for part in owner if part not in ("", "-"))
        yield Finding("rows", verdict, name, f"{word}: {what} row{plural}", weight=1.0)


def parity(old: Results, new: Results) -> Iterator[Finding]:
    """Parity that failed, and cosines that fell; other inputs are not compared."""
    for before, after in common(old, new, "parity"):
        name = place(before, "provider", "kind")
        if any(before[key] != after[key] for key in ("inputs", "tokens")):
            yield Finding("parity", "not compared", name, "other inputs")
            continue
        if before["tolerance"] != after["tolerance"]:
            text = f"tolerance was {before['tolerance']}, is {after['tolerance']}"
            yield Finding("parity", "not compared", name, text)
        elif bool(before["passed"]) != bool(after["passed"]):
            verdict, text = ("better", "passes") if after["passed"] else ("worse", "fails")
            text = f"{text}: {after['tolerance']}"
            yield Finding("parity", verdict, name, text, "passed", weight=float("inf"))
        for figure in ("min_cosine", "mean_cosine"):
            if is_number(before[figure]) and is_number(after[figure]):
                # The distance is what errors add up in, and what a relative change is of.
                distances = 1 - before[figure], 1 - after[figure]
                growth = abs(distances[1] - distances[0])
                if growth > max(LEAST_COSINE, COSINE * min(distances)):
                    text = f"{figure} {before[figure]:.6f} -> {after[figure]:.6f}"
                    yield changed("parity", name, figure, *distances, text)


def retrieval(old: Results, new: Results) -> Iterator[Finding]:
    """NDCG@5 that fell by more than chance: the paired test of the pipeline, over queries."""
    others = yield from _other_datasets(old, new)
    for before, after in common(old, new, "retrieval"):
        if before["dataset"] in others:
            continue
        name = place(before, "provider", "dataset", "embeddings")
        if not (is_number(before[HEADLINE]) and is_number(after[HEADLINE])):
            yield from _overlap(name, before, after)
            continue
        found = _difference(old, new, before, after)
        if found is None:
            reason = "other queries were scored, or intervals are missing"
            yield Finding("retrieval", "not compared", name, reason)
        elif found[0]:
            text = f"{HEADLINE} {before[HEADLINE]:.4f} -> {after[HEADLINE]:.4f} ({found[1]})"
            losses = 1 - before[HEADLINE], 1 - after[HEADLINE]
            yield changed("retrieval", name, HEADLINE, *losses, text)


def _other_datasets(old: Results, new: Results) -> Iterator[Finding]:
    """Datasets whose queries, documents or judgements differ; returns their names."""
    others = set()
    for dataset in dict.fromkeys(row["dataset"] for row, _ in common(old, new, "retrieval")):
        before, after = old.record("datasets", dataset), new.record("datasets", dataset)
        keys = ("query_ids", "queries", "document_ids", "qrels")
        if before and after and any(before.get(key) != after.get(key) for key in keys):
            others.add(dataset)
            text = "its queries, documents or judgements differ"
            yield Finding("retrieval", "not compared", f"dataset {dataset}", text)
    return others


def _difference(old: Results, new: Results, before: Row, after: Row) -> tuple[bool, str] | None:
    """Whether two means differ beyond chance, and how that is known; ``None``: other queries."""
    values = [_per_query(results, row) for results, row in ((old, before), (new, after))]
    if all(values):
        first, second = values
        if set(first) != set(second):
            return None
        others = [second[query] for query in first]
        p_value, *_ = paired_difference(list(first.values()), others)
        return p_value <= SIGNIFICANCE, f"p {p_value:.3g}"
    if any(before[key] != after[key] for key in ("queries", "documents")):
        return None
    low, high = f"{HEADLINE}_low", f"{HEADLINE}_high"
    if not all(is_number(row[bound]) for row in (before, after) for bound in (low, high)):
        return None
    apart = before[low] > after[high] or after[low] > before[high]
    return bool(apart), "intervals do not overlap; no record of the queries to pair"


def _per_query(results: Results, row: Row) -> Mapping[str, float]:
    if row["model"] == CONTROL:
        parts = ("controls", row["variant"])
    elif row["variant"] == REFERENCE_VARIANT:
        parts = (row["model"], REFERENCE_VARIANT)
    else:
        parts = (row["model"], row["variant"], row["provider"])
    record = results.record("retrieval", *parts, row["dataset"])
    if record and row.get("embeddings"):
        record = record["forms"].get(row["embeddings"])
    return record["per_query"][HEADLINE] if record else {}


def _overlap(name: str, before: Row, after: Row) -> Iterator[Finding]:
    for figure in (AGREEMENT[0], OVERLAP):  # older runs have no agreement
        values = before.get(figure), after.get(figure)
        if all(map(is_number, values)):
            if abs(values[0] - values[1]) > LEAST_OVERLAP:
                text = f"{figure} {values[0]:.3f} -> {values[1]:.3f}"
                yield changed("retrieval", name, figure, 1 - values[0], 1 - values[1], text)
            return


def size(old: Results, new: Results) -> Iterator[Finding]:
    """Folders and stored documents that grew; every byte is known, so that there is no noise."""
    sizes = _folder_bytes(old), _folder_bytes(new)
    for name in sizes[0].keys() & sizes[1].keys():
        before, after = sizes[0][name], sizes[1][name]
        if abs(after - before) > SIZE * before:
            text = f"{before / 1e6:.2f} MB -> {after / 1e6:.2f} MB ({after / before - 1:+.1%})"
            yield changed("size", name, "folder_bytes", before, after, text)
    for old_row, new_row in common(old, new, "retrieval"):
        before, after = (row.get("bytes_per_document") for row in (old_row, new_row))
        if is_number(before) and is_number(after) and abs(after - before) > SIZE * before:
            name = place(old_row, "provider", "dataset", "embeddings")
            text = f"{before:.0f} -> {after:.0f} bytes a document ({after / before - 1:+.1%})"
            yield changed("size", name, "bytes_per_document", before, after, text)


def _folder_bytes(results: Results) -> dict[str, float]:
    """Bytes of a folder, else of its graphs, by model and variant."""
    sizes: dict[str, float] = {}
    for row in results.rows("export").values():
        if row["status"] == "ok":
            name = place(row)
            if is_number(row.get("folder_bytes")):
                sizes[name] = float(row["folder_bytes"])
            else:
                sizes[name] = sizes.get(name, 0.0) + float(row["size_bytes"])
    return sizes


def export_cost(old: Results, new: Results) -> Iterator[Finding]:
    """Export time, on the same machine, and peak memory."""
    records: dict[tuple[str, str], bool] = {}
    for before, after in common(old, new, "export"):
        owner = (before["model"], before["variant"])
        if owner not in records:
            records[owner] = same_machine(
                old.record("export", *owner), new.record("export", *owner)
            )
        name = place(before, "graph")
        if records[owner]:
            text = "{:.4g} -> {:.4g} s"
            yield from cost("export", name, "seconds", (before, after), text, LEAST_SECONDS)
        text = "{:.4g} -> {:.4g} MB peak memory"
        yield from cost("export", name, "peak_rss_mb", (before, after), text)
    if not all(records.values()):
        text = "export times: the records do not name the same machine"
        yield Finding("export", "not compared", "", text)


def cost(
    group: str, name: str, figure: str, rows: tuple[Row, Row], text: str, least: float = 0.0
) -> Iterator[Finding]:
    """A figure that grew or shrank by more than :data:`COST`, and by more than ``least``."""
    old, new = (row[figure] for row in rows)
    if is_number(old) and is_number(new) and abs(new - old) > max(least, COST * min(old, new)):
        text = f"{text.format(old, new)} ({new / old - 1:+.0%})"
        yield changed(group, name, figure, float(old), float(new), text)
