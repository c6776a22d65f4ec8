"""The reduced default from nothing to the report; what a rerun does and does not repeat."""

import copy
import re

import pandas as pd
import pytest

from colport.base.files import read_json

from .conftest import REDUCED

PLACES = ("cpu", "tensorrt")
MODELS = {"minilm-colbert", "colpali-demo"}
CONTRACT = {
    "export": "model family variant graph opset parameters nodes size_bytes weight_files seconds "
    "peak_rss_mb status reason",
    "parity": "model variant provider kind inputs tokens max_abs_diff mean_cosine min_cosine "
    "top10_overlap tolerance passed status reason",
    "retrieval": "model variant provider dataset queries documents ndcg_at_1 ndcg_at_5 ndcg_at_10 "
    "recall_at_1 recall_at_5 recall_at_10 mrr_at_10 map ndcg_at_5_low ndcg_at_5_high "
    "ndcg_at_5_delta p_value status reason",
    "latency": "model variant provider kind batch_size tokens image_size p50_ms p90_ms p95_ms "
    "p99_ms mean_ms samples per_second load_ms peak_rss_mb speedup_vs_pytorch status reason",
    "summary": "model variant provider size_mb ndcg_at_5 ndcg_at_5_delta query_p50_ms "
    "document_p50_ms query_speedup document_speedup parity_passed recommended",
}


@pytest.fixture(scope="module")
def tables(finished):
    workspace, run = finished
    assert run.code == 0, run.output[-4000:]
    folder = workspace.folder / "results/tables"
    found = {name: pd.read_csv(folder / f"{name}.csv") for name in CONTRACT}
    forms = found["retrieval"]["embeddings"].fillna("full")
    return {
        **found,
        "retrieval": found["retrieval"][forms == "full"],
        "forms": found["retrieval"][forms != "full"],
    }


def test_tables_keep_the_contract(tables):
    for name, columns in CONTRACT.items():
        expected = columns.split()
        assert tables[name].columns.tolist()[: len(expected)] == expected
        baselines = {"-"} if name == "retrieval" else set()
        assert set(tables[name]["model"]) == MODELS | baselines


def test_every_variant_passes_parity_on_the_cpu(tables):
    parity = tables["parity"]
    cpu = parity[parity["provider"] == "cpu"]
    assert len(cpu) == 2 * 2 * 2
    assert set(cpu["status"]) == {"ok"}
    fp32 = cpu[cpu["variant"] == "fp32"]
    assert fp32["max_abs_diff"].max() <= 1e-4
    assert fp32["min_cosine"].min() >= 0.99999
    assert cpu[cpu["variant"] == "int8"]["max_abs_diff"].min() > 1e-4  # int8 is not fp32


def test_a_provider_that_is_absent_is_unsupported_everywhere(tables):
    for name in ("parity", "retrieval", "latency"):
        rows = tables[name][tables[name]["provider"] == "tensorrt"]
        assert set(rows["status"]) == {"unsupported"}
        assert rows["reason"].str.contains("TensorrtExecutionProvider is not in this").all()


def test_the_reference_is_good_and_fp32_equals_it(tables):
    retrieval = tables["retrieval"]
    reference = retrieval[retrieval["variant"] == "pytorch"]
    assert set(reference["provider"]) == {"torch-cpu"}
    pages = reference[reference["dataset"].str.startswith("demo-pages")]
    assert len(pages) == 2
    assert pages["ndcg_at_5"].min() >= 0.80
    assert pages[["queries", "documents"]].min().min() >= 100
    fp32 = retrieval[(retrieval["variant"] == "fp32") & (retrieval["provider"] == "cpu")]
    assert fp32["ndcg_at_5_delta"].abs().max() < 1e-6
    assert (reference["ndcg_at_5_low"] <= reference["ndcg_at_5"]).all()
    assert (reference["ndcg_at_5"] <= reference["ndcg_at_5_high"]).all()


def test_every_score_has_its_smaller_embeddings(tables):
    place = ["model", "variant", "provider", "dataset"]
    full = tables["retrieval"][tables["retrieval"]["bytes_per_document"].notna()].set_index(place)
    assert len(full) == 3 * 3  # datasets of models; PyTorch and two variants
    for _, rows in tables["forms"].groupby("embeddings"):
        form = rows.set_index(place)
        assert form.index.tolist() == full.index.tolist()
        assert (form["bytes_per_document"] < full["bytes_per_document"]).all()
    sizes = tables["forms"].pivot(index=place, columns="embeddings", values="bytes_per_document")
    ratios = sizes.div(full["bytes_per_document"], axis=0).mean()
    expected = {"float16": 1 / 2, "int8": 130 / 512, "binary": 1 / 32}
    expected |= {"pooled-3": 1 / 3, "pooled-3-binary": 1 / 96}
    assert ratios.to_dict() == pytest.approx(expected, rel=0.03)
    halves = tables["forms"][tables["forms"]["embeddings"] == "float16"].set_index(place)
    assert (halves["ndcg_at_5"] - full["ndcg_at_5"]).abs().max() < 0.01


def test_every_dataset_has_its_baselines(tables):
    retrieval = tables["retrieval"]
    controls = retrieval[retrieval["model"] == "-"].set_index(["variant", "dataset"])
    for dataset, rows in retrieval[retrieval["variant"] == "pytorch"].groupby("dataset"):
        floor = controls.loc[("shuffled", dataset)]
        assert floor["ndcg_at_5_high"] < rows["ndcg_at_5_low"].min()
        assert floor["recall_at_10"] == pytest.approx(10 / floor["documents"], abs=0.05)
    words = controls.loc[("bm25", "demo-passages")]
    assert words["status"] == "ok"
    assert words["ndcg_at_5"] > controls.loc[("shuffled", "demo-passages")]["ndcg_at_5_high"]
    drawn = controls.loc[("bm25", "demo-pages-qa")]
    assert (drawn["status"], drawn["reason"]) == (
        "unsupported",
        "The documents have no text layer.",
    )


