"""Figures of ``summary.csv`` one by one, from the rows that they stand for."""

import math
from statistics import NormalDist

import pandas as pd
import pytest

from colport import tables
from colport.tables import summary


def table(name, *rows):
    plain = {**dict.fromkeys(tables.COLUMNS[name]), "status": "ok", "reason": ""}
    return tables.flatten(name, [{"rows": [{**plain, **row} for row in rows]}])


@pytest.mark.parametrize(
    ("rows", "passed"),
    [
        ([("query", True, "ok"), ("document", True, "ok")], True),
        ([("query", True, "ok"), ("document", False, "failed")], False),
        ([("query", False, "failed")], False),
        ([("query", True, "ok")], None),
        ([("query", True, "ok"), ("document", None, "ok")], None),
        ([("query", True, "ok"), ("document", True, "unsupported")], None),
        ([], None),
    ],
)
def test_parity_passed(rows, passed):
    found = table("parity", *({"kind": k, "passed": p, "status": s} for k, p, s in rows))
    assert summary._parity_passed(found) is passed


def test_the_size_of_a_folder_is_in_millions_of_bytes():
    once = [{"graph": graph, "folder_bytes": 91_400_000, "size_bytes": 7} for graph in "ab"]
    assert summary._folder_mb(table("export", *once)) == 91.4
    graphs = [{"graph": graph, "size_bytes": 1_500_000} for graph in "ab"]
    assert summary._folder_mb(table("export", *graphs)) == 3.0
    assert math.isnan(summary._folder_mb(table("export", {"graph": "a"})))


def test_times_are_medians_of_one_kind_and_batch_size():
    rows = [
        {"kind": "query", "batch_size": 1, "p50_ms": ms, "speedup_vs_pytorch": 10 / ms}
        for ms in (1.0, 5.0, 2.0)
    ]
    for row in rows:
        row |= {"speedup_low": row["p50_ms"], "speedup_high": 10 * row["p50_ms"]}
    others = [
        {**rows[0], "p50_ms": 99.0, **changed}
        for changed in ({"kind": "document"}, {"batch_size": 8}, {"status": "failed"})
    ]
    found = summary._speed(table("latency", *rows, *others), "query", 1)
    assert found == {
        **{"query_p50_ms": 2.0, "query_speedup": 5.0},
        **{"query_speedup_low": 2.0, "query_speedup_high": 20.0},
    }
    every = summary._speed(table("latency", *rows, *others), "query", None)
    assert every["query_p50_ms"] == 3.5


def test_a_failure_goes_before_a_limit():
    def worst(*rows):
        names = [{"status": status, "reason": reason} for status, reason in rows]
        return summary._worst_status([table("export", *names)])

    assert worst(("ok", ""), ("unsupported", "u"), ("failed", "f")) == ("failed", "failed: f")
    assert worst(("unsupported", "u"), ("ok", "")) == ("unsupported", "unsupported: u")
    assert worst(("failed", "")) == ("failed", "failed: no reason was recorded")
    assert worst(("ok", "noisy")) == ("ok", "")


def test_which_timed_rows_are_candidates():
    rows = [
        {
            "variant": variant,
            "provider": provider,
            "kind": kind,
            "batch_size": size,
            "status": status,
        }
        for variant, provider, kind, size, status in (
            ("pytorch", "torch-cpu", "query", 1, "ok"),
            ("pytorch-bf16", "torch-cpu", "query", 1, "ok"),  # another way to run PyTorch
            ("int8", "cpu", "query", 1, "unsupported"),  # at the smallest batch
            ("int8", "cpu", "query", 8, "unsupported"),  # at a larger one
            ("int8", "cpu", "query", 8, "failed"),
            ("int8", "cpu", "document", 8, "unsupported"),  # the smallest of documents
        )
    ]
    for row in rows:
        row["model"] = "m"
    found = summary._candidates(table("latency", *rows))
    assert found.index.tolist() == [0, 2, 4, 5]


