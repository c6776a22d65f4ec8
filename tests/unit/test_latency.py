import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colport.base.columns import TABLES
from colport.base.errors import ConfigError
from colport.timing.runner import measure
from colport.timing.settings import Case, Contender, Inputs, LatencySettings
from tests.latency_runs import BOTH_KINDS, ONE_QUERY, QUICK, contender, run

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1] / "scripts"


@pytest.fixture(autouse=True)
def _contenders_on_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.02)


def test_payload_is_json_and_recomputable():
    inputs = Inputs(queries=("one", "two"), documents=("a text",))
    payload = run([contender("pytorch", pattern=[1])], inputs, batch_sizes=(1, 3))
    payload = json.loads(json.dumps(payload))
    assert [(row["kind"], row["batch_size"]) for row in payload["rows"]] == [
        ("query", 1),
        ("query", 3),
        ("document", 1),
        ("document", 3),
    ]
    for row, raw in zip(payload["rows"], payload["samples"], strict=True):
        assert tuple(row) == TABLES["latency"].all
        assert (raw["kind"], raw["batch_size"]) == (row["kind"], row["batch_size"])
        assert len(raw["rounds_ns"]) == QUICK["rounds"]
        values = np.concatenate(raw["rounds_ns"]) / 1e6
        assert values.size == row["samples"] >= QUICK["min_samples"]
        assert np.percentile(values, 95) == row["p95_ms"]
        assert values.mean() * row["per_second"] == pytest.approx(1000 * row["batch_size"])
        assert raw["first_ns"] / 1e6 == row["first_ms"]
        assert len(raw["settle_ns"]) == QUICK["rounds"]
    assert payload["settings"]["min_samples"] == QUICK["min_samples"]
    assert payload["environment"]["packages"]["numpy"]
    assert payload["noise"]["noisy"] == bool(payload["noise"]["reasons"])
    assert payload["failures"] == []


def test_pages_are_opened_and_threads_are_fixed(tmp_path):
    paths = []
    for width in (20, 30):
        paths.append(tmp_path / f"{width}.png")
        Image.new("RGBA", (width, 10)).save(paths[-1])
    inputs = Inputs(queries=("q",), documents=tuple(paths), pages=True)
    payload = run(
        [contender("pytorch", "pages_and_threads")], inputs, threads=2, batch_sizes=(1, 2)
    )
    query, _, single, pair = payload["rows"]
    assert (query["tokens"], query["image_size"]) == (2, "")
    assert (single["tokens"], single["image_size"]) == (20, "20x10")
    assert pair["tokens"] == 25


def test_memory_is_that_of_each_process():
    payload = run([contender("fp32", pattern=[1]), contender("int8", "big", megabytes=150)])
    light, heavy = payload["rows"]
    assert heavy["peak_rss_mb"] > light["peak_rss_mb"] + 140
    assert light["speedup_vs_pytorch"] is None


def test_what_was_loaded_is_not_collected_again():
    """A full collection over the objects of PyTorch stops a call for 0.3 seconds."""
    row = run([contender("pytorch", factory="loaded", objects=100_000)])["rows"][0]
    assert row["status"] == "ok"
    assert 0 < row["tokens"] < 50_000


def test_memory_of_the_parent_is_not_the_worker_s():
    ballast = np.ones(400 * 2**20, dtype=np.uint8)
    payload = run([contender("pytorch", pattern=[1])])
    assert ballast[-1] == 1
    assert payload["rows"][0]["peak_rss_mb"] < 300


def test_worker_starts_without_the_measuring_side():
    payload = run([contender("fp32", "has_loaded", module="colport.timing.runner")])
    assert payload["rows"][0]["status"] == "ok"


def test_prints_do_not_break_the_protocol():
    talking = contender("pytorch", pattern=[1], chatter=True)
    row = run([dataclasses.replace(talking, note="what a reader has to know")])["rows"][0]
    assert (row["status"], row["reason"]) == ("ok", "what a reader has to know")


@pytest.mark.parametrize(
    ("factory", "reason"),
    [("dies", "killed by SIGSEGV; last output: last words"), ("exits", "ended with exit code 3")],
)
def test_crash_fails_its_own_rows_only(factory, reason):
    payload = run([contender("int8", factory), contender("pytorch", pattern=[1])])
    crashed, other = payload["rows"]
    assert crashed["status"] == "failed"
    assert crashed["reason"].startswith(reason)
    assert crashed["p50_ms"] is None
    assert other["status"] == "ok"
    assert payload["failures"][0]["detail"]


