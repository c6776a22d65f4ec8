"""Who runs in a working directory: a small record a run, for whoever finds it locked.

Snakemake's lock says that there is another run; these records say which. They decide nothing: a
record that was left behind is explained, and gone with the next run.
"""

from __future__ import annotations

import atexit
import getpass
import json
import os
import shlex
import socket
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from colport.base.files import write_text

RECORDS = ".snakemake/colport-runs"
_LOCKS = ".snakemake/locks"


def name_user() -> None:
    """Call a user of whom the machine knows no name by number, as Snakemake and torch need one."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


def claim(*, on_cluster: bool) -> None:
    """Record this process as the one that runs here, and forget those that ended.

    Args:
        on_cluster: Whether its jobs run elsewhere, and so outlive it if it is killed.
    """
    for file, record in _records():
        if record["host"] == socket.gethostname() and not _runs(record):
            file.unlink(missing_ok=True)
    record = {
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "host": socket.gethostname(),
        "user": getpass.getuser(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["snakemake", *sys.argv[1:]]),
        "on_cluster": on_cluster,
    }
    write_text(_own_file(), json.dumps(record))


def release() -> None:
    """Forget this process."""
    _own_file().unlink(missing_ok=True)


def announce() -> None:
    """Tell of each run that holds this directory or was killed while it did.

    On standard error and at the end of this process, so that it stands below Snakemake's message.
    """
    if any(Path(_LOCKS).glob("*.lock")):
        for _, record in _records():
            atexit.register(print, _notice(record), file=sys.stderr)


def _notice(record: dict[str, Any]) -> str:
    who = (
        f"process {record['pid']} on {record['host']} "
        f"(user {record['user']}, since {record['since']}): {record['command']}"
    )
    if record["host"] != socket.gethostname():
        return (
            f"This directory is held by {who}\nWhether it still runs can be seen on that host "
            f"only: `ps -p {record['pid']}`. If not, `snakemake --unlock` there or here."
        )
    if _runs(record):
        return f"This directory is held by {who}\nWait for it, or end it."
    jobs = "Jobs that it submitted" if record["on_cluster"] else "Processes that it started"
    look = "`squeue --me`" if record["on_cluster"] else "`ps`"
    return (
        f"This directory is locked by a run that was killed, {who}\n{jobs} may go on: look with "
        f"{look}. Then `snakemake --unlock`, and run again with `--rerun-incomplete`."
    )


def _records() -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for file in sorted(Path(RECORDS).glob("*.json")):
        with suppress(OSError, ValueError):  # its run has just ended
            found.append((file, json.loads(file.read_text(encoding="utf-8"))))
    return found


def _own_file() -> Path:
    return Path(RECORDS, f"{socket.gethostname()}-{os.getpid()}.json")


def _runs(record: dict[str, Any]) -> bool:
    return _started(record["pid"]) == record["started"]


def _started(pid: int) -> int | None:
    """When a process of this machine started; numbers of processes come again, this does not."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time())
    except psutil.Error:
        return None
