"""The parts of a report's sections and of the tables behind them, with two of each place."""

import pandas as pd
import pytest

from colport.base.columns import TABLES
from colport.base.errors import ArtifactError
from colport.report import Report
from colport.report import formatting as fmt
from colport.report.charts.marks import Legend
from colport.report.section import MAX_MODELS, Material, delta_note, drawn, namer
from colport.report.sections import (
    advice,
    losses,
    machine,
    matches,
    problems,
    quality,
    run_cost,
    scenarios,
    speed,
    views,
)
from colport.tables import COLUMNS, _typed_column, further, typed


def table(name, *rows):
    plain = {**dict.fromkeys(COLUMNS[name]), "status": "ok", "reason": ""}
    return pd.DataFrame([{**plain, **row} for row in rows])


@pytest.mark.parametrize(
    ("delta", "p_value", "note"),
    [
        (-0.1, 0.05, "loss"),
        (0.1, 0.05, "gain"),
        (0.0, 0.01, ""),
        (-0.1, 0.051, "within noise"),
        (None, 0.01, ""),
        (-0.1, None, ""),
    ],
)
def test_what_a_difference_means(delta, p_value, note):
    assert delta_note(delta, p_value) == note


def test_a_provider_is_named_where_there_are_several():
    one = pd.DataFrame({"provider": ["cpu", "cpu"]})
    two = pd.DataFrame({"provider": ["cpu", "cuda"]})
    assert namer(one)("fp32", "cpu") == "fp32"
    assert namer(two)("fp32", "cpu") == f"fp32 on {fmt.provider('cpu')}"
    assert namer(two, ", ")("int8", "cuda") == f"int8, {fmt.provider('cuda')}"


def test_models_are_drawn_in_the_order_of_the_summary():
    names = [f"m{number}" for number in range(MAX_MODELS + 2)]
    material = Material({"summary": table("summary", *({"model": name} for name in names[1:]))})
    first = pd.DataFrame({"model": ["m3", "m2"]})
    second = pd.DataFrame({"model": [*names[4:], "m3", "m0"]})
    asked = []

    def charts(number, model, one, two):
        asked.append((number, model, len(one), len(two)))
        return [model, None]

    found = drawn(material, [first, second], charts)
    order = [*names[2:], "m0"][:MAX_MODELS]
    assert list(found["groups"].items()) == [(name, [name]) for name in order]
    assert found["further"] == len(names) - 1 - MAX_MODELS
    assert asked[:3] == [(0, "m2", 1, 0), (1, "m3", 1, 1), (2, "m4", 0, 1)]
    assert drawn(material, [first], lambda *_: [None]) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.234, "1.23 s"),
        (59.9, "59.9 s"),
        (60, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (7384, "2 h 3 min"),
    ],
)
def test_durations(seconds, text):
    assert run_cost._duration(seconds) == text


def test_the_cost_of_each_stage():
    rows = [
        {"stage": stage, "job": str(index), "seconds": seconds, "peak_rss_mb": memory}
        for index, (stage, seconds, memory) in enumerate(
            [("score", 5.0, 100.0), ("export", 9.0, 300.0), ("export", 8.0, 400.0)]
        )
    ]
    found = run_cost.section(Material({"stages": pd.DataFrame(rows)}))
    shown = found["groups"][""][0].table.raw
    assert [list(map(str, row)) for row in shown] == [
        ["export", "2", "17", "9", "400"],
        ["score", "1", "5", "5", "100"],
    ]
    assert run_cost._figure({"seconds": 5.0, "jobs": 1}).endswith(" in 1 job")
    assert run_cost._figure({"seconds": 5.0, "jobs": 2}).endswith(" in 2 jobs")


def figure(*similarities, page="12345"):
    roles = ["prompt", "query", "augmentation"]
    contenders = [
        {"similarities": list(similarities), "pictures": ["abc", "de"], "change": None},
        {"similarities": [9.0] * 3, "pictures": ["f"], "change": "ghij"},
    ]
    return {"tokens": [{"role": role} for role in roles], "contenders": contenders, "page": page}


