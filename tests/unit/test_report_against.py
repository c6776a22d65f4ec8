"""Two runs side by side, and the command that shows them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from colport import tables
from colport.base.errors import ArtifactError
from colport.base.files import write_json
from colport.compare import Finding
from colport.report import Report, files, inputs
from colport.report.section import Against
from colport.report.sections import against
from tests.unit.test_report import REFERENCE, RUN, Page, joined, make, render, variant

EVIL = "<script>alert(1)</script>"


def other(*parts) -> Against:
    finding = Finding("size", "worse", f"m {EVIL}", "30 MB -> 33 MB (+10.0%)", "folder_bytes")
    return Against("../old", make(joined(REFERENCE, *parts))["summary"], [finding])


def test_what_changed_stands_before_the_charts_and_figures_beside_each_other():
    new = make(joined(REFERENCE, variant(mb=33.0, ndcg=0.79), variant(name="fp32", ms=60.0)))
    html = render(new, RUN, against=other(variant(mb=30.0, ndcg=0.8), variant(name="int4")))
    found = Page(html)
    assert found.stack == []
    assert "1 worse." in found.text.replace("1 worse .", "1 worse.")
    assert "size worse m <script>alert(1)</script> 30 MB -> 33 MB" in found.text
    assert EVIL not in html
    assert found.ids.index("recommendation") < found.ids.index("against")
    assert found.ids.index("against") < found.ids.index("charts")
    assert "30.0 MB 33.0 MB +10.0% 0.800 0.790 \N{MINUS SIGN}0.010" in found.text


def test_every_row_of_both_runs_is_there_once():
    new = make(joined(REFERENCE, variant(), variant(name="fp32")))["summary"]
    old = make(joined(REFERENCE, variant(ms=50.0), variant(name="int4")))["summary"]
    found = against.side_by_side(old, new).set_index("variant")
    assert found["run"].to_dict() == {
        **{"pytorch": "both", "int8": "both", "fp32": "this", "int4": "other"},
    }
    assert found.loc["int8", "document_p50_ms_change"] == pytest.approx(-0.5)


def test_without_another_run_there_is_no_such_section():
    assert "against" not in Page(render(make(joined(REFERENCE, variant())), RUN)).ids


def written(folder: Path, **files) -> Path:
    rows = joined(REFERENCE, variant(**files))
    for item in rows["retrieval"]:
        item.update(ndcg_at_5_low=0.7, ndcg_at_5_high=0.9)
    tables.write_tables(make(rows), folder / "tables")
    return folder


def test_the_command_writes_one_page(tmp_path):
    old, new = written(tmp_path / "old", mb=30.0), written(tmp_path / "new", mb=40.0)
    command = [sys.executable, "-m", "colport.cli", "report", str(new), "--against", str(old)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(new / "report.html")
    assert "30.00 MB -&gt; 40.00 MB (+33.3%)" in (new / "report.html").read_text()
    done = subprocess.run(
        [*command[:4], str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'tables'}: holds no tables of a run.\n"


def test_the_machine_is_the_one_that_measured(tmp_path):
    folder = written(tmp_path)
    for number, cpu in enumerate(("A CPU", "B CPU")):
        packages = {f"provider{number}": {"onnxruntime": str(number)}}
        found = {"cpu": cpu, "cores": 2, "provider_packages": packages}
        write_json(folder / f"latency/m/{number}.json", {"environment": found})
    with pytest.raises(ArtifactError, match=r"summary\.csv is missing"):
        inputs.read(file for file in inputs.files(folder) if file.stem != "summary")
    assert inputs.read(inputs.files(folder))[2] == {
        "cpu": "A CPU; B CPU",
        "cores": 2,
        "provider_packages": {
            "provider0": {"onnxruntime": "0"},
            "provider1": {"onnxruntime": "1"},
        },
    }


def test_figures_are_files_that_stand_alone(tmp_path):
    parts = (variant(name=EVIL), variant(model="n"), variant(name="pytorch", model="n"))
    report = Report(make(joined(REFERENCE, *parts)), RUN)
    files.write_charts(report, tmp_path / "charts")
    files.write_tables(report, tmp_path / "pages")
    charts = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*.svg"))
    assert Path("charts/m/latency.svg") in charts
    assert Path("charts/n/speed-document.svg") in charts
    assert len(charts) == sum(1 for _ in report.charts()) == 10
    for file in tmp_path.rglob("*.svg"):
        text = file.read_text()
        ElementTree.fromstring(text)
        assert EVIL not in text
        assert "--c1:" in text
    pages = {file.stem: file.read_text() for file in tmp_path.rglob("*.html")}
    assert set(pages) == set(tables.COLUMNS)
    assert all(Page(page).counts["table"] == 1 for page in pages.values())


def test_a_name_leaves_no_folder(tmp_path):
    report = Report(make(joined(variant(model="../../out"), variant(model=".."))), RUN)
    files.write_charts(report, tmp_path / "charts")
    assert {file.parent.name for file in tmp_path.rglob("*.svg")} == {"_.._out", "_"}
    assert all(file.is_relative_to(tmp_path / "charts") for file in tmp_path.rglob("*.svg"))


def test_charts_of_one_name_are_two_files(tmp_path):
    """Of models whose names are one folder's."""
    names = ("a/b", "a?b")
    report = Report(make(joined(*(variant(model=name) for name in names))), RUN)
    files.write_charts(report, tmp_path / "charts")
    found = [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.svg")]
    assert len(found) == sum(1 for _ in report.charts()) > 1
    assert {"charts/a_b/size.svg", "charts/a_b/size-1.svg"} <= {*found}


def test_a_table_without_rows_is_no_page():
    rows = joined(variant())
    assert {name for name, _ in Report(make(rows), RUN).tables()} == {*tables.COLUMNS}
    rows["latency"] = []
    assert {name for name, _ in Report(make(rows), RUN).tables()} == {*tables.COLUMNS} - {"latency"}