def test_exception_fails_its_own_case_only():
    payload = run([contender("int8", pattern=[1], fail_kind="document")], BOTH_KINDS)
    query, document = payload["rows"]
    assert query["status"] == "ok"
    assert document["status"] == "failed"
    assert document["reason"] == "ValueError: no document today second line"
    assert "Traceback" in payload["failures"][0]["detail"]


def test_hang_ends_at_the_timeout():
    contenders = [
        contender("int8", pattern=[1], hang_kind="document"),
        contender("pytorch", pattern=[1]),
    ]
    start = time.monotonic()
    rows = run(contenders, BOTH_KINDS, timeout_s=4.0)["rows"]
    assert time.monotonic() - start < 40
    assert [row["status"] for row in rows] == ["failed", "failed", "ok", "ok"]
    assert rows[0]["reason"] == "did not answer within 4 s (timeout_s)"


def test_known_limit_is_unsupported():
    row = run([contender("fp16", "unsupported")])["rows"][0]
    assert (row["status"], row["reason"]) == ("unsupported", "Provider X is not on this machine.")


def test_outputs_must_be_arrays_in_memory():
    row = run([contender("fp16", "not_arrays")])["rows"][0]
    assert row["status"] == "failed"
    assert "expected one NumPy array [tokens, dim] an input" in row["reason"]


def test_unknown_factory_fails():
    row = run([contender("fp16", "no_such_factory")])["rows"][0]
    assert row["reason"].startswith("AttributeError: ")


def test_no_process_outlives_an_exception(tmp_path):
    class StopHereError(Exception):
        pass

    def interrupt(message):
        if message == "loading pytorch on cpu":
            raise StopHereError

    traced = contender("int8", "leaves_traces", folder=str(tmp_path))
    settings = LatencySettings(**QUICK)
    documents = Inputs(documents=("d",))
    with pytest.raises(StopHereError):
        measure([traced, contender("pytorch", pattern=[1])], documents, settings, interrupt)
    pids = (tmp_path / "pids").read_text().split()
    try:
        wait_until(lambda: not any(map(is_alive, pids)))
    finally:
        for pid in filter(is_alive, pids):
            os.kill(int(pid), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_worker_dies_with_a_killed_parent(tmp_path):
    script = textwrap.dedent(
        f"""
        from colport.timing.runner import Contender, Inputs, LatencySettings, measure
        c = Contender("m", "v", "cpu", "test_latency_contenders:leaves_traces",
                      {{"folder": {str(tmp_path)!r}}})
        measure([c], Inputs(queries=("q",)), LatencySettings(threads=1, quiet_wait_s=0), print)
        """
    )
    path = os.pathsep.join([str(SCRIPTS), str(HERE)])
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}
    )
    traces = tmp_path / "pids"
    pids = []
    try:
        wait_until(lambda: traces.is_file() and len(traces.read_text().split()) == 2)
        pids = traces.read_text().split()
        assert is_alive(pids[0])
        parent.send_signal(signal.SIGKILL)
        wait_until(lambda: not is_alive(pids[0]))
    finally:
        parent.kill()
        parent.wait()
        # The child of the worker: only a parent that lives to clean up can end it.
        for pid in filter(is_alive, pids):
            os.kill(int(pid), signal.SIGKILL)


def test_contenders_must_belong_together():
    one = contender("pytorch", pattern=[1])
    other = Contender("another", "fp32", "cpu", one.factory, {})
    with pytest.raises(ConfigError, match="variants of one model"):
        run([one, other])
    with pytest.raises(ConfigError, match="more than once"):
        run([one, one])
    elsewhere = Contender("m", "pytorch", "torch-cuda", one.factory, {})
    with pytest.raises(ConfigError, match="has one PyTorch reference; found several"):
        run([one, elsewhere])
    with pytest.raises(ConfigError, match=r"arguments\.threads is 4"):
        run([contender("fp32", threads=4)])
    with pytest.raises(ConfigError, match="at least one contender"):
        run([])
    with pytest.raises(ConfigError, match="one input"):
        run([one], Inputs())
    with pytest.raises(ConfigError, match="'no_colon'"):
        Contender("m", "v", "cpu", "no_colon")


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_sizes": ()},
        {"batch_sizes": (1, 1)},
        {"batch_sizes": (0,)},
        {"rounds": 0},
        {"threads": 0},
        {"timeout_s": 0},
        {"min_seconds": 11.0},
    ],
)
def test_settings_out_of_range(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LatencySettings(**wrong)


def test_single_inputs_are_cases():
    assert Case("query", 1) in LatencySettings().cases(ONE_QUERY)
