"""A results folder beside a copy of it in which one thing was changed."""

import copy
import json
import random

import pytest
from typer.testing import CliRunner

from colport import cli, tables
from colport.artifacts import write_json
from colport.compare import compare, latency, repeatability

MODEL, FP32, INT8 = "model", "fp32", "int8"
QUERIES = [f"q{number:02d}" for number in range(40)]
ENVIRONMENT = {
    "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
    **{"cpu": "a cpu", "cores": 2, "memory_mb": 1000, "gpu": None},
}


def row(stage: str, **values):
    return {**dict.fromkeys(tables.COLUMNS[stage]), "status": "ok", "reason": "", **values}


def rounds(milliseconds: float, seed: int, number: int = 5) -> list[list[int]]:
    generator = random.Random(seed)
    return [
        [int(milliseconds * 1e6 * generator.uniform(0.99, 1.01)) for _ in range(6)]
        for _ in range(number)
    ]


class Run:
    """Records of PyTorch and two variants; a test changes them, then writes the folder."""

    def __init__(self) -> None:
        place = {"model": MODEL, "provider": "cpu"}
        reference = {"model": MODEL, "variant": "pytorch", "provider": "torch-cpu"}
        self.export = {
            variant: {
                "rows": [
                    row(
                        "export",
                        **{"model": MODEL, "variant": variant, "graph": "text", "seconds": 20.0},
                        **{"size_bytes": size, "folder_bytes": size, "peak_rss_mb": 1000.0},
                    )
                ],
                "environment": ENVIRONMENT,
            }
            for variant, size in ((FP32, 80_000_000), (INT8, 20_000_000))
        }
        self.parity = {
            variant: {
                "rows": [
                    row(
                        "parity",
                        **{**place, "variant": variant, "kind": kind, "passed": True},
                        **{"inputs": 48, "tokens": 1536, "tolerance": "min_cosine>=0.9"},
                        **{"min_cosine": cosine, "mean_cosine": cosine},
                    )
                    for kind in ("query", "document")
                ]
            }
            for variant, cosine in ((FP32, 0.9999999), (INT8, 0.98))
        }
        values = {query: 1.0 if index % 4 else 0.5 for index, query in enumerate(QUERIES)}
        self.retrieval = {
            (variant, provider): {
                "rows": [
                    row(
                        "retrieval",
                        **{**place, "variant": variant, "provider": provider, "dataset": "pages"},
                        **{"queries": 40, "documents": 40, "ndcg_at_5": 0.875},
                        **{"ndcg_at_5_low": 0.8, "ndcg_at_5_high": 0.93},
                    )
                ],
                "per_query": {"ndcg_at_5": dict(values)},
            }
            for variant, provider in (("pytorch", "torch-cpu"), (FP32, "cpu"), (INT8, "cpu"))
        }
        figures = {"kind": "query", "batch_size": 1, "tokens": 32.0, "image_size": ""}
        contenders = [(reference, 40.0), *(({**place, "variant": v}, 20.0) for v in (FP32, INT8))]
        self.latency = {
            "rows": [
                row("latency", **{**owner, **figures, "peak_rss_mb": 500.0})
                for owner, _ in contenders
            ],
            "samples": [
                {**owner, "kind": "query", "batch_size": 1, "rounds_ns": rounds(ms, index)}
                for index, (owner, ms) in enumerate(contenders)
            ],
            "settings": {"threads": 2},
            "environment": copy.deepcopy(ENVIRONMENT),
            "noise": {"noisy": False, "reasons": []},
        }
        self.dataset = {"query_ids": QUERIES, "qrels": {query: {"d": 1} for query in QUERIES}}

    def write(self, folder, records=True):
        stages = {
            "export": list(self.export.values()),
            "parity": list(self.parity.values()),
            "retrieval": list(self.retrieval.values()),
            "latency": [self.latency],
        }
        tables.write_tables(tables.build(stages), folder / "tables")
        if records:
            for variant, record in self.export.items():
                write_json(folder / f"export/{MODEL}/{variant}.json", record)
            for (variant, provider), record in self.retrieval.items():
                parts = [variant] if variant == "pytorch" else [variant, provider]
                write_json(folder.joinpath("retrieval", MODEL, *parts, "pages.json"), record)
            write_json(folder / f"latency/{MODEL}/cpu.json", self.latency)
            write_json(folder / "datasets/pages.json", self.dataset)
        return folder

    def slow_down(self, index: int, factor: float) -> None:
        sample = self.latency["samples"][index]
        sample["rounds_ns"] = [[int(ns * factor) for ns in one] for one in sample["rounds_ns"]]


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return Run().write(tmp_path_factory.mktemp("old"))


