from __future__ import annotations

import json
import sys
from dataclasses import replace
from math import log2

import pandas as pd
import pytest

from colport import tables
from colport.base.columns import TABLES
from colport.base.errors import UnsupportedError
from colport.base.names import CONTROL
from colport.data.base import RetrievalDataset
from colport.scoring import controls, details
from colport.scoring.controls import CONTROLS, bm25_run, control_record, shuffled_run
from colport.tables.summary import build

TEXTS = [
    "Revenue of the year 2019 by quarter",
    "The head count of the north office",
    "A map of rivers",
    "Der Umsatz im Jahr 2020",
    "",
    "Revenue of the north office",
]
NAMES = [f"p{index}" for index in range(len(TEXTS))]
DATASET = RetrievalDataset(
    "report",
    ["count", "umsatz", "nothing", "unjudged"],
    ["head count", "Umsatz 2020", "zebra", "the map"],
    NAMES,
    TEXTS,
    {"count": {"p1": 1}, "umsatz": {"p3": 1}, "nothing": {"p0": 1}},
    texts=TEXTS,
)
SETTINGS = {"resamples": 200, "seed": 3}


def test_bm25_finds_words():
    pytest.importorskip("bm25s", reason="the pipeline's requirements bring it")
    run = bm25_run(DATASET)
    assert {query: best[0] for query, best in run.rankings.items()} == {
        "count": "p1",
        "umsatz": "p3",
        "nothing": "p5",  # all scores are 0: descending ids
        "unjudged": "p2",
    }
    assert run.per_query["ndcg_at_1"] == {"count": 1, "umsatz": 1, "nothing": 0}


def test_bm25_leaves_out_stop_words_of_the_languages_that_the_dataset_names():
    pytest.importorskip("bm25s", reason="the pipeline's requirements bring it")
    asked = replace(DATASET, query_ids=["q"], queries=["the im"], qrels={"q": {"p1": 1}})
    ranked = {
        languages: bm25_run(replace(asked, languages=languages)).rankings["q"][0]
        for languages in ((), ("en",), ("english", "deu"), ("tlh",))
    }
    assert ranked == {(): "p3", ("en",): "p3", ("english", "deu"): "p5", ("tlh",): "p3"}


def test_bm25_without_text_is_unsupported():
    pytest.importorskip("bm25s", reason="the pipeline's requirements bring it")
    for texts in (None, [""] * len(TEXTS)):
        record = control_record("bm25", replace(DATASET, texts=texts), SETTINGS)
        (row,) = record["rows"]
        assert (row["model"], row["variant"], row["provider"]) == (CONTROL, "bm25", CONTROL)
        assert (row["status"], row["reason"]) == (
            "unsupported",
            "The documents have no text layer.",
        )


def test_shuffled_rankings_reach_what_chance_reaches():
    names = [f"d{index:02d}" for index in range(40)]
    queries = [f"q{index}" for index in range(60)]
    chance = RetrievalDataset(
        "chance", queries, queries, names, names, {q: {"d07": 1} for q in queries}
    )
    record = control_record("shuffled", chance, SETTINGS)
    (row,) = record["rows"]
    expected = sum(1 / log2(rank + 1) for rank in range(1, 6)) / 40
    assert row["recall_at_10"] == pytest.approx(10 / 40, abs=0.04)
    assert row["ndcg_at_5"] == pytest.approx(expected, abs=0.02)
    assert row["ndcg_at_5_low"] < row["ndcg_at_5"] < row["ndcg_at_5_high"]
    assert control_record("shuffled", chance, SETTINGS)["rows"] == [row]
    assert control_record("shuffled", chance, {**SETTINGS, "seed": 4})["rows"] != [row]


def test_the_shuffles_are_those_of_the_seed(monkeypatch):
    asked = []

    def shuffle(dataset, seed):
        asked.append(seed)
        return shuffled_run(dataset, seed)

    monkeypatch.setattr(controls, "shuffled_run", shuffle)
    for settings in (SETTINGS, {"resamples": 200}):
        control_record("shuffled", DATASET, settings)
    assert asked == [3, 0]
    assert shuffled_run(DATASET, 3).rankings == shuffled_run(DATASET, 3).rankings
    assert shuffled_run(DATASET, 3).rankings != shuffled_run(DATASET, 4).rankings


def test_controls_without_judgements_have_rankings_only():
    record = control_record("shuffled", replace(DATASET, qrels={}), SETTINGS)
    assert record["rows"][0]["reason"] == "no judgements"
    assert all(len(best) == len(NAMES) for best in record["rankings"].values())
    built = details.build([record])
    assert built["retrieval_intervals"].empty
    assert built["retrieval_queries"]["query"].tolist() == DATASET.query_ids


def test_controls_stand_in_the_retrieval_tables_and_not_in_the_summary():
    records = [control_record(control, DATASET, SETTINGS) for control in CONTROLS]
    built = build({"export": [], "parity": [], "latency": [], "retrieval": records})
    assert built["retrieval"]["variant"].tolist() == list(CONTROLS)
    assert built["summary"].empty


def test_tables_of_intervals_and_queries(tmp_path):
    record = control_record("shuffled", DATASET, SETTINGS)
    tables.write_tables(details.build([record]), tmp_path)
    intervals = pd.read_csv(tmp_path / "retrieval_intervals.csv")
    assert tuple(intervals.columns) == TABLES["retrieval_intervals"].columns
    for row in intervals.to_dict("records"):
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["mean"] == pytest.approx(record["rows"][0][row["metric"]], rel=1e-5)
    queries = pd.read_csv(tmp_path / "retrieval_queries.csv").set_index("query")
    assert json.loads(queries.loc["count", "top10"]) == record["rankings"]["count"]
    assert queries["map"].notna().to_dict() == {
        "count": True,
        "umsatz": True,
        "nothing": True,
        "unjudged": False,
    }


def test_bm25_without_its_library_is_a_known_limit(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    dataset = RetrievalDataset("d", ["q"], ["a"], ["p"], ["b"], {}, texts=["b"])
    with pytest.raises(UnsupportedError, match="bm25s is not installed; pip install"):
        bm25_run(dataset)
