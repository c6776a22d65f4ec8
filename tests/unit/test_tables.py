from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from colport import tables
from colport.base.columns import TABLES
from colport.base.errors import ArtifactError
from colport.tables.summary import summary_table

MODEL = "colbert-small"


def row(name: str, **values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(tables.COLUMNS[name]), "status": "ok", "reason": "", **values}


class Run:
    """Leaf rows of one model: PyTorch, then variants with the figures a test is about."""

    def __init__(self, ndcg: float = 0.8, document_ms: float = 100.0) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("export", "parity", "retrieval", "latency")
        }
        self.ndcg, self.document_ms = ndcg, document_ms
        self._measure("pytorch", "torch-cpu", None, None, document_ms)

    def _measure(
        self, variant: str, provider: str, delta: float | None, p: float | None, ms: float
    ) -> None:
        place = {"model": MODEL, "variant": variant, "provider": provider}
        self.rows["retrieval"].append(
            row(
                "retrieval",
                **place,
                dataset="pages",
                queries=100,
                ndcg_at_5=self.ndcg + (delta or 0.0),
                ndcg_at_5_delta=delta,
                p_value=p,
            )
        )
        for kind, batch_size, scale in (
            ("document", 8, 6.0),
            ("document", 1, 1.0),
            ("query", 1, 0.1),
        ):
            self.rows["latency"].append(
                row(
                    "latency",
                    **place,
                    kind=kind,
                    batch_size=batch_size,
                    p50_ms=ms * scale,
                    speedup_vs_pytorch=self.document_ms / ms,
                )
            )

    def add(
        self,
        variant: str,
        ms: float,
        mb: float,
        delta: float = 0.0,
        p: float | None = 0.5,
        passed: bool | None = True,
        provider: str = "cpu",
    ) -> Run:
        for graph in ("text", "image"):
            self.rows["export"].append(
                row(
                    "export",
                    model=MODEL,
                    variant=variant,
                    graph=graph,
                    size_bytes=1000,
                    folder_bytes=int(mb * 1e6),
                )
            )
        for kind in ("query", "document"):
            self.rows["parity"].append(
                row(
                    "parity",
                    model=MODEL,
                    variant=variant,
                    provider=provider,
                    kind=kind,
                    passed=passed,
                )
            )
        self._measure(variant, provider, delta, p, ms)
        return self

    def tables(self) -> dict[str, pd.DataFrame]:
        return {name: tables.flatten(name, [{"rows": rows}]) for name, rows in self.rows.items()}

    def summary(self) -> pd.DataFrame:
        return summary_table(**self.tables())

    def recommended(self) -> list[str]:
        summary = self.summary()
        return list(summary.loc[summary["recommended"], "variant"])

    def verdict(self, variant: str) -> str:
        summary = self.summary().set_index("variant")
        return summary.loc[variant, "verdict"]


def test_flatten_keeps_order_and_puts_further_columns_last():
    first = {"rows": [row("parity", model="b", kind="query", passed=True, extra=1)], "raw": []}
    second = {"rows": [row("parity", model="a", kind="query")]}
    table = tables.flatten("parity", [first, second])
    assert tuple(table.columns) == (*tables.COLUMNS["parity"], "extra")
    assert list(table["model"]) == ["b", "a"]
    assert table["passed"].isna().tolist() == [False, True]


def test_full_rows_are_those_of_no_smaller_form():
    rows = [
        row("retrieval", model="m", embeddings="full"),
        row("retrieval", model="m", embeddings="binary"),
        row("retrieval", model="-", embeddings=None),  # a baseline
    ]
    table = tables.flatten("retrieval", [{"rows": rows}])
    assert list(tables.full_rows(table)["model"]) == ["m", "-"]
    without = tables.flatten("retrieval", [{"rows": [row("retrieval", model="m")]}])
    assert tables.full_rows(without) is without


@pytest.mark.parametrize("name", ["export", "parity", "retrieval", "latency"])
def test_no_records_give_an_empty_table_with_all_columns(name: str):
    table = tables.flatten(name, [])
    assert tuple(table.columns) == tables.COLUMNS[name]
    assert table.empty


def test_a_missing_column_is_named_with_its_place():
    broken = row("latency", model="m", variant="v", provider="p")
    del broken["p50_ms"]
    with pytest.raises(ArtifactError, match=r"latency record 1 \(m/v/p\).*p50_ms"):
        tables.flatten("latency", [{"rows": [broken]}])


