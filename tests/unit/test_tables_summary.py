"""Figures of ``summary.csv`` one by one, from the rows that they stand for."""

import math

import numpy as np
import pandas as pd
import pytest

from colport import tables
from colport.scoring import details
from colport.scoring.metrics import METRIC_NAMES
from colport.scoring.record import retrieval_record
from colport.scoring.score import RunScores
from colport.tables import further, summary
from tests.scores import paired_interval, paired_randomisation


def table(name, *rows):
    plain = {**dict.fromkeys(tables.COLUMNS[name]), "status": "ok", "reason": ""}
    return tables.flatten(name, [{"rows": [{**plain, **row} for row in rows]}])


@pytest.mark.parametrize(
    ("rows", "passed"),
    [
        ([("query", True, "ok"), ("document", True, "ok")], True),
        ([("query", True, "ok"), ("document", False, "failed")], False),
        ([("query", False, "failed")], False),
        ([("query", True, "ok")], None),
        ([("query", True, "ok"), ("document", None, "ok")], None),
        ([("query", True, "ok"), ("document", True, "unsupported")], None),
        ([], None),
    ],
)
def test_parity_passed(rows, passed):
    found = table("parity", *({"kind": k, "passed": p, "status": s} for k, p, s in rows))
    assert summary._parity_passed(found) is passed


def test_the_size_of_a_folder_is_in_millions_of_bytes():
    once = [{"graph": graph, "folder_bytes": 91_400_000, "size_bytes": 7} for graph in "ab"]
    assert summary._folder_mb(table("export", *once)) == 91.4
    graphs = [{"graph": graph, "size_bytes": 1_500_000} for graph in "ab"]
    assert summary._folder_mb(table("export", *graphs)) == 3.0
    assert math.isnan(summary._folder_mb(table("export", {"graph": "a"})))


def test_times_are_medians_of_one_kind_and_batch_size():
    rows = [
        {"kind": "query", "batch_size": 1, "p50_ms": ms, "speedup_vs_pytorch": 10 / ms}
        for ms in (1.0, 5.0, 2.0)
    ]
    for row in rows:
        row |= {"speedup_low": row["p50_ms"], "speedup_high": 10 * row["p50_ms"]}
    others = [
        {**rows[0], "p50_ms": 99.0, **changed}
        for changed in ({"kind": "document"}, {"batch_size": 8}, {"status": "failed"})
    ]
    found = summary._speed(table("latency", *rows, *others), "query", 1)
    assert found == {
        **{"query_p50_ms": 2.0, "query_speedup": 5.0},
        **{"query_speedup_low": 2.0, "query_speedup_high": 20.0},
    }
    every = summary._speed(table("latency", *rows, *others), "query", None)
    assert every["query_p50_ms"] == 3.5


def test_a_failure_goes_before_a_limit():
    def worst(*rows):
        names = [{"status": status, "reason": reason} for status, reason in rows]
        return summary._worst_status([table("export", *names)])

    assert worst(("ok", ""), ("unsupported", "u"), ("failed", "f")) == ("failed", "failed: f")
    assert worst(("unsupported", "u"), ("ok", "")) == ("unsupported", "unsupported: u")
    assert worst(("failed", "")) == ("failed", "failed: no reason was recorded")
    assert worst(("ok", "noisy")) == ("ok", "")


def test_which_timed_rows_are_candidates():
    rows = [
        {
            "variant": variant,
            "provider": provider,
            "kind": kind,
            "batch_size": size,
            "status": status,
        }
        for variant, provider, kind, size, status in (
            ("pytorch", "torch-cpu", "query", 1, "ok"),
            ("pytorch-bf16", "torch-cpu", "query", 1, "ok"),  # another way to run PyTorch
            ("int8", "cpu", "query", 1, "unsupported"),  # at the smallest batch
            ("int8", "cpu", "query", 8, "unsupported"),  # at a larger one
            ("int8", "cpu", "query", 8, "failed"),
            ("int8", "cpu", "document", 8, "unsupported"),  # the smallest of documents
        )
    ]
    for row in rows:
        row["model"] = "m"
    found = summary._candidates(table("latency", *rows))
    assert found.index.tolist() == [0, 2, 4, 5]


def retrieval(*rows):
    names = ("dataset", "ndcg_at_5_delta", "p_value", "queries")
    return table("retrieval", *(dict(zip(names, row, strict=True)) for row in rows))


def record(variant, dataset, values, *, form=None, **settings):
    """A retrieval record as :func:`colport.scoring.record.retrieval_record` makes it."""
    labels = {"model": "m", "variant": variant, "provider": "p", "dataset": dataset}
    judged = {str(number): float(value) for number, value in enumerate(values)}
    run = RunScores(20, dict.fromkeys(METRIC_NAMES, judged), {query: ["d"] for query in judged})
    reference = None
    if variant != "pytorch":
        zero = dict.fromkeys(judged, 0.0)
        reference = RunScores(20, dict.fromkeys(METRIC_NAMES, zero), run.rankings)
    return retrieval_record(labels, run, reference, settings, form and {form: run})


