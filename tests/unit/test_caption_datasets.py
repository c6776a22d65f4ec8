"""Pictures with captions, lines or answers: the user's own, and as they are published."""

import json

import datasets
import PIL.Image
import pytest

from colport.base.errors import ConfigError, DatasetError
from colport.base.files import write_json
from colport.data.datasets import (
    check_pages,
    dataset_record,
    holds,
    load_retrieval_dataset,
    look,
)

NAMES = ["cat.png", "dog.png", "in/bus.png"]


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "in").mkdir(parents=True)
    for red, name in enumerate(NAMES):
        PIL.Image.new("RGB", (8, 8), (red, 0, 0)).save(folder / name)
    return folder


def declare(pictures, text, suffix="csv", **further):
    file = pictures.parent / f"captions.{suffix}"
    file.write_text(text)
    return {"documents_folder": str(pictures), "captions": str(file), **further}


def load(*given, **further):
    return load_retrieval_dataset("mine", declare(*given, **further))


def reds(dataset):
    return [picture.getpixel((0, 0))[0] for picture in dataset.pictures]


def test_a_caption_a_picture(pictures):
    found = load(pictures, "picture,caption\ndog.png, a dog \ncat.png,a cat\n")
    assert found.query_ids == ["dog.png", "cat.png"]
    assert found.queries == ["", ""]
    assert found.references == {"dog.png": ["a dog"], "cat.png": ["a cat"]}
    assert reds(found) == [1, 0]
    assert not found.are_answers
    assert found.document_ids == NAMES


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_several_captions_are_a_list(suffix, pictures):
    row = {"picture": "cat.png", "captions": ["a cat", "a grey cat"]}
    text = {
        "csv": 'picture,captions\ncat.png,"[""a cat"", ""a grey cat""]"\n',
        "jsonl": json.dumps(row),
    }
    assert load(pictures, text[suffix], suffix).references == {"cat.png": row["captions"]}


def test_a_picture_may_have_several_questions(pictures):
    text = (
        "picture,question,answer\ncat.png,Whose?,mine\ncat.png,How old?,3\nin/bus.png,Where?,here\n"
    )
    found = load(pictures, text)
    assert found.are_answers
    assert found.queries == ["Whose?", "How old?", "Where?"]
    assert found.references == {"q1": ["mine"], "q2": ["3"], "q3": ["here"]}
    assert reds(found) == [0, 0, 2]
    assert reds(load(pictures, text, limit=1)) == [0, 0]
    templated = load(pictures, text, prompt="<q>{question}</q>")
    assert templated.queries[0] == "<q>Whose?</q>"
    with pytest.raises(DatasetError, match=r"prompt 'Say' has no \{question\}, and the dataset"):
        load(pictures, text, prompt="Say")


def test_a_prompt_for_all_pictures(pictures):
    assert load(pictures, "picture,caption\ncat.png,a\n", prompt="<OCR>").queries == ["<OCR>"]


