"""Datasets made to harm, or of any shape: refused in one sentence, in bounded memory."""

import io
import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from colport.base.errors import ColPortError, DatasetError
from colport.cli.inputs import read_documents
from colport.data import images, parquet, pdfs
from colport.data.datasets import load_retrieval_dataset
from colport.data.judgements import judged, read_queries, read_rows
from tests.pdfs import pdf

QA = {"schema": "qa"}
fuzzed = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def check_sentence(error):
    """One that a person can read."""
    assert len(str(error)) < 5000
    assert "\n" not in str(error)


def png(width=8, height=8, *chunks) -> bytes:
    """A one-bit PNG whose header may claim any size, with further chunks."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min((width // 8 + 1) * height, 10**6)), 9)
    middle = b"".join(chunk(*item) for item in chunks)
    ihdr, idat = chunk(b"IHDR", header), chunk(b"IDAT", rows)
    return b"\x89PNG\r\n\x1a\n" + ihdr + middle + idat + chunk(b"IEND", b"")


def own(tmp_path, name, content):
    """The user's own folder with one file, loaded."""
    folder = tmp_path / "pages"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    (tmp_path / "queries.csv").write_text("query\nwhat?\n")
    declared = {"documents_folder": str(folder), "queries": str(tmp_path / "queries.csv")}
    dataset = load_retrieval_dataset("own", declared)
    return [dataset.documents[index] for index in range(len(dataset.documents))]


BOMBS = {
    "size": png(30_000, 30_000),
    "text": png(8, 8, (b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8), 9))),
    "profile": png(8, 8, (b"iCCP", b"k\0\0" + zlib.compress(bytes(10**8), 9))),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_images_that_unpack_to_too_much(bomb, tmp_path):
    with pytest.raises(DatasetError, match=r"cannot be decoded \((Image size|Decompressed data)"):
        own(tmp_path, "page.png", BOMBS[bomb])
    with pytest.raises(DatasetError, match=r"cannot be (read|decoded) \((Image size|Decompressed)"):
        read_documents(tmp_path / "pages/page.png", "pages", 1)


def test_a_page_s_image_in_a_table_is_bounded_too(tmp_path):
    write_qa(tmp_path, pa.table(rows(image=[{"bytes": BOMBS["size"], "path": None}] * 2)))
    dataset = load_retrieval_dataset("table", {**QA, "path": str(tmp_path)})
    with pytest.raises(
        DatasetError, match=r"row 0 \(column image\) cannot be decoded \(Image size"
    ):
        dataset.documents[0]


def test_a_file_of_many_images_is_opened_once(tmp_path, monkeypatch):
    stream = io.BytesIO()
    pages = [Image.new("1", (9, 9), number % 2) for number in range(40)]
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    opened = []
    original = images.open_image
    monkeypatch.setattr(images, "open_image", lambda file: opened.append(file) or original(file))
    found = own(tmp_path, "scan.tiff", stream.getvalue())
    assert [page.getpixel((0, 0))[0] for page in found] == [0, 255] * 20
    assert len(opened) == 1


def test_a_tiff_that_goes_round_in_a_circle(tmp_path):
    stream = io.BytesIO()
    Image.new("1", (9, 9)).save(stream, "TIFF")
    content = bytearray(stream.getvalue())
    (first,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * entries, first)  # the next image is this one
    assert len(own(tmp_path, "page.tiff", bytes(content))) == 1


def test_an_image_of_another_kind_is_not_handed_to_a_program(tmp_path):
    """Pillow draws EPS with Ghostscript, which executes it."""
    (tmp_path / "page.eps").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    )
    with pytest.raises(DatasetError, match=r"page\.eps in .* is an image that cannot be decoded"):
        read_documents(tmp_path / "page.eps", "pages", 1)


