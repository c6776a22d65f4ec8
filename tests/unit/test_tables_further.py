"""Tables behind the five: errors by input, and what the jobs took."""

import math

import pytest

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
