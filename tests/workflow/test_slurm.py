"""The reduced default on a real Slurm, by both executors: the same tables as here. Opt-in.

``COLPORT_SLURM=1`` submits to the cluster that answers, or starts one on this machine (as root).
"""

import os
import subprocess

import pandas as pd
import pytest

from .conftest import REDUCED, ROOT

MODELS = REDUCED["run"]["models"]
ALONE = {"latency", "operators", "scenarios"}
HERE = {"checkpoint", "dataset", "aggregate", "report", "gate", "all"}
SPEED = ("p50_ms", "speedup", "speedup_low", "speedup_high")
TIMED = {  # other figures of the same computation
    "export": ["seconds", "peak_rss_mb"],
    "summary": [
        *(f"{kind}_{name}" for kind in ("query", "document") for name in SPEED),
        *("recommended", "verdict", "best_for"),
    ],
    "parity": [],
    "retrieval": [],
    "retrieval_intervals": [],
    "retrieval_queries": [],
}
JOB_NAME = {"slurm": "%k", "cluster-generic": "%j"}
"""How ``squeue`` is asked for what names the rule."""


def answer(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    try:
        reached = answer("sinfo").returncode == 0
    except FileNotFoundError:
        reached = False
    if reached:
        yield
        return
    script, folder = ROOT / "tests/slurm/one_node.sh", tmp_path_factory.mktemp("slurm")
    started = answer(script, "start", folder)
    assert started.returncode == 0, started.stderr
    yield
    answer(script, "stop", folder)


def table(workspace, name):
    """A table without what is timed, the rows of the models that ran on the cluster."""
    rows = pd.read_csv(workspace.folder / f"results/tables/{name}.csv", keep_default_na=False)
    if "dataset" in rows:
        datasets = set(rows.loc[rows["model"].isin(MODELS), "dataset"])
        rows = rows[rows["model"].isin([*MODELS, "-"]) & rows["dataset"].isin(datasets)]
    else:
        rows = rows[rows["model"].isin(MODELS)]
    kept = rows.drop(columns=TIMED[name]).reset_index(drop=True)
    return kept.apply(lambda column: pd.to_numeric(column, errors="coerce").fillna(column))


# A mark, not a fixture: the run to compare with must not be made for a test that is skipped.
@pytest.mark.skipif(os.environ.get("COLPORT_SLURM") != "1", reason="COLPORT_SLURM=1 submits jobs")
@pytest.mark.parametrize("executor", ["slurm", "cluster-generic"])
def test_a_cluster_gives_the_same_tables(executor, slurm, workspace, finished):
    module = f"snakemake_executor_plugin_{executor.replace('-', '_')}"
    pytest.importorskip(module, reason="envs/cluster.txt has it")
    profile = f"config/profiles/{executor}"
    run = workspace.snakemake("--workflow-profile", profile, config=REDUCED)
    assert run.code == 0, run.output[-4000:]

    rules = set(run.jobs) - HERE
    seen = answer("squeue", "--noheader", "--states=all", f"--format=%P {JOB_NAME[executor]}")
    submitted = [line.split() for line in seen.stdout.splitlines()]
    partitions = {
        rule: {partition for partition, name in submitted if rule in (name, of_comment(name))}
        for rule in rules
    }
    assert partitions == {rule: {"timing" if rule in ALONE else "main"} for rule in rules}

    local, _ = finished
    for name in TIMED:
        pd.testing.assert_frame_equal(table(workspace, name), table(local, name), atol=1e-4)


def of_comment(text):
    """The rule that a comment of the Slurm executor names: ``rule_NAME_wildcards_...``."""
    return text.removeprefix("rule_").split("_wildcards_")[0]