def pdf_that_unpacks_to(size):
    """A page drawn by so many bytes, packed twice."""
    pytest.importorskip("pypdfium2")
    packed = zlib.compress(zlib.compress(bytes(size), 9), 9)
    stream = b"<< /Length %d /Filter [/FlateDecode /FlateDecode] >>\nstream\n%s\nendstream" % (
        len(packed),
        packed,
    )
    return pdf(["bomb"], drawing=stream)


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        ("MEMORY", 2**27, r"ends PDFium .* or takes more than 0.125 GiB of memory"),
        ("SECONDS", 0.2, r"takes more than 0.2 s to be read"),
    ],
)
def test_pdfs_that_unpack_to_too_much(limit, value, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(pdfs, limit, value)
    content = pdf_that_unpacks_to(3 * 10**8)
    assert len(content) < 3000
    reader, bomb, good = pdfs.PdfReader(), tmp_path / "bomb.pdf", tmp_path / "good.pdf"
    bomb.write_bytes(content)
    good.write_bytes(pdf(["good"]))
    with pytest.raises(pdfs.BadDocumentError, match=reason):
        reader.render(bomb, 0, 144)
    monkeypatch.undo()
    assert reader.text(good, 0) == "good"
    assert reader.render(good, 0, 72).size == (200, 300)


def test_the_process_that_reads_pdfs_ends_with_its_reader(tmp_path):
    file = tmp_path / "good.pdf"
    file.write_bytes(pdf(["good"]))
    reader = pdfs.PdfReader()
    assert reader.count(file) == 1
    process = reader._child._process
    assert process.poll() is None
    del reader
    assert process.returncode is not None


def rows(**columns):
    image = {"bytes": png(), "path": None}
    return {"query": ["a", "b"], "image": [image] * 2, "image_filename": ["1", "2"], **columns}


def write_qa(folder: Path, table: pa.Table) -> None:
    (folder / "data").mkdir(exist_ok=True)
    pq.write_table(table, folder / "data/test-00000-of-00001.parquet")


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_pickles_and_scripts_in_a_dataset_are_left_alone(tmp_path):
    mark = tmp_path / "executed"
    stated = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Malice(mark)),
    }
    field = pa.field("more", pa.binary(), metadata=stated)
    write_qa(tmp_path, pa.table(rows()).append_column(field, pa.array([b"x", b"y"])))
    for name in ("data.pkl", "state.json", "dataset.arrow", f"{tmp_path.name}.py", "script.py"):
        (tmp_path / name).write_bytes(
            f"import os; os.mkdir({str(mark)!r})".encode()
            if name.endswith(".py")
            else pickle.dumps(Malice(mark))
        )
    dataset = load_retrieval_dataset("pickled", {**QA, "path": str(tmp_path)})
    assert len(dataset.documents) == 2
    assert not mark.exists()


@pytest.mark.parametrize("spread", ["values", "row groups", "lists", "plain"])
def test_a_parquet_file_of_some_kilobytes_that_unpacks_to_gigabytes(spread, tmp_path, monkeypatch):
    """Its largest value is written once, and stands for all rows."""
    monkeypatch.setattr(parquet, "ALWAYS", 2**26)
    value, count = "x" * 2**18, 512
    if spread == "lists":
        column = pa.array([[value] * 8] * (count // 8))
    else:
        column = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), [value])
    (tmp_path / "data").mkdir()
    file = tmp_path / "data/test-00000-of-00001.parquet"
    groups = 128 if spread == "row groups" else count
    pq.write_table(
        pa.table({"query": column}),
        file,
        groups,
        compression="zstd",
        store_schema=spread != "plain",
    )
    assert file.stat().st_size < 2**18
    with pytest.raises(DatasetError, match=r"bytes\) unpacks to more than 67108864 bytes; allow"):
        load_retrieval_dataset("bomb", {**QA, "path": str(tmp_path)})
    assert not list((tmp_path / "cache").rglob("*.arrow"))


@pytest.mark.parametrize(
    "stated",
    [
        '{"info": {"features": {"query": {"_type": "os.system"}}}}',
        '{"info": {"features": {"query": 7}}}',
        '{"info": {"features": [1]}}',
        '{"info": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "no JSON",
    ],
)
def test_types_that_a_parquet_file_claims_to_have(stated, tmp_path):
    table = pa.table(rows()).replace_schema_metadata({b"huggingface": stated.encode()})
    write_qa(tmp_path, table)
    with pytest.raises(DatasetError, match="cannot be read"):
        load_retrieval_dataset("typed", {**QA, "path": str(tmp_path)})


def test_what_is_wrong_with_files_of_different_columns(tmp_path):
    write_qa(tmp_path, pa.table(rows()))
    folder = tmp_path / "data"
    folder.joinpath("test-00000-of-00001.parquet").rename(folder / "test-00000-of-00002.parquet")
    pq.write_table(pa.table({"other": [1]}), folder / "test-00001-of-00002.parquet")
    with pytest.raises(DatasetError, match=r"split test: cannot be read \(Couldn't cast\)"):
        load_retrieval_dataset("two", {**QA, "path": str(tmp_path)})