GAINS = (("pytorch", 0.0), ("int8", 0.1))


def compared(*datasets, **settings):
    """Quality of a variant whose queries differ by these values from PyTorch's, by dataset."""
    records = [
        record(variant, f"d{number}", values, **settings)
        for number, differences in enumerate(datasets)
        for variant, values in (("pytorch", 0 * differences), ("int8", differences))
    ]
    rows = tables.flatten("retrieval", records)
    own = rows[rows["variant"] == "int8"]
    return summary.quality(own, set(own["dataset"]), details.pairs(records)), own


def drawn_differences(rng):
    """Of one to four datasets: heavy tails, ties and zeros, from a query to sixty."""
    for _ in range(rng.integers(1, 5)):
        values = rng.standard_t(2, size=rng.integers(1, 60)) + rng.choice([0, 0.5])
        values[rng.random(len(values)) < rng.choice([0, 0.5, 0.9])] = 0
        yield np.round(np.clip(values / 5, -1, 1), rng.integers(1, 5))


def test_interval_and_test_of_several_datasets_never_contradict():
    rng, rejected, known = np.random.default_rng(1), 0, 0
    for _ in range(200):
        datasets = list(drawn_differences(rng))
        found, own = compared(*datasets, resamples=200)
        low, high = found["ndcg_at_5_delta_low"], found["ndcg_at_5_delta_high"]
        mean = np.mean([values.mean() for values in datasets])
        assert found["ndcg_at_5_delta"] == pytest.approx(mean, abs=1e-12)
        if math.isnan(low):
            assert found["p_value"] > 0.05
            continue
        assert low - 1e-9 <= mean <= high + 1e-9
        assert (found["p_value"] <= 0.05) == (not low <= 0 <= high)
        rejected, known = rejected + (found["p_value"] <= 0.05), known + 1
        if len(datasets) == 1:
            names = list(summary.QUALITY)[:-3]  # agreement is for those without judgements
            assert own[names].iloc[0].to_dict() == {name: found[name] for name in names}
    assert 20 < rejected < known - 20


def test_an_interval_over_datasets_holds_the_mean_of_their_means():
    """In 95 of 100 samples, also where one dataset is small."""
    rng, held = np.random.default_rng(2), 0
    for _ in range(400):
        samples = [0.1 + rng.standard_t(3, size=size) for size in (12, 60, 25)]
        sides = np.concatenate(samples), np.zeros(97)
        low, high = paired_interval(*sides, resamples=400, datasets=(12, 60, 25))
        held += low <= 0.1 <= high
    assert 0.92 < held / 400 < 0.98


def test_datasets_weigh_the_same_whatever_their_queries():
    rng = np.random.default_rng(3)
    small, large = rng.normal(0.2, 0.1, 10), rng.normal(-0.02, 0.1, 300)
    assert compared(small, large)[0]["p_value"] <= 0.05
    sides = np.concatenate([small, large]), np.zeros(310)
    assert paired_randomisation(*sides) > 0.05
    assert paired_randomisation(*sides, datasets=(10, 300)) <= 0.05


def test_the_order_of_datasets_does_not_matter():
    rng = np.random.default_rng(4)
    values = {name: rng.normal(0.02, 0.1, size) for name, size in (("a", 20), ("b", 30))}
    found = []
    for names in ("ab", "ba"):
        records = [
            record(variant, name, values[name] if variant == "int8" else 0 * values[name])
            for name in names
            for variant, _ in GAINS
        ]
        rows = tables.flatten("retrieval", records)
        own = rows[rows["variant"] == "int8"]
        found.append(summary.quality(own, {"a", "b"}, details.pairs(records)))
    assert 0 < found[0]["p_value"] < 1
    assert found[0] == pytest.approx(found[1], abs=1e-12, nan_ok=True)


def test_without_every_dataset_s_queries_there_is_no_test():
    records = [record(name, place, [gain] * 9) for place in "ab" for name, gain in GAINS]
    rows = tables.flatten("retrieval", records)
    own = rows[rows["variant"] == "int8"]
    found = [
        summary.quality(own, {"a", "b"}, details.pairs(kept))["p_value"]
        for kept in (records, records[:3], records[1:], [])
    ]
    assert found[0] <= 0.05
    assert all(map(math.isnan, found[1:]))
    reference = rows[rows["variant"] == "pytorch"]
    assert math.isnan(summary.quality(reference, {"a", "b"}, details.pairs(records))["p_value"])


