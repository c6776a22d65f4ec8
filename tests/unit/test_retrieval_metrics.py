from __future__ import annotations

from math import log2

import pytest

from colport.scoring.metrics import METRIC_NAMES, evaluate


def descending(*names: str) -> dict[str, float]:
    return {name: float(len(names) - rank) for rank, name in enumerate(names)}


def test_graded_ranking_by_hand():
    qrels = {"q": {"a": 2, "b": 1, "c": 1, "z": 0}}
    run = {"q": descending("z", "b", "x", "a", "y", "w", "c")}
    values = evaluate(qrels, run)
    dcg = 1 / log2(3) + 2 / log2(5)
    ideal = 2 + 1 / log2(3) + 1 / log2(4)
    expected = {
        "ndcg_at_1": 0,
        "ndcg_at_5": dcg / ideal,
        "ndcg_at_10": (dcg + 1 / log2(8)) / ideal,
        "recall_at_1": 0,
        "recall_at_5": 2 / 3,
        "recall_at_10": 1,
        "mrr_at_10": 1 / 2,
        "map": (1 / 2 + 2 / 4 + 3 / 7) / 3,
        "ndcg_exp_at_10": (1 / log2(3) + 3 / log2(5) + 1 / log2(8))
        / (3 + 1 / log2(3) + 1 / log2(4)),
    }
    assert set(values) == set(METRIC_NAMES) == set(expected)
    for name, value in expected.items():
        assert values[name]["q"] == pytest.approx(value), name


def test_the_gain_matters_for_graded_judgements_alone():
    names = [f"d{rank:02d}" for rank in range(1, 13)]
    run = {"q": descending(*names)}
    binary = evaluate({"q": {"d02": 1, "d07": 1, "d11": 1, "d01": 0, "d03": -4}}, run)
    assert binary["ndcg_exp_at_10"] == pytest.approx(binary["ndcg_at_10"])
    many = evaluate({"q": dict.fromkeys(names, 1)}, run)
    assert many["ndcg_exp_at_10"] == {"q": pytest.approx(1)}
    # Of the largest judgement that is read, the others are nothing beside it.
    large = evaluate({"q": {"d03": 1_000_000, "d01": 999_000}}, run)
    assert large["ndcg_exp_at_10"] == {"q": pytest.approx(1 / log2(4))}
    none = evaluate({"q": {"d01": 0, "d02": -2000}}, run)
    assert none["ndcg_exp_at_10"] == {"q": 0}


def test_reciprocal_rank_is_cut_at_ten():
    names = [f"d{rank:02d}" for rank in range(1, 13)]
    qrels = {"tenth": {"d10": 1}, "eleventh": {"d11": 1}}
    values = evaluate(qrels, dict.fromkeys(qrels, descending(*names)))
    assert values["mrr_at_10"] == {"tenth": pytest.approx(1 / 10), "eleventh": 0}
    assert values["map"]["eleventh"] == pytest.approx(1 / 11)


def test_only_judged_queries_count():
    qrels = {"good": {"a": 1}, "unjudged": {}, "nothing relevant": {"a": 0}}
    run = dict.fromkeys([*qrels, "not in qrels"], descending("a", "b"))
    values = evaluate(qrels, run)
    assert values["ndcg_at_5"] == {"good": 1.0, "nothing relevant": 0.0}


def test_ties_are_ordered_by_descending_id_whatever_the_order_of_the_run():
    names = ["a", "b", "é", "z"]
    for order in (names, names[::-1]):
        run = {"q": dict.fromkeys(order, 1.0)}
        values = evaluate({"q": {"a": 1}}, run)
        assert values["mrr_at_10"]["q"] == values["map"]["q"] == pytest.approx(1 / 4)


def test_judged_query_without_ranking_is_refused():
    with pytest.raises(ValueError, match="not in the run: q2"):
        evaluate({"q": {"a": 1}, "q2": {"a": 1}}, {"q": {"a": 1.0}})
    with pytest.raises(ValueError, match="No query has a judgement"):
        evaluate({"q": {}}, {"q": {"a": 1.0}})
