"""The parts of a comparison one by one: exact texts, orders, bounds and keys."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from colport.base.names import FULL
from colport.compare import (
    compare,
    findings,
    intervals,
    latency,
    repeatability,
    results,
    scenarios,
    stages,
)
from colport.compare.findings import Finding
from colport.compare.intervals import Interval

from .runs import FP32, INT8, MODEL, Run

MACHINE = {"cpu": "a", "cores": 2, "memory_mb": 1000, "gpu": None}
BASELINE = ("torch", "transformers", "sentence-transformers", "colpali-engine")


def kept(run):
    """The results of a run as if they had been read from its folder."""
    stages_ = ("export", "parity", "retrieval")
    records = {stage: getattr(run, stage).values() for stage in stages_}
    rows = {
        stage: results._keyed([row for record in found for row in record["rows"]], stage)
        for stage, found in records.items()
    }

    def record(stage, *parts):
        if stage == "datasets":
            return run.dataset
        variant, provider = (*parts[1:3], "")[:2]
        return run.retrieval[variant, "torch-cpu" if variant == "pytorch" else provider]

    return SimpleNamespace(rows=rows.__getitem__, record=record)


def between(look, change):
    """What one stage finds after a change."""
    change(run := Run())
    return list(look(kept(Run()), kept(run)))


def a_finding(group="size", verdict="worse", place="a", text="grew", weight=0.0):
    return Finding(group, verdict, place, text, weight=weight)


@pytest.mark.parametrize(
    ("old", "new", "verdict", "weight"),
    [
        (2.0, 3.0, "worse", 0.5),
        (4.0, 3.0, "better", 0.25),
        (-4.0, -3.0, "worse", 0.25),
        (0.0, 3.0, "worse", math.inf),
    ],
)
def test_a_change_weighs_its_share_of_the_old_figure(old, new, verdict, weight):
    found = findings.changed("size", "a place", "folder_bytes", old, new, "grew")
    expected = Finding("size", verdict, "a place", "grew", "folder_bytes", old, new, weight)
    assert found == expected


def test_findings_go_by_group_verdict_weight_and_place():
    order = [
        a_finding("rows", "new"),
        a_finding("parity", "worse", weight=1.0),
        a_finding("parity", "worse", "a", weight=0.5),
        a_finding("parity", "worse", "b", weight=0.5),
        a_finding("parity", "undecided", weight=9.0),
        a_finding("parity", "not compared"),
        a_finding("parity", "better", weight=9.0),
        a_finding("size", "worse"),
        a_finding("export", "worse"),
    ]
    assert findings.ranked(reversed(order)) == order


def test_what_is_printed_of_findings():
    found = [
        a_finding(),
        a_finding(place="b"),
        a_finding(verdict="undecided"),
        a_finding("rows", "new", "", "a|b"),
        a_finding(verdict="not compared", place="c|d"),
    ]
    assert findings.verdict([]) == "nothing differs beyond noise"
    assert findings.verdict(found) == "2 worse, 1 undecided, 1 not compared, 1 new"
    assert findings.verdict(found[3:4]) == "nothing worse, 1 new"
    assert findings.lines(found) == [
        "rows",
        "  new           a|b",
        "size",
        "  worse         a: grew",
        "  worse         b: grew",
        "  undecided     a: grew",
        "  not compared  c|d: grew",
    ]
    assert findings.markdown(found[2:]) == (
        "**nothing worse, 1 undecided, 1 not compared, 1 new**\n"
        "\n"
        "| stage | verdict | row | change |\n"
        "|---|---|---|---|\n"
        "| size | undecided | a | grew |\n"
        "| rows | new |  | a\\|b |\n"
        "| size | not compared | c\\|d | grew |\n"
    )
    assert findings.markdown([]) == "**nothing differs beyond noise**\n"


def test_intervals_that_touch_overlap():
    low, high = Interval(2.0, 1.0, 3.0), Interval(4.0, 3.0, 5.0)
    assert low.overlaps(high)
    assert high.overlaps(low)
    assert not low.overlaps(replace(high, low=3.01))
    assert not replace(high, low=3.01).overlaps(low)
    assert low.change(high) == high.change(low) == 1.0
    assert str(Interval(1.2345, 0.5, 12.345)) == "1.23 [0.5, 12.3]"


@pytest.mark.parametrize("more_is_better", [True, False])
def test_what_moved_keeps_its_figures(more_is_better):
    pair = (Interval(2.0, 1.9, 2.1), Interval(4.0, 3.9, 4.1))
    asked = ("latency", "a", "p50_ms", pair, "text")
    assert list(intervals.moved(*asked, 1.0, more_is_better)) == []  # not more than the threshold
    (found,) = intervals.moved(*asked, 0.9, more_is_better)
    verdict, weight = ("better", 0.5) if more_is_better else ("worse", 1.0)
    expected = Finding("latency", verdict, "a", "text", "p50_ms", 2.0, 4.0, weight)
    assert found == expected


def test_what_is_undecided_is_one_line_with_the_most():
    found = [
        a_finding(verdict="undecided", place="a", text="x", weight=0.2),
        a_finding(verdict="undecided", place="b", text="y", weight=0.3),
        a_finding(verdict="worse", place="c", weight=0.1),
    ]
    kept = SimpleNamespace(folder="f", record=lambda *place: {"settings": {}})
    runs = [("model", "cpu")]
    one, most = intervals.of_runs("latency", runs, kept, kept, lambda *_: found, 0.05)
    assert one == found[2]
    text = "2 moved by more than 5%, none beyond doubt, most: b y"
    assert most == Finding("latency", "undecided", "model cpu", text, weight=0.3)


def test_every_run_is_looked_at():
    def record(group, model, provider):
        return None if model == "b" else {"settings": {}} if model != "c" else {}

    def look(name, before, after, threshold):
        return [a_finding("latency", place=name)]

    kept, runs = SimpleNamespace(folder="f", record=record), [(model, "cpu") for model in "abcd"]
    found = intervals.of_runs("latency", runs, kept, kept, look, 0.05, " with samples")
    assert [(item.verdict, item.place, item.text) for item in found] == [
        ("worse", "a cpu", "grew"),
        ("not compared", "b cpu", "latency/b/cpu.json with samples is not in f"),
        ("worse", "d cpu", "grew"),
    ]


@pytest.mark.parametrize("key", MACHINE)
def test_each_fact_of_a_machine_counts(key):
    def same(old, new):
        return results.same_machine({"environment": old}, {"environment": new})

    assert (*MACHINE,) == results.MACHINE
    assert same(MACHINE, dict(MACHINE))
    assert not same(MACHINE, {**MACHINE, key: "another"})
    missing = {name: value for name, value in MACHINE.items() if name != key}
    assert not same(missing, missing)
    assert not results.same_machine(None, {"environment": MACHINE})
    assert not results.same_machine({"environment": MACHINE}, None)
    assert same({**MACHINE, "instructions": ["AVX2"]}, MACHINE)
    more = {**MACHINE, "instructions": ["AVX2", "AVX-512", "AVX-512 VNNI"]}
    assert not same({**MACHINE, "instructions": ["AVX2"]}, more)


@pytest.mark.parametrize("package", BASELINE)
def test_each_package_of_a_reference_counts(package):
    def record(**packages):
        return {"environment": {"packages": {**dict.fromkeys(BASELINE, "1"), **packages}}}

    assert results.other_baseline(record(numpy="1"), record(numpy="2")) == []
    assert results.other_baseline(record(), record(**{package: "2"})) == [f"{package} 1 -> 2"]


@pytest.mark.parametrize(
    ("noisy", "note"),
    [
        ((False, False), ""),
        ((True, False), "; noisy machine in the old run"),
        ((False, True), "; noisy machine in the new run"),
        ((True, True), "; noisy machine in the old and the new run"),
    ],
)
def test_which_run_was_noisy(noisy, note):
    assert results.noise_note(*({"noise": {"noisy": one}} for one in noisy)) == note


def test_a_place_leaves_out_what_is_empty():
    row = {"model": "m", "variant": "v", "provider": "cpu", "graph": "-", "kind": "", "x": None}
    assert results.place(row, "graph", "provider", "kind", "x", "absent") == "m v cpu"


def test_rows_have_a_key_each():
    row = {"model": "m", "variant": "v", "provider": "cpu", "dataset": "d", "embeddings": FULL}
    rows = [row, {**row, "embeddings": "pooled"}, row, {**row, "variant": "peer-x"}, row]
    keyed = results._keyed(rows, "retrieval")
    names = ("m", "v", "cpu", "d")
    assert list(keyed) == [(*names, "", 0), (*names, "pooled", 0), (*names, "", 1), (*names, "", 2)]
    assert keyed[*names, "", 0]["embeddings"] is None


@pytest.mark.parametrize("key", ["threads", "inputs", "offline", "server"])
def test_scenarios_of_other_settings_are_not_compared(key):
    old, new = Run().scenarios, Run().scenarios
    new["settings"][key] = "another"
    (one,) = scenarios._run("model cpu", old, new, 0.05)
    assert one == Finding("scenarios", "not compared", "model cpu", f"other settings: {key}")


def test_a_rate_lies_between_what_passed_and_what_failed():
    own = {"highest_rate": 30.0, "failed_rate": 40.0}
    theirs = {"highest_rate": 10.0, "failed_rate": 20.0}
    assert scenarios._rate_ratio(own, theirs) == Interval(3.0, 1.5, 4.0)
    assert scenarios._rate_ratio({**own, "failed_rate": None}, theirs) is None
    assert scenarios._rate_ratio(own, {**theirs, "highest_rate": None}) is None


def test_the_best_row_stands_for_a_scenario():
    row = {"variant": "v", "scenario": "server", "kind": "query", "status": "ok"}
    rows = [{**row, "best": True, "batch_size": 8}, {**row, "best": False, "batch_size": 1}]
    failed = {**row, "kind": "document", "status": "failed", "best": False}
    chosen = scenarios._chosen({"rows": [*rows, failed]})
    key = ("v", "server")
    assert chosen == {(*key, "query"): rows[0], (*key, "document"): failed}
    also = [rows[0], {**row, "status": "failed", "best": False}]
    assert scenarios._chosen({"rows": also}) == {(*key, "query"): rows[0]}


def test_rows_that_vanished_are_counted_by_stage(found):
    def change(run):
        for record in run.parity.values():
            record["rows"].clear()
        run.export[FP32]["rows"][0]["status"] = "unsupported"
        run.export[FP32]["rows"][0]["reason"] = ""
        run.export[INT8]["rows"][0] |= {"status": "failed", "reason": "it broke"}
        run.latency["rows"].pop()
        run.latency["samples"].pop()

    rows = [item for item in found(change)[1] if item.group == "rows"]
    assert [item.figure for item in rows] == ["status", "status", "", ""]
    assert [(item.place, item.text, item.weight) for item in rows] == [
        ("model int8 text", "export ok -> failed (it broke)", 3.0),
        ("model fp32 text", "export ok -> unsupported", 2.0),
        ("model fp32 cpu", "vanished: 2 parity rows", 1.0),
        ("model int8 cpu", "vanished: 2 parity, 1 latency rows", 1.0),
    ]


def test_a_failed_row_that_vanished_is_no_loss_and_one_that_works_again_is_better(tmp_path):
    folders = []
    for name in ("old", "new"):
        run = Run()
        if name == "old":
            run.parity[FP32]["rows"][0] |= {"status": "failed", "reason": "it broke"}
            run.parity[INT8]["rows"][0] |= {"status": "failed", "reason": "it broke"}
        else:
            del run.parity[INT8]["rows"][0]
        folders.append(run.write(tmp_path / name))
    (one,) = compare(*folders)
    assert (one.verdict, one.text, one.weight) == ("better", "parity failed -> ok", 0.0)


@pytest.mark.parametrize("key", ["inputs", "tokens"])
def test_parity_on_other_inputs(key):
    (one,) = between(stages.parity, lambda run: run.parity[FP32]["rows"][1].update({key: 7}))
    assert one == Finding("parity", "not compared", "model fp32 cpu document", "other inputs")


@pytest.mark.parametrize("figure", ["min_cosine", "mean_cosine"])
def test_a_cosine_that_one_run_lacks_is_not_compared(figure):
    old, new = Run(), Run()
    new.parity[INT8]["rows"][0][figure] = None
    assert list(stages.parity(kept(old), kept(new))) == []
    assert list(stages.parity(kept(new), kept(old))) == []


def test_another_tolerance_is_said_and_cosines_are_still_compared():
    def change(run):
        changed = {"tolerance": "min_cosine>=0.5", "passed": False, "mean_cosine": 0.97}
        run.parity[INT8]["rows"][1] |= changed

    items = findings.ranked(between(stages.parity, change))
    assert [(item.verdict, item.figure, item.text) for item in items] == [
        ("worse", "mean_cosine", "mean_cosine 0.980000 -> 0.970000"),
        ("not compared", "", "tolerance was min_cosine>=0.9, is min_cosine>=0.5"),
    ]
    assert items[0].weight == pytest.approx(0.5)


def test_parity_that_passes_again_is_better():
    old, new = Run(), Run()
    old.parity[INT8]["rows"][0]["passed"] = False
    (one,) = stages.parity(kept(old), kept(new))
    assert (one.verdict, one.text, one.weight) == ("better", "passes: min_cosine>=0.9", math.inf)


@pytest.mark.parametrize("key", ["query_ids", "queries", "document_ids", "qrels"])
def test_each_part_of_a_dataset_counts(key):
    (one,) = between(stages.retrieval, lambda run: run.dataset.update({key: ["another"]}))
    assert (one.verdict, one.place) == ("not compared", "dataset pages")


def test_queries_of_a_row_lie_where_its_stage_wrote_them(monkeypatch, tmp_path):
    asked = []

    class Kept:
        def record(self, *parts):
            asked.append("/".join(parts))
            full = {"per_query": {"ndcg_at_5": {"q": 1.0}}}
            return {**full, "forms": {"pooled": {"per_query": {"ndcg_at_5": {"q": 0.5}}}}}

    row = {"model": "m", "variant": "int8", "provider": "cuda", "dataset": "d", "embeddings": None}
    assert stages._per_query(Kept(), row) == {"q": 1.0}
    assert stages._per_query(Kept(), {**row, "embeddings": "pooled"}) == {"q": 0.5}
    assert stages._per_query(Kept(), {**row, "embeddings": "binary"}) == {}
    assert stages._per_query(Kept(), {**row, "variant": "pytorch"}) == {"q": 1.0}
    assert stages._per_query(Kept(), {**row, "model": "-", "variant": "bm25"}) == {"q": 1.0}
    folder = "retrieval/m/int8/cuda/d"
    assert asked == [*[folder] * 3, "retrieval/m/pytorch/d", "retrieval/controls/bm25/d"]


@pytest.mark.parametrize("key", ["queries", "documents"])
def test_intervals_of_other_queries_say_nothing(key):
    runs = []
    for number, mean in ((40, 0.9), (41, 0.2)):
        run = Run()
        bounds = {"ndcg_at_5_low": mean - 0.01, "ndcg_at_5_high": mean + 0.01}
        run.retrieval[INT8, "cpu"]["rows"][0] |= {key: number, "ndcg_at_5": mean, **bounds}
        run.retrieval[INT8, "cpu"]["per_query"]["ndcg_at_5"] = {}
        runs.append(kept(run))
    (one,) = stages.retrieval(*runs)
    assert one.text == "other queries were scored, or intervals are missing"


@pytest.mark.parametrize(("low", "high", "differs"), [(0.88, 0.95, False), (0.931, 0.97, True)])
def test_intervals_apart_on_either_side(low, high, differs):
    runs = []
    for bounds in ((0.8, 0.93), (low, high)):
        run = Run()
        row = run.retrieval[INT8, "cpu"]["rows"][0]
        row |= {"ndcg_at_5_low": bounds[0], "ndcg_at_5_high": bounds[1]}
        row["ndcg_at_5"] = sum(bounds) / 2
        run.retrieval[INT8, "cpu"]["per_query"]["ndcg_at_5"] = {}
        runs.append(kept(run))
    assert [item.verdict for item in stages.retrieval(*runs)] == ["better"] * differs
    assert [item.verdict for item in stages.retrieval(*runs[::-1])] == ["worse"] * differs


def test_sizes_are_compared_row_by_row():
    def change(run):
        run.export[FP32]["rows"][0]["folder_bytes"] = 80_800_000  # one hundredth is no change
        run.export[INT8]["rows"][0]["folder_bytes"] = 15_000_000

    (one,) = between(stages.size, change)
    expected = ("better", "model int8", "20.00 MB -> 15.00 MB (-25.0%)", 20e6, 15e6)
    assert (one.verdict, one.place, one.text, one.old, one.new) == expected


def test_a_folder_without_its_size_is_the_sum_of_its_graphs():
    class Kept:
        def rows(self, stage):
            row = {"model": "m", "variant": "v", "status": "ok", "folder_bytes": None}
            rows = [{**row, "size_bytes": 10}, {**row, "size_bytes": 20}]
            failed = {**row, "variant": "w", "size_bytes": None, "status": "failed"}
            return dict(enumerate([*rows, failed])) if stage == "export" else {}

    assert stages._folder_bytes(Kept()) == {"m v": 30.0}


def test_costs_of_an_export(tmp_path):
    folders = []
    for name, seconds, memory in (("old", (20.0, 2.0), 1000.0), ("new", (25.0, 2.9), 1201.0)):
        run = Run()
        for record, value in zip(run.export.values(), seconds, strict=True):
            record["rows"][0] |= {"seconds": value, "peak_rss_mb": memory}
        folders.append(run.write(tmp_path / name))
    found = [(item.place, item.text, item.figure) for item in compare(*folders)]
    assert found == [
        ("model fp32 text", "20 -> 25 s (+25%)", "seconds"),
        ("model fp32 text", "1000 -> 1201 MB peak memory (+20%)", "peak_rss_mb"),
        ("model int8 text", "1000 -> 1201 MB peak memory (+20%)", "peak_rss_mb"),
    ]


def test_export_times_of_another_machine_are_not_compared(tmp_path):
    old, new = Run(), Run()
    for run, cpu, seconds in ((old, "a cpu", 20.0), (new, "another", 50.0)):
        run.export[INT8]["environment"] = {**run.export[INT8]["environment"], "cpu": cpu}
        for record in run.export.values():
            record["rows"][0]["seconds"] = seconds
    found = compare(old.write(tmp_path / "old"), new.write(tmp_path / "new"))
    assert [(item.verdict, item.place) for item in found] == [
        ("worse", "model fp32 text"),
        ("not compared", ""),
    ]


@pytest.mark.parametrize(
    ("new", "text"),
    [
        (102.0, "100 -> 102 bytes a document (+2.0%)"),
        (98.0, "100 -> 98 bytes a document (-2.0%)"),
    ],
)
def test_documents_of_another_size_are_named_by_their_column(new, text):
    runs = []
    for size in (100.0, new):
        run = Run()
        for provider, stored in (("torch-cpu", 100.0), ("cpu", size)):
            for key, record in run.retrieval.items():
                if key[1] == provider:
                    record["rows"][0]["bytes_per_document"] = stored
        runs.append(kept(run))
    found = list(stages.size(*runs))
    assert [item.place for item in found] == ["model fp32 cpu pages", "model int8 cpu pages"]
    assert {(item.figure, item.text) for item in found} == {("bytes_per_document", text)}


def test_rows_with_a_speed_up_in_both_runs_tell_how_well_one_repeats(tmp_path):
    folders = []
    for name, speedups in (("old", (None, 2.0, None)), ("new", (1.5, 2.5, 3.0))):
        run = Run()
        for row, value in zip(run.latency["rows"], speedups, strict=True):
            row["speedup_vs_pytorch"] = value
        folders.append(run.write(tmp_path / name))
    for pair in (folders, folders[::-1]):
        repeated = repeatability(*pair)
        assert repeated.rows == 1
        assert repeated.median == repeated.largest == pytest.approx(0.25)


def test_memory_is_that_of_each_process():
    old, new = Run().latency, Run().latency
    for row, memory in zip(new["rows"], (900.0, 610.0, 390.0), strict=True):
        row["peak_rss_mb"] = memory
    found = latency._run("model cpu", old, new, 0.05)
    assert [(item.place, item.verdict, item.text) for item in found] == [
        ("model fp32 cpu", "worse", "500 -> 610 MB peak memory (+22%)"),
        ("model int8 cpu", "better", "500 -> 390 MB peak memory (-22%)"),
    ]


@pytest.mark.parametrize("other", [{"tokens": 9.0}, {"image_size": "9x9"}], ids=str)
def test_latency_of_inputs_of_another_size(other):
    old, new = Run().latency, Run().latency
    new["rows"][1].update(other)
    (one,) = latency._run("model cpu", old, new, 0.05)
    place = "model fp32 cpu query x1"
    assert one == Finding("latency", "not compared", place, "inputs of another size")


def test_without_a_reference_another_machine_is_not_compared():
    old, new = Run().latency, Run().latency
    new["environment"] = {**new["environment"], "cores": 64}
    new["rows"] = [row for row in new["rows"] if row["variant"] != "pytorch"]
    found = list(latency._run("model cpu", old, new, 0.05))
    text = "no PyTorch reference in both runs, and another machine"
    assert [(item.verdict, item.text) for item in found] == [("not compared", text)] * 2


def test_a_record_that_is_not_there_is_said(tmp_path):
    old, new = Run().write(tmp_path / "old"), Run().write(tmp_path / "new")
    (new / f"latency/{MODEL}/cpu.json").unlink()
    (new / f"scenarios/{MODEL}/cpu.json").unlink()
    text = f"{{0}}/{MODEL}/cpu.json {{1}}is not in {new}"
    assert [item.text for item in compare(old, new)] == [
        text.format("latency", "with the samples "),
        text.format("scenarios", ""),
    ]
    (found,) = compare(new, old)
    assert found.text == text.format("latency", "with the samples ")
