"""Thresholds, keys and directions of each stage, one change at a time."""

import math

import pytest

from colport.compare import compare, findings, intervals, results, scenarios, stages
from colport.compare.findings import Finding, changed, ranked
from colport.compare.intervals import Interval, moved, undecided_as_one

from .runs import FP32, INT8, Run


def verdicts(found, change):
    return [(group, verdict) for group, verdict, _ in found(change)[0]]


@pytest.mark.parametrize(
    ("status", "verdict", "weight"),
    [("failed", "worse", 3.0), ("unsupported", "worse", 2.0)],
)
def test_a_status_weighs_what_it_costs(found, status, verdict, weight):
    def change(run):
        run.export[FP32]["rows"][0] |= {"status": status, "reason": "why"}

    _, (finding, *_) = found(change)
    assert (finding.verdict, finding.weight) == (verdict, weight)
    assert finding.text == f"export ok -> {status} (why)"


def test_a_row_that_works_now_is_better(old, tmp_path):
    broken = Run()
    broken.parity[INT8]["rows"][0] |= {"status": "failed", "reason": "it broke"}
    (finding,) = compare(broken.write(tmp_path / "broken"), old)
    assert (finding.verdict, finding.text) == ("better", "parity failed -> ok")


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


@pytest.mark.parametrize("key", ["query_ids", "queries", "document_ids", "qrels"])
def test_a_dataset_that_differs(found, key):
    def change(run):
        run.dataset[key] = ["other"]

    assert verdicts(found, change) == [("retrieval", "not compared")]


@pytest.mark.parametrize(
    ("owner", "folder"), [("controls", "controls/bm25"), ("pytorch", "model/pytorch")]
)
def test_where_the_queries_of_a_row_lie(owner, folder):
    asked = []

    class Records:
        @staticmethod
        def record(*parts):
            asked.append("/".join(parts))

    row = {"model": "model", "variant": "pytorch", "provider": "torch-cpu", "dataset": "d"}
    if owner == "controls":
        row |= {"model": "-", "variant": "bm25", "provider": "-"}
    assert stages._per_query(Records, row) == {}
    stages._per_query(Records, {**row, "model": "model", "variant": "int8", "provider": "cpu"})
    assert asked == [f"retrieval/{folder}/d", "retrieval/model/int8/cpu/d"]


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


@pytest.mark.parametrize("column", ["queries", "documents"])
def test_other_numbers_of_queries_are_not_compared(old, tmp_path, column):
    run = Run()
    run.retrieval[INT8, "cpu"]["rows"][0] |= {column: 41, "ndcg_at_5_high": 0.1, "ndcg_at_5": 0.1}
    found = compare(old, run.write(tmp_path / "new", records=False))
    assert [item.verdict for item in found if item.group == "retrieval"] == ["not compared"]


@pytest.mark.parametrize(
    ("size", "verdict"),
    [(80_800_000, None), (80_800_001, "worse"), (79_199_999, "better"), (79_200_000, None)],
)
def test_a_folder_by_a_hundredth(found, size, verdict):
    def change(run):
        run.export[FP32]["rows"][0]["folder_bytes"] = size

    assert verdicts(found, change) == ([("size", verdict)] if verdict else [])


def test_a_folder_is_the_sum_of_its_graphs_where_nothing_else_is_known(found):
    def change(run):
        rows = run.export[FP32]["rows"]
        rows[0] |= {"folder_bytes": None, "size_bytes": 50_000_000}
        rows.append({**rows[0], "graph": "image", "size_bytes": 40_000_000})
        rows.append({**rows[0], "graph": "x", "size_bytes": 9e9, "status": "failed", "reason": "r"})

    items = [item for item in found(change)[1] if item.group == "size"]
    assert [(item.old, item.new) for item in items] == [(80e6, 90e6)]


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


@pytest.mark.parametrize("key", results.MACHINE)
def test_what_makes_a_machine(key):
    machine = {"cpu": "a", "cores": 2, "memory_mb": 9, "gpu": None}
    one, other = {"environment": machine}, {"environment": {**machine, key: "other"}}
    assert results.same_machine(one, one)
    assert not results.same_machine(one, other)
    assert not results.same_machine(one, None)
    assert not results.same_machine({"environment": {}}, {"environment": {}})


