"""Folders of earlier releases are read; what a newer one wrote is refused by name."""

import json
import re
import shutil
import tomllib

import numpy as np
import pytest

import colport
from colport import Encoder
from colport.base.errors import ArtifactError
from colport.folder import manifest
from tests.conftest import ROOT
from tests.fixtures.make_folders import HERE, PAGES, RELEASE
from tests.fixtures.stored import TEXTS, load_embeddings

RELEASES = sorted(HERE.glob("folders-*"))


def least_cosine(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    assert [len(rows) for rows in found] == [len(rows) for rows in expected]
    return min(float((a * b).sum(-1).min()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("release", RELEASES, ids=lambda folder: folder.name)
def test_folders_of_every_release_are_read(release):
    passages, pages = (Encoder(release / name) for name in ("passages", "pages"))
    checkpoint = HERE / "pylate-bert"
    for kind, encode in (
        ("queries", passages.encode_queries),
        ("documents", passages.encode_documents),
    ):
        assert least_cosine(encode(TEXTS[kind]), load_embeddings(checkpoint, kind)) > 1 - 1e-5
    with np.load(release / "pages.npz") as stored:
        queries = [stored[f"queries-{i}"] for i in range(len(TEXTS["queries"]))]
        documents = [stored[f"documents-{i}"] for i in range(len(PAGES))]
    assert least_cosine(pages.encode_queries(TEXTS["queries"]), queries) > 0.99
    assert least_cosine(pages.encode_documents(PAGES), documents) > 0.99
    for name in ("passages", "pages"):
        made_with = manifest.verify(release / name).made_with
        assert made_with["colport"] == release.name.removeprefix("folders-")


def add(record, *keys):
    *outer, last = keys
    for key in outer:
        record = record[key]
    record[last] = 2


@pytest.mark.parametrize(
    ("release", "keys", "message"),
    [
        ("pages", ("schema_version",), "schema_version is 2; this ColPort reads 1"),
        ("pages", ("later",), "is not a ColPort manifest .*'later'"),
        ("pages", ("graphs", "text", "later"), "is not a ColPort manifest .*'later'"),
        ("pages", ("processing", "later"), "processing.later is unknown here; a newer ColPort"),
        ("pages", ("processing", "image", "later"), r"processing\.image\.later is unknown here"),
        ("passages", ("processing", "later"), r"processing\.later is unknown here"),
        ("passages", ("processing", "prompts", "later"), r"processing\.prompts\.later is unknown"),
        ("passages", ("processing", "expansion", "later"), r"later is unknown here"),
    ],
)
def test_what_a_newer_release_adds_is_refused(release, keys, message, tmp_path):
    folder = shutil.copytree(RELEASES[-1] / release, tmp_path / "folder")
    record = json.loads((folder / manifest.FILE).read_text())
    add(record, *keys)
    (folder / manifest.FILE).write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=f"^{re.escape(str(folder))}.*{message}"):
        Encoder(folder)


def test_this_release_has_its_folders_and_its_changes():
    assert RELEASE in RELEASES
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert colport.__version__ in changes
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"] == {
        "version": {"attr": "colport.__version__"}  # nowhere else
    }
