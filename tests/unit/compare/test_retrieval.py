"""Scores and rankings, over the same queries of the same dataset."""

import copy

import pytest

from colport.compare import compare

from .runs import INT8, QUERIES, Run


def lower(run, queries: int) -> None:
    record = run.retrieval[INT8, "cpu"]
    values = record["per_query"]["ndcg_at_5"]
    for query in QUERIES[:queries]:
        values[query] -= 0.4
    record["rows"][0]["ndcg_at_5"] = sum(values.values()) / len(values)


def with_form(run) -> None:
    record = run.retrieval[INT8, "cpu"]
    record["rows"].append({**record["rows"][0], "embeddings": "pooled"})
    record["forms"] = {"pooled": {"per_query": copy.deepcopy(record["per_query"])}}


def test_retrieval_is_tested_over_the_same_queries(found):
    assert found(lambda run: lower(run, 1))[0] == []
    places, findings = found(lambda run: lower(run, 12))
    assert places == [("retrieval", "worse", "model int8 cpu pages")]
    assert "0.8750 -> 0.7550 (p 0.0" in findings[0].text


def test_queries_are_paired_by_their_ids(found):
    """A small loss of every query is one, in whatever order a record lists them."""

    def change(run):
        record = run.retrieval[INT8, "cpu"]
        values = record["per_query"]["ndcg_at_5"]
        lower = {query: values[query] - 0.01 for query in reversed(QUERIES)}
        record["per_query"]["ndcg_at_5"] = lower
        record["rows"][0]["ndcg_at_5"] -= 0.01

    assert found(change)[0] == [("retrieval", "worse", "model int8 cpu pages")]


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


def test_a_form_without_its_queries_is_not_paired_by_others(tmp_path):
    paths = []
    for name, mean in (("a", 0.875), ("b", 0.475)):
        with_form(run := Run())
        record = run.retrieval[INT8, "cpu"]
        record["forms"] = {}
        bounds = {"ndcg_at_5_low": mean - 0.05, "ndcg_at_5_high": mean + 0.05}
        record["rows"][1] |= {"ndcg_at_5": mean, **bounds}
        paths.append(run.write(tmp_path / name))
    (finding,) = compare(*paths)
    assert finding.place == "model int8 cpu pages pooled"
    assert "0.8750 -> 0.4750 (intervals do not overlap; no record of the" in finding.text


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
        ("scenarios", "not compared"),
        ("export", "not compared"),
    ]


def test_tables_without_intervals_are_not_compared(old, tmp_path):
    run = Run()
    run.retrieval[INT8, "cpu"]["rows"][0] |= {"ndcg_at_5_low": None, "ndcg_at_5_high": None}
    findings = compare(old, run.write(tmp_path / "new", records=False))
    assert ("retrieval", "not compared") in [(item.group, item.verdict) for item in findings]


@pytest.mark.parametrize("agreement", [None, 0.8])
def test_rankings_without_judgements_are_compared_by_their_agreement(old, tmp_path, agreement):
    paths = []
    for name, overlap in (("a", 1.0), ("b", 0.9)):
        run = Run()
        for record in run.retrieval.values():
            record["rows"][0] |= {"ndcg_at_5": None, "top10_overlap": 1.0}
            record["per_query"]["ndcg_at_5"] = {}
        row = run.retrieval[INT8, "cpu"]["rows"][0]
        row["top10_overlap"] = 1.0 if agreement else overlap  # of few documents it says nothing
        row["agreement"] = agreement and agreement - (1 - overlap)
        paths.append(run.write(tmp_path / name))
    (finding,) = compare(*paths)
    expected = "agreement" if agreement else "top10_overlap"
    assert (finding.verdict, finding.figure) == ("worse", expected)
