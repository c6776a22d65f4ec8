"""A results folder beside a copy of it in which one thing was changed."""

import pytest

from colport.compare import compare

from .runs import Run


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return Run().write(tmp_path_factory.mktemp("old"))


@pytest.fixture
def found(old, tmp_path):
    """Findings after one change, as (group, verdict, place)."""

    def after(change, **options):
        run = Run()
        change(run)
        findings = compare(old, run.write(tmp_path / "new"), **options)
        return [(item.group, item.verdict, item.place) for item in findings], findings

    return after
