"""The provider benchmark runs the whole protocol, on the CPU and at small size."""

from __future__ import annotations

import pytest

from benchmarks import provider_plan, provider_tables, providers
from colport.base.errors import ConfigError
from tests.conftest import RESOURCES
from tests.text_models import make_checkpoint


def test_a_text_model_is_exported_measured_and_removed(tmp_path):
    model = make_checkpoint(tmp_path / "model", "bert")
    plan = provider_plan.ProviderPlan(
        [],
        provider_plan.entries("cuda,cpu", [1, 2]),
        text=model,
        precisions=("fp32",),
        batch_sizes=[1, 2],
        limit_seconds=300,
        threads=1,
        case_seconds=0.05,
        quiet_seconds=0,
    )
    kept = []
    record = providers.run(plan, RESOURCES, tmp_path / "scratch", lambda line: None, kept.append)
    assert kept == [record]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert record["not_run"] == []
    rows = {(row["variant"], row["provider"], row["status"]): row for row in record["rows"]}
    assert rows["pytorch-bf16", "torch-cpu", "ok"]["speedup_vs_bf16"] == 1
    fp32 = rows["fp32", "cpu", "ok"]
    assert fp32["min_cosine"] > 0.99999
    bf16 = rows["pytorch-bf16", "torch-cpu", "ok"]
    assert fp32["speedup_vs_bf16"] == pytest.approx(bf16["p50_ms"] / fp32["p50_ms"])
    assert fp32["graph_speedup_vs_bf16"] == pytest.approx(bf16["graph_ms"] / fp32["graph_ms"])
    assert "CUDAExecutionProvider" in rows["fp32", "cuda", "unsupported"]["reason"]
    assert len(record["noise"]) == 1
    page = provider_tables.markdown(record)
    assert "| model | document | 2 | fp32 | cpu | " in page
    assert "| model | query | pytorch-bf16 | torch-cpu | 0.9" in page
    assert "| query 1, query 2, document 1, document 2 | unsupported | " in page
    for way in ("cuda", "cuda-io-binding", "cuda-graph"):
        assert f"| model | fp32 | {way} | " in page


def test_what_the_time_does_not_allow_is_listed(tmp_path):
    plan = provider_plan.ProviderPlan(
        ["colpali-3B", "colqwen2-2B"], provider_plan.entries("cpu", [1]), limit_seconds=1e-9
    )
    record = providers.run(plan, RESOURCES, tmp_path, lambda line: None)
    assert [item["model"] for item in record["not_run"]] == ["colpali-3B", "colqwen2-2B"]
    assert record["rows"] == list(tmp_path.iterdir()) == []
    assert "| colqwen2-2B | everything | the time was used up before |" in provider_tables.markdown(
        record
    )


def test_batch_sizes_that_fit():
    # Two contenders of four calls: 8 s for each input of a batch.
    assert provider_plan.fitting([4, 1, 2], 1.0, 2, 30.0) == ([1, 2], 6.0)
    assert provider_plan.fitting([1, 2], 1.0, 2, 7.9) == ([], 7.9)


def test_a_type_with_its_own_memory_stands_for_several_entries():
    found = provider_plan.entries("cuda,cpu,directml", [8, 1])
    assert list(found) == [
        *("cuda", "cuda-io-binding", "cuda-graph"),
        *("cpu", "directml", "directml-io-binding"),
    ]
    assert found["cuda"]["io_binding"] is False
    assert found["cuda-graph"]["fixed_shapes"]["batch"] == [1, 8]


def test_entries_of_a_file_are_taken_as_they_are(tmp_path):
    file = tmp_path / "providers.yaml"
    file.write_text("quick: {type: cuda, tf32: true}\n")
    assert provider_plan.entries(str(file), [1]) == {"quick": {"type": "cuda", "tf32": True}}
    file.write_text("quick: 3\n")
    with pytest.raises(ConfigError, match="quick: found 3, expected a mapping"):
        provider_plan.entries(str(file), [1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": ["colpali-9T"]}, "sizes: 'colpali-9T' is unknown; allowed are colpali-3B"),
        ({"precisions": ["int8"]}, "variants: found 'int8'; allowed are fp32, fp16, bf16"),
        ({"text": RESOURCES / "nothing"}, "text: .*nothing: there is no such folder"),
        ({"limit_seconds": 0}, "limit: found 0; expected seconds above 0"),
        ({"batch_sizes": [0]}, "batch_sizes: found"),
    ],
)
def test_a_wrong_plan_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        provider_plan.ProviderPlan(**{"sizes": [], "providers": {}, **settings})


def test_unknown_providers_are_refused():
    with pytest.raises(ConfigError, match="'gpu' is unknown; allowed are cpu, cuda"):
        provider_plan.entries("gpu", [1])
