from __future__ import annotations

import io
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import pytest

from colport.base.errors import ConfigError, DatasetError
from colport.data.datasets import load_retrieval_dataset
from colport.data.rows import Pages

datasets = pytest.importorskip("datasets")

DEMO = Path(__file__).parents[2] / "resources" / "datasets"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path_factory):
    def refuse(*_):
        raise AssertionError("a network connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def png(colour: tuple[int, int, int], mode: str = "RGB") -> dict:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (4, 6), colour).convert(mode).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def write(folder: Path, rows: Sequence[dict], split: str = "test", **types: str) -> None:
    """Write one split as the Hub stores it: parquet shards with the features in their header."""
    features = {
        name.replace("__", "-"): datasets.Image() if kind == "image" else datasets.Value(kind)
        for name, kind in types.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[name] for row in rows] for name in features}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def write_card(folder: Path, **configs: str) -> None:
    lines = ["---", "configs:"]
    for name, data in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += ["  - split: test", f"    path: {data}/test-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


QA_ROWS = [
    {"query": "red?", "image": png(RED), "image_filename": "b.png"},
    {"query": None, "image": png(GREEN, "P"), "image_filename": "a.png"},
    {"query": "any?", "image": png(RED), "image_filename": "b.png"},
    {"query": "blue?", "image": png(BLUE), "image_filename": "c.png"},
    {"query": "any?", "image": png(BLUE), "image_filename": "c.png"},
    {"query": " ", "image": png(BLUE), "image_filename": "c.png"},
]
QA_TYPES = {"query": "string", "image": "image", "image_filename": "string"}


def qa_folder(tmp_path: Path, rows: Sequence[dict] = QA_ROWS, **types: str) -> dict:
    columns = QA_TYPES | types
    rows = [{name: row[name] for name in columns} for row in rows]
    write(tmp_path / "data", rows, **columns)
    write_card(tmp_path, default="data")
    return {"path": str(tmp_path), "schema": "qa"}


CORPUS = [{"corpus-id": 7, "image": png(RED)}, {"corpus-id": 3, "image": png(BLUE)}]
QUERIES = [
    {"query-id": 0, "query": "red?", "language": "english"},
    {"query-id": 1, "query": "bleu?", "language": "french"},
    {"query-id": 2, "query": "unjudged?", "language": "english"},
]
QRELS = [
    {"query-id": 0, "corpus-id": 7, "score": 2},
    {"query-id": 0, "corpus-id": 3, "score": 1},
    {"query-id": 1, "corpus-id": 3, "score": 1},
]
BEIR_TYPES = {
    "corpus": {"corpus-id": "int64", "image": "image"},
    "queries": {"query-id": "int64", "query": "string", "language": "string"},
    "qrels": {"query-id": "int64", "corpus-id": "int64", "score": "int64"},
}


def beir_folder(
    tmp_path: Path,
    corpus: Sequence[dict] = CORPUS,
    queries: Sequence[dict] = QUERIES,
    qrels: Sequence[dict] = QRELS,
    *,
    id_column: str = "-id",
    prefix: str = "",
    types: dict[str, dict[str, str]] | None = None,
) -> dict:
    tables = {"corpus": corpus, "queries": queries, "qrels": qrels}
    for config, rows in tables.items():
        columns = (BEIR_TYPES | (types or {}))[config]
        renamed = {name: name.replace("-id", id_column) for name in columns}
        write(
            tmp_path / config,
            [{new: row[old] for old, new in renamed.items()} for row in rows],
            **{renamed[name].replace("-", "__"): kind for name, kind in columns.items()},
        )
    write_card(tmp_path, **{prefix + config: config for config in tables})
    return {"path": str(tmp_path), "schema": "beir"}


def colours(pages: Sequence[PIL.Image.Image]) -> list[tuple[int, ...]]:
    assert all(page.mode == "RGB" for page in pages)
    return [page.getpixel((0, 0)) for page in pages]


def test_qa_form(tmp_path):
    found = load_retrieval_dataset("tiny", qa_folder(tmp_path))
    assert found.name == "tiny"
    assert found.query_ids == ["q0", "q2", "q3"]
    assert found.queries == ["red?", "any?", "blue?"]
    assert found.document_ids == ["b.png", "a.png", "c.png"]
    assert found.qrels == {
        "q0": {"b.png": 1},
        "q2": {"b.png": 1, "c.png": 1},
        "q3": {"c.png": 1},
    }
    assert len(found.documents) == 3
    assert colours(found.documents) == [RED, GREEN, BLUE]


def test_pages_are_sliced_lazily(tmp_path, monkeypatch):
    decoded = []
    decode = Pages._decode

    def spy(self, row):
        decoded.append(row)
        return decode(self, row)

    monkeypatch.setattr(Pages, "_decode", spy)
    pages = load_retrieval_dataset("tiny", qa_folder(tmp_path)).documents
    shard = pages[1:][::-1]
    assert len(shard) == 2
    assert decoded == []
    assert colours([shard[0], shard[-1]]) == [BLUE, GREEN]
    assert decoded == [3, 1]
    with pytest.raises(IndexError):
        shard[2]


@pytest.mark.parametrize("id_column", ["-id", "_id"])
def test_beir_form_with_either_spelling(tmp_path, id_column):
    found = load_retrieval_dataset("tiny", beir_folder(tmp_path, id_column=id_column))
    assert found.query_ids == ["0", "1", "2"]
    assert found.queries == ["red?", "bleu?", "unjudged?"]
    assert found.document_ids == ["7", "3"]
    assert found.qrels == {"0": {"7": 2, "3": 1}, "1": {"3": 1}}
    assert colours(found.documents) == [RED, BLUE]


def test_passages(tmp_path):
    corpus = [{"corpus-id": "a", "text": "one"}, {"corpus-id": "b", "text": ""}]
    qrels = [{"query-id": 1, "corpus-id": "b", "score": 1}]
    declaration = beir_folder(
        tmp_path,
        corpus,
        qrels=qrels,
        types={
            "corpus": {"corpus-id": "string", "text": "string"},
            "qrels": {"query-id": "int64", "corpus-id": "string", "score": "int32"},
        },
    )
    found = load_retrieval_dataset("tiny", declaration | {"documents": "passages"})
    assert list(found.documents) == ["one", ""]
    assert found.documents[1:] == [""]
    assert list(found.texts) == ["one", ""]
    assert found.qrels == {"1": {"b": 1}}


def test_the_title_of_a_passage_comes_before_its_text_as_in_mteb(tmp_path):
    from mteb._create_dataloaders import _corpus_to_dict

    texts = [("T", "one"), ("", "two"), ("U", "")]
    corpus = [{"id": str(i), "title": title, "text": text} for i, (title, text) in enumerate(texts)]
    qrels = [{"query-id": 1, "corpus-id": "2", "score": 1}]
    types = {
        "corpus": dict.fromkeys(("id", "title", "text"), "string"),
        "qrels": {"query-id": "int64", "corpus-id": "string", "score": "int32"},
    }
    declaration = beir_folder(tmp_path, corpus, qrels=qrels, types=types)
    found = load_retrieval_dataset("tiny", declaration | {"documents": "passages"})
    assert list(found.documents) == ["T one", "two", "U"]
    assert list(found.documents) == [_corpus_to_dict(row)["text"] for row in corpus]


def test_language_column(tmp_path):
    declaration = beir_folder(tmp_path)
    found = load_retrieval_dataset("tiny", declaration | {"language": "french"})
    assert (found.query_ids, found.queries) == (["1"], ["bleu?"])
    assert found.qrels == {"1": {"3": 1}}
    assert found.document_ids == ["7", "3"]
    with pytest.raises(DatasetError, match="no query is in 'german'; found english, french"):
        load_retrieval_dataset("tiny", declaration | {"language": "german"})


def test_language_configs(tmp_path):
    declaration = beir_folder(tmp_path, prefix="french-")
    found = load_retrieval_dataset("tiny", declaration | {"language": "french"})
    assert found.query_ids == ["0", "1", "2"]


def test_limit_keeps_queries_whose_relevant_documents_are_all_kept(tmp_path):
    declaration = qa_folder(tmp_path) | {"limit": 2}
    found = load_retrieval_dataset("tiny", declaration)
    assert found.document_ids == ["b.png", "a.png"]
    assert colours(found.documents) == [RED, GREEN]
    assert (found.query_ids, found.queries) == (["q0"], ["red?"])
    assert found.qrels == {"q0": {"b.png": 1}}


def test_limit_ignores_irrelevant_judgements(tmp_path):
    qrels = [QRELS[0], QRELS[1] | {"score": 0}]
    found = load_retrieval_dataset("tiny", beir_folder(tmp_path, qrels=qrels) | {"limit": 1})
    assert found.qrels == {"0": {"7": 2}}
    assert found.query_ids == ["0"]


def test_hub_dataset_is_read_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    beir_folder(tmp_path / "datasets--vidore--tiny" / "snapshots" / COMMIT)
    declaration = {"hub": "vidore/tiny", "revision": COMMIT, "schema": "beir", "split": "test"}
    assert load_retrieval_dataset("tiny", declaration).document_ids == ["7", "3"]
    other = COMMIT[::-1]
    with pytest.raises(DatasetError, match=f"tiny: vidore/tiny@{other}: the Hub cannot be"):
        load_retrieval_dataset("tiny", declaration | {"revision": other})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hub": "vidore/tiny"}, r"datasets.tiny.path: found \['hub', 'path'\]; .* exactly one"),
        ({"path": None, "hub": "a/b"}, "tiny.revision: found None; allowed is a commit of 40"),
        ({"path": None, "hub": "a/b", "revision": "main"}, "tiny.revision: found 'main'"),
        ({"schema": "squad"}, "tiny.schema: found 'squad'; allowed is qa or beir"),
        ({"documents": "text"}, "tiny.documents: found 'text'; allowed is pages or passages"),
        ({"limit": 0}, "tiny.limit: found 0; allowed is a positive whole number"),
        ({"name": "x"}, "tiny.name: found 'x'; allowed is with path one of the keys hub"),
    ],
)
def test_wrong_declaration(changes, message):
    declaration = {"path": "x", "schema": "qa"} | changes
    declaration = {key: value for key, value in declaration.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        load_retrieval_dataset("tiny", declaration)


def test_missing_folder(tmp_path):
    declaration = {"path": str(tmp_path / "none"), "schema": "qa"}
    with pytest.raises(DatasetError, match=r"tiny: folder .*none does not exist"):
        load_retrieval_dataset("tiny", declaration)


@pytest.mark.parametrize("schema", ["qa", "beir"])
def test_folder_without_data(tmp_path, schema):
    with pytest.raises(DatasetError, match=r"tiny.*(cannot be read|corpus is missing)"):
        load_retrieval_dataset("tiny", {"path": str(tmp_path), "schema": schema})


def test_unknown_split(tmp_path):
    with pytest.raises(DatasetError, match=r"tiny, split dev: cannot be read; found 'test'"):
        load_retrieval_dataset("tiny", qa_folder(tmp_path) | {"split": "dev"})


def test_damaged_parquet(tmp_path):
    declaration = qa_folder(tmp_path)
    (parquet,) = (tmp_path / "data").iterdir()
    parquet.write_bytes(b"PAR1 damaged")
    with pytest.raises(DatasetError, match="tiny, split test: cannot be read"):
        load_retrieval_dataset("tiny", declaration)


def test_missing_column(tmp_path):
    write(tmp_path / "data", [{"query": "x"}], query="string")
    write_card(tmp_path, default="data")
    with pytest.raises(
        DatasetError, match="tiny, split test: column image_filename is missing; found query"
    ):
        load_retrieval_dataset("tiny", {"path": str(tmp_path), "schema": "qa"})


def test_missing_id_column(tmp_path):
    types = {"qrels": {"query-id": "int64", "score": "int64"}}
    with pytest.raises(
        DatasetError, match=r"config qrels, .*corpus-id or corpus_id is missing; found query-id"
    ):
        load_retrieval_dataset("tiny", beir_folder(tmp_path, types=types))


def test_missing_config(tmp_path):
    declaration = beir_folder(tmp_path)
    write_card(tmp_path, corpus="corpus", queries="queries")
    with pytest.raises(
        DatasetError, match="config qrels is missing; found corpus, queries, needed are corpus"
    ):
        load_retrieval_dataset("tiny", declaration)


def test_image_column_of_wrong_type(tmp_path):
    rows = [row | {"image": "page.png"} for row in QA_ROWS]
    with pytest.raises(DatasetError, match=r"tiny, .*column image is string; allowed is image"):
        load_retrieval_dataset("tiny", qa_folder(tmp_path, rows, image="string"))


def test_images_without_features_in_the_header(tmp_path):
    declaration = qa_folder(tmp_path)
    (path,) = (tmp_path / "data").iterdir()
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(parquet.read_table(path).replace_schema_metadata(), path)
    assert colours(load_retrieval_dataset("tiny", declaration).documents) == [RED, GREEN, BLUE]


@pytest.mark.parametrize(
    ("config", "column", "kind", "allowed"),
    [
        ("qrels", "score", "binary", "bool, int8, int16"),
        ("qrels", "corpus-id", "float64", "string"),
        ("queries", "query", "int64", "string"),
    ],
)
def test_wrong_type(tmp_path, config, column, kind, allowed):
    tables = {"queries": QUERIES, "qrels": QRELS}
    tables[config] = [row | {column: b"1" if kind == "binary" else 1} for row in tables[config]]
    types = {config: BEIR_TYPES[config] | {column: kind}}
    message = f"tiny, config {config}, split test: column {column} is {kind}; allowed is {allowed}"
    with pytest.raises(DatasetError, match=message):
        load_retrieval_dataset("tiny", beir_folder(tmp_path, **tables, types=types))


def test_null_values(tmp_path):
    rows = [QA_ROWS[0], QA_ROWS[2] | {"image_filename": None}]
    with pytest.raises(DatasetError, match="column image_filename is null in row 1; every row"):
        load_retrieval_dataset("tiny", qa_folder(tmp_path / "a", rows))
    rows = [QA_ROWS[0], QA_ROWS[2] | {"image": None}]
    with pytest.raises(DatasetError, match="column image is null in row 1; every row"):
        load_retrieval_dataset("tiny", qa_folder(tmp_path / "b", rows))
    queries = [QUERIES[0], QUERIES[1] | {"query": None}]
    with pytest.raises(DatasetError, match=r"config queries, .*column query is null in row 1"):
        load_retrieval_dataset("tiny", beir_folder(tmp_path / "c", queries=queries))


def test_empty_corpus(tmp_path):
    with pytest.raises(DatasetError, match="tiny, config corpus, split test: has no rows"):
        load_retrieval_dataset("tiny", beir_folder(tmp_path, corpus=[]))


def test_duplicate_ids(tmp_path):
    corpus = [*CORPUS, CORPUS[0]]
    with pytest.raises(
        DatasetError, match=r"config corpus, .*column corpus-id has '7' in rows 0 and 2; ids must"
    ):
        load_retrieval_dataset("tiny", beir_folder(tmp_path / "a", corpus))
    queries = [*QUERIES, QUERIES[1]]
    with pytest.raises(DatasetError, match="column query-id has '1' in rows 1 and 3"):
        load_retrieval_dataset("tiny", beir_folder(tmp_path / "b", queries=queries))


def test_judgement_of_unknown_ids(tmp_path):
    qrels = [*QRELS, {"query-id": 0, "corpus-id": 99, "score": 1}]
    with pytest.raises(
        DatasetError,
        match=r"config qrels, .*row 3, column corpus-id: found '99'; .* one of the 2 documents",
    ):
        load_retrieval_dataset("tiny", beir_folder(tmp_path / "a", qrels=qrels))
    qrels = [{"query-id": 8, "corpus-id": 3, "score": 1}, *QRELS]
    with pytest.raises(
        DatasetError, match="row 0, column query-id: found '8'; allowed is one of the 3 queries"
    ):
        load_retrieval_dataset("tiny", beir_folder(tmp_path / "b", qrels=qrels))


def test_repeated_judgement(tmp_path):
    same = beir_folder(tmp_path / "a", qrels=[*QRELS, QRELS[0]])
    assert load_retrieval_dataset("tiny", same).qrels["0"] == {"7": 2, "3": 1}
    other = beir_folder(tmp_path / "b", qrels=[*QRELS, QRELS[0] | {"score": 1}])
    with pytest.raises(
        DatasetError, match=r"row 3, column score: found 1; .* one judgement a pair; .* says 2"
    ):
        load_retrieval_dataset("tiny", other)


def test_no_query_with_judgement(tmp_path):
    rows = [row | {"query": None} for row in QA_ROWS]
    with pytest.raises(DatasetError, match="tiny: no query has a judgement above 0; one is needed"):
        load_retrieval_dataset("tiny", qa_folder(tmp_path / "a", rows))
    qrels = [row | {"score": 0} for row in QRELS]
    with pytest.raises(DatasetError, match="no query has a judgement above 0"):
        load_retrieval_dataset("tiny", beir_folder(tmp_path / "b", qrels=qrels))
    declaration = beir_folder(tmp_path / "c") | {"limit": 1}
    with pytest.raises(DatasetError, match="judgement above 0 among the first 1 documents"):
        load_retrieval_dataset("tiny", declaration)


@pytest.mark.parametrize("damage", [b"no image", png(RED)["bytes"][:40], b""])
def test_undecodable_image(tmp_path, damage):
    rows = [*QA_ROWS, QA_ROWS[0] | {"image": {"bytes": damage}, "image_filename": "d.png"}]
    pages = load_retrieval_dataset("tiny", qa_folder(tmp_path, rows)).documents
    assert colours(pages[:3]) == [RED, GREEN, BLUE]
    with pytest.raises(
        DatasetError, match=r"tiny, split test: the image in row 6 \(column image\) cannot be"
    ):
        pages[3]


@pytest.mark.parametrize(
    ("name", "schema", "documents", "at_least"),
    [
        ("demo-pages-qa", "qa", "pages", (100, 100)),
        ("demo-pages-beir", "beir", "pages", (100, 100)),
        ("demo-passages", "beir", "passages", (20, 50)),
    ],
)
def test_demo_datasets(name, schema, documents, at_least):
    folder = DEMO / name
    if not list(folder.glob("*/*.parquet")):
        pytest.skip(f"{folder} is not made yet")
    declaration = {"path": str(folder), "schema": schema, "documents": documents}
    found = load_retrieval_dataset(name, declaration)
    assert len(found.queries) >= at_least[0]
    assert len(found.document_ids) == len(found.documents) >= at_least[1]
    assert set(found.qrels) == set(found.query_ids)
    if documents == "pages":
        assert min(found.documents[-1].size) > 100
    else:
        assert found.documents[-1].strip()


def test_moved_folder_gives_the_same_dataset(tmp_path):
    declaration = qa_folder(tmp_path / "a")
    first = load_retrieval_dataset("tiny", declaration)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = load_retrieval_dataset("tiny", declaration | {"path": str(tmp_path / "b")})
    assert (first.query_ids, first.qrels) == (second.query_ids, second.qrels)


def test_a_dataset_that_is_made_anew_is_read_anew(tmp_path):
    def write(text):
        passages = [{"corpus-id": "d1", "text": text}]
        queries = [{"query-id": "q1", "query": "anything"}]
        qrels = [{"query-id": "q1", "corpus-id": "d1", "score": 1}]
        for config, rows in (("corpus", passages), ("queries", queries), ("qrels", qrels)):
            (tmp_path / config).mkdir(exist_ok=True)
            datasets.Dataset.from_list(rows).to_parquet(tmp_path / config / "test-0.parquet")

    lines = [
        f"- config_name: {config}\n  data_files:\n  - split: test\n    path: {config}/*.parquet"
        for config in ("corpus", "queries", "qrels")
    ]
    (tmp_path / "README.md").write_text("---\nconfigs:\n" + "\n".join(lines) + "\n---\n")
    declaration = {"path": str(tmp_path), "schema": "beir", "documents": "passages"}
    write("old")
    assert list(load_retrieval_dataset("made", declaration).documents) == ["old"]
    write("new")
    assert list(load_retrieval_dataset("made", declaration).documents) == ["new"]


@pytest.mark.parametrize("name", ["a?", "a*", "a[ab]", "a[!x]", "s3:", "file:"])
def test_a_folder_is_no_pattern_and_no_address(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, colour in ((name, RED), ("aa", GREEN), ("ab", BLUE)):
        page = {"query": folder, "image": png(colour), "image_filename": folder}
        write(
            tmp_path / folder / "data",
            [page],
            query="string",
            image="image",
            image_filename="string",
        )
    assert load_retrieval_dataset("mine", {"path": name, "schema": "qa"}).document_ids == [name]
