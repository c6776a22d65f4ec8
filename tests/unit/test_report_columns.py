"""Figures as a reader sees them: digits, units, signs, and which way is better."""

import math

import pytest

from colport import tables
from colport.base.columns import COLUMNS, TABLES, row
from colport.report import formatting as fmt
from colport.report.columns import column
from colport.report.sections.views import table_view

MINUS, TIMES, NONE = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        *((fmt.significant, *pair) for pair in ((3.034, "3.03"), (142.4, "142"), (1864, "1,864"))),
        *(
            (fmt.significant, *pair)
            for pair in ((0, "0"), (0.01234, "0.0123"), (-2.5, f"{MINUS}2.50"))
        ),
        (fmt.significant, 0.0001234, "0.000123"),
        (fmt.significant, 0.00001234, f"1.2{TIMES}10⁻⁵"),
        (fmt.significant, 123456789012, "123,456,789,012"),
        (fmt.significant, 1.24e12, f"1.2{TIMES}10¹²"),
        (fmt.scientific, 3.14e-6, f"3.1{TIMES}10⁻⁶"),
        (fmt.scientific, 0, "0"),
        (fmt.fixed(3), 0.8757, "0.876"),
        (fmt.fixed(3, signed=True), 0.004, "+0.004"),
        (fmt.fixed(3, signed=True), -0.004, f"{MINUS}0.004"),
        *((fmt.fixed(3, signed=True), value, "0.000") for value in (0.0, -0.0, 1e-9, -1e-9)),
        (fmt.count, 12345.0, "12,345"),
        (fmt.parameters, 22_700_000, "22.7 M"),
        (fmt.parameters, 2_920_000_000, "2.92 B"),
        (fmt.parameters, 999, "999"),
        (fmt.size_bytes, 812, "812 B"),
        (fmt.size_bytes, 999, "999 B"),
        (fmt.size_bytes, 1000, "1.00 kB"),
        (fmt.size_bytes, 91_400_000, "91.4 MB"),
        (fmt.size_bytes, -91_400_000, f"{MINUS}91.4 MB"),
        (fmt.size_bytes, 1e9, "1.00 GB"),
        (fmt.size_mb, 91.4, "91.4 MB"),
        (fmt.size_mb, 11_700, "11.7 GB"),
        (fmt.size_mb, 0.5, "500 kB"),
        (fmt.milliseconds, 3.034, "3.03 ms"),
        (fmt.milliseconds, 9999, "9,999 ms"),
        (fmt.milliseconds, 10_000, "10.0 s"),
        (fmt.ratio, 2.349, f"2.35{TIMES}"),
        (fmt.change, 0.0421, "+4.2%"),
        (fmt.change, -0.5, f"{MINUS}50.0%"),
        (fmt.p_value, 0.0009, "<0.001"),
        (fmt.p_value, 0.001, "0.001"),
        (fmt.p_value, 0.0421, "0.042"),
        (fmt.p_value, 0.1, "0.10"),
        (fmt.p_value, 1.0, "1.00"),
        (fmt.provider, "CPUExecutionProvider", "CPU"),
        (fmt.provider, "torch-cpu", "torch-cpu"),
        (fmt.text, True, "yes"),
        (fmt.text, False, "no"),
        (fmt.text, "", NONE),
    ],
)
def test_figures(show, value, text):
    assert show(value) == text


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_missing_is_a_dash(value):
    shows = (fmt.text, fmt.fixed(2), fmt.significant, fmt.scientific, fmt.count, fmt.parameters)
    shows += (fmt.size_bytes, fmt.size_mb, fmt.milliseconds, fmt.ratio, fmt.change, fmt.p_value)
    assert {show(value) for show in shows} == {NONE}


LOWER = """
nodes size_bytes folder_bytes size_mb weight_files seconds peak_rss_mb max_abs_diff batch_size
bytes_per_document batch_max_abs_diff p_value p50_ms p90_ms p95_ms p99_ms mean_ms min_ms max_ms
first_ms preprocess_ms cold_load_ms import_ms load_ms query_p50_ms document_p50_ms cpu_seconds
jobs longest_seconds error_from error_to ms share graph_ms gflop p99_bound_ms p50_low_ms
largest_activation p50_high_ms p90_low_ms p90_high_ms p95_low_ms p95_high_ms p99_low_ms p99_high_ms
size_mb_before size_mb_change document_p50_ms_before document_p50_ms_change cer wer token_ms
"""
HIGHER = """
inputs tokens mean_cosine min_cosine top10_overlap queries documents ndcg_at_1 ndcg_at_5 ndcg_at_10
recall_at_1 recall_at_5 recall_at_10 mrr_at_10 map ndcg_at_5_low ndcg_at_5_high ndcg_at_5_delta
ndcg_at_5_delta_low ndcg_at_5_delta_high difference matmul_share rate highest_rate failed_rate
samples per_second speedup_vs_pytorch speedup_low speedup_high query_speedup document_speedup
query_speedup_low query_speedup_high document_speedup_low document_speedup_high
ndcg_at_5_before ndcg_at_5_change query_speedup_before query_speedup_change
document_speedup_before document_speedup_change agreement agreement_low agreement_high
ndcg_exp_at_10 score score_low score_high published published_delta anls bleu4 captions cider equal
equal_low equal_high equal_tokens tokens_per_second
"""