def test_figures_are_counted_by_all_their_pictures(monkeypatch):
    assert matches._bytes_of(figure(1, 2, 4)) == 5 + 3 + 2 + 1 + 4
    assert matches._added(figure(1.0, 2.0, 4.0)) == 5.0
    monkeypatch.setattr(matches, "_MAX_BYTES", 30)
    records = [
        {"figures": [figure(1, 2, 4)], "left_out": [], "reason": ""},
        {"figures": [figure(1, 2, 4)] * 2, "left_out": [], "reason": ""},
        {"figures": [], "left_out": [], "reason": "why"},
        {"figures": [], "left_out": ["it"], "reason": ""},
        {"figures": [], "left_out": [], "reason": ""},
    ]
    found = matches.section(Material({}, explained=records))
    assert [len(record["figures"]) for record in found["records"]] == [1, 1, 0, 0]
    assert found["further"] == 1
    assert found["records"][0]["figures"][0]["added"] == 5


def test_one_point_for_providers_at_the_same_place():
    marks = Legend(["fp32", "int8"])

    def point(variant, provider, x, y, **changes):
        label = f"{variant}, {provider}"
        fields = {"label": label, "row": 0, "mark": marks[variant], "sound": True, "chosen": False}
        return quality.Point(x=x, y=y, **{**fields, **changes})

    points = [
        point("fp32", "CPU", 8.0, 0.8001),
        point("fp32", "CUDA", 8.0, 0.8004, chosen=True, row=1),
        point("int8", "CPU", 8.0, 0.8001),
        point("fp32", "CPU", 8.0, 0.801),
        point("fp32", "CPU", 8.0, 0.8001, sound=False),
    ]
    found = quality._merged(points)
    assert [(one.label, one.row, one.chosen) for one in found] == [
        ("fp32", 1, True),
        ("int8, CPU", 0, False),
        ("fp32, CPU", 0, False),
        ("fp32, CPU", 0, False),
    ]
    again = quality._labelled_once([*points[:2], point("fp32", "CPU", 1.0, 0.9, sound=False)])
    assert [one.label for one in again] == ["fp32, CPU", "fp32, CUDA", ""]


@pytest.mark.parametrize(
    ("size", "largest", "share"),
    [(50.0, 200.0, " (25%)"), (0.2, 0.8, " (25%)"), (200.0, 200.0, ""), (0.0, 0.0, "")],
)
def test_a_size_as_a_share_of_the_largest(size, largest, share):
    assert quality._size_words(size, largest) == fmt.size_mb(size) + share


def test_errors_that_each_variant_s_tolerance_allows():
    rows = table(
        "parity",
        {"model": "m", "variant": "fp32", "tolerance": "max_abs_diff<=0.1, min_cosine>=0.999"},
        {"model": "m", "variant": "int8", "tolerance": "min_cosine>=0.9"},
        {"model": "m", "variant": "static", "tolerance": "none"},
        {"model": "n", "variant": "int8", "tolerance": "min_cosine>=0.5"},
    )
    found = losses._limits(rows, "m")
    assert found == pytest.approx({"fp32": 0.001, "int8": 0.1})


def test_a_range_of_rounds_or_the_ratio_itself():
    row = {"speedup_vs_pytorch": 2.0, "speedup_low": 1.5, "speedup_high": 2.5}
    assert speed._range(row) == (1.5, 2.5)
    for missing in ({"speedup_low": None}, {"speedup_high": None}, {"speedup_low": 0.0}):
        assert speed._range({**row, **missing}) == (2.0, 2.0)


