"""Downloads from a Hub that times out, answers too many requests or breaks off."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from colport.base.errors import CheckpointError, HubError
from colport.hub import checkpoints, downloads
from tests.hub_downloads import DownloadHub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 400


@pytest.fixture
def hub(tmp_path, monkeypatch):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "pytorch_model.bin").write_bytes(b"never fetched")
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)  # the Hub client's, too
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    with DownloadHub(folder, COMMIT) as server:
        server.use(monkeypatch, tmp_path / "hub")
        yield server


def fetched():
    folder = downloads.fetch("someone/model", COMMIT, ["*.json", "*.safetensors"])
    return {file.name: file.read_bytes() for file in folder.iterdir()}


EXPECTED = {"config.json": b"{}", "model.safetensors": WEIGHTS}


@pytest.mark.parametrize(
    "trouble", [[], [429], [503, 503], ["cut"], ["cut", "cut", 500], ["hang"]], ids=str
)
def test_what_passes_is_waited_for(hub, trouble):
    hub.trouble.extend(trouble)
    assert fetched() == EXPECTED
    assert not hub.trouble


def test_a_broken_download_goes_on_where_it_stopped(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.always["model.safetensors"] = "cut"  # half of what is left, each time
    hub._files["model.safetensors"] = WEIGHTS[:16000]
    with pytest.raises(HubError, match=r"broke off 3 times|HTTP 416"):
        fetched()
    starts = [
        start
        for name, start in zip(hub.sent, hub.starts, strict=True)
        if name == "model.safetensors"
    ]
    assert starts[:3] == [0, 8000, 12000]


def test_what_was_fetched_is_kept(hub):
    hub.always["model.safetensors"] = 403
    with pytest.raises(HubError, match="HTTP 403"):
        fetched()
    hub.always.clear()
    assert fetched() == EXPECTED
    assert fetched() == EXPECTED
    assert sorted(hub.sent) == ["config.json", "model.safetensors"]


@pytest.fixture
def refused(monkeypatch):
    """What a fetch waits, call by call, and says where every call ends in an error."""

    def ask(error):
        waits = []

        def snapshot_download(*_, **__):
            raise error

        monkeypatch.setattr(downloads.time, "sleep", waits.append)
        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        with pytest.raises(HubError) as caught:
            fetched()
        return waits, str(caught.value)

    return ask


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_the_client_is_asked_for(monkeypatch, kind):
    asked = []

    def snapshot_download(*arguments, **named):
        asked.append((arguments, named))
        return "/cache"

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert downloads.fetch("a/b", "v1", ("*.json",), kind) == Path("/cache")
    named = {"repo_type": kind, "revision": "v1", "allow_patterns": ["*.json"]}
    named["local_files_only"] = False
    assert asked == [(("a/b",), named)]


def answer(status):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError("no", response=response)


def test_each_further_attempt_waits_twice_as_long(refused):
    waits, text = refused(TimeoutError())
    assert waits == [2.0, 4.0]
    assert text.startswith("the download broke off 3 times (TimeoutError)")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_what_the_disk_refuses_is_not_tried_again(refused, number):
    waits, text = refused(OSError(number, "no room"))
    assert waits == []
    assert text == f"the Hub's cache cannot be written ({errno.errorcode[number]}: no room)"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_hub_is_asked_again(refused, status):
    waits, text = refused(answer(status))
    assert len(waits) == 2
    assert text == f"the Hub answered with HTTP {status}; run again later, what was fetched is kept"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 501])
def test_a_refusal_is_not_asked_again(refused, status):
    assert refused(answer(status)) == ([], f"the Hub answered with HTTP {status}")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (LocalEntryNotFoundError("no"), "the Hub cannot be reached and its cache does not hold"),
        (ValueError("no"), r"the Hub client refuses it (ValueError)"),
    ],
)
def test_what_no_wait_mends(refused, error, text):
    waits, found = refused(error)
    assert waits == []
    assert found.startswith(text)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (404, "the Hub answered with HTTP 404$"),
        (429, "the Hub answered with HTTP 429; run again later, what was fetched is kept"),
        (503, "the Hub answered with HTTP 503; run again later, what was fetched is kept"),
        ("hang", r"the download broke off 3 times \(ReadTimeout\); run again"),
    ],
)
def test_what_stays_is_said_in_one_phrase(hub, monkeypatch, trouble, message):
    if trouble == "hang":  # or the client's own repetitions take a minute
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.02)
    hub.trouble.extend([trouble] * 200)
    with pytest.raises(HubError, match=message) as caught:
        fetched()
    assert hub.url not in str(caught.value)


def test_a_checkpoint_names_itself(hub, tmp_path):
    declared = {"hub": "someone/model", "revision": "9" * 40}
    with pytest.raises(CheckpointError, match=f"checkpoint someone/model@{'9' * 40}: the"):
        checkpoints.resolve(declared, tmp_path / "w")
    assert checkpoints.resolve(declared | {"revision": COMMIT}, tmp_path / "w").name == COMMIT


@pytest.mark.parametrize(
    "name", ["../{other}/config.json", "a/../../{other}/x.json", "../../x.json"]
)
def test_a_listed_file_outside_the_revision_is_refused(hub, tmp_path, name):
    hub._files[name.format(other="f" * 40)] = b"planted"
    with pytest.raises(HubError, match="the Hub client refuses it"):
        fetched()
    planted = [file for file in (tmp_path / "hub").rglob("*") if file.is_file()]
    assert b"planted" not in [file.read_bytes() for file in planted]
