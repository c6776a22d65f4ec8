"""Downloads from a Hub that times out, answers too many requests or breaks off."""

import pytest
from huggingface_hub import constants

from colport import checkpoints, downloads
from colport.errors import CheckpointError, HubError
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


def test_a_broken_download_goes_on_where_it_stopped(hub, tmp_path):
    hub.trouble.extend(["cut"] * 200)
    with pytest.raises(HubError, match="broke off 3 times"):
        fetched()
    hub.trouble.clear()
    kept = {file.stat().st_size for file in (tmp_path / "hub").rglob("*.incomplete")}
    assert kept <= set(range(len(WEIGHTS)))
    assert fetched() == EXPECTED


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (403, "the Hub answered with HTTP 403$"),
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


def test_a_full_disk_is_not_the_hub_s(hub, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(HubError, match=r"cache cannot be written \(ENOSPC: No space left"):
        fetched()


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