def test_each_row_of_each_record_is_checked():
    whole = {"rows": [row("parity", model="a"), row("parity", model="b")]}
    for wrong in (0, 1):
        records = [whole, {"rows": [row("parity", model="c"), row("parity", model="d")]}]
        del records[1]["rows"][wrong]["tokens"]
        expected = rf"record 2 \({'cd'[wrong]}/.*misses the column\(s\) tokens"
        with pytest.raises(ArtifactError, match=expected):
            tables.flatten("parity", records)


def test_some_columns_of_a_table_are_read_alone(tmp_path):
    file = tmp_path / "parity.csv"
    file.write_text("model,variant,inputs\nm,v,1\n")
    assert tables.read_table(file, "variant", "inputs").to_dict("list") == {
        "variant": ["v"],
        "inputs": [1],
    }
    with pytest.raises(ArtifactError, match=r"misses the column\(s\) kind\.$"):
        tables.read_table(file, "variant", "kind")


def test_an_unknown_status_is_refused():
    with pytest.raises(ArtifactError, match="'broken'; allowed are ok, failed, unsupported"):
        tables.flatten("export", [{"rows": [row("export", model="m", status="broken")]}])


@pytest.mark.parametrize("record", [{}, {"rows": None}, {"rows": ["x"]}])
def test_a_record_without_rows_is_refused(record: dict[str, Any]):
    with pytest.raises(ArtifactError, match="export record 1"):
        tables.flatten("export", [record])


def test_a_row_that_is_no_dict_is_refused():
    with pytest.raises(ArtifactError, match="parity record 1: a row is list, not a dict"):
        tables.flatten("parity", [{"rows": [["colbert"]]}])


def test_a_value_that_is_no_number_is_refused():
    with pytest.raises(ArtifactError, match="column 'p50_ms'"):
        tables.flatten("latency", [{"rows": [row("latency", p50_ms="fast")]}])


def test_summary_takes_folder_bytes_smallest_batch_and_puts_pytorch_first():
    summary = Run().add("int8", ms=25, mb=30, delta=-0.004, p=0.4).summary()
    assert tuple(summary.columns) == TABLES["summary"].all
    assert list(summary["variant"]) == ["pytorch", "int8"]
    chosen = summary.iloc[1]
    assert chosen["size_mb"] == 30
    assert chosen["document_p50_ms"] == 25
    assert chosen["query_p50_ms"] == pytest.approx(2.5)
    assert chosen["document_speedup"] == 4
    assert chosen["ndcg_at_5"] == pytest.approx(0.796)
    assert chosen["p_value"] == pytest.approx(0.4)
    assert summary["recommended"].tolist() == [False, True]
    assert summary["parity_passed"].isna().tolist() == [True, False]
    assert math.isnan(summary["size_mb"][0])


def test_size_falls_back_to_the_sum_of_the_graphs():
    run = Run().add("fp32", ms=50, mb=1)
    for exported in run.rows["export"]:
        del exported["folder_bytes"]
    assert run.summary()["size_mb"][1] == pytest.approx(0.002)


def test_repeated_pytorch_rows_are_one_summary_row_with_their_median():
    run = Run().add("fp32", ms=50, mb=1)
    run._measure("pytorch", "torch-cpu", None, None, 120.0)
    run.rows["retrieval"].pop()
    summary = run.summary()
    assert len(summary) == 2
    assert summary["document_p50_ms"][0] == 110


def test_the_fastest_that_qualifies_is_recommended():
    run = Run().add("fp32", ms=60, mb=100).add("fp16", ms=50, mb=50).add("int8", ms=25, mb=25)
    assert run.recommended() == ["int8"]
    assert run.verdict("fp16").startswith("qualifies; a document takes 2 times")


def test_exactly_one_is_recommended_over_all_providers():
    run = Run().add("fp16", ms=50, mb=50).add("fp16", ms=5, mb=50, provider="cuda")
    summary = run.summary()
    assert summary.loc[summary["recommended"], "provider"].tolist() == ["cuda"]


def test_failed_parity_is_never_recommended():
    run = Run().add("fp32", ms=60, mb=100).add("int8", ms=25, mb=25, passed=False)
    assert run.recommended() == ["fp32"]
    assert run.verdict("int8") == "parity failed"


def test_parity_of_one_kind_only_is_not_enough():
    run = Run().add("fp32", ms=60, mb=100)
    run.rows["parity"].pop()
    assert run.recommended() == []
    assert pd.isna(run.summary()["parity_passed"][1])


