"""The user's own PDFs and images, with their queries and judgements."""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import PIL.Image
import pytest

from colport.base.errors import ConfigError, DatasetError
from colport.data.datasets import check_pages, dataset_record, load_retrieval_dataset
from colport.data.images import Frames
from tests.pdfs import pdf

pypdfium2 = pytest.importorskip("pypdfium2")
from colport.data import pdf_process, pdfs  # noqa: E402

QUERIES = 'query_id,query\nq1,alpha?\nq2,"beta, or so?"\nq3,unjudged?\n'
JUDGEMENTS = "query_id,document,score\nq1,b.pdf#2,2\nq1,a/scan.png,1\nq2,b.pdf#1,1\n"


@pytest.fixture
def own(tmp_path):
    """A folder with a PDF of two pages, an image in a sub-folder, and two files left alone."""
    folder = tmp_path / "pages"
    (folder / "a").mkdir(parents=True)
    (folder / "b.pdf").write_bytes(pdf(["beta", "alpha"]))
    PIL.Image.new("RGB", (30, 40), (255, 0, 0)).save(folder / "a" / "scan.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("left alone")
    (tmp_path / "queries.csv").write_text(QUERIES)
    (tmp_path / "judgements.csv").write_text(JUDGEMENTS)
    return tmp_path


def declare(own: Path, **changes) -> dict:
    declaration = {
        "documents_folder": str(own / "pages"),
        "queries": str(own / "queries.csv"),
        "judgements": str(own / "judgements.csv"),
    } | changes
    return {key: value for key, value in declaration.items() if value is not None}


def load(own: Path, **changes):
    return load_retrieval_dataset("mine", declare(own, **changes))


def test_a_page_is_a_document(own):
    found = load(own, dpi=72)
    assert found.document_ids == ["a/scan.png", "b.pdf#1", "b.pdf#2"]
    assert [page.size for page in found.documents] == [(30, 40), (200, 300), (200, 300)]
    assert {page.mode for page in found.documents} == {"RGB"}
    assert list(found.texts) == ["", "beta", "alpha"]
    assert found.query_ids == ["q1", "q2", "q3"]
    assert found.queries[1] == "beta, or so?"
    assert found.qrels == {"q1": {"b.pdf#2": 2, "a/scan.png": 1}, "q2": {"b.pdf#1": 1}}
    assert found.skipped == {}


def test_pages_are_rendered_at_the_resolution_asked_for(own):
    small, large = load(own, dpi=72).documents[1], load(own, dpi=144).documents[1]
    assert large.size == (400, 600)
    assert small.convert("L").getextrema()[0] < 100
    assert large.getpixel((0, 0)) == (255, 255, 255)


def test_pages_and_texts_are_read_when_indexed(own):
    found = load(own)
    (own / "pages" / "b.pdf").write_bytes(b"changed under our feet")
    assert found.documents[:1][0].getpixel((0, 0)) == (255, 0, 0)
    assert found.texts[:1][0] == ""
    with pytest.raises(DatasetError, match=r"mine: b.pdf#1 cannot be read \(is a PDF that is dam"):
        found.documents[1:][0]
    with pytest.raises(DatasetError, match=r"mine: b.pdf#1 cannot be read"):
        found.texts[1]


@pytest.mark.parametrize("do", ["size", "render", "text"])
def test_a_page_that_takes_too_much_memory_is_refused_and_the_process_goes_on(do, monkeypatch):
    def too_much(*arguments):
        raise MemoryError

    server = pdf_process._Server()
    monkeypatch.setattr(server, do, too_much)
    answer = server.answer({"do": do, "with": [0]})
    assert answer == {"out_of_memory": True}
    reader = pdfs.PdfReader()
    reader._child = SimpleNamespace(ask=lambda request, seconds: answer)
    with pytest.raises(pdfs.BadDocumentError, match=r"^takes more than 3 GiB of memory$"):
        reader._ask(do, 0)
    assert reader._child is not None


def test_a_folder_without_pdfs_has_no_texts(own):
    (own / "pages" / "b.pdf").unlink()
    assert load(own, judgements=None).texts is None


def test_a_scan_of_several_pages(own):
    pages = [PIL.Image.new("RGB", (8, 8), (level, 0, 0)) for level in (10, 20)]
    pages[0].save(own / "pages" / "c.tiff", save_all=True, append_images=pages[1:])
    pages[1].save(own / "pages" / "d.tiff", save_all=True, append_images=pages[:1])
    found = load(own)
    assert found.document_ids[3:] == ["c.tiff#1", "c.tiff#2", "d.tiff#1", "d.tiff#2"]
    levels = {3: 10, 4: 20, 5: 20, 6: 10}
    for place in (4, 3, 5, 4, 6, 3):  # in any order, from one file to the other and back
        assert found.documents[place].getpixel((0, 0)) == (levels[place], 0, 0)


def test_the_size_of_each_page_of_a_scan_is_checked(own):
    (own / "pages" / "b.pdf").unlink()
    first, second = (PIL.Image.new("RGB", (side, side)) for side in (8, 60))
    first.save(own / "pages" / "c.tiff", save_all=True, append_images=[first, second])
    with pytest.raises(DatasetError, match=r"c\.tiff in .* is a page of 60x60 pixels, more than"):
        load(own, judgements=None, max_pixels=3599)
    assert len(load(own, judgements=None, max_pixels=3600).documents) == 4


def test_one_scan_is_open_at_a_time(tmp_path, monkeypatch):
    for name in ("c.tiff", "d.tiff"):
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / name)
    frames = Frames()
    frames.decode(tmp_path / "c.tiff", 0)
    first = frames._image
    frames.decode(tmp_path / "c.tiff", 0)
    assert frames._image is first
    closed = []
    monkeypatch.setattr(first, "close", lambda: closed.append("c"))
    frames.decode(tmp_path / "d.tiff", 0)
    assert closed == ["c"]


