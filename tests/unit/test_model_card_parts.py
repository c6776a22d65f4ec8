"""Parts of a model card: which records count, how figures, machines and settings are told."""

import dataclasses

import pytest

from colport.base.errors import ArtifactError
from colport.base.files import write_json
from colport.folder.manifest import GraphInfo, Manifest
from colport.report import model_card
from colport.report.model_card import Measured
from colport.tables import COLUMNS

GRAPH = GraphInfo("text.onnx", {}, {}, 1, 1)
FOUND = Manifest(
    family="colbert",
    precision="int8",
    opset=23,
    dim=8,
    source={},
    processing={},
    graphs={"text": GRAPH},
    external_data={"layout": "split", "files": []},
)
MACHINE = {"packages": {"onnxruntime": "1.31.1"}, "cpu": "A", "cores": 2, "gpu": None}


def record(table, *rows, **more):
    plain = {**dict.fromkeys(COLUMNS[table]), "status": "ok", "reason": "", "variant": "int8"}
    rows = [{**plain, "provider": "cpu", **row} for row in rows]
    return {"rows": rows, "environment": MACHINE, **more}


def scores(dataset, value, **row):
    metrics = dict.fromkeys((*model_card._METRICS, "ndcg_at_5_low", "ndcg_at_5_high"), value)
    return {"dataset": dataset, "queries": 9, "documents": 5, **metrics, **row}


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(None, 3, ""), (1234.5678, 2, "1,234.57"), (1234, 0, "1,234"), (0, 4, "0.0000")],
)
def test_numbers(value, digits, text):
    assert model_card._number(value, digits) == text


def test_only_the_reference_s_rows_are_not_the_folder_s():
    rows = [{"variant": name} for name in ("pytorch", "int8", "pytorch-like", "my-pytorch")]
    assert model_card._own(rows) == rows[1:]


def test_settings_in_one_line():
    settings = {
        **{"bits": 8, "exclude": (), "smoothing": None, "operators": ("MatMul", "Gather")},
        "sensitivity": {"mean_cosine": 0.9, "min_cosine": 0.8},
    }
    assert model_card._listed(settings) == (
        "bits 8; operators MatMul, Gather; sensitivity mean_cosine 0.9, min_cosine 0.8"
    )
    assert model_card._listed({}) == ""


def test_machines_and_runtimes_are_told_once():
    other = {
        **MACHINE,
        "cpu": "B",
        "cores": 64,
        "gpu": "H",
        "packages": {"onnxruntime-gpu": "1.2", "torch": "2"},
    }
    records = [{"environment": place} for place in (other, MACHINE, MACHINE)]
    assert model_card._machines(records) == "A, 2 cores; B, 64 cores, H"
    assert model_card._runtimes(Measured(records[:1], records[1:])) == (
        "measured with onnxruntime 1.31.1, onnxruntime-gpu 1.2"
    )
    assert model_card._runtimes(Measured()) == "not run"


@pytest.mark.parametrize(
    ("source", "linked"),
    [
        (f"org/name@{'a' * 40}", True),
        (f"org/name@{'a' * 40} with base", True),
        (f"org/name@{'a' * 39}", False),
        ("org/name@main", False),
        (f"a/b/c@{'a' * 40}", False),
        (f"/folder/name@{'a' * 40}", False),
    ],
)
def test_a_base_model_is_named_by_a_commit_of_the_hub(source, linked):
    card = model_card.write(
        dataclasses.replace(FOUND, source={"source": source}), "me/it", Measured()
    )
    assert ("base_model: org/name" in card) == linked
    assert ("https://huggingface.co/org/name" in card) == linked


def test_datasets_are_sorted_and_limits_told_once():
    retrieval = [
        record("retrieval", scores("z", 0.5)),
        record("retrieval", scores("a", 0.25)),
        record("retrieval", scores("own", None)),  # without judgements
        record("retrieval", {**scores("b", None), "status": "unsupported", "reason": "too large"}),
    ]
    limit = {"provider": "cuda", "kind": "query", "status": "unsupported", "reason": "no CUDA"}
    parity = [record("parity", limit, {**limit, "kind": "document"})]
    card = model_card.write(FOUND, "me/it", Measured(parity, retrieval))
    assert card.index("| a | cpu | 9 | 5 | 0.2500") < card.index("| z | cpu | 9 | 5 | 0.5000")
    assert "| own |" not in card
    assert card.count("- cuda: no CUDA") == 1
    assert "- cpu: too large" in card
    assert "onnx" in card


def test_records_of_another_export_or_table(tmp_path):
    def read(table, content):
        write_json(tmp_path / "one.json", content)
        return model_card.from_files(
            [tmp_path / "one.json"] if table == "parity" else [],
            [tmp_path / "one.json"] if table == "retrieval" else [],
            FOUND,
        )

    row = {"kind": "query"}
    assert len(read("parity", record("parity", row)).parity) == 1
    assert len(read("retrieval", record("retrieval", scores("a", 1))).retrieval) == 1
    assert len(read("parity", record("parity", row, export=FOUND.digest)).parity) == 1
    with pytest.raises(ArtifactError, match="was measured on another export than the folder"):
        read("parity", record("parity", row, export="0" * 64))
    for wrong in (record("retrieval", scores("a", 1)), record("parity"), {"rows": None}):
        with pytest.raises(ArtifactError, match="is no record of parity; its rows lack columns"):
            read("parity", wrong)
