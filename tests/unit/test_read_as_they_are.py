"""Files of a dataset or a command are read as they are, or refused by file, line and column."""

import io
import json
import os
import re
from unicodedata import normalize

import datasets
import pyarrow.parquet
import pytest
from PIL import Image

from colport.base.errors import DatasetError
from colport.base.files import write_json
from colport.base.foreign import is_inside
from colport.cli.inputs import read_documents
from colport.data.datasets import check_pages, dataset_record, load_retrieval_dataset
from colport.data.repositories import Repository
from colport.data.rows import SCORES as SCORE_TYPES
from colport.data.rows import load_table
from colport.families import registry
from colport.pipeline import defaults
from colport.pipeline.plan import Plan
from tests import page_models
from tests.conftest import ROOT


@pytest.fixture
def own(tmp_path):
    """A folder with two pages, a query, and a function that loads them."""
    (tmp_path / "pages").mkdir()
    for name in "ab":
        Image.new("RGB", (60, 60), "white").save(tmp_path / f"pages/{name}.png")
    (tmp_path / "q.csv").write_text("query_id,query\nq1,one\n")

    def load(judgements=None, suffix=".jsonl", record=None, **changes):
        declared = {"documents_folder": str(tmp_path / "pages"), "queries": str(tmp_path / "q.csv")}
        if judgements is not None:
            file = tmp_path / f"j{suffix}"
            file.write_text(judgements, encoding="utf-8")
            declared["judgements"] = str(file)
        return load_retrieval_dataset("mine", {**declared, **changes}, record)

    load.folder = tmp_path
    return load


def judged(value: str) -> str:
    first = '{"query_id": "q1", "document": "a.png", "score": 1}\n'
    return first + f'{{"query_id": "q1", "document": "b.png", "score": {value}}}\n'


@pytest.mark.parametrize(
    ("value", "score"),
    [("0", 0), ("0.0", 0), ("false", 0), ("true", 1), ('"0"', 0), ('"2.0"', 2), ("-1", -1)],
)
def test_a_judgement_is_what_it_says(own, value, score):
    assert own(judged(value)).qrels == {"q1": {"a.png": 1, "b.png": score}}
    text = f"query_id,document,score\nq1,a.png,1\nq1,b.png,{json.loads(value)}\n"
    assert own(text, ".csv").qrels["q1"]["b.png"] == score


@pytest.mark.parametrize(
    "value",
    ["null", '""', '" "', "[1]", "{}", "0.5", "NaN", "Infinity", '"high"', '"1_0"', "-1000001"],
)
def test_no_judgement_is_named(own, value):
    with pytest.raises(DatasetError, match=r"j.jsonl, line 2, column score: found .*whole number"):
        own(judged(value))
    if isinstance(json.loads(value), str):
        with pytest.raises(DatasetError, match=r"j.csv, line 2, column score: found"):
            own(f"query_id,document,score\nq1,b.png,{json.loads(value)}\n", ".csv")


@pytest.mark.parametrize(
    ("one", "other"),
    [("query_id", "query-id"), ("document", "corpus-id"), ("document_id", "corpus_id")],
)
def test_two_columns_for_one_thing_are_named_where_they_differ(own, one, other):
    row = {"query_id": "q1", one: "q1" if one == "query_id" else "a.png"}
    row.setdefault("document" if one == "query_id" else one, "a.png")
    own(json.dumps({**row, other: row[one]}))
    own(json.dumps({**row, other: ""}))
    with pytest.raises(DatasetError, match=rf"j.jsonl, line 1: columns {one} and {other} differ"):
        own(json.dumps({**row, other: "b.png"}))


@pytest.mark.parametrize("column", ["relevance", "label", "rel", "Score", "SCORE ", "grade"])
def test_a_column_that_may_hold_the_judgement_is_named(own, column):
    with pytest.raises(DatasetError, match=rf"j.csv, line 2: column '{column.strip()}' is"):
        own(f"query_id,document,{column}\nq1,a.png,1\nq1,b.png,0\n", ".csv")
    line = json.dumps({"query_id": "q1", "document": "a.png", column: 0})
    with pytest.raises(DatasetError, match=rf"j.jsonl, line 1: column '{column}' is"):
        own(line)
    beside = {"query_id": "q1", "document": "a.png", "score": 1, "comment": "seen"}
    assert own(json.dumps(beside)).qrels == {"q1": {"a.png": 1}}