def retrieval(*rows):
    names = ("dataset", "ndcg_at_5_delta", "p_value", "queries")
    return table("retrieval", *(dict(zip(names, row, strict=True)) for row in rows))


def bounded(low, high, **rows):
    return retrieval(("a", *rows["a"]), ("b", *rows["b"])).assign(
        ndcg_at_5_delta_low=low, ndcg_at_5_delta_high=high
    )


def combined(a, b):
    return summary._difference(bounded([-1, -1], [1, 1], a=a, b=b))["p_value"]


def test_p_values_are_combined_by_stouffer_s_method():
    """Weights are the roots of the queries."""
    normal = NormalDist()
    scores = normal.inv_cdf(1 - 0.04 / 2), normal.inv_cdf(1 - 0.3 / 2)
    total = (-20 * scores[0] + 10 * scores[1]) / math.sqrt(500)
    expected = 2 * (1 - normal.cdf(abs(total)))
    assert combined((-0.02, 0.04, 400), (0.01, 0.3, 100)) == pytest.approx(expected)
    assert combined((0.0, 1.0, 400), (0.0, 1.0, 100)) == pytest.approx(1)
    assert math.isnan(combined((0.1, None, 4), (0.1, 1, 4)))
    assert 0 <= combined((0.5, 0.0, 9), (0.5, 0.0, 9)) < 1e-12


def test_intervals_of_datasets_add_up_in_squares():
    rows = bounded([-0.01, 0.0], [0.08, 0.12], a=(0.02, 0.5, 10), b=(0.04, 0.5, 10))
    found = summary._difference(rows)
    ends = found["ndcg_at_5_delta_low"], found["ndcg_at_5_delta_high"]
    assert ends == pytest.approx((0.03 - 0.05 / 2, 0.03 + 0.1 / 2))


def test_those_of_one_dataset_are_its_own():
    rows = bounded([-0.01, 0.0], [0.08, 0.12], a=(0.02, 0.04, 10), b=(0.04, 0.5, 10))
    assert list(summary._difference(rows[:1]).values()) == [0.04, -0.01, 0.08]


def test_quality_needs_every_dataset():
    rows = retrieval(("a", 0.02, 0.5, 10), ("b", 0.04, 0.5, 10)).assign(ndcg_at_5=[0.5, 0.7])
    found = summary.quality(rows, {"a", "b"})
    assert (found["ndcg_at_5"], found["ndcg_at_5_delta"]) == pytest.approx((0.6, 0.03))
    for datasets in ({"a", "b", "c"}, {"a"}, set()):
        assert all(math.isnan(value) for value in summary.quality(rows, datasets).values())
    broken = rows.assign(status=["ok", "failed"])
    assert math.isnan(summary.quality(broken, {"a", "b"})["ndcg_at_5"])


def test_rows_stand_in_the_order_of_their_export_pytorch_first():
    export = table("export", *({"model": "m", "variant": name} for name in ("int8", "fp32")))
    places = [("fp32", "cpu"), ("int8", "cpu"), ("pytorch", "torch-cpu"), ("int8", "cuda")]
    parity = table(
        "parity", *({"model": "m", "variant": name, "provider": on} for name, on in places)
    )
    assert list(summary._row_keys(export, [parity])) == [
        ("m", "pytorch", "torch-cpu"),
        *(("m", "int8", "cpu"), ("m", "int8", "cuda"), ("m", "fp32", "cpu")),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.123456789, "0.123457"), (12345678.0, "12345678"), (1234567.5, "1.23457e+06")),
        *((True, "true"), (False, "false"), (None, ""), (math.nan, ""), (3, "3"), (2.0, "2")),
        *(("a\rb", "a b"), ("=x", "'=x"), ("-", "-"), ("-1", "'-1"), (-1.5, "-1.5")),
        ([640, 480], "640x480"),
    ],
)
def test_cells_of_a_file(value, text):
    (cell,) = tables.text_table(pd.DataFrame({"a": pd.Series([value], dtype=object)}))["a"]
    assert cell == text