def test_a_photo_is_turned_upright(own):
    turned = PIL.Image.Exif()
    turned[PIL.ExifTags.Base.Orientation] = 6
    PIL.Image.new("RGB", (8, 4)).save(own / "pages" / "c.jpg", exif=turned)
    assert load(own).documents[-1].size == (4, 8)


def test_without_judgements(own):
    (own / "queries.csv").write_text("query\nalpha?\nbeta?\n")
    found = load(own, judgements=None)
    assert (found.query_ids, found.qrels) == (["q1", "q2"], {})
    cut = load(own, judgements=None, limit=2)
    assert (cut.document_ids, cut.query_ids) == (["a/scan.png", "b.pdf#1"], ["q1", "q2"])
    assert list(cut.texts) == ["", "beta"]


def test_limit_keeps_queries_with_all_their_pages(own):
    assert load(own, limit=2).qrels == {"q2": {"b.pdf#1": 1}}


def test_fields_may_hold_line_breaks(own):
    (own / "queries.csv").write_text('query_id,query\r\nq1,"a\nb"\r\nq2,c\u2028d\r\n', newline="")
    assert load(own, judgements=None).queries == ["a\nb", "c\u2028d"]


def test_tsv_jsonl_and_a_column_for_the_page(own):
    (own / "q.tsv").write_text("\ufeffquery-id\tquery\tlanguage\n1\tun ?\tfr\n\n2\tone?\ten\n")
    rows = [
        {"query_id": 1, "document": "b.pdf", "page": 2.0, "score": True},
        {"query_id": 2, "document": "a/scan.png", "page": None, "score": "3.0"},
    ]
    (own / "j.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {"queries": str(own / "q.tsv"), "judgements": str(own / "j.jsonl")}
    found = load(own, **files)
    assert found.qrels == {"1": {"b.pdf#2": 1}, "2": {"a/scan.png": 3}}
    assert found.languages == ("en", "fr")
    assert load(own, judgements=None, languages=["english"]).languages == ("english",)
    french = load(own, language="fr", **files)
    assert (french.queries, french.qrels) == (["un ?"], {"1": {"b.pdf#2": 1}})
    assert french.languages == ("fr",)
    with pytest.raises(DatasetError, match="column language: no query is in 'de'; found en, fr"):
        load(own, language="de", **files)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_score_that_only_other_lines_have(own, missing):
    rows = [{"query_id": "q1", "document": f"b.pdf#{page}", "score": 0} for page in (1, 2)]
    del rows[missing]["score"]
    (own / "j.jsonl").write_text("\n".join(map(json.dumps, rows)))
    message = rf"j.jsonl, line {missing + 1}: column score is missing; .* line {2 - missing} has it"
    with pytest.raises(DatasetError, match=message):
        load(own, judgements=str(own / "j.jsonl"))


def test_a_folder_that_cannot_be_read_is_named(own, monkeypatch):
    scan = os.scandir

    def refusing(folder):
        if os.fspath(folder).endswith(("pages/a", "pages/.git")):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(folder))
        return scan(folder)

    (own / "pages/.git").mkdir()
    monkeypatch.setattr(os, "scandir", refusing)
    message = r"a in .* is a folder that cannot be read \(Permission denied\)"
    with pytest.raises(DatasetError, match=message):
        load(own)
    found = load(own, judgements=None, on_bad_document="skip")
    assert list(found.skipped) == ["a"]