def unjudged(variant, dataset, documents, *kept):
    """A record without judgements: of the best documents so many of each query are PyTorch's."""
    best = [f"d{number}" for number in range(min(10, documents))]
    depth = min(10, documents // 2)
    rankings = {
        str(query): [*best[:count], *(f"e{number}" for number in range(depth - count)), *best][:10]
        for query, count in enumerate(kept)
    }
    none = {name: {} for name in METRIC_NAMES}
    labels = {"model": "m", "variant": variant, "provider": "p", "dataset": dataset}
    run, same = (
        RunScores(documents, none, found) for found in (rankings, dict.fromkeys(rankings, best))
    )
    if variant == "pytorch":
        return retrieval_record(labels, same, None, {})
    return retrieval_record(labels, run, same, {})


def quality(*records):
    rows = tables.flatten("retrieval", records)
    own = rows[rows["variant"] == "int8"]
    return summary.quality(own, set(own["dataset"]), details.pairs(records)), own


def both(*arguments):
    return unjudged("pytorch", *arguments), unjudged("int8", *arguments)


def test_agreement_is_that_of_datasets_without_judgements():
    pages = both("pages", 40, *[10] * 20, *[8] * 10)
    found, own = quality(*pages)
    assert found["agreement"] == pytest.approx((20 + 8) / 30)
    assert math.isnan(found["ndcg_at_5"])
    names = ["agreement", "agreement_low", "agreement_high"]
    assert own[names].iloc[0].to_dict() == {name: found[name] for name in names}
    judged = [record(variant, "judged", [gain] * 9) for variant, gain in GAINS]
    mixed, rows = quality(*judged, *pages)
    assert {name: mixed[name] for name in names} == {name: found[name] for name in names}
    assert mixed["ndcg_at_5_delta"] == pytest.approx(0.1)
    assert rows["agreement"].notna().all()  # in retrieval.csv every dataset has its own
    assert math.isnan(quality(*judged)[0]["agreement"])


def test_datasets_without_judgements_count_alike():
    few, many = both("few", 12, *[6] * 10), both("many", 40, *[8] * 90)
    found, own = quality(*few, *many)
    assert own["agreement"].tolist() == [1.0, pytest.approx(0.8)]
    assert found["agreement"] == pytest.approx(0.9)
    assert own["agreement_low"].min() < found["agreement_low"] < 0.9 < found["agreement_high"]
    turned, _ = quality(*many, *few)
    assert turned == pytest.approx(found, nan_ok=True)
    alone = summary.quality(own, {"few", "many"}, details.pairs([*few, many[1]]))
    assert math.isnan(alone["agreement"])  # PyTorch's rankings of one are not there


def test_of_one_document_nothing_is_known():
    one = both("one", 1, *[0] * 50)
    for records in (one, [*one, *both("pages", 40, *[10] * 50)]):
        found, _ = quality(*records)
        assert math.isnan(found["agreement"])
        assert (found["agreement_low"], found["agreement_high"]) == (0, 1)


def test_forms_of_several_datasets_are_tested_too():
    records = [
        record(name, place, [gain] * 9, form="binary") for place in "ab" for name, gain in GAINS
    ]
    found = further.embeddings(tables.flatten("retrieval", records), records)
    binary = found[found["embeddings"] == "binary"].set_index("variant")
    assert binary.loc["int8", "p_value"] <= 0.05
    assert binary.loc["pytorch", "p_value"] == 1


def test_quality_needs_every_dataset():
    rows = retrieval(("a", 0.02, 0.5, 10), ("b", 0.04, 0.5, 10)).assign(ndcg_at_5=[0.5, 0.7])
    found = summary.quality(rows, {"a", "b"})
    assert (found["ndcg_at_5"], found["ndcg_at_5_delta"]) == pytest.approx((0.6, 0.03))
    for datasets in ({"a", "b", "c"}, {"a"}, set()):
        assert all(math.isnan(value) for value in summary.quality(rows, datasets).values())
    broken = rows.assign(status=["ok", "failed"])
    assert math.isnan(summary.quality(broken, {"a", "b"})["ndcg_at_5"])


def test_rows_stand_in_the_order_of_their_export_pytorch_first():
    export = table("export", *({"model": "m", "variant": name} for name in ("int8", "fp32")))
    places = [("fp32", "cpu"), ("int8", "cpu"), ("pytorch", "torch-cpu"), ("int8", "cuda")]
    parity = table(
        "parity", *({"model": "m", "variant": name, "provider": on} for name, on in places)
    )
    assert list(summary._row_keys(export, [parity])) == [
        ("m", "pytorch", "torch-cpu"),
        *(("m", "int8", "cpu"), ("m", "int8", "cuda"), ("m", "fp32", "cpu")),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.123456789, "0.123457"), (12345678.0, "12345678"), (1234567.5, "1.23457e+06")),
        *((True, "true"), (False, "false"), (None, ""), (math.nan, ""), (3, "3"), (2.0, "2")),
        *(("a\rb", "a b"), ("=x", "'=x"), ("-", "-"), ("-1", "'-1"), (-1.5, "-1.5")),
        ([640, 480], "640x480"),
    ],
)
def test_cells_of_a_file(value, text):
    (cell,) = tables.text_table(pd.DataFrame({"a": pd.Series([value], dtype=object)}))["a"]
    assert cell == text