@pytest.mark.parametrize("value", ["false", "[]", "{}", "NaN", '"\\ud83d"'])
def test_a_name_or_text_of_another_type_is_named(own, value):
    line = '{"query_id": "q1", "document": "a.png", "page": null}'
    for column, text in (
        ("query_id", line.replace('"q1"', value)),
        ("document", line.replace('"a.png"', value)),
        ("page", line.replace("null", value)),
    ):
        with pytest.raises(DatasetError, match=rf"j.jsonl, line 1.* column {column}"):
            own(text)
    queries = own.folder / "q.jsonl"
    queries.write_text(f'{{"query_id": "q1", "query": {value}}}')
    with pytest.raises(DatasetError, match=r"q.jsonl, line 1.* column query"):
        own(queries=str(queries))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_end_in_any_way(own, end, mark):
    texts = ["one\u2028and\x0bmore", "two\x85"]
    file = own.folder / "lines.txt"
    file.write_bytes((mark + end.join(["one\u2028and\x0bmore", "", "two"])).encode())
    assert read_documents(file, "passages", 5) == [texts[0], "two"]
    for suffix, content in (
        (".csv", ["query_id,query", f'q1,"{texts[0]}"', "q2,two"]),
        (".jsonl", [json.dumps({"query": text}, ensure_ascii=False) for text in (texts[0], "two")]),
    ):
        queries = own.folder / f"other{suffix}"
        queries.write_bytes((mark + end.join(content)).encode())
        assert own(queries=str(queries)).queries == [texts[0], "two"]


@pytest.mark.parametrize(
    ("encoding", "letter", "message"),
    [
        ("utf-16", "ü", "is UTF-16 text; allowed is UTF-8"),
        ("utf-32", "ü", "is UTF-32 text"),
        ("utf-16-le", "u", r"holds a NUL character \(character 2\)"),
        ("latin-1", "ü", r"is not UTF-8 text \(byte 15\)"),
    ],
)
def test_text_in_another_encoding_is_named(own, encoding, letter, message):
    queries = own.folder / "other.csv"
    queries.write_bytes(f"query_id,query\n{letter},two\n".encode(encoding))
    with pytest.raises(DatasetError, match=rf"other.csv: {message}"):
        own(queries=str(queries))
    with pytest.raises(DatasetError, match=rf"other.csv: {message}"):
        read_documents(queries, "passages", 5)