def test_speed_ups_of_each_kind_that_was_measured():
    place = {"variant": "int8", "provider": "cpu", "batch_size": 1, "speedup_vs_pytorch": 2.0}
    place |= {"p50_ms": 1.0, "speedup_low": 1.5, "speedup_high": 2.5, "samples": 5}
    rows = table(
        "latency",
        {**place, "model": "m", "kind": "query"},
        {**place, "model": "m", "kind": "document"},
        {**place, "model": "n", "kind": "query"},
        {**place, "model": "o", "kind": "query", "status": "failed"},
        {**place, "model": "o", "kind": "query", "variant": "pytorch"},
        {**place, "model": "o", "kind": "query", "speedup_vs_pytorch": None},
    )
    summary = table("summary", {"model": "m", "variant": "int8"})
    found = speed.section(Material({"latency": rows, "summary": summary}))
    captions = {
        name: [chart.caption for chart in charts] for name, charts in found["groups"].items()
    }
    assert captions == {
        "m": ["Speed-up on documents by batch size", "Speed-up on queries by batch size"],
        "n": ["Speed-up on queries by batch size"],
    }


def test_rows_that_stand_for_a_scenario():
    rows = pd.DataFrame(
        {
            "best": [True, False, None, False],
            "status": ["ok", "ok", "ok", "failed"],
            "number": [0, 1, 2, 3],
        }
    )
    assert scenarios.shown_rows(rows)["number"].tolist() == [0, 3]


@pytest.mark.parametrize(
    ("row", "css"),
    [
        ({"recommended": True, "status": "failed"}, "chosen"),
        ({"recommended": None, "status": "failed"}, "failed"),
        ({"passed": False}, "failed"),
        ({"parity_passed": False, "variant": "pytorch"}, "failed"),
        ({"parity_passed": None, "status": "unsupported"}, "unsupported"),
        ({"variant": "pytorch"}, "reference"),
        ({"variant": "peer-optimum"}, "reference"),
        ({"variant": "bm25", "model": "-"}, "reference"),
        ({"variant": "int8", "passed": True, "recommended": False}, ""),
    ],
)
def test_the_class_of_a_row(row, css):
    from colport.base.names import CONTROL

    row = {key: CONTROL if value == "-" else value for key, value in row.items()}
    assert views._row_class(row) == css


@pytest.mark.parametrize(
    ("label", "value", "found"),
    [
        ("passed", True, ("passed", "", "good")),
        ("parity_passed", False, ("✕ failed", "", "bad")),
        ("passed", None, ("text", "", "")),
        ("recommended", True, ("✓ ship", "", "good")),
        ("recommended", False, ("", "", "")),
        ("status", "failed", ("✕ failed", "", "bad")),
        ("status", "unsupported", ("○ unsupported", "", "")),
        ("status", "ok", ("text", "", "")),
        ("judgement", "worse", ("text", "", "bad")),
        ("judgement", "better", ("text", "", "good")),
        ("judgement", "undecided", ("text", "", "")),
        ("ndcg_at_5_delta", -0.1, ("text", "loss", "bad")),
        ("ndcg_at_5_delta", 0.1, ("text", "gain", "")),
        ("p50_ms", 0.1, ("text", "", "")),
    ],
)
def test_the_mark_of_a_cell(label, value, found):
    assert views._marked(label, {label: value, "p_value": 0.01}, "text") == found


def test_long_names_are_marked_where_they_head_a_row():
    row = {"model": "x", "reason": "x"}
    assert views._cell("model", row, "x" * 24, "") == ("x" * 24, "", "", True)
    assert views._cell("model", row, "x" * 25, "a") == ("x" * 25, "", "a name", True)
    assert views._cell("reason", row, "x" * 25, "a") == ("x" * 25, "", "a", False)


def test_the_same_reason_is_told_once_and_failures_first():
    place = {"model": "m", "variant": "v", "provider": "CPUExecutionProvider"}
    limit = {**place, "status": "unsupported", "reason": "a limit"}
    tables = {
        "export": table("export", {**limit, "provider": None}),
        "parity": table("parity", {**place, "kind": "query"}, {**limit, "kind": "query"}),
        "retrieval": table("retrieval", {**limit, "dataset": "d"}),
        "latency": table(
            "latency",
            {**place, "status": "failed", "reason": "it broke", "kind": "query"},
            {**place, "status": "failed", "reason": "it broke", "kind": "document"},
            {**place, "status": "failed", "reason": "it broke", "variant": "w", "kind": "query"},
        ),
        "scenarios": table("latency").reindex(columns=["status", "reason"]),
    }
    failed, limited = problems.find_problems(tables)
    cpu = "CPU"
    assert failed == {
        **{"status": "failed", "reason": "it broke", "rows": 3},
        "facts": {
            **{"stage": ["latency"], "model": ["m"], "variant": ["v", "w"], "provider": [cpu]},
            "kind": ["query", "document"],
        },
    }
    assert limited == {
        **{"status": "unsupported", "reason": "a limit", "rows": 3},
        "facts": {
            **{"stage": ["export", "parity", "retrieval"], "model": ["m"]},
            **{"variant": ["v"], "provider": [cpu]},
        },
    }


