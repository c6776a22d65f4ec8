"""The model card states what is known and measured, and nothing else."""

import dataclasses
import re

import pytest
import yaml

from colport.base.errors import ArtifactError
from colport.base.files import write_json
from colport.folder import manifest
from colport.hub.checkpoints import license_of
from colport.report import model_card
from colport.report.model_card import Measured
from colport.tables import COLUMNS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "me/colpali-int8"
ENVIRONMENT = {
    "packages": {"onnxruntime": "1.31.1", "torch": "2.13.0"},
    "cpu": "A processor",
    "cores": 2,
    "gpu": None,
}


@pytest.fixture
def found(exported):
    known = manifest.read(exported["colpali"])
    source = {
        "source": f"vidore/colpali-v1.3-hf@{COMMIT}",
        "weights": {"model.safetensors": "ab" * 32},
        "license": {"license": "gemma"},
    }
    return dataclasses.replace(known, source=source)


def record(table, *rows):
    filled = [
        {**dict.fromkeys(COLUMNS[table]), "status": "ok", "reason": "", **row} for row in rows
    ]
    return {"rows": filled, "environment": ENVIRONMENT}


def parity(**values):
    row = {
        **{"provider": "cpu", "kind": "query", "inputs": 16, "tokens": 1234, "passed": True},
        **{"mean_cosine": 0.9998767, "min_cosine": 0.9912342, "max_abs_diff": 0.0123456},
        **{"top10_overlap": 0.975, "tolerance": "min_cosine>=0.8", **values},
    }
    return record("parity", row)


def retrieval(variant, provider, ndcg, **values):
    metrics = dict.fromkeys(model_card._METRICS, ndcg)
    row = {
        **{"variant": variant, "provider": provider, "dataset": "docvqa", "queries": 451},
        **{"documents": 500, "ndcg_at_5_low": 0.51, "ndcg_at_5_high": 0.61, **metrics, **values},
    }
    return record("retrieval", row)


@pytest.mark.parametrize(
    ("card", "stated"),
    [
        (
            "---\nlicense: other\nlicense_name: gemma\nlicense_link: https://g.co\n---\n# x",
            {"license": "other", "license_name": "gemma", "license_link": "https://g.co"},
        ),
        ("---\ntags: [a]\n---\n", {}),
        ("# No metadata", {}),
        ("---\nlicense: [unclosed\n---\n", {}),
        (None, {}),
    ],
)
def test_the_licence_of_a_checkpoint(tmp_path, card, stated):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert license_of(tmp_path).get("license", {}) == stated


def sections(card):
    """Title to text."""
    return {part.split("\n")[0]: part for part in card.split("\n## ")[1:]}


def metadata(card):
    empty, front, _ = card.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(front)


def test_metadata_of_a_hub_checkpoint(found):
    assert metadata(model_card.write(found, REPO, Measured())) == {
        "license": "gemma",
        "base_model": "vidore/colpali-v1.3-hf",
        "base_model_relation": "quantized",
        "library_name": "onnx",
        "pipeline_tag": "visual-document-retrieval",
        "tags": ["onnx", "onnxruntime", "colport", "late-interaction", "colpali", "fp32"],
    }


def test_what_is_not_known_is_not_made_up(exported):
    found = manifest.read(exported["colbert"])
    card = model_card.write(dataclasses.replace(found, source={}), REPO, Measured())
    assert set(metadata(card)) == {"library_name", "pipeline_tag", "tags"}
    assert metadata(card)["pipeline_tag"] == "sentence-similarity"
    assert "A checkpoint that is not recorded" in card
    assert "| Licence | none is stated by the checkpoint; its terms apply |" in card
    assert "operator set" in card
    assert "; not run |" in card
    assert sections(card)["Parity with PyTorch"].endswith("\n\nNot measured.\n")
    assert sections(card)["Retrieval"].endswith("\n\nNot measured.\n")
    assert 'encode_documents(["A passage."])' in sections(card)["Use"]


