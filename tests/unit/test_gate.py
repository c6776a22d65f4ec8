"""A failed row fails the run; a failed parity may be allowed."""

import pandas as pd
import pytest

from colport.errors import ParityError, RunError
from colport.gate import check, failures

OK = {"model": "m", "variant": "fp32", "provider": "cpu", "status": "ok", "reason": ""}


def tables(**changed):
    frames = {name: pd.DataFrame([OK]) for name in ("export", "parity", "retrieval", "latency")}
    for name, row in changed.items():
        frames[name] = pd.DataFrame([OK, {**OK, **row}])
    return frames


def test_nothing_failed():
    unsupported = {"status": "unsupported", "reason": "no such provider"}
    assert check(tables(parity=unsupported), allow_failed_parity=False) == []


def test_a_failed_parity():
    row = {"variant": "int8", "status": "failed", "reason": "min_cosine 0.5 < 0.9"}
    failed = tables(parity=row)
    with pytest.raises(ParityError, match=r"parity failed: m int8 cpu \(min_cosine 0.5 < 0.9\)"):
        check(failed, allow_failed_parity=False)
    assert check(failed, allow_failed_parity=True) == ["m int8 cpu (min_cosine 0.5 < 0.9)"]


def test_a_failed_measurement_cannot_be_allowed():
    failed = tables(latency={"status": "failed", "reason": "killed by signal 9"})
    with pytest.raises(RunError, match=r"latency failed: m fp32 cpu \(killed by signal 9\)"):
        check(failed, allow_failed_parity=True)


def test_equal_lines_are_said_once():
    row = {**OK, "status": "failed", "reason": "time-out"}
    assert failures(pd.DataFrame([row, row])) == ["m fp32 cpu (time-out)"]