@pytest.mark.parametrize(("inside", "outside"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_found_in_either_normal_form(own, inside, outside):
    on_disk = normalize(inside, "é.png")
    (own.folder / "pages/a.png").rename(own.folder / "pages" / on_disk)
    asked = normalize(inside, "fü")
    (own.folder / "q.csv").write_text(f"query_id,query\n{asked},one\n", encoding="utf-8")
    rows = f"query_id,document\n{normalize(outside, 'fü')},{normalize(outside, 'é.png')}\n"
    assert own(rows, ".csv").qrels == {asked: {on_disk: 1}}


def test_two_names_that_differ_in_their_form_only_are_kept_apart(own):
    forms = [normalize(form, "é.png") for form in ("NFC", "NFD")]
    for form in forms:
        Image.new("RGB", (60, 60)).save(own.folder / "pages" / form)
    rows = f"query_id,document,score\nq1,{forms[0]},1\nq1,{forms[1]},0\n"
    assert own(rows, ".csv").qrels == {"q1": {forms[0]: 1, forms[1]: 0}}


def test_paths_begin_at_home_too(own, monkeypatch):
    monkeypatch.setenv("HOME", str(own.folder))
    (own.folder / "j.csv").write_text("query_id,document\nq1,a.png\n")
    places = {"documents_folder": "~/pages", "queries": "~/q.csv", "judgements": "~/j.csv"}
    found = load_retrieval_dataset("mine", places)
    assert found.qrels == {"q1": {"a.png": 1}}
    with pytest.raises(DatasetError, match=f"no file matches .* in {own.folder}/pages"):
        load_retrieval_dataset("table", {"path": "~/pages", "schema": "qa"})


def test_folders_behind_links_are_named_and_hidden_ones_left_alone(own):
    (own.folder / "elsewhere").mkdir()
    for place in ("elsewhere/c.png", "pages/.cache/d.png"):
        (own.folder / place).parent.mkdir(exist_ok=True)
        Image.new("RGB", (60, 60)).save(own.folder / place)
    assert own().document_ids == ["a.png", "b.png"]
    (own.folder / "linked").symlink_to(own.folder / "pages")
    assert own(documents_folder=str(own.folder / "linked")).document_ids == ["a.png", "b.png"]
    (own.folder / "pages/more").symlink_to(own.folder / "elsewhere")
    with pytest.raises(DatasetError, match=r"mine: more in .* is a link to a folder"):
        own()
    assert own(on_bad_document="skip").skipped["more"].startswith("is a link to a folder")


@pytest.mark.parametrize("name", ["c.png", "c.pdf"])
@pytest.mark.parametrize("target", ["nowhere", "itself"])
def test_a_link_to_nothing_is_named(own, name, target):
    link = own.folder / "pages" / name
    link.symlink_to(name if target == "itself" else target)
    with pytest.raises(DatasetError, match=rf"mine: {name} in .* is a link to a file that is not"):
        own()
    assert own(on_bad_document="skip").document_ids == ["a.png", "b.png"]
    assert is_inside(own.folder / "pages", name)  # and no error: what reads it says so


def test_what_is_no_file_is_left_alone(own):
    folder = own.folder / "pages"
    (folder / "c.png").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "d.png").symlink_to("pipe")
    assert own().document_ids == ["a.png", "b.png"]
    assert len(read_documents(folder, "pages", 5)) == 2


def test_a_name_that_is_no_text_is_named(own):
    try:
        (own.folder / "pages" / b"c\xff.png".decode(errors="surrogateescape")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DatasetError, match=r"mine: c\\xff.png in .* has a name that is not UTF-8"):
        own()


def test_an_animation_is_no_page(own):
    frames = [Image.new("RGB", (60, 60), colour) for colour in ("red", "blue", "green")]
    for name in ("c.gif", "c.webp", "c.png"):
        file = own.folder / "pages" / name
        frames[0].save(file, save_all=True, append_images=frames[1:])
        with pytest.raises(DatasetError, match=rf"mine: {name} in .* is an animation of 3 images"):
            own()
        with pytest.raises(DatasetError, match=f"{name} in .* is an animation of 3 images"):
            read_documents(file, "pages", 5)
        file.unlink()


def test_a_command_reads_every_page_of_a_tiff(own):
    file = own.folder / "scan.tiff"
    frames = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (10, 20, 30)]
    frames[0].save(file, save_all=True, append_images=frames[1:])
    for count in (2, 5):
        found = read_documents(file, "pages", count)
        assert [page.getpixel((0, 0))[0] for page in found] == [10, 20, 30][:count]


def wide(own):
    Image.new("RGB", (2500, 10)).save(own.folder / "pages/aa.png")


def test_a_shape_that_a_family_does_not_take_is_found_with_the_dataset(own):
    wide(own)
    message = r"mine: aa.png is a page of 2500x10 pixels: .* for colqwen2; `on_bad_document: skip`"
    with pytest.raises(DatasetError, match=message):
        check_pages(own(), print, read_by=["colpali", "colqwen2"], skip=False)
    assert check_pages(own(), print, read_by=["colpali"], skip=False).document_ids[1] == "aa.png"