def test_what_is_compared_of_machines_and_baselines():
    assert results.MACHINE == ("cpu", "cores", "memory_mb", "gpu")
    names = ("torch", "transformers", "sentence-transformers", "colpali-engine")
    for name in names:
        old = {"environment": {"packages": dict.fromkeys(names, "1")}}
        new = {"environment": {"packages": {**dict.fromkeys(names, "1"), name: "2"}}}
        assert results.other_baseline(old, new) == [f"{name} 1 -> 2"]
    noise = [{"noise": {"noisy": noisy}} for noisy in (False, True)]
    assert results.noise_note(*noise) == "; noisy machine in the new run"
    assert results.noise_note(*reversed(noise)) == "; noisy machine in the old run"
    assert results.noise_note(noise[1], noise[1]) == "; noisy machine in the old and the new run"


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


@pytest.mark.parametrize("key", ["tokens", "image_size"])
def test_latency_of_inputs_of_another_size(found, key):
    def change(run):
        run.slow_down(1, 3.0)
        run.latency["rows"][1][key] = 99

    assert verdicts(found, change) == [("latency", "not compared")]


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


def test_intervals_and_their_changes():
    one, other = Interval(2, 1, 3), Interval(4, 3, 5)
    assert one.overlaps(other)
    assert other.overlaps(one)
    assert not one.overlaps(Interval(4, 3.1, 5))
    assert not Interval(4, 3.1, 5).overlaps(one)
    assert one.change(other) == other.change(one) == 1
    apart = [Interval(2, 1.9, 2.1), Interval(4, 3.9, 4.1)]
    for pair, more, verdict in (
        (apart, True, "better"),
        (apart, False, "worse"),
        (apart[::-1], True, "worse"),
        (apart[::-1], False, "better"),
    ):
        (found,) = moved("latency", "n", "f", pair, "t", 0.5, more)
        assert (found.verdict, found.old, found.new) == (verdict, pair[0].median, pair[1].median)
    assert list(moved("latency", "n", "f", apart, "t", 1.0, True)) == []


def test_ranks_of_the_median():
    for count, rank in ((4, None), (5, 1), (7, 1), (8, 2), (11, 3), (20, 6)):
        found = intervals.median_interval(list(range(1, count + 1)))
        ends = None if rank is None else (rank, count + 1 - rank)
        assert (found and (found.low, found.high)) == ends


def test_the_most_undecided_is_named():
    items = [
        Finding("latency", "undecided", name, "moved", weight=weight)
        for name, weight in (("little", 0.1), ("much", 0.9), ("some", 0.5))
    ]
    (one,) = undecided_as_one("latency", "all", items, 0.05)
    assert (one.place, one.text) == (
        "all",
        "3 moved by more than 5%, none beyond doubt, most: much moved",
    )


def test_findings_are_ranked_by_group_verdict_and_weight():
    given = [
        Finding("size", "worse", "a", ""),
        Finding("rows", "new", "b", ""),
        Finding("rows", "worse", "c", "", weight=1),
        Finding("rows", "worse", "d", "", weight=2),
    ]
    assert [item.place for item in ranked(given)] == ["d", "c", "b", "a"]
    assert changed("size", "p", "f", 4.0, 5.0, "").weight == 0.25
    assert changed("size", "p", "f", 0.0, 5.0, "").weight == math.inf
    assert (changed("s", "p", "f", 2, 1, "").verdict, changed("s", "p", "f", 1, 2, "").verdict) == (
        "better",
        "worse",
    )
    assert findings.verdict(given) == "3 worse, 1 new"
    assert findings.verdict([given[1]]) == "nothing worse, 1 new"


def test_a_rate_lies_between_what_passed_and_what_failed():
    own = {"highest_rate": 10, "failed_rate": 12}
    reference = {"highest_rate": 4, "failed_rate": 5}
    assert scenarios._rate_ratio(own, reference) == Interval(2.5, 2, 3)
    assert scenarios._rate_ratio({**own, "failed_rate": None}, reference) is None


@pytest.mark.parametrize("key", ["threads", "inputs", "offline", "server"])
def test_scenarios_of_other_settings(found, key):
    def change(run):
        run.scenarios["settings"][key] = "other"

    _, items = found(change)
    assert [(item.verdict, item.text) for item in items] == [
        ("not compared", f"other settings: {key}")
    ]


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