@pytest.mark.parametrize(
    ("judgements", "message"),
    [
        ("q1,c.pdf#1,1", r"csv, line 2, column document: found 'c.pdf#1'; allowed is one of the 3"),
        ("q1,b.pdf#3,1", r"line 2, column document: found 'b.pdf#3'"),
        ("q1,b.pdf,1", r"line 2, column document: found 'b.pdf'; allowed is one of its pages, as"),
        ("q1,../pages/b.pdf#1,1", r"found '../pages/b.pdf#1'; allowed is one of the 3 documents"),
        ("q9,b.pdf#1,1", r"line 2, column query_id: found 'q9'; allowed is one of the 3 queries"),
        ("q1,b.pdf#1,high", r"line 2, column score: found 'high'; allowed is a whole number"),
        ("q1,b.pdf#1,1.5", r"line 2, column score: found '1.5'"),
        ("q1,b.pdf#1,nan", r"line 2, column score: found 'nan'"),
        ("q1,,1", r"line 2: column document or .* is missing or empty; found are query_id, score"),
        ("q1,b.pdf#1", r"line 2: has 2 columns, the header 3 \(query_id, document, score\)"),
        ("q1,b.pdf#1,1\nq1,b.pdf#1,2", r"line 3, column score: found 2; .* earlier one says 1"),
        ("q1,b.pdf#1,2\nq1,b.pdf#1,1", r"line 3, column score: found 1; .* earlier one says 2"),
        ('q1,"b.pdf#1,1', r"cannot be read \("),
        ("", r"judgements.csv: has no rows"),
        ("q1,b.pdf#1,0", r"mine: no query has a judgement above 0"),
    ],
)
def test_wrong_judgements_are_named(own, judgements, message):
    (own / "judgements.csv").write_text(f"query_id,document,score\n{judgements}\n")
    with pytest.raises(DatasetError, match=message):
        load(own)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "q.csv",
            "query_id,text2\nq1,x\n",
            "q.csv, line 2: column query or text is missing or empty",
        ),
        ("q.csv", "query\nx\n", "q.csv, line 2: column query_id or query-id is missing"),
        ("q.csv", "query_id,query\nq1,x\nq1,y\n", r"line 3, column query_id: found 'q1'; .*line 2"),
        ("q.csv", "query_id,query\nq1,  \n", "line 2: column query or text is missing or empty"),
        ("q.csv", "query_id,query\n", "q.csv: has no rows"),
        ("q.csv", "query_id,query,query\nq1,x,y\n", "q.csv: column query occurs twice in the head"),
        ("q.csv", b"query_id,query\nq1,\xff\n", r"q.csv: is not UTF-8 text \(byte 18\)"),
        ("q.txt", "x", "q.txt: allowed is a .csv, .tsv or .jsonl file"),
        ("q.jsonl", '{"query_id": 1, "query": "x"}\n{', "q.jsonl, line 2: is not JSON"),
        ("q.jsonl", "[1]", "q.jsonl, line 1: is not an object with columns"),
        (
            "q.jsonl",
            '{"query_id": 1, "query": ["x"]}',
            "line 1: column query is missing or empty",
        ),
        ("q.csv", None, "q.csv: cannot be read"),
    ],
)
def test_wrong_queries_are_named(own, name, content, message):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (own / name).write_bytes(data)
    with pytest.raises(DatasetError, match=message):
        load(own, queries=str(own / name))


