"""Pushing a folder, against a stand-in of the Hub: bytes, privacy, tokens, refusals."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from colport.base.errors import HubError
from colport.folder import manifest
from colport.hub import upload
from tests.hub_server import LARGE, Hub

TOKEN = "hf_" + "t" * 34
REPO = "me/colpali-onnx"
SCRIPTS = Path(upload.__file__).parents[2]


@pytest.fixture
def server():
    with Hub(TOKEN) as running:
        yield running


@pytest.fixture
def folder(exported, tmp_path):
    """An exported folder, with files beside it that must not travel."""
    copied = shutil.copytree(exported["colpali"], tmp_path / "fp32")
    (copied / ".snakemake_timestamp").touch()
    (tmp_path / "secret").write_text("secret")
    (copied / "link").symlink_to(tmp_path / "secret")
    return copied


def push(server, *arguments, token=TOKEN, **changes):
    """Run the command in a process of its own, with nothing of this user's login."""
    home = Path(arguments[0]).parent / "home"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SCRIPTS),
        "HOME": str(home),
        "HF_HOME": str(home),
        "HF_ENDPOINT": server.url,
        "HF_HUB_DISABLE_XET": "1",
        **({"HF_TOKEN": token} if token else {}),
        **changes,
    }
    command = [sys.executable, "-m", "colport.cli", "push", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def in_process(server, monkeypatch):
    """The client in this process talks to the stand-in."""
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return server


def test_a_push_sends_the_listed_files_and_a_card(server, folder):
    done = push(server, folder, REPO, "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{server.url}/{REPO}/commit/{1:040x}\n"
    repository = server.repositories[REPO]
    assert repository.private
    (commit,) = repository.commits
    assert commit["summary"] == "Upload colpali fp32 with ColPort"
    files = repository.branches["main"]
    listed = manifest.read(folder).files
    assert set(files) == {"README.md", manifest.FILE, *listed}
    for name, facts in listed.items():
        assert hashlib.sha256(files[name]).hexdigest() == facts["sha256"]
    assert files[manifest.FILE] == (folder / manifest.FILE).read_bytes()
    sizes = {name: len(content) for name, content in files.items()}
    assert sizes["weights.onnx_data"] >= LARGE > sizes["tokenizer.json"]
    assert set(map(len, server.large.values())) == {
        size for size in sizes.values() if size >= LARGE
    }
    metadata = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert metadata["library_name"] == "onnx"
    assert "Not measured." in files["README.md"].decode()
    tokenless = {path for method, path, token in server.requests if method != "GET" and not token}
    assert {path.split("/")[1] for path in tokenless} == {"storage"}  # their addresses are signed


def test_the_same_content_is_not_sent_again(server, folder):
    assert push(server, folder, REPO).returncode == 0
    sent = len(server.large)
    server.requests.clear()
    done = push(server, folder, REPO)
    assert done.returncode == 0, done.stderr
    assert len(server.large) == sent
    assert [method for method, _, _ in server.requests if method == "PUT"] == []
    assert len(server.repositories[REPO].commits) == 1


def test_a_branch_and_another_layout(in_process, folder, tmp_path):
    from colport.folder.graphs import convert
    from colport.tensors.external_data import Layout

    convert(folder, tmp_path / "sharded", Layout("shard", 2_000_000))
    first = sorted(path.name for path in (tmp_path / "sharded").glob("*data"))
    upload.push(tmp_path / "sharded", REPO, "---\n{}\n---\n", revision="onnx")
    branches = in_process.repositories[REPO].branches
    assert branches["main"] == {}
    assert set(first) < set(branches["onnx"])
    branches["onnx"]["weights.txt"] = b"someone else's"
    upload.push(folder, REPO, "---\n{}\n---\n", revision="onnx")
    weights = {name for name in branches["onnx"] if name.startswith("weights")}
    assert weights == {"weights.onnx_data", "weights.txt"}


def test_who_may_see_a_new_repository_is_the_owner_s_to_say(in_process, folder):
    """An organisation may make new repositories private: asking for public ones would undo that."""
    upload.push(folder, REPO, "---\n{}\n---\n")
    upload.push(folder, f"{REPO}-2", "---\n{}\n---\n", private=True)
    assert [asked.get("visibility") for asked in in_process.created] == [None, "private"]
    assert [asked.get("private") for asked in in_process.created] == [None, None]


def test_the_client_is_as_quiet_as_asked(in_process, folder, monkeypatch):
    """Its warnings name addresses that are signed, so that they are never shown."""
    from huggingface_hub.utils import logging

    asked = []
    monkeypatch.setattr("huggingface_hub.utils.disable_progress_bars", lambda: asked.append("bars"))
    logging.set_verbosity_warning()
    upload.push(folder, REPO, "---\n{}\n---\n")
    assert logging.get_verbosity() == logging.ERROR
    assert asked == []
    upload.push(folder, REPO, "---\n{}\n---\n", quiet=True)
    assert asked == ["bars"]


def test_private_is_never_public(in_process, folder):
    upload.push(folder, REPO, "---\n{}\n---\n")
    with pytest.raises(HubError, match=r"^me/colpali-onnx: exists and is public"):
        upload.push(folder, REPO, "---\n{}\n---\n", private=True)
    assert len(in_process.repositories[REPO].commits) == 1


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("create", 401, "the Hub refused the login; set HF_TOKEN to a valid token"),
        ("create", 403, "the token may not write there"),
        ("tree", 404, "there is no such repository or branch"),
        ("commit", 403, "the token may not write there"),
        ("commit", 409, "the repository was changed during the upload; push again"),
        ("commit", 413, "a file is larger than the Hub takes"),
        ("commit", 429, "the Hub takes no more requests for now"),
        ("commit", 500, "the Hub failed with status 500; push again later"),
        ("put", 403, "sending a file failed with status 403; push again"),
        ("commit", 418, "the upload failed"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(in_process, folder, kind, status, message):
    in_process.failures[kind] = status
    with pytest.raises(HubError, match=f"^{REPO}: {message}") as error:
        upload.push(folder, REPO, "---\n{}\n---\n", quiet=True)
    text = str(error.value)
    assert "\n" not in text
    assert not any(secret in text for secret in (TOKEN, "signature", "http"))
    in_process.failures.clear()
    assert upload.push(folder, REPO, "---\n{}\n---\n").startswith(in_process.url)


def test_a_wrong_token_a_missing_one_and_no_hub(server, folder):
    done = push(server, folder, REPO, token="hf_" + "x" * 34)
    assert (done.returncode, done.stderr.count("error:")) == (1, 1)
    assert f"error: {REPO}: the Hub refused the login" in done.stderr
    server.requests.clear()
    done = push(server, folder, REPO, token=None)
    assert done.returncode == 1
    assert "no login for the Hub; set HF_TOKEN, or run `hf auth login`" in done.stderr
    done = push(server, folder, REPO, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in done.stderr
    assert server.requests == []
    assert server.repositories == {}


def test_nothing_is_sent_of_a_changed_folder(server, folder):
    weights = folder / "weights.onnx_data"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = push(server, folder, REPO)
    assert done.returncode == 1
    assert "weights.onnx_data: sha256 is" in done.stderr
    assert server.requests == []


def test_a_listed_file_may_not_be_a_link_to_elsewhere(server, folder, tmp_path):
    tokenizer = folder / "tokenizer.json"
    shutil.copy(tokenizer, tmp_path / "elsewhere.json")
    tokenizer.unlink()
    tokenizer.symlink_to(tmp_path / "elsewhere.json")
    done = push(server, folder, REPO)
    assert done.returncode == 1
    assert "lists 'tokenizer.json', which leaves the folder" in done.stderr
    assert server.requests == []


def test_an_unsupported_folder_is_refused(server, tmp_path):
    from colport.base.files import write_unsupported

    write_unsupported(tmp_path / "int8", "no int8 here")
    done = push(server, tmp_path / "int8", REPO)
    assert (done.returncode, done.stderr) == (1, "error: no int8 here\n")


def test_a_dry_run_sends_nothing_and_needs_no_login(server, folder):
    done = push(server, folder, REPO, "--dry-run", token=None)
    assert done.returncode == 0, done.stderr
    assert server.requests == []
    for text in (manifest.FILE, "weights.onnx_data", "README.md", "library_name: onnx"):
        assert text in done.stdout
    assert ".snakemake_timestamp" not in done.stdout


def test_a_record_of_another_export_is_refused(server, folder, tmp_path):
    from colport.base.errors import UnsupportedError
    from colport.base.files import write_json
    from colport.measure.parity import unsupported

    labels = {"model": "m", "variant": "v", "provider": "cpu"}
    write_json(
        tmp_path / "parity.json",
        {**unsupported(labels, UnsupportedError("none")), "export": "0" * 64},
    )
    done = push(server, folder, REPO, "--dry-run", "--parity", tmp_path / "parity.json")
    assert done.returncode == 1
    assert "was measured on another export than the folder to push" in done.stderr
    (tmp_path / "other.json").write_text(json.dumps({"schema_version": 1, "rows": [{"a": 1}]}))
    done = push(server, folder, REPO, "--dry-run", "--parity", tmp_path / "other.json")
    assert "is no record of parity" in done.stderr
