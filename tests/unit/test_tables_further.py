"""Tables behind the five: errors by input, published scores, and what the jobs took."""

import math

import pandas as pd
import pytest

from colport.base.columns import TABLES, row
from colport.base.errors import ArtifactError
from colport.tables import further

PLACE = {"model": "m", "variant": "int8", "provider": "cpu"}
HEADER = "s\th:m:s\tmax_rss\tmax_vms\tcpu_time\n"


def test_every_input_is_a_row_and_older_records_have_none():
    rows = [{**PLACE, "kind": kind} for kind in ("query", "document")]
    record = {"rows": rows, "input_min_cosine": {"query": [1.0, 0.9], "document": []}}
    found = further.parity_inputs([record, {"rows": rows}])
    assert found.to_numpy().tolist() == [
        ["m", "int8", "cpu", "query", 0, 1.0],
        ["m", "int8", "cpu", "query", 1, 0.9],
    ]


def intervals(**means):
    rows = [
        row("retrieval_intervals", **PLACE, dataset=name, metric=metric, mean=mean, **ends)
        for name, mean in means.items()
        for metric, ends in (
            ("ndcg_at_5", {"low": mean - 0.06, "high": mean + 0.08}),
            ("ndcg_exp_at_10", {"low": 0.0, "high": 1.0}),
        )
    ]
    return pd.DataFrame(rows)


def stated(of, metric="ndcg_at_5", **scores):
    return {"m": {"B": {"metric": metric, "source": "a card", "scores": scores, "of": of}}}


def test_a_published_score_stands_beside_the_same_metric_of_the_run():
    found = further.published(intervals(a=0.5, b=0.7, c=0.9), stated(4, b=0.75, a=0.4))
    assert tuple(found) == TABLES["published"].columns
    first, second = found.to_dict("records")  # in the order of the run; no mean: two of four
    assert first == pytest.approx(
        {
            **PLACE,
            **{"benchmark": "B", "dataset": "a", "metric": "ndcg_at_5", "gain": "linear"},
            **{"score": 0.5, "score_low": 0.44, "score_high": 0.58, "source": "a card"},
            **{"published": 0.4, "published_delta": 0.1},
        }
    )
    assert (second["dataset"], second["published"]) == ("b", 0.75)
    other = further.published(intervals(a=0.5), stated(1, "ndcg_exp_at_10", a=0.5))
    assert other["gain"].tolist() == ["exponential"]
    assert further.published(intervals(a=0.5), stated(1, "recall_at_5", a=0.5)).empty
    assert further.published(intervals(a=0.5), {"another": stated(1, a=0.5)["m"]}).empty


def test_a_mean_is_compared_where_the_run_has_every_dataset_of_it():
    found = further.published(intervals(a=0.5, b=0.7, c=0.9), stated(2, a=0.4, b=0.9))
    mean = found.iloc[2].to_dict()
    assert (mean["dataset"], mean["benchmark"]) == ("mean of 2", "B")
    assert mean["score"] == pytest.approx(0.6)
    assert mean["published"] == pytest.approx(0.65)
    assert mean["published_delta"] == pytest.approx(-0.05)
    assert mean["score_low"] == pytest.approx(0.6 - 0.06 / math.sqrt(2))
    assert mean["score_high"] == pytest.approx(0.6 + 0.08 / math.sqrt(2))
    only = further.published(intervals(a=0.5), stated(1, a=0.4))
    assert only["dataset"].tolist() == ["a"]  # which is its own mean


def test_a_job_is_named_by_its_place(tmp_path):
    file = tmp_path / "results/benchmarks/embed/m/int8/0.tsv"
    file.parent.mkdir(parents=True)
    file.write_text(f"{HEADER}12.5\t0:00:12\t300.25\t1\t9.5\n")
    short = tmp_path / "results/benchmarks/datasets/pages.tsv"
    short.parent.mkdir(parents=True)
    short.write_text(f"{HEADER}0.1\t0:00:00\tNA\tNA\tNA\n")
    embed, dataset = further.stages([file, short]).to_dict("records")
    assert (embed["stage"], embed["job"]) == ("embed", "m/int8/0")
    assert (embed["seconds"], embed["cpu_seconds"], embed["peak_rss_mb"]) == (12.5, 9.5, 300.25)
    assert (dataset["stage"], dataset["job"], dataset["seconds"]) == ("datasets", "pages", 0.1)
    assert math.isnan(dataset["peak_rss_mb"])


@pytest.mark.parametrize("text", ["a\tb\n1\t2\n", f"{HEADER}x\t\t1\t1\t1\n"])
def test_another_file_is_refused_by_name(tmp_path, text):
    file = tmp_path / "benchmarks/embed/m.tsv"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(ArtifactError, match=r"m\.tsv: is not a benchmark"):
        further.stages([file])
