"""Each profile plans the default: what runs where, with what. Nothing is submitted."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from .conftest import ROOT

HUB = {"hub": "someone/model", "revision": "0" * 40}
CONFIG = {
    "run": {"models": ["far"], "variants": ["fp32", "int8"], "providers": ["cpu"]},
    "models": {"far": {"family": "colpali", "checkpoint": HUB, "datasets": ["demo-pages-qa"]}},
    "scenarios": {"run": ["server"]},
}
ALONE = {"latency", "operators", "scenarios"}
MODULES = {
    "slurm": ["snakemake_executor_plugin_slurm"],
    "cluster-generic": ["snakemake_executor_plugin_cluster_generic"],
    "kubernetes": ["snakemake_executor_plugin_kubernetes", "snakemake_storage_plugin_s3"],
    "s3": ["snakemake_storage_plugin_s3"],
}


class EmptyBucket(BaseHTTPRequestHandler):
    """An object store that has the bucket and nothing in it."""

    def do_HEAD(self):
        self.send_response(200 if self.path.strip("/").count("/") == 0 else 404)
        self.end_headers()

    def do_GET(self):
        body = b'<?xml version="1.0"?><ListBucketResult><Name>my-bucket</Name></ListBucketResult>'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def store(monkeypatch):
    """Arguments that lead a profile to an empty object store of this machine."""
    for name in ("SNAKEMAKE_STORAGE_S3_ACCESS_KEY", "SNAKEMAKE_STORAGE_S3_SECRET_KEY", "HF_HOME"):
        monkeypatch.setenv(name, "unused")
    server = ThreadingHTTPServer(("127.0.0.1", 0), EmptyBucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield ["--storage-s3-endpoint-url", f"http://127.0.0.1:{server.server_port}"]
    server.shutdown()
    server.server_close()


def needs(profile):
    for module in MODULES[profile]:
        pytest.importorskip(module, reason="envs/cluster.txt has it")


def planned(workspace, profile, *arguments):
    """Rule to what the dry run prints for one of its jobs."""
    needs(profile)
    arguments = ["--workflow-profile", f"config/profiles/{profile}", "--dry-run", *arguments]
    run = workspace.snakemake(*arguments, config=CONFIG)
    assert run.code == 0, run.output[-3000:]
    return dict(re.findall(r"^(?:rule|checkpoint) (\w+):\n((?:    .*\n)+)", run.output, re.M))


@pytest.mark.parametrize(
    ("profile", "alone"),
    [
        ("slurm", ["slurm_partition=timing", "slurm_extra=--exclusive"]),
        ("cluster-generic", ["partition=timing", "extra=--exclusive"]),
    ],
)
def test_what_is_timed_has_a_node_to_itself(workspace, profile, alone):
    found = planned(workspace, profile)
    assert {"reference", "embed", "quantize"} | ALONE <= set(found)
    for rule in set(found) - {"aggregate", "report", "gate", "all"}:
        assert "mem_mb=" in found[rule], rule
        assert "runtime=" in found[rule], rule
        assert all(word in found[rule] for word in alone) == (rule in ALONE)


def test_downloads_are_no_jobs_under_a_profile(workspace):
    needs("cluster-generic")
    run = workspace.snakemake(
        *("--workflow-profile", "config/profiles/cluster-generic"),
        *("--cluster-generic-submit-cmd", 'f() {{ sh "$1" >&2; echo 1; }}; f'),
        *("--cluster-generic-status-cmd", "echo success #"),
        *("--seconds-between-status-checks", "1"),
        "results/retrieval/controls/shuffled/demo-passages.json",
    )
    assert run.code == 0, run.output[-3000:]
    assert "localcheckpoint dataset:" in run.output
    assert re.search(r"^rule control:", run.output, re.M)
    assert run.output.count("Submitted job") == 1


def test_kubernetes_plans_on_a_bucket(workspace, store):
    found = planned(workspace, "kubernetes", *store)
    assert "machine_type" in found["latency"]
    assert "machine_type" not in found["reference"]
    assert "mem_mb=16000" in found["reference"]
    assert "s3://my-bucket/colport/results/latency" in found["latency"]


def test_results_in_a_bucket_inputs_from_here(workspace, store):
    text = planned(workspace, "s3", *store)["dataset"]
    assert "s3://my-bucket/colport/results/datasets/demo-pages-qa.json" in text
    assert "input: resources/datasets/demo-pages-qa/README.md" in text


def test_every_profile_is_tested():
    assert {folder.name for folder in (ROOT / "config/profiles").iterdir()} == set(MODULES)