@pytest.fixture
def found(old, tmp_path):
    """Findings after one change, as (group, verdict, place)."""

    def after(change, **options):
        run = Run()
        change(run)
        findings = compare(old, run.write(tmp_path / "new"), **options)
        return [(item.group, item.verdict, item.place) for item in findings], findings

    return after


def test_the_same_run_has_no_findings(found):
    assert found(lambda run: None)[0] == []


def test_rounding_and_growth_below_the_thresholds_are_noise(found):
    def change(run):
        run.export[FP32]["rows"][0] |= {"folder_bytes": 80_700_000, "seconds": 23.9}
        run.parity[FP32]["rows"][0]["min_cosine"] = 0.999998
        run.parity[INT8]["rows"][0]["min_cosine"] = 0.979
        run.slow_down(2, 1.04)

    assert found(change)[0] == []


def test_a_slower_variant_is_worse_and_the_worst_comes_first(found):
    def change(run):
        run.slow_down(1, 1.2)
        run.slow_down(2, 2.0)

    places, findings = found(change)
    assert places == [
        ("latency", "worse", "model int8 cpu query x1"),
        ("latency", "worse", "model fp32 cpu query x1"),
    ]
    assert findings[0].old == pytest.approx(2.0, rel=0.02)
    assert findings[0].new == pytest.approx(1.0, rel=0.02)
    assert ", 20 -> 40" in findings[0].text
    assert found(change, threshold=0.5)[0] == places[:1]


def test_a_faster_variant_is_better(found):
    assert found(lambda run: run.slow_down(1, 0.5))[0] == [
        ("latency", "better", "model fp32 cpu query x1")
    ]


def test_a_slower_machine_is_no_regression(found):
    def change(run):
        for index in range(3):
            run.slow_down(index, 3.0)
        run.latency["environment"]["cpu"] = "another"

    assert found(change)[0] == []


def test_a_wide_spread_hides_a_small_change(found):
    def change(run):
        sample = run.latency["samples"][1]
        for one, factor in zip(sample["rounds_ns"], (0.9, 1.0, 1.1, 1.2, 1.5), strict=True):
            one[:] = [int(ns * factor) for ns in one]

    places, findings = found(change)
    assert places == [("latency", "undecided", "model cpu")]
    assert "1 moved by more than 5%" in findings[0].text
    assert "model fp32 cpu query x1 speed-up 2 " in findings[0].text


def test_another_baseline_falls_back_to_milliseconds_on_the_same_machine(found):
    def change(run):
        run.latency["environment"]["packages"]["torch"] = "2.14.0"
        run.slow_down(0, 0.5)
        run.slow_down(2, 1.5)

    places, findings = found(change)
    assert places == [
        ("latency", "worse", "model int8 cpu query x1"),
        ("latency", "not compared", "model cpu"),
        ("latency", "better", "model pytorch torch-cpu query x1"),
    ]
    assert "torch 2.13.0 -> 2.14.0" in findings[1].text
    assert findings[0].text.endswith(" ms")


def test_another_baseline_on_another_machine_is_not_compared(found):
    def change(run):
        run.latency["environment"]["packages"]["torch"] = "2.14.0"
        run.latency["environment"]["cpu"] = "another"
        run.slow_down(2, 5.0)

    assert found(change)[0] == [("latency", "not compared", "model cpu")]


def test_other_threads_are_not_compared(found):
    def change(run):
        run.latency["settings"] = {"threads": 4}
        run.slow_down(2, 5.0)

    assert found(change)[0] == [("latency", "not compared", "model cpu")]


def test_few_rounds_are_not_compared(found):
    def change(run):
        run.slow_down(1, 5.0)
        run.latency["samples"][1]["rounds_ns"][2:] = [[], [], []]

    places, findings = found(change)
    assert places == [("latency", "not compared", "model fp32 cpu query x1")]
    assert "2 rounds" in findings[0].text


def test_noise_is_said_beside_a_change(found):
    def change(run):
        run.latency["noise"]["noisy"] = True
        run.slow_down(1, 2.0)

    assert found(change)[1][0].text.endswith("noisy machine in the new run")


def test_intervals_hold_the_median():
    assert latency.median_interval([1, 2, 3, 4]) is None
    five = latency.median_interval([5, 1, 3, 2, 4])
    assert (five.low, five.median, five.high) == (1, 3, 5)
    # P(B <= 2) is 0.0107 on each side for 11 rounds, P(B <= 3) would be 0.113 on both.
    eleven = latency.median_interval(list(range(1, 12)))
    assert (eleven.low, eleven.median, eleven.high) == (3, 6, 9)


def test_interval_coverage_by_simulation():
    generator = random.Random(0)
    inside = 0
    for _ in range(2000):
        interval = latency.median_interval([generator.expovariate(1.0) for _ in range(7)])
        inside += interval.low <= 0.6931 <= interval.high
    assert inside / 2000 > latency.COVERAGE - 0.02