LINE = "line 3, column picture"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,caption\ncat.png,\n", r"line 2: column caption is missing or empty"),
        ("picture,captions\ncat.png,[]\n", r"column captions is missing or empty, found is \[\]"),
        ('picture,captions\ncat.png,"["""" ]"\n', r"column captions is missing or empty"),
        ("picture,captions\ncat.png,a cat\n", r"found 'a cat'; allowed is a list of texts as JSON"),
        ("picture,caption,colour\ncat.png,a,b\n", r"column 'colour' is not known; allowed are pic"),
        ("picture,Caption\ncat.png,a\n", r"column 'Caption' is to be called 'caption'"),
        ("picture,caption\ncat.png,a\ncow.png,b\n", rf"{LINE}: found 'cow.png'; allowed is one of"),
        (
            "picture,caption\ncat.png,a\ncat.png,b\n",
            rf"{LINE}: found 'cat.png'; allowed is one line a picture and prompt, as .* line 2 has",
        ),
        ("picture,prompt\ncat.png,b\n", r"line 2: has no references; allowed is one column of"),
        (
            "picture,caption,answer\ncat.png,a,b\n",
            r"line 2: has caption and answer; allowed",
        ),
        ("caption\na\n", r"line 2: column picture is missing or empty"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(text, message, pictures):
    with pytest.raises(DatasetError, match=message):
        load(pictures, text)


def test_a_file_that_is_not_there(pictures):
    declaration = declare(pictures, "", captions=str(pictures / "none.csv"))
    with pytest.raises(DatasetError, match=r"none\.csv: .*No such file"):
        load_retrieval_dataset("mine", declaration)
    with pytest.raises(DatasetError, match=r"line 2: column picture is missing"):
        look("datasets.mine", declare(pictures, "file,caption\na,b\n"), ["a.png"])


def test_lines_of_skipped_pictures_are_left_out(pictures, tmp_path):
    (pictures / "dog.png").write_bytes(b"no picture")
    given = (pictures, "picture,caption\ndog.png,a dog\ncat.png,a cat\n")
    with pytest.raises(DatasetError, match=r"dog.png .* cannot be decoded"):
        load(*given)
    declaration = declare(*given, on_bad_document="skip")
    found = load_retrieval_dataset("mine", declaration)
    assert found.query_ids == ["cat.png"]
    record = tmp_path / "record.json"
    write_json(record, dataset_record(found, declaration, []))
    again = load_retrieval_dataset("mine", declaration, record)
    assert (again.references, reds(again)) == (found.references, [0])


def test_a_picture_that_is_left_out_takes_its_questions_along(pictures):
    found = load(pictures, "picture,caption\ndog.png,a dog\ncat.png,a cat\n")
    left = found.without({"dog.png": "is bad"})
    assert left.references == {"cat.png": ["a cat"]}
    assert reds(left) == [0]
    assert check_pages(found, lambda message: None) is found


def published(folder, split="test", **columns):
    (folder / "data").mkdir(parents=True)
    image = [PIL.Image.new("RGB", (8, 8), (red, 0, 0)) for red in range(2)]
    features = None
    data = datasets.Dataset.from_dict({"image": image, **columns}, features)
    data = data.cast_column("image", datasets.Image())
    data.to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
    return {"path": str(folder), "split": split}


def test_captions_as_they_are_published(tmp_path):
    """COCO has a list of captions a picture, IAM a line of text."""
    coco = published(tmp_path / "coco", "val", answer=[["a cat", "cats"], ["a dog"]], id=[3, 4])
    found = load_retrieval_dataset("coco", {**coco, "schema": "captions"})
    assert found.references == {"0": ["a cat", "cats"], "1": ["a dog"]}
    assert (found.queries, reds(found), found.are_answers) == (["", ""], [0, 1], False)
    lines = published(tmp_path / "lines", text=["one line", "another"])
    found = load_retrieval_dataset("lines", {**lines, "schema": "captions", "limit": 1})
    assert found.references == {"0": ["one line"]}


def test_questions_and_answers_as_they_are_published(tmp_path):
    given = published(
        tmp_path, "validation", question=["Who?", "When?"], answers=[["A", "a"], ["B"]]
    )
    found = load_retrieval_dataset("docvqa", {**given, "schema": "answers"})
    assert found.are_answers
    assert found.queries == ["Who?", "When?"]
    assert found.references == {"0": ["A", "a"], "1": ["B"]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a", " "]}, r"split test, row 1: column text is missing or empty"),
        ({"captions": [["a"], []]}, r"row 1: column captions is missing or empty, found is \[\]"),
        ({"title": ["a", "b"]}, r"column captions or caption or .* is missing; found image, title"),
        ({"text": [1, None]}, r"row 1: column text is missing or empty"),
    ],
)
def test_a_wrong_table_is_refused_in_one_sentence(columns, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        load_retrieval_dataset("d", {**published(tmp_path, **columns), "schema": "captions"})


def test_what_an_entry_holds():
    own = {"documents_folder": "f"}
    assert holds({**own, "captions": "c.csv"}) == "captions"
    assert holds({"path": "p", "schema": "answers"}) == "captions"
    assert holds({**own, "queries": "q.csv"}) == "pages"
    assert holds({"path": "p", "schema": "beir", "documents": "passages"}) == "passages"


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        (
            {"queries": "q.csv", "captions": "c.csv"},
            r"queries: found 'q.csv'; allowed is with doc",
        ),
        ({"captions": "c.csv", "language": "en"}, r"language: found 'en'; allowed is with docum"),
        ({"queries": "q.csv", "prompt": "p"}, r"datasets\.d\.prompt: found 'p'; allowed is with"),
        ({}, r"queries: found None; allowed is a CSV, TSV or JSONL file, or captions in its place"),
    ],
)
def test_keys_that_do_not_go_together(declaration, message):
    with pytest.raises(ConfigError, match=message):
        load_retrieval_dataset("d", {"documents_folder": "f", **declaration})


def test_captions_are_of_pictures():
    declaration = {"path": "p", "schema": "captions", "documents": "passages"}
    with pytest.raises(ConfigError, match="documents: found 'passages'; allowed is pages"):
        load_retrieval_dataset("d", declaration)
