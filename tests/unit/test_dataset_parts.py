"""The parts that read a dataset, with two families, two files and two forms of each."""

import sys
import unicodedata
from types import SimpleNamespace

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from colport.base.errors import DatasetError
from colport.data import base, datasets, judgements, parquet
from colport.data.base import Lazy, RetrievalDataset
from colport.data.documents import Page, PageReader, PageSettings, _Scan
from colport.data.images import decode, page_count
from colport.data.judgements import Row, judged
from colport.data.pdfs import BadDocumentError
from colport.data.published import _in_language, _language_prefix
from colport.data.repositories import Repository
from colport.data.rows import Pages, Table, _cache_folder, _type, load_table


def a_dataset(**changes):
    fields = {
        **{"name": "mine", "query_ids": ["q1", "q2"], "queries": ["one?", "two?"]},
        **{"document_ids": ["a", "b", "c"], "documents": ["A", "B", "C"]},
        "qrels": {"q1": {"a": 1, "b": 0}, "q2": {"b": 2, "c": 1}},
    }
    return RetrievalDataset(**{**fields, **changes})


def test_progress_is_said_every_few_seconds(monkeypatch):
    times = iter([100.0, 104.0, 106.0, 106.0, 109.0, 112.0])
    monkeypatch.setattr(base.time, "monotonic", lambda: next(times))
    said = []
    places = list(base.batches(5, 2, "embedded", "pages", said.append))
    assert places == [range(2), range(2, 4), range(4, 5)]
    assert said == [
        "embedded 4/5 pages, 0.7 a second, 2 s left",
        "embedded 5 pages in 12.0 s",
    ]


def test_places_are_read_one_by_one():
    read = []
    items = Lazy([3, 5, 7], lambda place: read.append(place) or 10 * place)
    assert len(items) == 3
    assert items[1:][0] == 50
    assert read == [5]
    assert list(items[::-1]) == [70, 50, 30]


def test_a_part_of_a_dataset_has_its_own_judgements():
    found = a_dataset(texts=["ta", "tb", "tc"])
    one = found.with_queries([1])
    assert (one.query_ids, one.queries, one.qrels) == (["q2"], ["two?"], {"q2": {"b": 2, "c": 1}})
    left = found.without({"a": "is bad", "c": "is worse"})
    assert (left.document_ids, left.documents, left.texts) == (["b"], ["B"], ["tb"])
    assert left.qrels == {"q1": {"b": 0}, "q2": {"b": 2}}
    assert left.skipped == {"a": "is bad", "c": "is worse"}
    assert left.without({"x": "is not there"}).skipped.keys() == {"a", "c", "x"}
    with pytest.raises(DatasetError, match=r"mine: no document is left; a is bad\."):
        found.without(dict.fromkeys("abc", "is bad"))


def test_the_first_documents_keep_queries_whose_pages_are_all_there():
    found = a_dataset()
    kept = {limit: found.first_documents(limit).query_ids for limit in (1, 2, 3, 9)}
    assert kept == {1: ["q1"], 2: ["q1"], 3: ["q1", "q2"], 9: ["q1", "q2"]}
    assert found.first_documents(2).document_ids == ["a", "b"]


def test_a_record_names_documents_in_its_own_order():
    found = a_dataset(texts=["ta", "tb", "tc"])
    record = datasets.dataset_record(
        a_dataset(document_ids=["c", "a"], skipped={"b": "bad"}, languages=("en", "fr")), {}, []
    )
    assert record["counts"] == {"queries": 2, "documents": 2, "judgements": 4, "skipped": 1}
    again = found.recorded(record)
    assert (again.document_ids, again.documents) == (["c", "a"], ["C", "A"])
    assert (list(again.texts), again.languages) == (["tc", "ta"], ("en", "fr"))
    assert (again.skipped, again.qrels) == ({"b": "bad"}, found.qrels)
    with pytest.raises(DatasetError, match=r"mine: x is no longer there; run the stage again\."):
        found.recorded({**record, "document_ids": ["a", "x"]})