@pytest.mark.parametrize(
    ("delta", "p", "qualifies"),
    [
        (-0.01, 0.001, True),
        (-0.011, 0.001, False),
        (-0.011, None, False),
        (-0.015, 0.3, True),
        (-0.015, 0.05, False),
        (-0.02, 0.3, True),
        (-0.021, 0.9, False),
        (0.03, 0.001, True),
    ],
)
def test_the_accepted_loss(delta: float, p: float | None, qualifies: bool):
    run = Run().add("int8", ms=25, mb=25, delta=delta, p=p)
    assert run.recommended() == (["int8"] if qualifies else [])
    if not qualifies:
        noise = p is not None and p > 0.05
        loss = f"{-100 * delta:.1f} points"
        words = f"NDCG@5 is {loss} lower (p = 0.9): within noise" if noise else f"loses {loss} of"
        assert run.verdict("int8").startswith(words)


def test_ties_go_to_the_smaller():
    run = Run().add("fp32", ms=50, mb=100).add("fp16", ms=50, mb=50)
    assert run.recommended() == ["fp16"]


def test_a_dominated_variant_is_not_recommended():
    # int8 beats fp16 in all three, but failed in one case of its own, so nothing is left.
    run = Run().add("fp16", ms=50, mb=50, delta=-0.002).add("int8", ms=25, mb=25, delta=0.0)
    run.rows["latency"][-1].update(status="failed", reason="out of memory")
    assert run.recommended() == []
    assert run.verdict("fp16") == "slower, larger and no better than int8 on cpu"
    assert run.verdict("int8") == "failed: out of memory"


def test_a_variant_that_failed_parity_dominates_nothing():
    run = Run().add("fp16", ms=50, mb=50, delta=-0.002)
    run.add("int8", ms=25, mb=25, delta=0.0, passed=False)
    assert run.recommended() == ["fp16"]


def test_slower_than_pytorch_may_still_be_the_one_to_ship():
    assert Run().add("fp32", ms=130, mb=100).recommended() == ["fp32"]


def test_further_ways_to_run_pytorch_are_no_candidates():
    run = Run().add("fp32", ms=60, mb=100)
    before = run.summary()
    place = {"model": MODEL, "variant": "pytorch-bf16", "provider": "torch-cpu"}
    for kind in ("query", "document"):
        run.rows["latency"].append(
            row("latency", **place, kind=kind, batch_size=1, p50_ms=1.0, speedup_vs_pytorch=100)
        )
    pd.testing.assert_frame_equal(run.summary(), before)


def test_a_limit_at_a_larger_batch_spares_the_smallest():
    run = Run().add("fp32", ms=60, mb=100)
    for item in run.rows["latency"]:
        if (item["variant"], item["batch_size"]) == ("fp32", 8):
            item.update(status="unsupported", reason="out of memory", p50_ms=None)
    assert run.recommended() == ["fp32"]
    for item in run.rows["latency"]:
        if (item["variant"], item["kind"]) == ("fp32", "document"):
            item.update(status="unsupported", reason="out of memory", p50_ms=None)
    assert run.recommended() == []
    assert run.verdict("fp32") == "unsupported: out of memory"


@pytest.mark.parametrize("stage", ["export", "parity", "retrieval", "latency"])
def test_a_stage_that_is_missing_rules_out(stage: str):
    run = Run().add("fp32", ms=60, mb=100)
    run.rows[stage] = [item for item in run.rows[stage] if item["variant"] == "pytorch"]
    assert run.recommended() == []


def test_an_unsupported_provider_keeps_its_row_and_reason():
    run = Run().add("fp32", ms=60, mb=100)
    reason = "CUDA is not on this machine."
    place = {"model": MODEL, "variant": "fp32", "provider": "cuda"}
    run.rows["latency"].append(
        row("latency", **place, kind="query", status="unsupported", reason=reason)
    )
    summary = run.summary()
    assert summary["provider"].tolist() == ["torch-cpu", "cpu", "cuda"]
    assert summary["status"].tolist() == ["ok", "ok", "unsupported"]
    assert summary["verdict"][2] == f"unsupported: {reason}"
    assert run.recommended() == ["fp32"]


def test_quality_is_missing_unless_every_dataset_is_there():
    run = Run().add("fp32", ms=60, mb=100)
    place = {"model": MODEL, "variant": "pytorch", "provider": "torch-cpu"}
    run.rows["retrieval"].append(row("retrieval", **place, dataset="more", ndcg_at_5=0.6))
    summary = run.summary()
    assert summary["ndcg_at_5"][0] == pytest.approx(0.7)
    assert math.isnan(summary["ndcg_at_5"][1])
    assert run.recommended() == []


