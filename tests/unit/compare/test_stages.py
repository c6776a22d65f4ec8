"""Thresholds, keys and directions of each stage, one change at a time."""

import math

import pytest

from colport.compare import compare, intervals, results
from colport.compare.intervals import Interval

from .runs import FP32, INT8, Run


def verdicts(found, change):
    return [(group, verdict) for group, verdict, _ in found(change)[0]]


@pytest.mark.parametrize("column", ["inputs", "tokens", "tolerance"])
def test_parity_of_other_inputs_or_tolerance(found, column):
    def change(run):
        run.parity[INT8]["rows"][0] |= {column: "min_cosine>=0.5" if column == "tolerance" else 7}
        run.parity[INT8]["rows"][0]["passed"] = False

    assert verdicts(found, change) == [("parity", "not compared")]


@pytest.mark.parametrize("figure", ["min_cosine", "mean_cosine"])
@pytest.mark.parametrize(
    ("variant", "cosine", "verdict"),
    [
        (INT8, 0.9781, None),  # its distance to 1 grew from 0.02 by less than a tenth
        (INT8, 0.9779, "worse"),
        (INT8, 0.9819, "better"),  # 0.0181: by more than a tenth of the smaller one
        (FP32, 0.99999, None),  # of rounding
        (FP32, 0.999989, "worse"),
    ],
)
def test_a_cosine_by_its_distance_to_one(found, figure, variant, cosine, verdict):
    def change(run):
        run.parity[variant]["rows"][0][figure] = cosine

    assert verdicts(found, change) == ([("parity", verdict)] if verdict else [])


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.5, 0.79, "worse"), (0.5, 0.8, None), (0.94, 0.99, "better"), (0.93, 0.99, None)],
)
def test_intervals_decide_where_no_record_is_kept(old, tmp_path, low, high, verdict):
    run = Run()
    middle = (low + high) / 2
    run.retrieval[INT8, "cpu"]["rows"][0] |= {
        **{"ndcg_at_5": middle, "ndcg_at_5_low": low, "ndcg_at_5_high": high}
    }
    found = compare(old, run.write(tmp_path / "new", records=False))
    assert [item.verdict for item in found if item.group == "retrieval"] == (
        [verdict] if verdict else []
    )


@pytest.mark.parametrize(
    ("size", "verdict"),
    [(80_800_000, None), (80_800_001, "worse"), (79_199_999, "better"), (79_200_000, None)],
)
def test_a_folder_by_a_hundredth(found, size, verdict):
    def change(run):
        run.export[FP32]["rows"][0]["folder_bytes"] = size

    assert verdicts(found, change) == ([("size", verdict)] if verdict else [])


@pytest.mark.parametrize(
    ("figure", "value", "verdict"),
    [
        ("seconds", 24.0, None),
        ("seconds", 24.1, "worse"),
        ("seconds", 16.6, "better"),  # a fifth of the smaller one
        ("seconds", 16.7, None),
        ("peak_rss_mb", 1200.0, None),
        ("peak_rss_mb", 1201.0, "worse"),
        ("peak_rss_mb", 833.0, "better"),
        ("peak_rss_mb", 834.0, None),
    ],
)
def test_the_cost_of_an_export_by_a_fifth(found, figure, value, verdict):
    def change(run):
        run.export[FP32]["rows"][0][figure] = value

    assert verdicts(found, change) == ([("export", verdict)] if verdict else [])


def test_less_than_a_second_of_an_export_is_not_looked_at(old, tmp_path):
    folders = []
    for name, seconds in (("a", 1.0), ("b", 1.9), ("c", 2.1)):
        run = Run()
        run.export[FP32]["rows"][0]["seconds"] = seconds
        folders.append(run.write(tmp_path / name))
    assert compare(folders[0], folders[1]) == []
    assert [item.figure for item in compare(folders[0], folders[2])] == ["seconds"]


def test_seconds_of_another_machine_are_not_compared(found):
    def change(run):
        record = run.export[FP32]
        record["rows"][0] |= {"seconds": 99.0, "peak_rss_mb": 2000.0}
        record["environment"] = {**record["environment"], "cores": 64}

    items = found(change)[1]
    assert [(item.verdict, item.figure) for item in items] == [
        ("worse", "peak_rss_mb"),
        ("not compared", ""),
    ]


def test_rows_are_told_apart_by_their_keys():
    rows = [
        {"model": "m", "variant": "v", "provider": "cpu", "kind": kind, "batch_size": size}
        for kind in ("query", "document")
        for size in (1, 8)
    ]
    keyed = results._keyed(rows, "latency")
    assert len(keyed) == 4
    assert {key[-1] for key in keyed} == {0}
    forms = [
        {"model": "m", "variant": "v", "provider": "cpu", "dataset": "d", "embeddings": e}
        for e in ("full", "int8", math.nan)
    ]
    assert [key[-2:] for key in results._keyed(forms, "retrieval")] == [
        ("", 0),
        ("int8", 0),
        ("", 1),
    ]
    assert not results.is_number(math.inf)
    assert not results.is_number("1")


@pytest.mark.parametrize(
    ("megabytes", "verdict"), [(600.0, None), (601.0, "worse"), (416.0, "better"), (417.0, None)]
)
def test_peak_memory_of_a_contender_by_a_fifth(found, megabytes, verdict):
    def change(run):
        run.latency["rows"][1]["peak_rss_mb"] = megabytes
        run.latency["rows"][0]["peak_rss_mb"] = 9999.0  # PyTorch's is not ours

    assert verdicts(found, change) == ([("latency", verdict)] if verdict else [])


def test_each_batch_size_has_its_own_reference(found):
    """Eight inputs take eight times as long for both: no variant became slower."""

    def change(run):
        for part in ("rows", "samples"):
            run.latency[part] += [{**item, "batch_size": 8} for item in run.latency[part]]
        for sample in run.latency["samples"][3:]:
            sample["rounds_ns"] = [[8 * ns for ns in one] for one in sample["rounds_ns"]]

    _, items = found(change)
    assert [item.verdict for item in items] == ["new", "new", "new"]


def test_milliseconds_are_told_in_milliseconds(found):
    def change(run):
        run.latency["environment"]["packages"]["torch"] = "2.14.0"
        run.slow_down(2, 2.0)

    finding = found(change)[1][0]
    assert (finding.figure, finding.verdict) == ("p50_ms", "worse")
    assert (finding.old, finding.new) == pytest.approx((20, 40), rel=0.02)


def test_ranks_of_the_median():
    for count, rank in ((4, None), (5, 1), (7, 1), (8, 2), (11, 3), (20, 6)):
        found = intervals.median_interval(list(range(count, 0, -1)))
        expected = rank and Interval((count + 1) / 2, rank, count + 1 - rank)
        assert found == expected


def test_overlap_with_pytorch_by_a_hundredth(old, tmp_path):
    def folder(name, overlap):
        run = Run()
        for record in run.retrieval.values():
            record["rows"][0] |= {"ndcg_at_5": None, "top10_overlap": overlap}
            record["per_query"]["ndcg_at_5"] = {}
        return run.write(tmp_path / name)

    full, near, far = folder("a", 1.0), folder("b", 0.9901), folder("c", 0.98)
    assert compare(full, near) == []
    assert {item.verdict for item in compare(full, far)} == {"worse"}
    assert {item.verdict for item in compare(far, full)} == {"better"}