def test_a_dataset_is_checked_for_the_families_that_read_it():
    config = defaults.complete({}, ROOT)
    config["datasets"] = {name: {"path": name, "schema": "qa"} for name in ("one", "two", "three")}
    place = {"path": "checkpoint"}
    config["models"] = {
        "pali": {"family": "colpali", "checkpoint": place, "datasets": ["one", "two"]},
        "qwen": {"family": "colqwen2", "checkpoint": place, "datasets": ["two"]},
    }
    config["models"]["qwen"]["calibration"] = "three"
    # Not of the models to run: a run of fewer would check, and so make, the dataset anew.
    config["run"]["models"] = ["pali"]
    plan = Plan.checked(config, ROOT)
    found = {name: plan.limiting(name) for name in ("one", "two", "three")}
    assert found == {"one": ["colpali"], "two": ["colpali", "colqwen2"], "three": ["colqwen2"]}


@pytest.mark.parametrize(
    ("family", "token"), [("colpali", "<image>"), ("colqwen2", "<|image_pad|>")]
)
def test_a_query_that_spells_a_token_of_pages_is_found_with_the_dataset(own, family, token):
    (own.folder / "q.csv").write_text(f"query_id,query\nq1,one\nq7,what is {token}?\n")
    retrievers = [it for it in map(registry.get, registry.NAMES) if it.task == "retrieval"]
    others = [it.name for it in retrievers if token not in it.reserved]
    check_pages(own(), print, read_by=others)
    message = rf"^mine: q.csv, query q7 spells {re.escape(token)}, .* \(family {family}\)\.$"
    with pytest.raises(DatasetError, match=message):
        check_pages(own(), print, read_by=[*others, family], skip=True, asked_in="q.csv")
    demo = page_models.demo(family)
    assert registry.get(family).processing(demo).settings["reserved"] == [token]


def test_classes_are_not_taken_for_the_names_that_they_stand_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    features = datasets.Features(score=datasets.ClassLabel(names=["1", "0"]))
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict({"score": [0, 1]}, features).to_parquet(
        str(tmp_path / "data/test-00000-of-00001.parquet")
    )
    table = load_table(Repository("table", tmp_path, None, {}), None, "test")
    with pytest.raises(DatasetError, match=r"column score is ClassLabel.*allowed is bool, int8"):
        table.values("score", SCORE_TYPES)


def test_what_the_check_refuses_is_skipped_everywhere(own, monkeypatch):
    wide(own)
    rows = "query_id,document\nq1,aa.png\nq1,b.png\n"
    skip = {"on_bad_document": "skip"}
    found = check_pages(own(rows, ".csv", **skip), print, read_by=["colqwen2"], skip=True)
    assert found.document_ids == ["a.png", "b.png"]
    assert found.qrels == {"q1": {"b.png": 1}}
    assert found.skipped["aa.png"].startswith("is a page of 2500x10 pixels")
    file = own.folder / "record.json"
    write_json(file, dataset_record(found, skip, []))
    later = own(rows, ".csv", record=file, limit=1, **skip)  # the record knows of the limit
    assert (later.document_ids, later.qrels) == (found.document_ids, found.qrels)
    assert later.skipped == found.skipped
    assert [page.size for page in later.documents] == [(60, 60)] * 2
    only = own("query_id,document\nq1,aa.png\n", ".csv", **skip)
    with pytest.raises(DatasetError, match="no query has a judgement above 0 once bad documents"):
        check_pages(only, print, read_by=["colqwen2"], skip=True)
    (own.folder / "pages/b.png").unlink()
    with pytest.raises(DatasetError, match=r"b.png is no longer there"):
        own(rows.replace("b.png", "a.png"), ".csv", record=file, **skip)