def test_a_machine_in_words():
    described = {
        **{"memory_mb": 30720, "gpu": None, "cores": 2, "caches": {"L1": "32 KiB", "L2": "1 MiB"}},
        **{"instructions": ["AVX2", "FMA"], "load_average": 1.5, "packages": {"b": "2", "a": "1"}},
        "provider_packages": {"cuda": {"a": "3"}},
    }
    rows = dict(machine._environment_rows(described))
    assert rows["Memory"] == "30.0 GiB"
    assert rows["GPU"] == "none"
    assert rows["Caches"] == "L1 32 KiB, L2 1 MiB"
    assert rows["Instructions"] == "AVX2, FMA"
    assert list(rows)[-1] == fmt.words("load_average")
    assert len(rows) == len(machine._LABELS) + 1
    assert machine._packages(described) == [("a", "1"), ("a (cuda)", "3"), ("b", "2")]


def test_what_a_row_is_chosen_for():
    row = {"best_for": "best quality, fastest", "recommended": True}
    assert advice._needs(pd.Series(row)) == ["fastest", "best quality"]
    assert advice._needs(pd.Series({**row, "best_for": ""})) == ["fastest"]
    assert advice._needs(pd.Series({"best_for": "", "recommended": False})) == []
    assert advice._needs(pd.Series({"best_for": "", "recommended": None})) == []


def test_reasons_are_told_by_provider_and_limits_last():
    rows = pd.DataFrame(
        [
            ("int4", "cuda", "unsupported: x"),
            ("pytorch", "torch-cpu", "reference"),
            ("int8", "cpu", "parity failed"),
            ("fp16", "cpu", "parity failed"),
            ("int8", "cuda", "parity failed"),
            ("bf16", "cpu", ""),
        ],
        columns=["variant", "provider", "verdict"],
    )
    cpu, cuda = fmt.provider("cpu"), fmt.provider("cuda")
    assert advice._reasons(rows) == [
        ("parity failed", [f"int8, fp16 on {cpu}", f"int8 on {cuda}"]),
        ("no verdict was recorded", [f"bf16 on {cpu}"]),
        ("unsupported: x", [f"int4 on {cuda}"]),
    ]


def test_the_worst_dataset_and_the_largest_folder():
    place = {"model": "m", "variant": "int8", "provider": "cpu"}
    row = pd.Series(place)
    rows = table(
        "retrieval",
        {**place, "dataset": "a", "ndcg_at_5_delta": -0.1, "p_value": 0.05},
        {**place, "dataset": "b", "ndcg_at_5_delta": -0.2, "p_value": 0.01},
        {**place, "dataset": "c", "ndcg_at_5_delta": -0.3, "p_value": 0.2},
        {**place, "dataset": "d", "ndcg_at_5_delta": 0.4, "p_value": 0.01},
        {**place, "dataset": "e", "ndcg_at_5_delta": -0.9, "p_value": 0.01, "provider": "cuda"},
    )
    assert advice._worst_dataset(row, rows)["dataset"] == "b"
    assert advice._worst_dataset(row, rows[:1]) is None
    assert advice._worst_dataset(row, rows[2:4]) is None
    assert advice._worst_dataset(row, rows.iloc[[0, 3, 4]])["dataset"] == "a"
    sizes = pd.DataFrame(
        {
            "variant": ["pytorch", "peer-x", "fp32", "int8", "fp16"],
            "size_mb": [99.0, 98.0, 10.0, None, 30.0],
        }
    )
    assert advice._largest(sizes)["variant"] == "fp16"
    assert advice._largest(sizes[:2]) is None