def test_the_digest_of_files_is_that_of_all_contents(tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    seen = set()
    for contents in (("1", "2"), ("2", "1"), ("1", "3"), ("4", "2")):
        for file, content in zip(files, contents, strict=True):
            file.write_text(content)
        names = [str(file) for file in files]
        assert datasets._digest(names) == datasets._digest(names[::-1])
        seen.add(datasets._digest(names))
    assert len(seen) == 4
    assert datasets._digest([]) is None


@pytest.fixture
def families(monkeypatch):
    """Two families: one reads no wide page, the other no tall one; each has words of its own."""

    def family(name, reserved, bad):
        def fault(width, height):
            return f"is {width}x{height}" if bad(width, height) else None

        known = {"reserved": reserved, "page_fault": fault}
        return SimpleNamespace(name=name, task="retrieval", **known)

    known = {
        "one": family("one", {"<one>"}, lambda width, height: width > 20),
        "two": family("two", {"<two>"}, lambda width, height: height > 20),
    }
    monkeypatch.setattr(datasets.registry, "get", known.get)
    monkeypatch.setattr(
        datasets, "spelled", lambda text, words: next((f"has {w}" for w in words if w in text), "")
    )


def pages(*sizes):
    shapes = [PIL.Image.new("RGB", size) for size in sizes]
    names = [f"p{index}" for index in range(len(shapes))]
    qrels = {"q1": dict.fromkeys(names, 1)}
    return a_dataset(document_ids=names, documents=shapes, qrels=qrels)


@pytest.mark.parametrize(("size", "reader"), [((21, 5), "one"), ((5, 21), "two")])
def test_a_page_suits_every_family(size, reader, families):
    def check(skip):
        return datasets.check_pages(
            pages((5, 5), size, (9, 9)), lambda line: None, read_by=["one", "two"], skip=skip
        )

    said = f"mine: p1 is {size[0]}x{size[1]} for {reader}"
    hints = {None: r"\.", False: r"; `on_bad_document: skip` leaves it out\."}
    for skip, hint in hints.items():
        with pytest.raises(DatasetError, match=rf"^{said}{hint}$"):
            check(skip)
    left = check(True)
    assert left.document_ids == ["p0", "p2"]
    assert left.skipped == {"p1": f"is {size[0]}x{size[1]} for {reader}"}


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_query_suits_every_family(name, families):
    found = pages((5, 5))
    found.queries[1] = f"a <{name}> b"
    message = rf"^mine: asked\.csv, query q2 has <{name}> \(family {name}\)\.$"
    with pytest.raises(DatasetError, match=message):
        datasets.check_pages(found, print, read_by=["one", "two"], asked_in="asked.csv", skip=True)


@pytest.mark.parametrize(
    ("found", "value"),
    [
        *((1_000_000, 10**6), (-1_000_000, -(10**6)), ("1e6", 10**6), (" +2. ", 2), (2.0, 2)),
        *((1_000_001, None), (-1_000_001, None), (True, None), ("0x1", None), ("1 2", None)),
        *((None, None), ("2.5", None), ([1], None)),
    ],
)
def test_a_judgement_is_a_whole_number_within_bounds(found, value):
    row = Row("file, line 2", {"score": found})
    if value is None:
        message = r"file, line 2, column score: found .*; allowed is a whole number up to 1000000\."
        with pytest.raises(DatasetError, match=message):
            row.whole("score")
    else:
        assert row.whole("score") == value


def test_columns_of_two_names_say_the_same():
    row = Row("line 2", {"query_id": "a", "query-id": "a", "document": 3, "corpus_id": " "})
    assert row.get("query_id", "query-id") == "a"
    assert row.get("absent") is None
    assert row.get("document") == "3"
    differ = Row("line 2", {"query_id": "a", "query-id": "b"})
    with pytest.raises(DatasetError, match=r"^line 2: columns query_id and query-id differ; allow"):
        differ.get("query_id", "query-id")
    with pytest.raises(DatasetError, match=r"column score is missing or empty, found is nan"):
        Row("line 2", {"score": float("nan")}).get("score")


def rows(*found):
    return [Row(f"line {number}", values) for number, values in enumerate(found, start=2)]


def test_judgements_of_what_was_left_out_are_dropped():
    ids, known = ["q1", "q2"], ["a.pdf#1", "b.png"]
    given = rows(
        {"query_id": "q1", "document": "a.pdf", "page": "1"},
        {"query_id": "q1", "document": "bad.pdf#7"},
        {"query_id": "q2", "document": "a.pdf", "page": 2},
        {"query_id": "q2", "document": "b.png"},
        {"query_id": "q2", "document": "b.png"},
    )
    skipped = ["bad.pdf", "a.pdf#2"]
    assert judged(given, ids, known, skipped) == {"q1": {"a.pdf#1": 1}, "q2": {"b.png": 1}}


@pytest.mark.parametrize(
    ("text", "score"), [("TRUE", 1), (" false ", 0), (True, 1), (False, 0), ("3", 3), (-1, -1)]
)
def test_a_judgement_may_be_a_truth(text, score):
    given = rows({"query_id": "q", "document": "d", "score": text})
    assert judged(given, ["q"], ["d"]) == {"q": {"d": score}}


def test_names_are_found_in_either_of_unicode_s_forms():
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    given = rows({"query_id": decomposed, "document": composed})
    assert judged(given, [composed], [decomposed]) == {composed: {decomposed: 1}}
    both = judgements.Names([composed, decomposed])
    assert (both.known(composed), both.known(decomposed)) == (composed, decomposed)
    assert decomposed in both
    three = judgements.Names(["a\u0323\u0307", "\u1ea1\u0307"])  # which of them is not clear
    assert three.known("a\u0307\u0323") == "a\u0307\u0323"


@pytest.mark.parametrize(
    ("array", "size"),
    [
        (pa.array([1, 2, 3], pa.int32()), 12),
        (pa.array([7, 7, 7], pa.int64()).dictionary_encode(), 24),
        (pa.array([{"a": 1, "b": 2}] * 2, pa.struct({"a": pa.int32(), "b": pa.int64()})), 24),
        (pa.array([[1, 2], [3]], pa.list_(pa.int32())), 4 * 2 + 12),
        (pa.array([[1, 2], [3]], pa.large_list(pa.int32())), 8 * 2 + 12),
    ],
    ids=["plain", "dictionary", "struct", "list", "large list"],
)
def test_bytes_of_values_written_out(array, size):
    assert parquet._decoded_bytes(array) == size


@pytest.mark.parametrize(("always", "ratio", "most"), [(10**5, 1, None), (100, 10**4, None)])
def test_what_a_file_may_unpack_to(always, ratio, most, monkeypatch, tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": ["x" * 1000] * 50, "b": list(range(50))}), file)
    monkeypatch.setattr(parquet, "ALWAYS", always)
    monkeypatch.setattr(parquet, "RATIO", ratio)
    assert parquet.unpacks_to_too_much(file) == most
    monkeypatch.setattr(parquet, "ALWAYS", 40_000)
    monkeypatch.setattr(parquet, "RATIO", 1)
    assert parquet.unpacks_to_too_much(file) == 40_000
    monkeypatch.setattr(parquet, "_MOST_ROWS", 10)
    assert parquet.unpacks_to_too_much(file) == 40_000


@pytest.mark.parametrize(
    ("size", "fault"),
    [
        ((10, 10), None),
        ((10, 10.1), "is a page of 10x10 pixels at 72 DPI, more than max_pixels (100)"),
        ((1, 1), None),
        ((1, 0.9), "is a page of 1x1 pixels at 72 DPI"),
        ((float("nan"), 1), "is a page of nanx1 pixels at 72 DPI"),
    ],
)
def test_the_largest_and_the_smallest_page(size, fault, tmp_path):
    scan = _Scan(tmp_path, PageSettings(72, 100), False, None)
    if fault is None:
        scan._check_size(*size, " at 72 DPI")
        return
    with pytest.raises(BadDocumentError) as caught:
        scan._check_size(*size, " at 72 DPI")
    assert caught.value.args[0] == fault


def test_a_file_of_several_pages_is_bad_as_a_whole(tmp_path):
    first, large = PIL.Image.new("L", (9, 9)), PIL.Image.new("L", (30, 9))
    first.save(tmp_path / "a.tiff", save_all=True, append_images=[large])
    first.save(tmp_path / "b.tiff", save_all=True, append_images=[first])
    scan = _Scan(tmp_path, PageSettings(72, 100), True, None)
    assert [(page.id, page.index) for page in scan.pages()] == [("b.tiff#1", 0), ("b.tiff#2", 1)]
    assert scan.bad == {"a.tiff": "is a page of 30x9 pixels, more than max_pixels (100)"}


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_each_kind_of_animation_is_no_page(kind):
    image = SimpleNamespace(n_frames=2, format=kind)
    with pytest.raises(ValueError, match="is an animation of 2 images, not a page"):
        page_count(image)
    assert page_count(SimpleNamespace(n_frames=1, format=kind)) == 1
    assert page_count(SimpleNamespace(n_frames=3, format="JPEG")) == 1
    assert page_count(SimpleNamespace(n_frames=3, format="TIFF")) == 3


def test_pages_are_read_by_their_kind(tmp_path):
    asked = []

    def stand_in(name):
        return lambda *given: asked.append((name, *given)) or name

    pdfs = SimpleNamespace(render=stand_in("render"), text=stand_in("text"))
    reader = PageReader("mine", PageSettings(96), pdfs, SimpleNamespace(decode=stand_in("frame")))
    pdf, scan = tmp_path / "A.PDF", tmp_path / "b.tiff"
    assert reader.image(Page("A.PDF#3", pdf, 2)) == "render"
    assert reader.image(Page("b.tiff#2", scan, 1)) == "frame"
    assert reader.text(Page("A.PDF#3", pdf, 2)) == "text"
    assert reader.text(Page("b.tiff#2", scan, 1)) == ""
    assert asked == [("render", pdf, 2, 96), ("frame", scan, 1), ("text", pdf, 2)]
    PIL.Image.new("L", (3, 4)).save(scan)
    assert reader.image(Page("b.tiff", scan)).size == (3, 4)
    with pytest.raises(DatasetError, match=r"^mine: c\.png cannot be read \(.*No such file"):
        reader.image(Page("c.png", tmp_path / "c.png"))


def test_an_image_of_a_table_is_one_page(tmp_path):
    page = PIL.Image.new("RGB", (4, 4))
    page.save(tmp_path / "a.tiff", save_all=True, append_images=[page])
    with pytest.raises(ValueError, match="holds 2 pages; allowed is one"):
        decode(tmp_path / "a.tiff")
    page.save(tmp_path / "b.tiff")
    assert decode(tmp_path / "b.tiff").size == (4, 4)


def test_files_of_a_split_are_parquet(tmp_path):
    for name in ("a.parquet", "b.csv"):
        (tmp_path / name).touch()
    found = Repository("mine", tmp_path, None, {"one": {"test": ["a.*"], "dev": ["b.*"]}})
    assert found.files("one", "test") == [tmp_path / "a.parquet"]
    with pytest.raises(DatasetError, match=r"mine, config one, split dev: b\.csv is not a parquet"):
        found.files("one", "dev")


def table(**columns):
    import datasets as library

    rows = library.Dataset.from_dict(columns)
    types = {name: _type(feature) for name, feature in rows.features.items()}
    return Table("mine, split test", rows.data.table, types, None)


def test_the_columns_of_a_table():
    found = table(id=[1, 2], _id=["1", "2"], text=["a", None], markdown=["m", "n"], number=[1, 2])
    assert found.name("_id", "id") == "_id"
    assert found.name("absent", "id") == "id"
    assert found.texts("number", "text", "markdown") == ["a", ""]
    assert found.texts("absent", "markdown") == ["m", "n"]
    assert found.texts("number") is None
    assert found.ids("id", unique=True) == ["1", "2"]
    with pytest.raises(DatasetError, match="column text is null in row 1; every row needs a value"):
        found.values("text", ["string"])
    with pytest.raises(
        DatasetError, match="columns id and number2 differ in row 1; allowed is one"
    ):
        table(id=[1, 2], _id=[1, 2], number2=[1, 3]).name("id", "_id", "number2")
    with pytest.raises(DatasetError, match="column id has '5' in rows 1 and 2; ids must be unique"):
        table(id=[4, 5, 5]).ids("id", unique=True)


def test_pages_are_one_by_their_files_or_their_pixels(tmp_path):
    page, other = PIL.Image.new("RGB", (4, 4)), PIL.Image.new("RGB", (4, 4), "red")
    for name, image in (("a.png", page), ("b.bmp", page), ("c.png", other)):
        image.save(tmp_path / name)
    contents = [(tmp_path / name).read_bytes() for name in ("a.png", "b.bmp", "c.png", "a.png")]
    found = table(image=[{"bytes": content, "path": None} for content in contents])
    every = Pages(found, "image")
    assert [every.are_same(0, place) for place in (0, 1, 2, 3)] == [True, True, False, True]
    picked = Pages(found, "image", [2, 0])
    assert len(picked) == 2
    assert picked[0].getpixel((0, 0)) == (255, 0, 0)
    assert not picked.are_same(0, 1)


def test_another_state_of_any_file_is_another_copy(tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_text("x")
    first = _cache_folder(files)
    assert _cache_folder(files) == first
    files[1].write_text("xy")
    assert _cache_folder(files) != first
    assert _cache_folder(files[:1]) != _cache_folder(files)


@pytest.mark.parametrize(
    ("declared", "asked", "languages"),
    [
        ({}, [True, True, True], ("en", "fr")),
        ({"language": "fr"}, [False, True, False], ("fr",)),
    ],
)
def test_queries_in_a_language(declared, asked, languages):
    found = table(language=["en", "fr", None])
    assert _in_language(found, declared) == (asked, languages)
    with pytest.raises(DatasetError, match="no query is in 'de'; found en, fr"):
        _in_language(found, {"language": "de"})


def test_queries_without_a_column_are_in_the_language_declared():
    found = table(query=["a", "b"])
    everything = [True, True]
    assert _in_language(found, {"languages": ["en", "fr"]}) == (everything, ("en", "fr"))
    assert _in_language(found, {"languages": ["en"], "language": "en"}) == (everything, ("en",))
    for languages in ([], ["en", "fr"], ["fr"]):
        with pytest.raises(DatasetError, match="column language is missing; found query"):
            _in_language(found, {"languages": languages, "language": "en"})


@pytest.mark.parametrize(
    ("names", "language", "prefix"),
    [
        (["en-corpus", "fr-corpus", "fr-queries"], "fr", "fr-"),
        (["corpus", "fr-corpus"], "fr", "fr-"),
        (["corpus", "fr-corpus"], "en", ""),
        (["corpus"], None, ""),
        ([], "en", ""),
    ],
)
def test_the_configurations_of_a_language(names, language, prefix):
    repository = SimpleNamespace(name="mine", config_names=lambda: names)
    assert _language_prefix(repository, language) == prefix
    alone = SimpleNamespace(name="mine", config_names=lambda: ["fr-corpus", "en-corpus"])
    with pytest.raises(
        DatasetError, match="'de'; the dataset has a corpus for each of en, fr, and"
    ):
        _language_prefix(alone, "de")


def test_the_files_of_a_split(tmp_path):
    def write(name):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")

    parts = [f"corpus/test-0000{part}-of-00002.parquet" for part in (1, 0)]
    for name in (*parts, "corpus/train-00000-of-00001.parquet", "queries/test.parquet"):
        write(name)
    found = Repository("mine", tmp_path, None, {})
    assert found.config_names() == ["corpus", "queries"]
    assert found.label("corpus", "test") == "mine, config corpus, split test"
    assert found.label(None, "dev") == "mine, split dev"
    assert [file.name for file in found.files("corpus", "test")] == [
        "test-00000-of-00002.parquet",
        "test-00001-of-00002.parquet",
    ]
    assert [file.name for file in found.files("queries", "test")] == ["test.parquet"]
    (tmp_path / parts[0]).unlink()
    with pytest.raises(
        DatasetError, match=r"^mine, config corpus, split test: 1 of 2 parts are in"
    ):
        found.files("corpus", "test")
    message = r"no file matches data/dev\[-\.\]\*parquet or dev\[-\.\]\*parquet in \S+\.$"
    with pytest.raises(DatasetError, match=message):
        found.files(None, "dev")
    write("data/dev-a.parquet")
    write("dev.parquet")
    assert [file.name for file in found.files(None, "dev")] == ["dev-a.parquet", "dev.parquet"]


def test_the_only_configuration_of_a_card(tmp_path):
    one = Repository("mine", tmp_path, None, {"other": {"test": ["b"]}, "default": {"test": ["a"]}})
    assert one._patterns(None, "test") == ["a"]
    assert one._patterns("other", "test") == ["b"]
    assert Repository("mine", tmp_path, None, {"x": {"test": ["c"]}})._patterns(None, "test") == [
        "c"
    ]
    two = Repository("mine", tmp_path, None, {"x": {}, "y": {}})
    with pytest.raises(DatasetError, match="found the configs x, y; schema qa needs one"):
        two._patterns(None, "test")
    with pytest.raises(DatasetError, match=r"split dev: cannot be read; found 'test'\."):
        one._patterns("other", "dev")


def test_a_copy_is_made_once_and_a_damaged_one_is_named(tmp_path, monkeypatch):
    import datasets as library
    import pyarrow.ipc

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    library.Dataset.from_dict({"query": ["a", "b"]}).to_parquet(tmp_path / "data/test-0.parquet")
    repository = Repository("mine", tmp_path, None, {})
    assert load_table(repository, None, "test").values("query", ["string"]) == ["a", "b"]
    monkeypatch.setitem(sys.modules, "datasets", None)  # a second reading does without it
    table = load_table(repository, None, "test")
    assert (table.types, table.values("query", ["string"])) == ({"query": "string"}, ["a", "b"])
    (part,) = (tmp_path / "cache").rglob("*.arrow")
    whole = part.read_bytes()
    fault = r"mine, split test: cannot be read from its copy in .*/cache/colport/.* \({}\)\.$"
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=fault.format(".+")):
        load_table(repository, None, "test")
    with pyarrow.ipc.open_stream(whole) as found, pyarrow.ipc.new_stream(part, found.schema) as one:
        one.write_table(found.read_all().slice(1))
    with pytest.raises(DatasetError, match=fault.format("it has 1 of 2 rows")):
        load_table(repository, None, "test")
    part.unlink()
    with pytest.raises(DatasetError, match=fault.format(".*No such file.*")):
        load_table(repository, None, "test")


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ("a/*.parquet", {"train": ["a/*.parquet"]}),
        ("[a/*, b/*]", {"train": ["a/*", "b/*"]}),
        ("{test: a/*, 2: [b/*, c/*]}", {"test": ["a/*"], "2": ["b/*", "c/*"]}),
        (
            "[{split: test, path: a/*}, {split: dev, path: [b/*]}]",
            {"test": ["a/*"], "dev": ["b/*"]},
        ),
        ("[{split: test, path: a/*}, {split: test, path: b/*}]", None),
        ("[{split: test, path: a/*, more: 1}]", None),
        ("[{split: test, path: a/*}, b/*]", None),
        ("[a/*, {split: test, path: b/*}]", None),
        ("{test: {a: b}}", None),
        ("[[a/*]]", None),
    ],
)
def test_the_files_that_a_card_names(tmp_path, stated, found):
    from datasets.data_files import sanitize_patterns

    card = f"\ufeff\n---\nconfigs:\n- config_name: x\n  data_files: {stated}\n---  \n# Text\n---\n"
    (tmp_path / "README.md").write_text(card, encoding="utf-8", newline="\r\n")
    if found is None:
        with pytest.raises(DatasetError, match=r"README\.md has no readable list of configs"):
            Repository.open("mine", {"path": str(tmp_path)})
    else:
        assert Repository.open("mine", {"path": str(tmp_path)}).configs == {"x": found}
        assert sanitize_patterns(yaml.safe_load(stated)) == found
