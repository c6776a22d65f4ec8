"""``Encoder("owner/name")``: an exported folder of the Hub, its cache, and what is none."""

import json
import shutil
import sys

import numpy as np
import pytest
from huggingface_hub import constants

from colport import Encoder
from colport.base.errors import ArtifactError, ConfigError
from colport.hub import downloads
from tests.hub_downloads import DownloadHub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ID = "someone/model"


@pytest.fixture
def repository(exported, tmp_path, monkeypatch):
    """A repository with an exported folder and other files, and a working directory without."""
    folder = tmp_path / "repository"
    shutil.copytree(exported["colpali"], folder)
    (folder / "README.md").write_text("a card")
    (folder / "model.safetensors").write_bytes(b"of the checkpoint")
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


@pytest.fixture
def hub(repository, tmp_path, monkeypatch):
    with DownloadHub(repository, COMMIT) as server:
        server.use(monkeypatch, tmp_path / "hub")
        yield server


def queries(encoder):
    return encoder.encode_queries(["a query", "another, longer query"])


def test_a_folder_of_the_hub_gives_what_the_folder_gives(hub, repository, exported):
    encoder = Encoder(ID, revision=COMMIT)
    for found, expected in zip(
        queries(encoder), queries(Encoder(exported["colpali"])), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    listed = json.loads((repository / "colport.json").read_text())["files"]
    assert sorted(hub.sent) == sorted(["colport.json", *listed])  # nothing else
    assert encoder.folder.name == COMMIT


def test_a_branch_is_one_commit(hub):
    hub.branch = "main"
    assert Encoder(ID).folder.name == COMMIT
    assert [path for path in hub.asked if "main" in path] == [f"/api/models/{ID}/revision/main"]


def test_the_cache_serves_without_network(hub, monkeypatch):
    hub.branch = "main"
    Encoder(ID)
    hub.stop()
    assert len(queries(Encoder(ID))) == 2
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert len(queries(Encoder(ID, revision=COMMIT))) == 2


def test_a_local_folder_goes_first(hub, exported, tmp_path):
    shutil.copytree(exported["colbert"], tmp_path / "here" / ID)
    assert Encoder(ID).manifest.family == "colbert"
    assert not hub.sent
    with pytest.raises(ConfigError, match=f"revision: found 'main', but {ID} is not from the Hub"):
        Encoder(ID, revision="main")


def test_what_is_no_id_is_a_path(hub, tmp_path):
    for place in (tmp_path / "none", "none", "a/b/c", "./none", tmp_path.relative_to("/") / "b"):
        with pytest.raises(ArtifactError, match="there is no such folder"):
            Encoder(place)
    with pytest.raises(TypeError, match="revision: found int; allowed is a commit, tag or branch"):
        Encoder(ID, revision=1)
    assert not hub.sent


def fails(match, **revision):
    with pytest.raises(ArtifactError, match=match) as caught:
        Encoder(ID, **revision)
    assert str(caught.value).startswith(f"{ID}@")
    assert "http" not in str(caught.value)


def test_what_the_hub_does_not_have(hub, repository):
    fails("the repository has no such revision", revision="v9")
    hub.missing = True
    fails(r"the Hub has no such repository, or the token may not see it \(and there is no such fol")


def test_a_repository_without_an_exported_folder(repository, tmp_path, monkeypatch):
    (repository / "colport.json").unlink()
    with DownloadHub(repository, COMMIT) as server:
        server.use(monkeypatch, tmp_path / "hub")
        fails("holds no colport.json; a checkpoint has to be exported first", revision=COMMIT)
        assert not server.sent


def test_no_network_and_no_client(hub, monkeypatch):
    hub.stop()
    fails("the Hub cannot be reached and its cache does not hold this revision")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    fails("needs huggingface_hub; run `pip install huggingface_hub`")


def test_a_file_that_is_not_what_the_manifest_says(hub, repository):
    hub._files["tokenizer.json"] += b" "
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: has \d+ bytes, colport\.json says"):
        Encoder(ID, revision=COMMIT)


def test_a_manifest_chooses_no_file_of_this_machine(hub, tmp_path):
    (tmp_path / "secret").write_text("x")
    record = json.loads(hub._files["colport.json"])
    record["files"]["../../../../../secret"] = {"sha256": "0" * 64, "size_bytes": 1}
    record["files"]["*"] = {"sha256": "0" * 64, "size_bytes": 1}
    hub._files["colport.json"] = json.dumps(record).encode()
    with pytest.raises(ArtifactError, match=r"leaves the folder|is missing"):
        Encoder(ID, revision=COMMIT)
    assert "README.md" not in hub.sent
