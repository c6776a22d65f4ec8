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
    assert rows["matmul numpy"]["of_matmul"] == 1
    assert rows["matmul numpy"]["error"] is None
    peer = rows["maxsim-cpu"]
    assert peer["gflops"] or peer["reason"] == "maxsim-cpu is not installed"
    assert "| small | colport | " in table


def test_figures_by_hand(tmp_path):
    """Rates of the fastest call, against the faster of two plain products; errors, the ten best."""
    expected = np.tile(np.arange(12.0), (2, 1))
    scores = expected.copy()
    scores[1, 0] = 20.25  # among the ten best, where it does not belong
    np.save(tmp_path / "colport.npy", scores)
    for name in ("colport", "matmul numpy", "matmul torch"):
        (tmp_path / f"{name}.json").write_text('{"extra_mb": 1.5}')
    times = {"colport": 4.0, "matmul numpy": 2.0, "matmul torch": 1.0, "numpy by page": None}
    measured = [
        {"variant": name, "status": "ok" if ms else "failed", "reason": "r", "min_ms": ms}
        for name, ms in times.items()
    ]
    rows = {row["contender"]: row for row in maxsim._rows("c", measured, 8e6, expected, tmp_path)}
    shown = ("ms", "gflops", "of_matmul", "extra_mb", "error", "same_top_10")
    assert [rows["colport"][name] for name in shown] == [4, 2, 0.25, 1.5, 20.25, 0.5]
    assert [rows["matmul numpy"][name] for name in shown] == [2, 4, 0.5, 1.5, None, None]
    assert [rows["numpy by page"][name] for name in shown] == [None] * 6
    assert rows["numpy by page"]["reason"] == "r"


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
