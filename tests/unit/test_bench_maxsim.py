"""The MaxSim benchmark runs real contenders, on random and on stored embeddings."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import maxsim
from benchmarks.maxsim_contenders import CONTENDERS, MATMULS
from colport.base.errors import ConfigError
from colport.scoring.store import write_embeddings
from colport.timing.settings import LatencySettings

SETTINGS = LatencySettings(
    batch_sizes=(1,),
    rounds=1,
    min_samples=1,
    min_seconds=0,
    max_seconds=5,
    warmup_max_calls=1,
    quiet_wait_s=0,
)


def run(case: str, folder, contenders: tuple[str, ...]) -> tuple[dict[str, dict], str]:
    lines = []
    record = maxsim.run([case], folder / "scratch", SETTINGS, lines.append, contenders)
    assert len(lines) == len(record["rows"]) == len(contenders)
    assert list((folder / "scratch").iterdir()) == []
    return {row["contender"]: row for row in record["rows"]}, maxsim.markdown(record)


def test_rows_of_random_embeddings(tmp_path):
    contenders = ("colport", "maxsim-cpu", "matmul numpy")
    rows, table = run("small", tmp_path, contenders)
    assert rows["colport"]["error"] < 1e-5
    assert rows["colport"]["same_top_10"] == 1
    assert rows["colport"]["extra_mb"] >= 0
    assert rows["matmul numpy"]["of_matmul"] == 1
    assert rows["matmul numpy"]["error"] is None
    peer = rows["maxsim-cpu"]
    assert peer["gflops"] or peer["reason"] == "maxsim-cpu is not installed"
    assert "| small | colport | " in table


def test_rows_of_stored_embeddings(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("queries", 2), ("documents", 15)):
        items = [rng.standard_normal((3 + index, 8), np.float32) for index in range(count)]
        ids = [str(index) for index in range(count)]
        write_embeddings(tmp_path / f"stored/{name}.safetensors", ids, items, {})
    rows, table = run(str(tmp_path / "stored"), tmp_path, ("numpy by page", "matmul numpy"))
    assert rows["numpy by page"]["error"] < 1e-4
    assert "| stored | numpy by page | " in table


def test_an_unknown_case_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="case: 'colpaly' is unknown; allowed are colpali, "):
        maxsim.run(["colpaly"], tmp_path, SETTINGS, print)


def test_every_product_is_a_contender():
    assert set(MATMULS) <= set(CONTENDERS)