def bomb() -> bytes:
    """A PNG of a few hundred bytes whose header promises 40 000 by 40 000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def without_dimensions(own: Path) -> bytes:
    """A TIFF whose first tag, its width, has another number."""
    PIL.Image.new("L", (9, 9)).save(own / "whole.tiff")
    content = bytearray((own / "whole.tiff").read_bytes())
    (tags,) = struct.unpack_from("<I", content, 4)
    struct.pack_into("<H", content, tags + 2, 65000)
    return bytes(content)


def truncated(own: Path) -> bytes:
    PIL.Image.effect_noise((60, 60), 50).save(own / "whole.png")
    return (own / "whole.png").read_bytes()[:1500]


BAD = {
    "locked.pdf": (lambda own: pdf(["x"], password="secret"), "is encrypted and asks for a passw"),
    "broken.pdf": (lambda own: pdf(["x"])[:120], "is a PDF that is damaged or has no pages"),
    "empty.pdf": (lambda own: pdf([]), "is a PDF that is damaged or has no pages"),
    "nothing.pdf": (lambda own: b"", "is a PDF that is damaged or has no pages"),
    "giant.pdf": (lambda own: pdf(["x"], size=(14400, 14400)), "28800x28800 pixels at 144 DPI, mo"),
    "broken.png": (lambda own: b"no image", "is an image that cannot be decoded"),
    "broken.tiff": (without_dimensions, "is an image that cannot be decoded"),
    "bomb.png": (lambda own: bomb(), "cannot be decoded .*decompression bomb"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_document_is_refused_by_name(own, name):
    make, reason = BAD[name]
    (own / "pages" / name).write_bytes(make(own))
    with pytest.raises(DatasetError, match=rf"mine: {name}(#1)? in .* {reason}.*on_bad_document"):
        load(own)


def test_bad_documents_are_skipped_if_the_config_says_so(own):
    for name, (make, _) in BAD.items():
        (own / "pages" / name).write_bytes(make(own))
    (own / "pages" / "cut.png").write_bytes(truncated(own))
    (own / "pages" / "hole.pdf").write_bytes(pdf(["one", "two"], missing_page=0))
    with (own / "judgements.csv").open("a") as file:
        file.write("q3,locked.pdf#1,1\nq3,giant.pdf#1,1\nq3,hole.pdf#1,1\nq3,cut.png,1\n")
    found = load(own, on_bad_document="skip")
    assert found.document_ids == ["a/scan.png", "b.pdf#1", "b.pdf#2", "hole.pdf#2"]
    files = {name for name in BAD if name != "giant.pdf"}
    assert set(found.skipped) == files | {"cut.png", "giant.pdf#1", "hole.pdf#1"}
    assert "q3" not in found.qrels
    check_pages(found, print)
    record = dataset_record(found, declare(own), [])
    assert record["skipped"]["locked.pdf"] == "is encrypted and asks for a password"
    assert record["counts"] == {"queries": 3, "documents": 4, "judgements": 3, "skipped": 10}


def test_a_file_that_asks_for_a_password_opens_with_it(own):
    (own / "locked.pdf").write_bytes(pdf(["x"], password="secret"))
    assert len(pypdfium2.PdfDocument(own / "locked.pdf", password="secret")) == 1


def test_an_image_that_ends_too_early_is_found_before_anything_is_embedded(own):
    (own / "pages" / "cut.png").write_bytes(truncated(own))
    found = load(own)
    with pytest.raises(DatasetError, match=r"mine: cut.png cannot be read \(.*truncated"):
        check_pages(found, print)


def test_pages_are_those_that_the_hub_s_library_decodes(own):
    datasets = pytest.importorskip("datasets")
    images = {
        "a.png": PIL.Image.effect_noise((9, 7), 90).convert("LA"),
        "b.png": PIL.Image.effect_noise((9, 7), 90).convert("P"),
        "c.jpg": PIL.Image.effect_noise((9, 7), 90).convert("CMYK"),
    }
    for name, image in images.items():
        image.save(own / "pages" / "a" / name)
    found = load(own, judgements=None)
    for name in images:
        content = {"bytes": (own / "pages" / "a" / name).read_bytes(), "path": None}
        expected = datasets.Image(mode="RGB").decode_example(content)
        assert found.documents[found.document_ids.index(f"a/{name}")] == expected


def test_size_is_checked_before_a_page_is_rendered(own, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("rendered")

    monkeypatch.setattr("colport.data.pdfs.PdfReader.render", refuse)
    with pytest.raises(DatasetError, match=r"b.pdf#1 in .* is a page of 400x600 pixels at 144 DPI"):
        load(own, max_pixels=100_000)
    assert load(own, max_pixels=100_000, dpi=72).document_ids[1] == "b.pdf#1"
    with pytest.raises(
        DatasetError, match=r"a/scan.png in .* is a page of 30x40 pixels, more than"
    ):
        load(own, max_pixels=1000)


def test_links_may_not_leave_the_folder(own):
    (own / "secret.pdf").write_bytes(pdf(["secret"]))
    (own / "pages" / "link.pdf").symlink_to(own / "secret.pdf")
    (own / "pages" / "folder.pdf").mkdir()
    with pytest.raises(DatasetError, match=r"mine: link.pdf in .* is a link that leads out of the"):
        load(own)
    assert "link.pdf#1" not in load(own, on_bad_document="skip").document_ids


def test_a_folder_without_pages(own):
    for file in ("b.pdf", "a/scan.png"):
        (own / "pages" / file).unlink()
    with pytest.raises(
        DatasetError, match=r"mine: .*pages holds no page that can be read; allowed"
    ):
        load(own)
    with pytest.raises(DatasetError, match=r"mine: folder .*none does not exist"):
        load(own, documents_folder=str(own / "none"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": None}, "datasets.mine.queries: found None; allowed is a CSV, TSV or JSONL"),
        ({"on_bad_document": "ignore"}, "mine.on_bad_document: found 'ignore'; allowed are refuse"),
        ({"dpi": 0}, "mine.dpi: found 0; allowed is a positive whole number"),
        ({"dpi": 1201}, "mine.dpi: found 1201; expected at most 1200"),
        ({"max_pixels": 2**28}, "mine.max_pixels: found 268435456; expected at most 178956970"),
        ({"schema": "qa"}, "mine.schema: found 'qa'; allowed is with documents_folder one of"),
        ({"documents": "passages"}, "mine.documents: found 'passages'; allowed is pages"),
        ({"hub": "a/b"}, "exactly one of hub, path, documents_folder"),
    ],
)
def test_wrong_declaration(own, changes, message):
    with pytest.raises(ConfigError, match=message):
        load(own, **changes)