def test_what_it_is(found):
    card = model_card.write(found, REPO, Measured())
    facts = sections(card)["What it is"]
    assert f"| Checkpoint | vidore/colpali-v1.3-hf@{COMMIT} |" in facts
    assert f"| SHA-256 of its `model.safetensors` | {'ab' * 32} |" in facts
    assert f"operator set {found.opset}" in facts
    assert "torch " in facts
    assert f'Encoder(snapshot_download("{REPO}"))' in sections(card)["Use"]
    rows = sections(card)["Inputs and outputs"]
    assert "| `image.onnx` | input | `pixel_values` | float [batch, 3, 168, 168] |" in rows
    for name, file in found.files.items():
        row = f"| `{name}` | {file['size_bytes']:,} | {file['sha256']} |"
        assert row in sections(card)["Files"]


def test_measured_parity(found):
    failed = parity(kind="document", passed=False, status="failed", reason="min_cosine 0.5 < 0.8")
    card = model_card.write(found, REPO, Measured([parity(), failed]))
    text = sections(card)["Parity with PyTorch"]
    assert (
        "| cpu | query | 16 | 1,234 | 0.999877 | 0.991234 | 0.012346 | 0.975 | min_cosine>=0.8 "
        "| yes |" in text
    )
    assert "| **no**: min_cosine 0.5 &#60; 0.8 |" in text
    assert "Measured on A processor, 2 cores." in text
    assert "measured with onnxruntime 1.31.1" in card
    assert "model-index" not in metadata(card)


CHECK = {
    "status": "passed",
    "against": "checkpoint",
    "tolerance": "min_cosine>=0.999",
    "rows": [
        {"kind": "query", "inputs": 2, "min_cosine": 0.9999},
        {"kind": "document", "inputs": 2, "min_cosine": 0.9991234},
    ],
}


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({}, "not recorded"),
        ({"status": "left out"}, "left out"),
        (
            CHECK,
            "passed: against the checkpoint's own library on 2 query inputs and 2 document inputs, "
            "least cosine 0.999123, allowed min_cosine>=0.999",
        ),
        (
            {**CHECK, "against": "base", "base": "left out", "status": "failed"},
            "failed: against its float base (whose own check: left out) on 2 query inputs and ",
        ),
        ({**CHECK, "computed_in": "fp32"}, "2 document inputs, computed in fp32, least cosine"),
    ],
)
def test_how_it_was_checked_when_it_was_written(found, check, said):
    card = model_card.write(dataclasses.replace(found, check=check), REPO, Measured())
    (line,) = (line for line in sections(card)["What it is"].splitlines() if "Checked when" in line)
    assert said in line


@pytest.mark.parametrize(
    ("precision", "largest", "said"),
    [
        (
            "fp16",
            1234.5,
            "fp16 ends at 65504; the largest activations on these inputs: 1234 (query",
        ),
        ("fp16", None, "Largest activations were not looked at; fp16 ends at 65504."),
        ("bf16", None, "bf16 has the range of fp32"),
    ],
)
def test_whether_activations_fit_half_precision(found, precision, largest, said):
    record = parity(largest_activation=largest)
    half = dataclasses.replace(found, precision=precision)
    assert said in sections(model_card.write(half, REPO, Measured([record])))["Parity with PyTorch"]
    assert "65504" not in model_card.write(found, REPO, Measured([record]))


def test_measured_retrieval(found):
    scores = [
        retrieval("pytorch", "torch-cpu", 0.57),
        retrieval("int8", "cpu", 0.56123456, ndcg_at_5_delta=-0.0088, p_value=0.0421),
    ]
    card = model_card.write(found, REPO, Measured(retrieval=scores))
    text = sections(card)["Retrieval"]
    assert "| docvqa | torch-cpu | 451 | 500 | 0.5700 | 0.5100 to 0.6100 |" in text
    assert "| docvqa | cpu | 451 | 500 | 0.5612 | 0.5100 to 0.6100 |" in text
    assert "| -0.0088 | 0.042 |" in text
    (index,) = metadata(card)["model-index"]
    assert index["name"] == "colpali-int8"
    (result,) = index["results"]
    assert result["dataset"] == {"name": "docvqa", "type": "docvqa"}
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == dict.fromkeys(model_card._METRICS, 0.56123)


