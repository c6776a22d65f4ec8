"""A failed row fails the run; a failed parity may be allowed."""

import pandas as pd
import pytest

from colport.base.errors import ParityError, RunError
from colport.pipeline.gate import check, failures

OK = {"model": "m", "variant": "fp32", "provider": "cpu", "status": "ok", "reason": ""}


def tables(**changed):
    frames = {name: pd.DataFrame([OK]) for name in ("export", "parity", "retrieval", "latency")}
    for name, row in changed.items():
        frames[name] = pd.DataFrame([OK, {**OK, **row}])
    return frames


def test_a_failed_parity():
    row = {"variant": "int8", "status": "failed", "reason": "min_cosine 0.5 < 0.9"}
    failed = tables(parity=row)
    with pytest.raises(ParityError, match=r"parity failed: m int8 cpu \(min_cosine 0.5 < 0.9\)"):
        check(failed, allow_failed_parity=False)
    assert check(failed, allow_failed_parity=True) == ["m int8 cpu (min_cosine 0.5 < 0.9)"]


@pytest.mark.parametrize("stage", ["export", "retrieval", "latency"])
def test_a_failed_measurement_cannot_be_allowed(stage):
    failed = tables(**{stage: {"status": "failed", "reason": "killed by signal 9"}})
    with pytest.raises(RunError, match=rf"{stage} failed: m fp32 cpu \(killed by signal 9\)"):
        check(failed, allow_failed_parity=True)


def test_a_measurement_that_failed_comes_before_a_parity_that_did():
    failed = {"status": "failed", "reason": "broke"}
    with pytest.raises(RunError, match=r"^export failed"):
        check(tables(parity=failed, export=failed), allow_failed_parity=False)


@pytest.mark.parametrize("stage", ["export", "parity", "retrieval", "latency"])
def test_what_is_no_failure_of_ours_passes(stage):
    limit = {"status": "unsupported", "reason": "no such provider"}
    peer = {"variant": "peer-optimum", "status": "failed", "reason": "its own words"}
    for row in (limit, peer):
        assert check(tables(**{stage: row}), allow_failed_parity=False) == []


def test_a_line_says_which_row():
    row = {**OK, "dataset": "pages", "kind": "query", "status": "failed", "reason": "r"}
    assert failures(pd.DataFrame([row])) == ["m fp32 cpu pages query (r)"]


def test_equal_lines_are_said_once():
    row = {**OK, "status": "failed", "reason": "time-out"}
    assert failures(pd.DataFrame([row, row])) == ["m fp32 cpu (time-out)"]