def test_parity_that_fails_and_cosines_that_fall_are_worse(found):
    def change(run):
        run.parity[INT8]["rows"][0] |= {"passed": False, "min_cosine": 0.85}

    places, findings = found(change)
    assert places == [("parity", "worse", "model int8 cpu query")] * 2
    assert [item.figure for item in findings] == ["passed", "min_cosine"]


def test_parity_of_other_inputs_is_not_compared(found):
    def change(run):
        run.parity[INT8]["rows"][0] |= {"inputs": 10, "min_cosine": 0.5}

    assert found(change)[0] == [("parity", "not compared", "model int8 cpu query")]


def lower(run, queries: int) -> None:
    record = run.retrieval[INT8, "cpu"]
    values = record["per_query"]["ndcg_at_5"]
    for query in QUERIES[:queries]:
        values[query] -= 0.4
    record["rows"][0]["ndcg_at_5"] = sum(values.values()) / len(values)


def test_retrieval_is_tested_over_the_same_queries(found):
    assert found(lambda run: lower(run, 1))[0] == []
    places, findings = found(lambda run: lower(run, 12))
    assert places == [("retrieval", "worse", "model int8 cpu pages")]
    assert "0.8750 -> 0.7550 (p 0.0" in findings[0].text


def test_smaller_forms_of_embeddings_are_rows_of_their_own(found):
    with_form(run := Run())
    assert run.retrieval[INT8, "cpu"]["rows"][1]["embeddings"] == "pooled"

    def change(run):
        with_form(run)
        record = run.retrieval[INT8, "cpu"]
        record["rows"][0]["embeddings"] = "full"
        record["rows"][1]["bytes_per_document"] = 100.0

    assert found(change)[0] == [("rows", "new", "model int8 cpu")]


def test_a_form_is_tested_by_its_own_queries(tmp_path):
    paths = []
    for name, size, loss in (("a", 100.0, 0.0), ("b", 130.0, 0.4)):
        with_form(run := Run())
        record = run.retrieval[INT8, "cpu"]
        values = record["forms"]["pooled"]["per_query"]["ndcg_at_5"]
        record["forms"]["pooled"]["per_query"]["ndcg_at_5"] = {
            query: value - loss for query, value in values.items()
        }
        record["rows"][1] |= {"ndcg_at_5": 0.875 - loss, "bytes_per_document": size}
        paths.append(run.write(tmp_path / name))
    assert [(item.group, item.place) for item in compare(*paths)] == [
        ("retrieval", "model int8 cpu pages pooled"),
        ("size", "model int8 cpu pages pooled"),
    ]


def with_form(run) -> None:
    record = run.retrieval[INT8, "cpu"]
    record["rows"].append({**record["rows"][0], "embeddings": "pooled"})
    record["forms"] = {"pooled": {"per_query": copy.deepcopy(record["per_query"])}}


def test_another_dataset_is_not_compared(found):
    def change(run):
        run.dataset["qrels"]["q00"] = {"other": 1}
        lower(run, 12)

    assert found(change)[0] == [("retrieval", "not compared", "dataset pages")]


def test_other_queries_are_not_compared(found):
    def change(run):
        del run.retrieval[INT8, "cpu"]["per_query"]["ndcg_at_5"]["q00"]

    assert found(change)[0] == [("retrieval", "not compared", "model int8 cpu pages")]


def test_tables_alone_are_compared_by_their_intervals(old, tmp_path):
    run = Run()
    run.slow_down(1, 5.0)
    run.retrieval[INT8, "cpu"]["rows"][0] |= {
        **{"ndcg_at_5": 0.6, "ndcg_at_5_low": 0.5, "ndcg_at_5_high": 0.7}
    }
    findings = compare(old, run.write(tmp_path / "new", records=False))
    assert [(item.group, item.verdict) for item in findings] == [
        ("retrieval", "worse"),
        ("latency", "not compared"),
        ("export", "not compared"),
    ]


def test_tables_without_intervals_are_not_compared(old, tmp_path):
    run = Run()
    run.retrieval[INT8, "cpu"]["rows"][0] |= {"ndcg_at_5_low": None, "ndcg_at_5_high": None}
    findings = compare(old, run.write(tmp_path / "new", records=False))
    assert ("retrieval", "not compared") in [(item.group, item.verdict) for item in findings]