COLUMN = st.one_of(
    st.lists(st.one_of(st.none(), st.text(max_size=4)), min_size=2, max_size=2),
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=2, max_size=2),
    st.lists(st.floats(), min_size=2, max_size=2),
    st.lists(st.booleans(), min_size=2, max_size=2),
    st.lists(st.lists(st.integers(0, 9), max_size=2), min_size=2, max_size=2),
    st.lists(
        st.fixed_dictionaries(
            {"bytes": st.one_of(st.none(), st.binary(max_size=20)), "path": st.text(max_size=9)}
        ),
        min_size=2,
        max_size=2,
    ),
)


@settings(fuzzed, max_examples=15)
@given(st.dictionaries(st.sampled_from(["query", "image", "image_filename"]), COLUMN, min_size=1))
def test_tables_of_any_types(tmp_path, columns):
    write_qa(tmp_path, pa.table(rows(**columns)))
    try:
        dataset = load_retrieval_dataset("any", {**QA, "path": str(tmp_path)})
        for index in range(len(dataset.documents)):
            dataset.documents[index]
    except ColPortError as error:
        check_sentence(error)


@settings(fuzzed, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_parquet_with_a_flipped_byte(tmp_path, place, change):
    stream = io.BytesIO()
    pq.write_table(pa.table(rows()), stream)
    content = bytearray(stream.getvalue())
    content[place % len(content)] ^= change
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data/test-00000-of-00001.parquet").write_bytes(content)
    try:
        load_retrieval_dataset("flipped", {**QA, "path": str(tmp_path)}).documents[0]
    except ColPortError as error:
        check_sentence(error)


LINE = st.one_of(
    st.text(max_size=20),
    st.dictionaries(
        st.sampled_from(["query", "query_id", "document", "score", "page", "language"]),
        st.one_of(st.none(), st.text(max_size=5), st.integers(), st.floats(), st.lists(st.none())),
    ).map(json.dumps),
    st.sampled_from(["[" * 100_000, '{"score": ' + "9" * 5000 + "}", "NaN", '{"score": 1e308}']),
)


@fuzzed
@given(st.lists(LINE, max_size=4), st.sampled_from([".csv", ".tsv", ".jsonl"]))
def test_queries_and_judgements_of_any_lines(tmp_path, lines, suffix):
    file = tmp_path / f"lines{suffix}"
    file.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    for read in (
        lambda: read_queries("own", file, ids_needed=False),
        lambda: judged([*read_rows("own", file)], ["q1"], ["a.pdf#1"]),
    ):
        try:
            read()
        except ColPortError as error:
            check_sentence(error)


def bomb(levels=25):
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels))]
    return "\n".join(lines), f"*a{levels - 1}"


@pytest.mark.parametrize(
    "configs",
    [
        "[{{config_name: {alias}, data_files: x}}]",
        "[{{config_name: a, data_files: {alias}}}]",
        "[{{config_name: a, data_files: [{{split: test, path: {alias}}}]}}]",
        "{alias}",
        "{deep}",
    ],
)
def test_a_card_of_a_few_lines_that_stands_for_millions(configs, tmp_path):
    lines, alias = bomb()
    text = configs.format(alias=alias, deep="[" * 5000)
    (tmp_path / "README.md").write_text(f"---\n{lines}\nconfigs: {text}\n---\n")
    with pytest.raises(DatasetError, match="has no readable list of configs"):
        load_retrieval_dataset("bomb", {**QA, "path": str(tmp_path)})


def test_links_in_a_dataset_s_folder_do_not_lead_out(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0.png").write_bytes(png())
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "0.png").symlink_to(outside / "0.png")
    write_qa(folder, pa.table(rows(image=[{"bytes": None, "path": "0.png"}] * 2)))
    dataset = load_retrieval_dataset("linked", {**QA, "path": str(folder)})
    with pytest.raises(DatasetError, match="is not a file inside"):
        dataset.documents[0]
    (folder / "data/test-00000-of-00001.parquet").rename(outside / "t.parquet")
    (folder / "data/test-00000-of-00001.parquet").symlink_to(outside / "t.parquet")
    with pytest.raises(DatasetError, match="is a link that leads out of the folder"):
        load_retrieval_dataset("linked", {**QA, "path": str(folder)})