def test_a_pdf_page_that_cannot_be_drawn_is_skipped_too(own, monkeypatch):
    from colport.data.pdfs import BadDocumentError, PdfReader
    from tests.pdfs import pdf

    pytest.importorskip("pypdfium2")
    (own.folder / "pages/c.pdf").write_bytes(pdf(["one", "two"]))
    found = own(on_bad_document="skip")
    plain = PdfReader.render

    def render(reader, file, index, dpi):
        if index == 0:
            raise BadDocumentError("takes more than 60 s to be read")
        return plain(reader, file, index, dpi)

    monkeypatch.setattr(PdfReader, "render", render)
    checked = check_pages(found, print, skip=True)
    assert checked.document_ids == ["a.png", "b.png", "c.pdf#2"]
    assert checked.skipped == {"c.pdf#1": "cannot be read (takes more than 60 s to be read)"}
    assert list(checked.texts) == ["", "", "two"]


SCORES = {  # the largest, and what else is a judgement, in a line of JSON and in a table
    10**6: 10**6,
    **{10**6 + 1: None, -(2**40): None},
    **{False: 0, 2.0: 2, 0.5: None, float("inf"): None, float("nan"): None},
    **{"true": 1, " 3 ": 3, "2.0": 2, "": None, "yes": None, "nan": None},
}


@pytest.mark.parametrize("score", SCORES, ids=repr)
def test_judgements_that_trec_eval_cannot_count_are_named(tmp_path, monkeypatch, own, score):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    parts = {
        "corpus": {"corpus-id": ["1"], "text": ["a"]},
        "queries": {"query-id": ["1", "2"], "query": ["x", "y"]},
        "qrels": {
            "query-id": ["1", "2"],
            "corpus-id": ["1", "1"],
            "score": [type(score)(1), score],
        },
    }
    for name, columns in parts.items():
        file = str(tmp_path / name / "test-00000-of-00001.parquet")
        (tmp_path / name).mkdir()
        datasets.Dataset.from_dict(columns).to_parquet(file)
    declared = {"path": str(tmp_path), "schema": "beir", "documents": "passages"}
    lines = judged(json.dumps(score))
    found, message = SCORES[score], "column score: found .*; allowed is a whole number up to 10"
    if found is not None:
        assert load_retrieval_dataset("table", declared).qrels["2"] == {"1": found}
        assert own(lines).qrels["q1"]["b.png"] == found
        return
    with pytest.raises(DatasetError, match=f"config qrels, split test, row 1, {message}"):
        load_retrieval_dataset("table", declared)
    with pytest.raises(DatasetError, match=f"line 2, {message}"):
        own(lines)


def test_a_text_in_a_table_that_is_not_utf_8_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    offsets, content = (pyarrow.py_buffer(part) for part in (b"\0\0\0\0\1\0\0\0", b"\xff"))
    bad = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, offsets, content])
    columns = {"query": bad, "text": pyarrow.array(["a"]), "image_filename": pyarrow.array(["b"])}
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(
        pyarrow.table(columns), tmp_path / "data/test-00000-of-00001.parquet"
    )
    declared = {"path": str(tmp_path), "schema": "qa", "documents": "passages"}
    with pytest.raises(DatasetError, match="split test: column query holds a text that is not UTF"):
        load_retrieval_dataset("table", declared)


def table(folder, colours, names):
    def encoded(colour):
        stream = io.BytesIO()
        Image.new("RGB", (60, 60), colour).save(stream, "PNG", optimize=colour == "red")
        return {"bytes": stream.getvalue(), "path": None}

    rows = {
        "query": [f"{colour}?" for colour in colours],
        "image": [encoded(colour) for colour in colours],
        "image_filename": names,
    }
    text = datasets.Value("string")
    features = {"query": text, "image": datasets.Image(), "image_filename": text}
    (folder / "data").mkdir(exist_ok=True)
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(
        str(folder / "data/test-00000-of-00001.parquet")
    )
    return load_retrieval_dataset("table", {"path": str(folder), "schema": "qa"})


def test_two_pages_of_one_name_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DatasetError, match=r"has 'x.png' in rows 0 and 2, whose documents differ"):
        table(tmp_path, ["red", "green", "blue"], ["x.png", "y.png", "x.png"])
    same = table(tmp_path, ["red", "green", "#ff0000"], ["x.png", "y.png", "x.png"])
    assert same.document_ids == ["x.png", "y.png"]  # one page, written by two programs