def test_rankings_without_judgements_are_compared_by_their_overlap(old, tmp_path):
    paths = []
    for name, overlap in (("a", 1.0), ("b", 0.9)):
        run = Run()
        for record in run.retrieval.values():
            record["rows"][0] |= {"ndcg_at_5": None, "top10_overlap": 1.0}
            record["per_query"]["ndcg_at_5"] = {}
        run.retrieval[INT8, "cpu"]["rows"][0]["top10_overlap"] = overlap
        paths.append(run.write(tmp_path / name))
    (finding,) = compare(*paths)
    assert (finding.verdict, finding.figure) == ("worse", "top10_overlap")


def test_size_time_and_memory(found):
    def change(run):
        run.export[FP32]["rows"][0] |= {"folder_bytes": 82_000_000, "seconds": 30.0}
        run.export[INT8]["rows"][0]["peak_rss_mb"] = 1500.0
        run.latency["rows"][1]["peak_rss_mb"] = 700.0

    assert found(change)[0] == [
        ("latency", "worse", "model fp32 cpu"),
        ("size", "worse", "model fp32"),
        ("export", "worse", "model fp32 text"),
        ("export", "worse", "model int8 text"),
    ]


def test_rows_that_vanish_fail_or_appear(found):
    def change(run):
        run.parity[INT8]["rows"].pop()
        run.parity[FP32]["rows"][0] |= {"status": "failed", "reason": "it broke"}
        extra = copy.deepcopy(run.parity[FP32]["rows"][1])
        run.parity[FP32]["rows"].append({**extra, "provider": "cuda"})

    places, findings = found(change)
    assert places == [
        ("rows", "worse", "model fp32 cpu query"),
        ("rows", "worse", "model int8 cpu"),
        ("rows", "new", "model fp32 cuda"),
    ]
    assert [item.text for item in findings] == [
        "parity ok -> failed (it broke)",
        "vanished: 1 parity row",
        "new: 1 parity row",
    ]


def test_peers_may_come_and_go(tmp_path):
    run = Run()
    for row in list(run.export[INT8]["rows"]):
        run.export[INT8]["rows"].append({**row, "variant": "peer-optimum"})
    paths = run.write(tmp_path / "old"), Run().write(tmp_path / "new")
    assert compare(*paths) == []


def test_a_row_without_figures_may_vanish(old, tmp_path):
    run = Run()
    run.parity[FP32]["rows"].append(
        row("parity", model=MODEL, variant=FP32, provider="cuda", status="unsupported")
    )
    assert compare(run.write(tmp_path / "with"), old) == []


def command(*arguments):
    return CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])


def test_the_command_ends_with_1_when_something_is_worse(old, tmp_path):
    run = Run()
    run.slow_down(1, 2.0)
    new = run.write(tmp_path / "new")
    done = command(old, new, "--json", tmp_path / "out.json")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0] == "latency"
    assert done.stdout.splitlines()[-1] == "1 worse"
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["worse"] == 1
    assert record["findings"][0]["place"] == "model fp32 cpu query x1"
    assert command(old, new, "--threshold", 2).exit_code == 0


def test_the_command_prints_markdown(old, tmp_path):
    run = Run()
    run.export[FP32]["rows"][0]["folder_bytes"] = 90_000_000
    done = command(old, run.write(tmp_path / "new"), "--markdown")
    assert done.stdout.splitlines()[0] == "**1 worse**"
    assert "| size | worse | model fp32 | 80.00 MB -> 90.00 MB (+12.5%) |" in done.stdout


def test_the_command_ends_with_0_when_nothing_is_worse(old):
    done = command(old, old)
    assert (done.exit_code, done.stdout) == (0, "nothing differs beyond noise\n")


def test_what_cannot_be_read_ends_with_2_and_one_sentence(old, tmp_path):
    done = command(old, tmp_path)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path}/tables/export.csv" in done.stderr
    new = Run().write(tmp_path / "new")
    file = new / f"latency/{MODEL}/cpu.json"
    file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    done = command(old, new)
    assert (done.exit_code, "schema_version is 2" in done.stderr) == (2, True)
    assert str(file) in done.stderr
    assert command(old).exit_code == 2


def test_how_well_a_run_repeats_is_said(tmp_path):
    folders = []
    for name, factors in (("first", (1.0, 1.0)), ("second", (1.1, 0.5))):
        run = Run()
        for row in run.latency["rows"]:
            row["speedup_vs_pytorch"] = None
        variants = [row for row in run.latency["rows"] if row["variant"] != "pytorch"]
        for row, factor in zip(variants[:2], factors, strict=True):
            row["speedup_vs_pytorch"] = 2.0 * factor
        folders.append(run.write(tmp_path / name))
    repeated = repeatability(*folders)
    assert (repeated.rows, repeated.largest) == (2, pytest.approx(1.0))
    assert repeated.median == pytest.approx(0.55)
    assert "2 rows differ by 55.0% at the median, 100.0% at most" in command(*folders).stdout