def test_forms_of_embeddings_are_means_over_datasets():
    place = {"model": "m", "variant": "int8", "provider": "cpu", "p_value": 1.0}
    rows = [
        {**place, "dataset": dataset, "embeddings": form, "ndcg_at_5": score}
        | {"bytes_per_document": size, "ndcg_at_5_delta": 0.0, "top10_overlap": 0.5}
        for form, size in (("full", 400.0), ("binary", 20.0))
        for dataset, score in (("a", 0.5), ("b", 1.0))
    ]
    rows.append({**rows[0], "variant": "fp32", "status": "failed"})
    found = further.embeddings(table("retrieval", *rows))
    shown = found[["variant", "embeddings", "bytes_per_document", "ndcg_at_5", "top10_overlap"]]
    assert shown.to_numpy().tolist() == [
        ["int8", "full", 400.0, 0.75, 0.5],
        ["int8", "binary", 20.0, 0.75, 0.5],
    ]
    assert further.embeddings(table("retrieval", rows[0])).empty


def test_jobs_of_two_files(tmp_path):
    header = "s\tcpu_time\tmax_rss\n"
    for name, line in (
        ("run/benchmarks/export/m/fp32.tsv", "1.5\t2\t30\n"),
        ("run/benchmarks/benchmarks/score/m.tsv", "3\t-\t-\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(header + line)
    found = further.stages(sorted(tmp_path.rglob("*.tsv"), reverse=True))
    assert found[["stage", "job", "seconds"]].to_numpy().tolist() == [
        ["export", "m/fp32", 1.5],
        ["score", "m", 3.0],
    ]
    assert found["cpu_seconds"].tolist()[0] == 2
    assert found[["cpu_seconds", "peak_rss_mb"]].iloc[1].isna().all()
    assert found["peak_rss_mb"].tolist()[0] == 30
    wrong = tmp_path / "wrong.tsv"
    wrong.write_text("s\tmax_rss\n1\t2\n")
    with pytest.raises(ArtifactError, match=r"wrong\.tsv: is not a benchmark of Snakemake's"):
        further.stages([wrong])


def test_types_of_columns_that_no_schema_knows():
    def kind(*values):
        return str(_typed_column("further", pd.Series(values, dtype=object)).dtype)

    assert kind(True, None) == "boolean"
    assert kind(1, 2.5) == "float64"
    assert kind(1, "x") == "object"
    assert kind(None, None) == "object"
    assert _typed_column("model", pd.Series([None, (2, 3), 1], dtype=object)).tolist() == [
        *("", "2x3"),
        "1",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((0.0123, "+0.012"), (-0.0004, "-0.0004"), (0.00004, "+0.00004"), (1.3e-13, "0.000")),
        *((0, "0.000"), (None, fmt.MISSING)),
    ],
)
def test_a_difference_is_not_rounded_to_none(value, shown):
    assert fmt.difference(value) == shown.replace("-", "\N{MINUS SIGN}")


def test_a_p_value_shows_on_which_side_of_significance_it_is():
    shown = [fmt.p_value(value) for value in (100 / 2001, 101 / 2001, 99 / 2001)]
    assert shown == ["0.0500", "0.0505", "0.049"]


@pytest.mark.parametrize(("highest", "said"), [(0.97, True), (1.2, False), (None, True)])
def test_slower_is_said_where_no_round_was_faster(highest, said):
    rows = typed(
        "summary",
        pd.DataFrame(
            [
                {
                    **dict.fromkeys(TABLES["summary"].all),
                    **{"model": "m", "variant": "fp32", "provider": "cpu", "recommended": True},
                    **{"document_speedup": 0.9, "document_speedup_high": highest},
                    **{"ndcg_at_5_delta": -0.0004, "p_value": 0.01},
                }
            ],
            dtype=object,
        ),
    )
    text = " ".join(Report({"summary": rows}, {}).html().split())
    assert ("which is slower on documents" in text) == said
    assert "it loses 0.04 points of NDCG@5" in text
