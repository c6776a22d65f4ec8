"""How the columns of the five tables are shown: label, format, direction, shown at first or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from colport.report import formatting as fmt


@dataclass(frozen=True)
class Column:
    """One column's presentation.

    Attributes:
        label: Header.
        show: From a cell's value to its text.
        numeric: Right-aligned and sorted as a number.
        better: ``higher``, ``lower`` or ``""`` where neither is: the first sort puts it on top.
    """

    label: str
    show: Callable[[Any], str] = fmt.text
    numeric: bool = False
    better: str = ""


TITLES = {
    "summary": "Summary",
    "retrieval": "Retrieval quality",
    "embeddings": "Smaller embeddings",
    "parity": "Parity",
    "latency": "Latency",
    "scenarios": "Scenarios",
    "operators": "Operators",
    "providers": "Execution providers",
    "export": "Export",
    "stages": "Jobs",
}
"""The tables in the order in which the page shows them; four of them only where they have rows."""

OTHER_TITLES = {"findings": "What changed", "side_by_side": "Both runs"}
"""Tables that stand in sections of their own."""

CAPTIONS = {
    "findings": "Changes from the other run to this one that are beyond noise, and what could not "
    "be compared. Worse is slower, larger, less exact or of lower quality.",
    "side_by_side": "Figures of the summary in the other run, in this one, and their change: for "
    "NDCG@5 the difference (higher is better), else the share (sizes and times: lower is better; "
    "speed-ups: higher is better). Milliseconds compare on the same machine only.",
    "summary": "One row a model, variant and provider: folder size (lower is better), mean NDCG@5 "
    "over the datasets (higher is better) with its difference to PyTorch, and median encoding time "
    "at the smallest batch size (lower is better); computed from the four tables below.",
    "retrieval": "How well each variant ranks documents, by NDCG, recall, MRR and MAP from 0 to 1 "
    "(higher is better), over all queries of a dataset; the interval and the p-value of the "
    "difference to PyTorch come from resampling those queries; the top-10 overlap is the share of "
    "PyTorch's ten best documents that are kept. Baselines belong to a dataset: "
    "shuffled rankings, which are the floor, and BM25 over the documents' text.",
    "embeddings": "What is left of the quality when a document's embeddings are stored in fewer "
    "bytes (lower is better): mean NDCG@5 over the datasets (higher is better), its difference to "
    "PyTorch's full embeddings, and the share of PyTorch's ten best documents that are kept "
    "(higher is better), from the same embeddings pooled or rounded. Queries stay whole.",
    "parity": "How far token embeddings lie from those of the model's own PyTorch library for the "
    "same inputs (difference: lower is better; cosine and top-10 overlap: higher is better), over "
    "all tokens of the inputs compared. The batch effect is how much a component changes with the "
    "batch that an input is in (lower is better). The largest activation (lower is better) is that "
    "of an fp16 graph where it ran in fp32; fp16 has no number above 65504.",
    "latency": "Time of one whole encode call in milliseconds (lower is better) and speed-up "
    "against PyTorch in the same run (higher is better), from all samples of the interleaved "
    "rounds, outliers included.",
    "scenarios": "The scenarios that MLPerf names, PyTorch beside each variant in the same run. "
    "Single stream: one input after the other, p90 (lower is better). Offline: all inputs at once, "
    "inputs a second at the best batch size (higher is better). Server: requests that arrive at "
    "random, and the highest rate a second at which the p99 is known to meet the target (higher is "
    "better). Times PyTorch compares each scenario's own figure. Every batch size and rate that "
    "was tried is in results/tables/scenarios.csv.",
    "operators": "Time of one query and of one document in the graph by operator, milliseconds "
    "(lower is better), from ONNX Runtime's profile: medians over seven calls at batch size 1. The "
    "call is measured without the profiler; the share of matmul is its rate over that of a plain "
    "fp32 matrix product of the model's size (higher is better).",
    "providers": "Which execution provider ran what of one query and of one document: nodes of the "
    "graph and their time in ONNX Runtime's profile, medians over seven calls at batch size 1. "
    "What the chosen provider cannot run falls back to the next (lower is better).",
    "stages": "Every job of the run: its time from start to end, the CPU time of its processes and "
    "the most memory that they held (lower is better), once each, as Snakemake saw them.",
    "export": "What each graph of an exported folder holds, and the time and peak memory of making "
    "it (size, seconds and memory: lower is better), one export each.",
}

COLUMNS = {
    "model": Column("Model"),
    "family": Column("Family"),
    "variant": Column("Variant"),
    "provider": Column("Provider", fmt.provider),
    "graph": Column("Graph"),
    "kind": Column("Kind"),
    "dataset": Column("Dataset"),
    "opset": Column("Opset", fmt.count, numeric=True),
    "parameters": Column("Parameters", fmt.parameters, numeric=True),
    "nodes": Column("Nodes", fmt.count, numeric=True, better="lower"),
    "size_bytes": Column("Size", fmt.size_bytes, numeric=True, better="lower"),
    "folder_bytes": Column("Folder", fmt.size_bytes, numeric=True, better="lower"),
    "size_mb": Column("Size", fmt.size_mb, numeric=True, better="lower"),
    "weight_files": Column("Weight files", fmt.count, numeric=True, better="lower"),
    "seconds": Column("Seconds", fmt.significant, numeric=True, better="lower"),
    "peak_rss_mb": Column("Peak memory, MiB", fmt.count, numeric=True, better="lower"),
    "inputs": Column("Inputs", fmt.count, numeric=True, better="higher"),
    "tokens": Column("Tokens", fmt.count, numeric=True, better="higher"),
    "max_abs_diff": Column("Max. difference", fmt.scientific, numeric=True, better="lower"),
    "mean_cosine": Column("Mean cosine", fmt.fixed(5), numeric=True, better="higher"),
    "min_cosine": Column("Min. cosine", fmt.fixed(5), numeric=True, better="higher"),
    "top10_overlap": Column("Top-10 overlap", fmt.fixed(3), numeric=True, better="higher"),
    "largest_activation": Column(
        "Largest activation", fmt.significant, numeric=True, better="lower"
    ),
    "embeddings": Column("Embeddings"),
    "bytes_per_document": Column("A document", fmt.size_bytes, numeric=True, better="lower"),
    "batch_max_abs_diff": Column("Batch effect", fmt.scientific, numeric=True, better="lower"),
    "tolerance": Column("Tolerance"),
    "passed": Column("Passed"),
    "queries": Column("Queries", fmt.count, numeric=True, better="higher"),
    "documents": Column("Documents", fmt.count, numeric=True, better="higher"),
    **{
        name: Column(label, fmt.fixed(3), numeric=True, better="higher")
        for name, label in {
            **{f"ndcg_at_{k}": f"NDCG@{k}" for k in (1, 5, 10)},
            **{f"recall_at_{k}": f"Recall@{k}" for k in (1, 5, 10)},
            "mrr_at_10": "MRR@10",
            "map": "MAP",
            "ndcg_at_5_low": "NDCG@5, low",
            "ndcg_at_5_high": "NDCG@5, high",
        }.items()
    },
    "ndcg_at_5_delta": Column("vs PyTorch", fmt.fixed(3, signed=True), True, "higher"),
    "ndcg_at_5_delta_low": Column("vs PyTorch, low", fmt.fixed(3, signed=True), True, "higher"),
    "ndcg_at_5_delta_high": Column("vs PyTorch, high", fmt.fixed(3, signed=True), True, "higher"),
    "p_value": Column("p-value", fmt.p_value, numeric=True, better="lower"),
    "batch_size": Column("Batch", fmt.count, numeric=True, better="lower"),
    "image_size": Column("Page size"),
    **{
        name: Column(label, fmt.significant, numeric=True, better="lower")
        for name, label in {
            **{f"p{p}_ms": f"p{p}, ms" for p in (50, 90, 95, 99)},
            **{f"p{p}_low_ms": f"p{p} at least, ms" for p in (50, 90, 95, 99)},
            **{f"p{p}_high_ms": f"p{p} at most, ms" for p in (50, 90, 95, 99)},
            "mean_ms": "Mean, ms",
            "min_ms": "Min., ms",
            "max_ms": "Max., ms",
            "first_ms": "First call, ms",
            "preprocess_ms": "Preprocessing, ms",
            "cold_load_ms": "Load from disk, ms",
            "import_ms": "Import, ms",
            "load_ms": "Load, ms",
            "query_p50_ms": "Query p50, ms",
            "document_p50_ms": "Document p50, ms",
        }.items()
    },
    "stage": Column("Stage"),
    "job": Column("Job"),
    "cpu_seconds": Column("CPU, s", fmt.significant, numeric=True, better="lower"),
    "jobs": Column("Jobs", fmt.count, numeric=True, better="lower"),
    "longest_seconds": Column("Longest, s", fmt.significant, numeric=True, better="lower"),
    "input": Column("Input"),
    "error_from": Column("Error from", fmt.scientific, numeric=True, better="lower"),
    "error_to": Column("Error to", fmt.scientific, numeric=True, better="lower"),
    "difference": Column("Difference", fmt.fixed(2, signed=True), numeric=True, better="higher"),
    "examples": Column("For example"),
    "operator": Column("Operator"),
    "ms": Column("Time, ms", fmt.significant, numeric=True, better="lower"),
    "share": Column("Share", fmt.fixed(3), numeric=True, better="lower"),
    "graph_ms": Column("Graph, ms", fmt.significant, numeric=True, better="lower"),
    "gflop": Column("GFLOP", fmt.significant, numeric=True, better="lower"),
    "matmul_share": Column("Share of matmul", fmt.fixed(2), numeric=True, better="higher"),
    "scenario": Column("Scenario", lambda name: fmt.text(name).replace("_", " ")),
    "target_ms": Column("Target p99, ms", fmt.significant, numeric=True),
    "rate": Column("Offered a second", fmt.significant, numeric=True, better="higher"),
    "highest_rate": Column("Highest rate", fmt.significant, numeric=True, better="higher"),
    "failed_rate": Column("Missed at", fmt.significant, numeric=True, better="higher"),
    "p99_bound_ms": Column("p99 surely below, ms", fmt.significant, True, "lower"),
    "meets_target": Column("Meets target"),
    "samples": Column("Samples", fmt.count, numeric=True, better="higher"),
    "per_second": Column("Per second", fmt.significant, numeric=True, better="higher"),
    **{
        name: Column(label, fmt.ratio, numeric=True, better="higher")
        for name, label in {
            "speedup_vs_pytorch": "Times PyTorch",
            "speedup_low": "Times PyTorch, lowest round",
            "speedup_high": "Times PyTorch, highest round",
            "query_speedup": "Query, times PyTorch",
            "document_speedup": "Document, times PyTorch",
            **{
                f"{kind}_speedup_{end}": f"{kind.capitalize()}, times PyTorch, {word} round"
                for kind in ("query", "document")
                for end, word in (("low", "lowest"), ("high", "highest"))
            },
        }.items()
    },
    "parity_passed": Column("Parity"),
    "recommended": Column("Ship"),
    "status": Column("Status"),
    "reason": Column("Reason"),
    "verdict": Column("Verdict"),
    "best_for": Column("Ship for"),
}

ROW_HEADERS = ("model", "variant", "provider", "graph", "row")

_CHANGES = {
    "size_mb": ("Size", fmt.size_mb, "lower"),
    "ndcg_at_5": ("NDCG@5", fmt.fixed(3), "higher"),
    "document_p50_ms": ("Document p50, ms", fmt.significant, "lower"),
    "document_speedup": ("Document, times PyTorch", fmt.ratio, "higher"),
    "query_speedup": ("Query, times PyTorch", fmt.ratio, "higher"),
}
COLUMNS |= {
    **{
        f"{name}_before": Column(f"{label}, before", show, True, better)
        for name, (label, show, better) in _CHANGES.items()
    },
    **{
        f"{name}_change": Column(
            f"{label}, change",
            fmt.fixed(3, signed=True) if name == "ndcg_at_5" else fmt.change,
            True,
            better,
        )
        for name, (label, _, better) in _CHANGES.items()
    },
}

SHOWN_FIRST = {
    "findings": {"stage", "judgement", "row", "change"},
    "side_by_side": {
        *("model", "variant", "provider"),
        *(f"{name}{end}" for name in _CHANGES for end in ("_before", "", "_change")),
    }
    - {f"document_p50_ms{end}" for end in ("_before", "", "_change")},
    "summary": {
        *("model", "variant", "provider", "size_mb", "ndcg_at_5", "ndcg_at_5_delta"),
        *("query_p50_ms", "document_p50_ms", "query_speedup", "document_speedup"),
        *("parity_passed", "recommended"),
    },
    "retrieval": {
        *("model", "variant", "provider", "dataset", "queries", "ndcg_at_5"),
        *("ndcg_at_5_low", "ndcg_at_5_high", "ndcg_at_5_delta", "p_value", "top10_overlap"),
        "status",
    },
    "embeddings": {
        *("model", "variant", "provider", "embeddings", "bytes_per_document", "ndcg_at_5"),
        *("ndcg_at_5_delta", "p_value", "top10_overlap"),
    },
    "parity": {
        *("model", "variant", "provider", "kind", "max_abs_diff", "mean_cosine"),
        *("min_cosine", "top10_overlap", "batch_max_abs_diff", "tolerance", "passed", "status"),
    },
    "latency": {
        *("model", "variant", "provider", "kind", "batch_size", "p50_ms", "p95_ms", "samples"),
        *("per_second", "speedup_vs_pytorch", "load_ms", "peak_rss_mb", "status"),
    },
    "scenarios": {
        *("model", "variant", "provider", "scenario", "kind", "batch_size", "p90_ms", "p99_ms"),
        *("samples", "per_second", "target_ms", "highest_rate", "speedup_vs_pytorch", "status"),
    },
    "operators": {
        *("model", "variant", "provider", "kind", "operator", "nodes", "ms", "share"),
        *("graph_ms", "matmul_share", "status"),
    },
    "providers": {
        *("model", "variant", "provider", "kind", "execution_provider", "nodes", "node_share"),
        *("ms", "time_share", "status"),
    },
    "stages": {"stage", "job", "seconds", "cpu_seconds", "peak_rss_mb"},
    "export": {
        *("model", "variant", "graph", "opset", "parameters", "nodes", "size_bytes", "seconds"),
        *("peak_rss_mb", "status"),
    },
}
"""Columns that are visible before the reader asks for all of them."""


def column(name: str, numeric: bool) -> Column:
    """The presentation of a column; one that is not known here is shown under its own name."""
    known = COLUMNS.get(name)
    if known is not None:
        return known
    label = name.replace("_", " ").capitalize()
    return Column(label, fmt.significant if numeric else fmt.text, numeric)