def test_scores_of_smaller_embeddings_are_not_this_model_s(found):
    full = retrieval("int8", "cpu", 0.5, embeddings="full")
    smaller = retrieval("int8", "cpu", 0.4, embeddings="binary")["rows"]
    smaller += retrieval("int8", "cpu", None, embeddings="x", status="unsupported")["rows"]
    card = model_card.write(found, REPO, Measured(retrieval=[full]))
    both = {**full, "rows": full["rows"] + smaller}
    assert model_card.write(found, REPO, Measured(retrieval=[both])) == card


def test_without_judgements_the_card_says_how_far_rankings_agree(found):
    known = {"agreement": 0.98765, "agreement_low": 0.95432, "agreement_high": 0.99876}
    own = retrieval("int8", "cpu", None, dataset="own", **known)
    scores = [retrieval("pytorch", "torch-cpu", None, dataset="own"), own]
    text = sections(model_card.write(found, REPO, Measured(retrieval=scores)))["Retrieval"]
    assert "| own | cpu | 451 | 500 | 0.9877 | 0.9543 to 0.9988 |" in text
    assert "not how good" in text
    assert "Measured on " in text
    assert "Not measured" not in text
    assert "NDCG" not in text
    assert "torch-cpu" not in text
    judged = retrieval("int8", "cpu", 0.5)
    text = sections(model_card.write(found, REPO, Measured(retrieval=[*scores, judged])))
    assert "| own | cpu |" in text["Retrieval"]
    assert "| docvqa | cpu |" in text["Retrieval"]
    lost = retrieval("int8", "cpu", None, status="unsupported", reason="no such provider")
    text = sections(model_card.write(found, REPO, Measured(retrieval=[lost])))["Retrieval"]
    assert text.endswith("Not measured.\n")


def test_a_reference_alone_is_no_score_of_this_model(found):
    card = model_card.write(found, REPO, Measured(retrieval=[retrieval("pytorch", "cpu", 0.5)]))
    assert "Not measured." in sections(card)["Retrieval"]
    assert "model-index" not in metadata(card)


def test_a_provider_that_was_not_there_is_said(found):
    missing = [
        parity(provider=name, status="unsupported", passed=None, reason="no such provider")
        for name in ("openvino", "cuda", "tensorrt", "qnn", "cuda")
    ]
    card = model_card.write(found, REPO, Measured(missing))
    assert "Not measured." in sections(card)["Parity with PyTorch"]
    said = [line for line in sections(card)["Not measured"].splitlines() if line.startswith("- ")]
    names = ("cuda", "openvino", "qnn", "tensorrt")
    assert said == [f"- {name}: no such provider" for name in names]


def test_foreign_text_stays_text(found):
    hostile = "<script>|[x](http://a)`\n# title"
    source = {"source": hostile, "weights": {hostile: hostile}}
    card = model_card.write(dataclasses.replace(found, source=source), REPO, Measured())
    outside_code = re.sub(r"`[^`\n]*`", "", card.split("---\n", 2)[2])
    for text in ("<script", "](http", "\n# title"):
        assert text not in outside_code
    facts = sections(card)["What it is"].splitlines()
    assert {line.count(" | ") for line in facts if line.startswith("| ")} == {1}


def test_records_of_the_pipeline_s_results(found, tmp_path):
    write_json(tmp_path / "parity/m/int8/cpu.json", parity())
    write_json(tmp_path / "retrieval/m/pytorch/d.json", retrieval("pytorch", "torch-cpu", 0.5))
    write_json(tmp_path / "retrieval/m/int8/cpu/d.json", retrieval("int8", "cpu", 0.5))
    write_json(tmp_path / "retrieval/m/fp32/cpu/d.json", retrieval("fp32", "cpu", 0.6))
    measured = model_card.from_results(tmp_path, "m", "int8", found)
    assert len(measured.parity) == 1
    assert [r["rows"][0]["variant"] for r in measured.retrieval] == ["int8", "pytorch"]
    with pytest.raises(ArtifactError, match="holds no records of model 'm', variant 'int4'"):
        model_card.from_results(tmp_path, "m", "int4", found)


def test_results_of_another_export_are_refused(found, exported, tmp_path):
    (tmp_path / "models/m").mkdir(parents=True)
    (tmp_path / "models/m/int8").symlink_to(exported["colqwen2"])
    with pytest.raises(ArtifactError, match="is another export than the folder to push"):
        model_card.from_results(tmp_path, "m", "int8", found)