def test_every_score_has_its_interval_and_every_query_its_row(finished, tables):
    folder = finished[0].folder / "results/tables"
    place = ["model", "variant", "provider", "dataset"]
    scored = tables["retrieval"][tables["retrieval"]["status"] == "ok"]
    intervals = pd.read_csv(folder / "retrieval_intervals.csv")
    assert len(intervals) == 9 * len(scored)
    assert (intervals["low"] <= intervals["mean"]).all()
    assert (intervals["mean"] <= intervals["high"]).all()
    queries = pd.read_csv(folder / "retrieval_queries.csv").groupby(place)["ndcg_at_5"].mean()
    expected = scored.set_index(place)["ndcg_at_5"]
    assert queries[expected.index].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-5)


def test_mteb_scores_the_same_folder_alike(finished):
    pytest.importorskip("mteb", reason="an extra of its own; make test installs it")
    workspace, _ = finished
    config = copy.deepcopy(REDUCED)
    config["retrieval"]["mteb"] = True
    targets = [f"results/mteb/minilm-colbert/fp32/{place}/demo-passages" for place in PLACES]
    run = workspace.snakemake(*targets, config=config)
    assert run.code == 0, run.output[-4000:]
    assert run.jobs == ["mteb", "mteb"]  # the switch reruns no score
    cpu, tensorrt = (
        read_json(workspace.folder / f"{target}.json")["rows"][0] for target in targets
    )
    assert cpu["mteb_ndcg_at_5"] == pytest.approx(cpu["ndcg_at_5"], abs=5.1e-6)
    assert (tensorrt["status"], tensorrt["mteb_ndcg_at_5"]) == ("unsupported", None)
    files = (workspace.folder / targets[0]).glob("results/*/*/*.json")
    assert {file.name for file in files} == {"demo-passages.json", "model_meta.json"}


def test_latency_has_its_baseline_in_the_same_run(tables):
    latency = tables["latency"]
    timed = latency[latency["status"] == "ok"]
    for _, rows in timed.groupby(["model", "kind", "batch_size"]):
        assert set(rows["variant"]) == {"pytorch", "fp32", "int8"}
        assert (rows["speedup_low"] <= rows["speedup_vs_pytorch"]).all()
        assert (rows["speedup_vs_pytorch"] <= rows["speedup_high"]).all()
        assert (rows["speedup_vs_pytorch"] == 1)[rows["variant"] == "pytorch"].all()
    assert timed["samples"].min() >= 3
    assert (timed["p50_ms"] <= timed["p99_ms"]).all()


def test_scenarios_have_their_baseline_in_the_same_run(finished):
    table = pd.read_csv(finished[0].folder / "results/tables/scenarios.csv")
    absent = table["provider"] == "tensorrt"
    assert set(table[absent]["status"]) == {"unsupported"}
    assert absent.sum() == 2 * 2 * 3 * 2
    places = ["model", "scenario", "kind"]
    assert len(table[~absent].groupby(places)) == 2 * 3 * 2
    for (_, scenario, _), rows in table[~absent].groupby(places):
        assert set(rows["variant"]) == {"pytorch", "fp32", "int8"}
        # A busy machine may let no server meet its target; its row then says so.
        assert set(rows["status"]) <= {"ok", *(["unsupported"] * (scenario == "server"))}
        if scenario == "server":
            assert rows["target_ms"].nunique() == 1


def test_weights_are_written_once_and_int8_is_smaller(tables):
    export = tables["export"]
    assert (export["status"] == "ok").all()
    sizes = export.groupby(["model", "variant"])["folder_bytes"].first().unstack()
    assert (sizes["int8"] < 0.7 * sizes["fp32"]).all()
    assert set(export[export["model"] == "colpali-demo"]["graph"]) == {"text", "image"}


def test_the_report_is_one_self_contained_page(finished):
    workspace, _ = finished
    page = (workspace.folder / "results/report.html").read_text()
    assert len(page) < 5_000_000
    for model in MODELS:
        assert model in page
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page)
    assert not re.search(r"url\([\"']?(?:https?:)?//", page)


def test_a_second_run_does_nothing(finished):
    workspace, _ = finished
    again = workspace.snakemake(config=REDUCED)
    assert again.code == 0
    assert "Nothing to be done" in again.output
    assert again.jobs == []


def test_a_changed_variant_reruns_only_what_depends_on_it(finished):
    workspace, _ = finished
    changed = copy.deepcopy(REDUCED)
    changed["variants"] = {"int8": {"quantization": {"exclude": ["embedding_proj_layer"]}}}
    target = "results/retrieval/colpali-demo/int8/cpu/demo-pages-qa.json"
    run = workspace.snakemake(target, config=changed)
    assert run.code == 0, run.output[-4000:]
    assert sorted(run.jobs) == ["embed", "quantize", "score"]
    dry = workspace.snakemake("--dry-run", config=changed)
    assert {"export", "reference", "score_reference", "checkpoint", "dataset"}.isdisjoint(dry.jobs)
    assert {"parity", "latency", "aggregate", "report"} <= set(dry.jobs)
