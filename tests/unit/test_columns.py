"""A column of a table is one entry: its type, its label and its documentation follow from it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from colport import tables
from colport.base import columns
from colport.base.columns import COLUMNS, TABLES, Column, row
from colport.base.errors import ArtifactError
from colport.report.formatting import FORMATS
from colport.scoring.metrics import METRIC_NAMES
from colport.timing.statistics import PERCENTILES
from tests.unit.test_report import render

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "scripts/colport/base/columns.yaml"
PAGE = "results/README.md"
ENTRY = '  weight_bytes: {type: integer, format: size_bytes, meaning: "bytes of the weights"}\n'


def test_every_entry_says_what_it_may():
    for name, column in COLUMNS.items():
        assert column.type in ("text", "integer", "float", "boolean"), name
        assert column.better in ("", "lower", "higher"), name
        assert column.numeric or not column.better, name
        assert column.format in FORMATS, name
        assert column.meaning, name
        assert not column.meaning.endswith("."), name


def test_every_table_is_of_columns_that_are_there():
    of_two_runs = {f"{column}_{end}" for column in COLUMNS for end in ("before", "change")}
    used = set()
    for name, table in TABLES.items():
        assert len(set(table.all)) == len(table.all), name
        assert {*table.shown, *table.meanings} <= {*table.all}, name
        assert bool(table.title) == bool(table.caption) == bool(table.shown), name
        assert set(table.all) - of_two_runs <= set(COLUMNS), name
        used |= {*table.all}
    behind_charts = {"jobs", "longest_seconds", "error_from", "error_to", "difference", "examples"}
    assert set(COLUMNS) == used - of_two_runs | behind_charts


def test_no_name_stands_twice():
    """YAML would take the last one in silence."""

    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader, node):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), sorted(key for key in keys if keys.count(key) > 1)
        return dict(loader.construct_pairs(node, deep=True))

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    loader = Strict(SCHEMA.read_text())
    assert set(loader.get_single_data()) == {"columns", "tables"}


def test_a_key_that_no_entry_has_is_refused(tmp_path):
    file = tmp_path / "columns.yaml"
    file.write_text("columns: {a: {meaning: b, colour: red}}\ntables: {}\n")
    with pytest.raises(TypeError, match="colour"):
        columns._read(file)


def test_metrics_and_percentiles_have_their_columns():
    assert {*METRIC_NAMES} <= {*TABLES["retrieval"].all}
    assert {*METRIC_NAMES} <= {*TABLES["retrieval_queries"].all}
    ends = {f"p{p}{end}_ms" for p in PERCENTILES for end in ("", "_low", "_high")}
    assert ends <= {*TABLES["latency"].all}


def test_a_row_has_every_column_in_order():
    found = row("parity", model="m", passed=True)
    assert tuple(found) == TABLES["parity"].all
    assert {name: value for name, value in found.items() if value is not None} == {
        **{"model": "m", "passed": True, "status": "ok", "reason": ""}
    }
    assert row("parity", status="unsupported", reason="no")["status"] == "unsupported"
    assert tuple(row("stages", stage="s")) == TABLES["stages"].columns
    with pytest.raises(KeyError, match="colour"):
        row("parity", colour="red")


def test_further_columns_follow_in_the_order_of_the_schema():
    given = {**row("latency"), "speedup_low": 1.5, "other": "x"}
    table = tables.flatten("latency", [{"rows": [dict(reversed(given.items()))]}])
    assert tuple(table.columns) == (*TABLES["latency"].all, "other")


@pytest.mark.parametrize(
    ("name", "value", "dtype", "text"),
    [
        *(("variant", value, "object", text) for value, text in ((None, ""), (8, "8"))),
        *(("samples", value, "Int64", text) for value, text in ((None, ""), (8, "8"))),
        *(("p50_ms", value, "float64", text) for value, text in ((None, ""), (1 / 3, "0.333333"))),
        *(("stopped", value, "boolean", text) for value, text in ((None, ""), (True, "true"))),
    ],
)
def test_a_column_has_its_type_in_memory_and_in_its_file(name, value, dtype, text, tmp_path):
    rows = [{**row("scenarios", status="ok"), name: value}]
    table = tables.flatten("scenarios", [{"rows": rows}])
    assert table[name].dtype == dtype
    assert tables.text_table(table)[name].tolist() == [text]
    tables.write_tables({"scenarios": table}, tmp_path)
    read = tables.read_table(tmp_path / "scenarios.csv")
    assert read.dtypes.equals(table.dtypes)
    assert tables.text_table(read).equals(tables.text_table(table))


def test_a_value_that_a_further_column_cannot_hold_is_refused():
    rows = [row("latency", speedup_low="fast")]
    with pytest.raises(ArtifactError, match="latency table, column 'speedup_low'"):
        tables.flatten("latency", [{"rows": rows}])


def test_a_table_of_another_make_is_refused(tmp_path):
    (tmp_path / "stages.csv").write_text("stage,job\na,b\n")
    with pytest.raises(ArtifactError, match=r"stages.csv: misses the column\(s\) seconds, cpu"):
        tables.read_table(tmp_path / "stages.csv")


def test_one_entry_makes_a_column_typed_labelled_and_documented(tmp_path):
    """A diff in one place; a stage gives the value."""
    text = SCHEMA.read_text()
    entry = "  weight_files: {"
    assert text.count(entry) == 1
    assert text.count("further: [folder_bytes]") == 1
    library = tmp_path / "scripts/colport"
    for name in ("scripts/colport", "config"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / PAGE).parent.mkdir()
    shutil.copy(ROOT / PAGE, tmp_path / PAGE)
    (library / "base/columns.yaml").write_text(
        text.replace(entry, ENTRY + entry).replace(
            "further: [folder_bytes]", "further: [folder_bytes, weight_bytes]"
        )
    )
    code = (
        "from colport import tables\n"
        "from colport.base.columns import row\n"
        "from colport.report import Report\n"
        "rows = [row('export', model='m', variant='fp32', graph='text', weight_bytes=91400000)]\n"
        "table = tables.flatten('export', [{'rows': rows}])\n"
        "page = Report({'export': table}, {}).html()\n"
        "print(table['weight_bytes'].dtype, 'Weight bytes' in page, '91.4 MB' in page)"
    )
    environment = {"PYTHONPATH": str(tmp_path / "scripts"), "PATH": ""}
    run = {"env": environment, "capture_output": True, "text": True, "check": True}
    done = subprocess.run([sys.executable, "-c", code], **run)
    assert done.stdout.split() == ["Int64", "True", "True"]
    generate = [sys.executable, tmp_path / "config/schemas/generate.py", "--root", tmp_path]
    assert subprocess.run(generate, **run).stdout == f"{PAGE}\n"
    line = "| `weight_bytes` | integer, further | bytes of the weights |\n"
    assert line in (tmp_path / PAGE).read_text()
    assert (tmp_path / PAGE).read_text().replace(line, "") == (ROOT / PAGE).read_text()


def test_what_no_table_names_is_shown_under_its_own_name():
    rows = [{**row("export", model="m"), "my_column": 1.5}]
    assert "My column" in render({"export": tables.flatten("export", [{"rows": rows}])}, {})
    assert Column("my_column").label == "My column"


def test_the_page_documents_every_file():
    text = (ROOT / PAGE).read_text()
    files = set(TABLES) - {"findings", "side_by_side"}
    assert {name for name in TABLES if f"<!-- columns of {name} -->" in text} == files