def test_which_way_is_better():
    found = {"lower": [], "higher": []}
    names = {*COLUMNS, *TABLES["side_by_side"].columns}
    for name, shown in ((name, column(name, numeric=False)) for name in names):
        if shown.better:
            found[shown.better].append(name)
            assert shown.numeric
    assert {key: sorted(names) for key, names in found.items()} == {
        "lower": sorted(LOWER.split()),
        "higher": sorted(HIGHER.split()),
    }


@pytest.mark.parametrize(
    ("name", "label", "value", "text"),
    [
        ("size_mb", "Size", 91.4, "91.4 MB"),
        ("size_bytes", "Size", 91.4e6, "91.4 MB"),
        ("folder_bytes", "Folder", 91.4e6, "91.4 MB"),
        ("bytes_per_document", "A document", 2400, "2.40 kB"),
        ("ndcg_at_5", "NDCG@5", 0.8, "0.800"),
        ("recall_at_10", "Recall@10", 0.8, "0.800"),
        ("ndcg_at_5_low", "NDCG@5, low", 0.8, "0.800"),
        ("ndcg_at_5_high", "NDCG@5, high", 0.8, "0.800"),
        ("ndcg_at_5_delta", "vs PyTorch", 0.004, "+0.004"),
        ("ndcg_at_5_delta_low", "vs PyTorch, low", -0.02, f"{MINUS}0.020"),
        ("ndcg_at_5_delta_high", "vs PyTorch, high", 0.02, "+0.020"),
        ("ndcg_at_5_change", "NDCG@5, change", 0.004, "+0.004"),
        ("size_mb_change", "Size, change", -0.5, f"{MINUS}50.0%"),
        ("mean_cosine", "Mean cosine", 0.9999876, "0.99999"),
        ("max_abs_diff", "Max. difference", 3.1e-6, f"3.1{TIMES}10⁻⁶"),
        ("p_value", "p-value", 0.0421, "0.042"),
        ("p50_ms", "p50, ms", 3.034, "3.03"),
        ("p95_low_ms", "p95 at least, ms", 3.034, "3.03"),
        ("p95_high_ms", "p95 at most, ms", 3.034, "3.03"),
        ("speedup_vs_pytorch", "Times PyTorch", 2.5, f"2.50{TIMES}"),
        ("query_speedup_low", "Query, times PyTorch, lowest round", 2.5, f"2.50{TIMES}"),
        ("document_speedup_high", "Document, times PyTorch, highest round", 2.5, f"2.50{TIMES}"),
        ("query_p50_ms", "Query p50, ms", 3.034, "3.03"),
        ("document_p50_ms", "Document p50, ms", 3.034, "3.03"),
        ("peak_rss_mb", "Peak memory, MiB", 1234.4, "1,234"),
        ("parameters", "Parameters", 2.92e9, "2.92 B"),
        ("scenario", "Scenario", "single_stream", "single stream"),
        ("provider", "Provider", "CPUExecutionProvider", "CPU"),
        ("my_column", "My column", 1.5, "1.50"),
    ],
)
def test_a_column_has_its_label_and_unit(name, label, value, text):
    shown = column(name, numeric=True)
    assert (shown.label, fmt.FORMATS[shown.format](value)) == (label, text)


@pytest.mark.parametrize("name", ["latency", "export"])
def test_numbers_of_either_type_stand_on_the_right(name):
    view = table_view(name, tables.flatten(name, [{"rows": [row(name)]}]))
    data, items = view["data"], [item for item, _ in view["columns"]]
    assert data["numeric"] == [item.numeric for item in items]
    assert data["better"] == [item.better for item in items]
    assert len(data["shown"]) == len(items)
    found = {column.name: css.split() for column, css in view["columns"]}
    types = {key: COLUMNS[key].type for key in found}
    assert {"integer", "float", "text"} <= {*types.values()}
    for key, css in found.items():
        assert ("n" in css) == (types[key] in ("integer", "float")), key
