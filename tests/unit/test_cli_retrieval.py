"""``colport encode`` and ``colport search``: own files, kept vectors, wrong inputs."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from colport import Encoder, cli
from colport.base.errors import ArtifactError, ColPortError, DatasetError
from colport.cli.inputs import read_items
from colport.scoring.store import read_embeddings
from tests.pdfs import pdf
from tests.unit.test_architecture import TORCH, run_without

TEXTS = ["A bi-encoder keeps one vector a text.", "Late interaction keeps one a token.", "Rain."]


def colport(*arguments):
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


def said(*arguments):
    done = colport(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def refused(*arguments):
    done = colport(*arguments)
    assert isinstance(done.exception, ColPortError), done.output
    return str(done.exception)


@pytest.fixture
def pages(tmp_path):
    folder = tmp_path / "pages"
    (folder / "sub").mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (90, 120), colour).save(folder / name)
    shades = [Image.new("L", (40, 60), level) for level in (0, 128)]
    shades[0].save(folder / "c.tiff", save_all=True, append_images=shades[1:])
    (folder / "sub/d.pdf").write_bytes(pdf(["one", "two", "three"]))
    (folder / "notes.txt").write_text("left alone")
    return folder


IDS = ["a.png", "b.jpg", "c.tiff#1", "c.tiff#2", *(f"sub/d.pdf#{n}" for n in (1, 2, 3))]


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "passages.txt"
    file.write_text(f"{TEXTS[0]}\n\n{TEXTS[1]}\n{TEXTS[2]}\n")
    return file


def test_pages_are_encoded_and_ranked_as_the_encoder_does(exported, pages, tmp_path):
    output, query = tmp_path / "vectors.safetensors", "a red page"
    (line,) = said("encode", exported["colpali"], pages, "-o", output)
    stored = read_embeddings(output)
    assert list(stored.ids) == IDS
    vectors = f"{len(stored.values)} vectors of {stored.dim} dimensions in float32"
    assert line == f"{output}: 7 documents, {vectors}"
    encoder = Encoder(exported["colpali"])
    _, images = read_items([pages], "pages")
    direct = encoder.encode_documents(images)
    for found, expected in zip(stored, direct, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    scores = encoder.score(encoder.encode_queries([query]), direct)[0]
    best = [IDS[index] for index in np.argsort(-scores)]
    lines = said("search", exported["colpali"], pages, "--query", query, "--vectors", output)
    assert lines[0] == query
    for rank, (shown, name) in enumerate(zip(lines[1:], best, strict=True), start=1):
        file, _, number = name.partition("#")
        where = f"{pages / file}" + (f"  page {number}" if number else "")
        assert re.fullmatch(rf" *{rank}  +-?[\d.]+  {re.escape(where)}", shown)
    assert said("search", exported["colpali"], pages, "--query", query) == lines
    assert len(said("search", exported["colpali"], pages, "--query", query, "--best", 2)) == 3


def test_texts_of_every_kind(exported, texts, tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    (tmp_path / "t.csv").write_text("query\n" + "\n".join(TEXTS))
    (tmp_path / "folder").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "folder" / f"{number}.md").write_text(text)
    query = ("--query", "several vectors for each token of a text", "--query", "weather")
    for name, places in (
        *(("passages.txt", (3, 4)), ("t.jsonl", (2, 3)), ("t.csv", (3, 4))),
        ("folder", ("1.md", "2.md")),
    ):
        lines = said("search", exported["colbert"], tmp_path / name, *query, "--best", 1)
        ends = [place if name == "folder" else f"{name}  line {place}" for place in places]
        assert lines[0] == query[1]
        assert lines[1].endswith(ends[0])
        assert lines[3].endswith(ends[1])


def test_queries_and_halves(exported, texts, tmp_path):
    output = tmp_path / "q.safetensors"
    said("encode", exported["colpali"], texts, "-o", output, "--queries", "--storage", "float16")
    stored = read_embeddings(output)
    assert stored.ids == ("passages.txt#1", "passages.txt#3", "passages.txt#4")
    assert stored.precision == "float16"
    expected = Encoder(exported["colpali"]).encode_queries(TEXTS)
    np.testing.assert_allclose(stored[1].astype("f4"), expected[1], atol=1e-3)
    message = refused("search", exported["colbert"], texts, "--query", "a", "--vectors", output)
    assert "holds no documents that colport encode or search wrote" in message


def test_inputs_of_several_folders_keep_their_names(exported, pages, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(pages, other)
    output = tmp_path / "v.safetensors"
    said("encode", exported["colpali"], pages, other / "a.png", "-o", output)
    assert list(read_embeddings(output).ids) == [f"{pages}/{i}" for i in IDS] + [f"{other}/a.png"]
    with pytest.raises(DatasetError, match=r"a\.png: is named 2 times"):
        read_items([pages, pages / "a.png"], "pages")


CHANGES = {
    "changed": (
        lambda folder: Image.new("RGB", (90, 120)).save(folder / "b.jpg"),
        "b.jpg has changed",
    ),
    "new": (lambda folder: shutil.copy(folder / "a.png", folder / "aa.png"), "aa.png is new"),
    "gone": (lambda folder: (folder / "c.tiff").unlink(), "c.tiff#1 is gone"),
    "renamed": (lambda folder: (folder / "a.png").rename(folder / "z.png"), "a.png is gone"),
    "a page more": (
        lambda folder: (folder / "sub/d.pdf").write_bytes(pdf(["one", "two", "three", "four"])),
        "sub/d.pdf#1 has changed",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_vectors_of_other_documents_are_refused(exported, pages, tmp_path, change):
    call = ("search", exported["colpali"], pages, "--query", "a", "--vectors", tmp_path / "v")
    before = said(*call)
    kept = (tmp_path / "v").read_bytes()
    make, named = CHANGES[change]
    make(pages)
    message = refused(*call)
    assert message.startswith(f"{tmp_path / 'v'}: is of other documents: {named} (")
    assert (tmp_path / "v").read_bytes() == kept
    (tmp_path / "v").unlink()
    assert said(*call) != before


def test_an_output_that_is_a_folder_and_a_text_that_is_empty(exported, texts, tmp_path):
    done = colport("encode", exported["colbert"], texts, "--output", tmp_path)
    assert done.exit_code == 2
    assert "directory" in done.output
    (tmp_path / "a.txt").write_text(" \n")
    assert refused("encode", exported["colbert"], tmp_path, "-o", tmp_path / "v") == (
        f"{tmp_path / 'a.txt'}: is empty, expected a text."
    )


def test_a_file_of_the_same_size_and_time_is_another(exported, texts, tmp_path):
    call = ("search", exported["colbert"], texts, "--query", "a", "--vectors", tmp_path / "v")
    said(*call)
    state = texts.stat()
    texts.write_text(texts.read_text().replace("Rain", "Hail"))
    os.utime(texts, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert "has changed" in refused(*call)


def test_vectors_of_another_model_are_refused(exported, exported_as, texts, tmp_path):
    vectors = ("--query", "a", "--vectors", tmp_path / "v")
    said("search", exported["colbert"], texts, *vectors)
    half = exported_as("colbert", precision="fp16")
    assert "is of another model, or of another export of it" in refused(
        "search", half, texts, *vectors
    )
    damaged = tmp_path / "damaged"
    shutil.copytree(exported["colbert"], damaged)
    weights = damaged / "weights.onnx_data"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # the size stays
    weights.write_bytes(content)
    assert "the file was changed after the export" in refused("search", damaged, texts, *vectors)


def test_nothing_else_is_written_over(exported, texts, tmp_path):
    other = tmp_path / "model.safetensors"
    other.write_bytes(b"weights")
    assert "is not an embeddings file" in refused("encode", exported["colbert"], texts, "-o", other)
    call = ("search", exported["colbert"], texts, "--query", "a", "--vectors", other)
    assert "is not an embeddings file" in refused(*call)
    assert other.read_bytes() == b"weights"


WRONG = {
    "absent.pdf": (None, r"absent\.pdf: cannot be read, as it is not there\."),
    "broken.pdf": (b"%PDF-1.4 no", r"broken\.pdf in .* is a PDF that is damaged or has no pages\."),
    "locked.pdf": (pdf(["a"], password="x"), r"locked\.pdf in .* is encrypted"),
    "broken.png": (b"no image", r"broken\.png in .* is an image that cannot be decoded"),
    "notes.docx": (b"PK", r"notes\.docx in .* is an image that cannot be decoded"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_document_that_cannot_be_read_is_named(exported, pages, tmp_path, name):
    content, message = WRONG[name]
    file = tmp_path / name
    if content:
        file.write_bytes(content)
        shutil.copy(file, pages)
    assert re.search(message, refused("search", exported["colpali"], file, "--query", "a"))
    output = tmp_path / "v.safetensors"
    assert re.search(message, refused("encode", exported["colpali"], pages, file, "-o", output))
    if content and name != "notes.docx":  # in a folder a file of another kind is left alone
        assert re.search(message, refused("encode", exported["colpali"], pages, "-o", output))
    assert not output.exists()
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []


def test_a_damaged_page_is_named_when_it_is_read(exported, pages, tmp_path):
    content = (pages / "a.png").read_bytes()
    (pages / "a.png").write_bytes(content[: len(content) // 2])
    output = tmp_path / "v.safetensors"
    assert "documents: a.png cannot be read" in refused(
        "encode", exported["colpali"], pages, "-o", output
    )
    assert not output.exists()


def test_what_is_no_folder(texts, tmp_path):
    for command in ("encode", "search"):
        more = ("-o", tmp_path / "v.safetensors") if command == "encode" else ("--query", "a")
        assert "there is no such folder" in refused(command, tmp_path / "none", texts, *more)


LIGHT = """
import runpy
sys.argv = ["colport", *sys.argv[1:]]
runpy.run_module("colport.cli", run_name="__main__")
"""
HEAVY = {
    "onnx",
    "onnx_ir",
    "ml_dtypes",
    "datasets",
    "pandas",
    "scipy",
    "huggingface_hub",
}


def test_both_run_where_only_the_encoder_is_installed(exported, pages, tmp_path):
    shutil.rmtree(pages / "sub")
    output = tmp_path / "v.safetensors"
    call = ("encode", str(exported["colpali"]), str(pages), "-o", str(output), "-q")
    assert "4 documents" in run_without(HEAVY | TORCH, LIGHT, *call)
    call = (
        "search",
        str(exported["colpali"]),
        str(pages),
        "--query",
        "a",
        "--vectors",
        str(output),
    )
    assert len(run_without(HEAVY | TORCH, LIGHT, *call).splitlines()) == 5


def test_values_that_are_no_numbers_rank_nothing(exported, texts, tmp_path):
    call = ("search", exported["colbert"], texts, "--query", "a", "--vectors", tmp_path / "v")
    said(*call)
    values = read_embeddings(tmp_path / "v").values
    content = bytearray((tmp_path / "v").read_bytes())
    content[values.offset : values.offset + 4] = np.float32(np.nan).tobytes()
    (tmp_path / "v").write_bytes(content)
    assert isinstance(colport(*call).exception, ArtifactError)


def test_what_reads_pdfs_is_named_where_it_is_not_installed(exported, pages, monkeypatch):
    from colport.processes import child

    original = child.Child.of
    monkeypatch.setattr(
        child.Child, "of", lambda module, **more: original(f"{module}_none", **more)
    )
    message = refused("search", exported["colpali"], pages, "--query", "a")
    assert message.startswith("PDFs need `pip install pypdfium2`: its process ended")


@pytest.mark.parametrize("name", ["report.pdf", "rows.json", "letter.docx", "noname"])
def test_what_is_no_text_file_is_no_passages(name, exported, tmp_path):
    file = tmp_path / name
    file.write_text("%PDF-1.4\nwords\n")
    expected = f"{file}: is no text file; allowed are .txt, .md, "
    assert refused("search", exported["colbert"], file, "--query", "a").startswith(expected)
    call = ("encode", exported["colpali"], file, "--queries", "-o", tmp_path / "v.safetensors")
    assert refused(*call).startswith(expected)


def test_others_may_read_kept_vectors_as_other_files(exported, texts, tmp_path):
    before = os.umask(0o022)
    try:
        said("encode", exported["colbert"], texts, "-o", tmp_path / "v.safetensors", "-q")
    finally:
        os.umask(before)
    assert (tmp_path / "v.safetensors").stat().st_mode & 0o777 == 0o644
