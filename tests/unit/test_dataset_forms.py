"""The four forms in which ViDoRe is published, from a folder, from the Hub and from its cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from colport.base.errors import DatasetError
from colport.data.datasets import check_pages, dataset_record, load_retrieval_dataset
from tests.hub_downloads import DownloadHub

datasets = pytest.importorskip("datasets")

FORMS = Path(__file__).parents[1] / "fixtures" / "datasets"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
COLOURS = [(255, 0, 0), (0, 128, 0), (0, 0, 255)]


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "arrow"))


def load(form: str, **changes):
    schema = "qa" if form.endswith("qa") else "beir"
    return load_retrieval_dataset(form, {"path": str(FORMS / form), "schema": schema} | changes)


def colours(dataset) -> list[tuple[int, ...]]:
    assert {page.mode for page in dataset.documents} == {"RGB"}
    return [page.getpixel((0, 0)) for page in dataset.documents]


def test_v1_in_its_original_form():
    found = load("v1-qa", languages=["english"], language="english")
    assert found.queries == ["red?", "blue?", "red or so?"]
    assert found.document_ids == [f"images/{number}.jpg" for number in range(3)]
    assert found.qrels == {
        "q0": {"images/0.jpg": 1},
        "q2": {"images/2.jpg": 1},
        "q3": {"images/0.jpg": 1},
    }
    assert colours(found) == COLOURS
    assert found.texts == ["text of page 0", "", "text of page 2"]
    assert found.languages == ("english",)


def test_v2_with_its_languages():
    found = load("v2-beir")
    assert found.query_ids == ["0", "1", "2", "3"]
    assert found.document_ids == ["0", "10", "20"]
    assert found.qrels["3"] == {"0": 2, "10": 1}
    assert found.texts is None
    assert found.languages == ("english", "french", "german", "spanish")
    assert colours(found) == COLOURS
    one = load("v2-beir", language="german")
    assert (one.queries, one.languages, list(one.qrels)) == (["rot?"], ("german",), ["2"])


def test_v3_as_published():
    found = load("v3-beir", language="french")
    assert (found.query_ids, found.queries) == (["1"], ["bleu ?"])
    assert found.document_ids == ["0", "1", "2"]
    assert found.qrels == {"1": {"2": 2}}
    assert found.texts == ["", "# Page 1", "# Page 2"]
    assert colours(found) == COLOURS


def test_v3_in_mteb_s_form():
    found = load("v3-mteb", language="french")
    assert found.queries == ["bleu ?", "?"]
    assert found.document_ids[2] == "corpus-test-2"
    assert found.qrels == {"query-test-0": {"corpus-test-2": 1}}
    assert found.languages == ("french",)
    for language in ({}, {"language": "german"}):
        with pytest.raises(DatasetError, match="a corpus for each of english, french, and one"):
            load("v3-mteb", **language)


def test_a_folder_without_a_card(tmp_path):
    for form, schema in (("v1-qa", "qa"), ("v2-beir", "beir")):
        folder = tmp_path / form
        shutil.copytree(FORMS / form, folder)
        (folder / "README.md").unlink()
        found = load_retrieval_dataset("tiny", {"path": str(folder), "schema": schema})
        assert found.qrels == load(form).qrels


def test_limit_cuts_texts_too():
    assert load("v3-beir", language="english", limit=3).texts == ["", "# Page 1", "# Page 2"]
    assert load("v1-qa", limit=1).texts == ["text of page 0"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    folder = tmp_path / "repository"
    shutil.copytree(FORMS / "v3-mteb", folder)
    other_split = folder / "french-corpus" / "train-00000-of-00001.parquet"
    other_split.write_bytes(b"not fetched")
    with DownloadHub(folder, COMMIT) as server:
        server.use(monkeypatch, tmp_path / "hub")
        yield server


ON_HUB = {"hub": "vidore/tiny", "revision": COMMIT, "schema": "beir", "language": "french"}


def test_only_what_is_read_is_fetched_and_then_the_cache_serves(hub, monkeypatch):
    found = load_retrieval_dataset("tiny", ON_HUB)
    assert colours(found) == COLOURS
    parquet = [
        f"french-{name}/test-00000-of-00001.parquet" for name in ("corpus", "qrels", "queries")
    ]
    assert sorted(hub.sent) == ["README.md", *parquet]
    hub.stop()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert colours(load_retrieval_dataset("tiny", ON_HUB)) == COLOURS
    with pytest.raises(DatasetError, match=r"tiny: vidore/tiny@\w+: the Hub cannot be reached"):
        load_retrieval_dataset("tiny", ON_HUB | {"language": "english"})


def damaged(tmp_path, form: str, text: str) -> dict:
    folder = tmp_path / form
    shutil.copytree(FORMS / form, folder)
    card = folder / "README.md"
    card.write_text(card.read_text().replace("corpus/test-*", text))
    return {"path": str(folder), "schema": "beir"}


@pytest.mark.parametrize("pattern", ["../v2-beir/corpus/test-*", "/etc/*", "https://host/test-*"])
def test_a_card_may_not_name_files_elsewhere(tmp_path, pattern):
    with pytest.raises(DatasetError, match=r"README.md names the files .*; allowed are files ins"):
        load_retrieval_dataset("tiny", damaged(tmp_path, "v2-beir", pattern))


@pytest.mark.parametrize(
    "configs", ["[corpus]", "7", "[", "[{config_name: corpus, data_files: 7}]"]
)
def test_a_card_that_is_no_list_of_configs(tmp_path, configs):
    declaration = damaged(tmp_path, "v2-beir", "corpus/test-*")
    Path(declaration["path"], "README.md").write_text(f"---\nconfigs: {configs}\n---\n")
    with pytest.raises(DatasetError, match=r"README.md has no readable list of configs"):
        load_retrieval_dataset("tiny", declaration)


def test_a_part_that_is_missing(tmp_path):
    declaration = damaged(tmp_path, "v2-beir", "corpus/test-*")
    corpus = Path(declaration["path"], "corpus")
    (corpus / "test-00000-of-00001.parquet").rename(corpus / "test-00000-of-00003.parquet")
    with pytest.raises(DatasetError, match="config corpus, split test: 1 of 3 parts are in"):
        load_retrieval_dataset("tiny", declaration)


def image_by_path(tmp_path, path: str | None) -> dict:
    """The v2 form with pages that are files of their own instead of bytes."""
    declaration = damaged(tmp_path, "v2-beir", "corpus/test-*")
    file = Path(declaration["path"], "corpus", "test-00000-of-00001.parquet")
    rows = [{"corpus-id": 10 * n, "image": {"bytes": None, "path": path}} for n in range(3)]
    datasets.Dataset.from_list(rows).to_parquet(file)
    return declaration


def test_pages_that_are_files_of_the_folder(tmp_path):
    import PIL.Image

    declaration = image_by_path(tmp_path, "pages/0.png")
    (Path(declaration["path"]) / "pages").mkdir()
    PIL.Image.new("L", (3, 3), 7).save(Path(declaration["path"], "pages", "0.png"))
    assert colours(load_retrieval_dataset("tiny", declaration)) == [(7, 7, 7)] * 3


@pytest.mark.parametrize("other", [1, 0])
def test_two_columns_of_ids_must_agree(other, tmp_path):
    declaration = damaged(tmp_path, "v2-beir", "corpus/test-*")
    file = Path(declaration["path"], "corpus", "test-00000-of-00001.parquet")
    image = {"bytes": _png(), "path": None}
    rows = [{"corpus-id": 10 * n, "id": f"{10 * n + other * n}", "image": image} for n in range(3)]
    datasets.Dataset.from_list(rows).to_parquet(file)
    if not other:
        assert load_retrieval_dataset("tiny", declaration).document_ids == ["0", "10", "20"]
        return
    with pytest.raises(DatasetError, match="columns corpus-id and id differ in row 1; allowed is"):
        load_retrieval_dataset("tiny", declaration)


@pytest.mark.parametrize(
    "path", ["../../secret.png", "/etc/passwd", "https://host/0.png", "none.png", ""]
)
def test_pages_may_not_be_files_elsewhere(tmp_path, path):
    import PIL.Image

    PIL.Image.new("L", (3, 3)).save(tmp_path / "secret.png")
    pages = load_retrieval_dataset("tiny", image_by_path(tmp_path, path))
    with pytest.raises(DatasetError, match=r"row 0 \(column image\) has no bytes and its path"):
        check_pages(pages, print)


def test_the_check_of_pages_shows_its_progress(monkeypatch):
    reports = []
    check_pages(load("v2-beir"), reports.append)
    assert len(reports) == 1
    assert reports[0].startswith("checked 3 pages")
    monkeypatch.setattr("colport.data.base._REPORT_SECONDS", -1)
    check_pages(load("v2-beir"), reports.append)
    assert [report.split(",")[0] for report in reports[1:4]] == [
        f"checked {number}/3 pages" for number in (1, 2, 3)
    ]


def test_every_page_is_checked_before_anything_is_embedded(tmp_path):
    declaration = damaged(tmp_path, "v2-beir", "corpus/test-*")
    file = Path(declaration["path"], "corpus", "test-00000-of-00001.parquet")
    images = [{"bytes": b"no image" if n == 2 else _png(), "path": None} for n in range(3)]
    rows = [{"corpus-id": 10 * n, "image": image} for n, image in enumerate(images)]
    datasets.Dataset.from_list(rows).to_parquet(file)
    with pytest.raises(DatasetError, match=r"config corpus, split test: the image in row 2 \(col"):
        check_pages(load_retrieval_dataset("tiny", declaration), print)


def test_an_image_of_another_kind_is_not_handed_to_a_program(tmp_path):
    declaration = damaged(tmp_path, "v2-beir", "corpus/test-*")
    file = Path(declaration["path"], "corpus", "test-00000-of-00001.parquet")
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    rows = [{"corpus-id": 10 * n, "image": {"bytes": drawing, "path": None}} for n in range(3)]
    datasets.Dataset.from_list(rows).to_parquet(file)
    with pytest.raises(
        DatasetError, match=r"cannot be decoded \(cannot identify .*allowed are BMP"
    ):
        check_pages(load_retrieval_dataset("tiny", declaration), print)


def _png() -> bytes:
    import io

    import PIL.Image

    stream = io.BytesIO()
    PIL.Image.new("L", (3, 3)).save(stream, "PNG")
    return stream.getvalue()


def test_the_record_says_what_was_read(tmp_path):
    declaration = damaged(tmp_path, "v2-beir", "corpus/test-*") | {"language": "french"}
    dataset = load_retrieval_dataset("tiny", declaration)
    files = sorted(map(str, Path(declaration["path"]).rglob("*.parquet")))
    record = json.loads(json.dumps(dataset_record(dataset, declaration, files)))
    assert record["counts"] == {"queries": 1, "documents": 3, "judgements": 2, "skipped": 0}
    assert record["languages"] == ["french"]
    assert record["source"] == declaration
    assert record["qrels"] == {"1": {"0": 2, "10": 1}}
    with Path(files[0]).open("ab") as stream:
        stream.write(b"\n")
    changed = dataset_record(dataset, declaration, files)
    assert changed["content_sha256"] != record["content_sha256"]
    assert dataset_record(dataset, ON_HUB, [])["content_sha256"] is None
    assert dataset_record(dataset, ON_HUB, [])["source"]["revision"] == COMMIT
