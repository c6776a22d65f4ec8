"""Who holds a working directory: what a run forgets, keeps and tells."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from colport.pipeline import runs

RECORDS = Path(runs.RECORDS)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RECORDS.mkdir(parents=True)


def record(name, **values):
    written = {
        **{"pid": 1, "started": 0, "host": socket.gethostname(), "user": "ann"},
        **{"since": "2026-03-04T05:06:07+00:00", "command": "snakemake", "on_cluster": False},
        **values,
    }
    (RECORDS / f"{name}.json").write_text(json.dumps(written))
    return written


def started(pid):
    return round(psutil.Process(pid).create_time())


def test_a_claim_names_this_process(monkeypatch):
    monkeypatch.setattr("sys.argv", ["snakemake", "--cores", "2", "--configfile", "my run.yaml"])
    runs.claim(on_cluster=True)
    (file,) = RECORDS.glob("*.json")
    found = json.loads(file.read_text())
    assert (found["pid"], found["started"]) == (os.getpid(), started(os.getpid()))
    assert (found["host"], found["on_cluster"]) == (socket.gethostname(), True)
    assert found["command"] == "snakemake --cores 2 --configfile 'my run.yaml'"
    runs.release()
    assert list(RECORDS.glob("*.json")) == []


def test_a_claim_forgets_what_ended_on_this_host_alone():
    """Whether a process of another host runs is not known here."""
    record("ended")
    record("number-came-again", pid=os.getpid(), started=started(os.getpid()) - 100)
    record("running", pid=os.getppid(), started=started(os.getppid()))
    record("elsewhere", host="another-host")
    runs.claim(on_cluster=False)
    own = f"{socket.gethostname()}-{os.getpid()}"
    assert {file.stem for file in RECORDS.glob("*.json")} == {"running", "elsewhere", own}
    runs.release()
    assert {file.stem for file in RECORDS.glob("*.json")} == {"running", "elsewhere"}


def test_a_process_that_nobody_waits_for_has_ended():
    process = subprocess.Popen(["true"])
    begun = started(process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    record("zombie", pid=process.pid, started=begun)
    runs.claim(on_cluster=False)
    assert not (RECORDS / "zombie.json").exists()
    process.wait()


@pytest.fixture
def told(monkeypatch):
    """What is printed at the end of a process that meets one record."""

    def announce(locked=True, **values):
        lines = []
        monkeypatch.setattr(
            runs.atexit, "register", lambda call, text, file: lines.append((text, file))
        )
        record("one", **values)
        locks = Path(".snakemake/locks")
        locks.mkdir(exist_ok=True)
        (locks / "0.input.lock").unlink(missing_ok=True)
        if locked:
            (locks / "0.input.lock").touch()
        runs.announce()
        return lines

    return announce


def test_nothing_is_told_of_a_directory_that_is_free(told):
    assert told(locked=False) == []


def test_a_run_that_goes_on_is_waited_for(told):
    pid = os.getppid()
    ((text, file),) = told(pid=pid, started=started(pid), command="snakemake -n")
    assert text == (
        f"This directory is held by process {pid} on {socket.gethostname()} "
        "(user ann, since 2026-03-04T05:06:07+00:00): snakemake -n\nWait for it, or end it."
    )
    assert file is sys.stderr


def test_a_run_of_another_host_can_be_seen_there_only(told):
    ((text, _),) = told(host="another-host", pid=os.getpid(), started=started(os.getpid()))
    assert text.startswith(f"This directory is held by process {os.getpid()} on another-host ")
    assert "can be seen on that host only: `ps -p" in text


@pytest.mark.parametrize(
    ("on_cluster", "jobs"),
    [
        (True, "Jobs that it submitted may go on: look with `squeue --me`."),
        (False, "Processes that it started may go on: look with `ps`."),
    ],
)
def test_a_run_that_was_killed_may_have_left_jobs(told, on_cluster, jobs):
    ((text, _),) = told(on_cluster=on_cluster)
    assert text.startswith("This directory is locked by a run that was killed, process 1 on ")
    assert jobs in text
    assert text.endswith("Then `snakemake --unlock`, and run again with `--rerun-incomplete`.")


def test_a_record_that_cannot_be_read_is_of_a_run_that_just_ended(told):
    (RECORDS / "a.json").write_text("{")
    assert len(told()) == 1