def test_a_dataset_without_judgements_does_not_hide_the_quality_on_the_others():
    run = Run().add("fp32", ms=60, mb=100)
    for variant, provider in (("pytorch", "torch-cpu"), ("fp32", "cpu")):
        place = {"model": MODEL, "variant": variant, "provider": provider}
        run.rows["retrieval"].append(
            row("retrieval", **place, dataset="own", queries=9, reason="no judgements")
        )
    assert run.summary()["ndcg_at_5"].notna().all()
    assert run.recommended() == ["fp32"]
    run.rows["retrieval"] = [item for item in run.rows["retrieval"] if item["dataset"] == "own"]
    assert run.summary()["ndcg_at_5"].isna().all()
    assert run.recommended() == []


def test_the_interval_of_one_dataset_is_its_own():
    run = Run().add("fp32", ms=60, mb=100, delta=-0.02, p=0.04)
    ends = {"ndcg_at_5_delta_low": -0.05, "ndcg_at_5_delta_high": 0.02}
    run.rows["retrieval"][-1].update(ends)
    summary = run.summary()
    assert summary[list(ends)].iloc[1].tolist() == pytest.approx([-0.05, 0.02])
    assert summary[list(ends)].iloc[0].isna().all()
    for item in list(run.rows["retrieval"]):
        run.rows["retrieval"].append({**item, "dataset": "more"})
    assert run.summary()[[*ends, "p_value"]].isna().all(axis=None)  # their queries are not known


def test_models_are_judged_apart():
    first, second = Run().add("int8", ms=25, mb=25), Run().add("int8", ms=5, mb=5)
    for rows in second.rows.values():
        for item in rows:
            item["model"] = "other"
    both = {name: [{"rows": first.rows[name]}, {"rows": second.rows[name]}] for name in first.rows}
    summary = summary_table(**{name: tables.flatten(name, both[name]) for name in both})
    assert summary.groupby("model")["recommended"].sum().to_dict() == {MODEL: 1, "other": 1}


def test_empty_tables_give_an_empty_summary():
    empty = {name: tables.flatten(name, []) for name in tables.COLUMNS if name != "summary"}
    summary = summary_table(**empty)
    assert summary.empty
    assert tuple(summary.columns) == TABLES["summary"].all


def test_tables_survive_the_disk(tmp_path):
    run = Run().add("int8", ms=25, mb=25, delta=-1 / 300, p=0.25)
    run.rows["latency"][0].update(truncated=True, reason='a "quoted", long\nreason')
    run.rows["latency"][1].update(truncated=None)
    run.rows["parity"][0].update(model="NA")
    for one in run.rows["retrieval"]:
        one.update(dataset="0070")
    written = {**run.tables(), "summary": run.summary()}
    tables.write_tables(written, tmp_path)
    read = tables.read_tables(tmp_path)
    assert list(read) == list(tables.COLUMNS)
    for name, table in written.items():
        assert list(read[name].columns) == list(table.columns)
        assert tables.text_table(read[name]).equals(tables.text_table(table))
        known = list(tables.COLUMNS[name])
        assert read[name][known].dtypes.equals(table[known].dtypes)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".csv"] == []


def test_csv_cells(tmp_path):
    figures = {"p50_ms": 1 / 3, "mean_ms": 1234567.0, "batch_size": 1, "p99_ms": math.nan}
    table = tables.flatten("latency", [{"rows": [row("latency", **figures, truncated=False)]}])
    tables.write_tables({"latency": table}, tmp_path)
    header, line = (tmp_path / "latency.csv").read_text().splitlines()
    cells = dict(zip(header.split(","), line.split(","), strict=True))
    assert cells["p50_ms"] == "0.333333"
    assert cells["mean_ms"] == "1234567"
    assert cells["batch_size"] == "1"
    assert cells["p99_ms"] == ""
    assert cells["truncated"] == "false"


def test_reading_names_what_is_missing(tmp_path):
    with pytest.raises(ArtifactError, match=r"export\.csv: cannot be read"):
        tables.read_tables(tmp_path)
    for name in tables.COLUMNS:
        (tmp_path / f"{name}.csv").write_text("model\n")
    with pytest.raises(ArtifactError, match=r"export\.csv: misses the column\(s\) family"):
        tables.read_tables(tmp_path)
