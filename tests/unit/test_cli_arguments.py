"""What each command hands on of its arguments, with the work itself left out."""

import json
import sys
from types import SimpleNamespace

import PIL.Image
import pytest
from typer.testing import CliRunner

from colport import cli
from colport.base.errors import ConfigError
from colport.cli import options
from colport.cli.evaluation import _line
from colport.cli.inputs import InputOptions
from colport.tensors.external_data import Layout


class Recorder:
    """Stands in for a function and keeps what it was called with."""

    def __init__(self, result=None):
        self.calls, self.result = [], result

    def __call__(self, *arguments, **named):
        self.calls.append((arguments, named))
        return self.result

    @property
    def named(self):
        return self.calls[-1][1]

    @property
    def arguments(self):
        return self.calls[-1][0]


def run(*arguments, code=0):
    done = CliRunner().invoke(cli.app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


RECORD = {
    **{"source": "me/it@1", "applied": ["a LoRA"], "weights": {"a": "1"}, "parameters": 3},
    "family": "",
}


@pytest.fixture
def exporting(monkeypatch, tmp_path):
    """An export whose checkpoint and folder are only said to be there."""
    from colport.pipeline import proof, variants

    (tmp_path / "model").mkdir()
    stand_ins = SimpleNamespace(
        resolved=Recorder({**RECORD, "folder": str(tmp_path / "model")}),
        export=Recorder(SimpleNamespace(family="colpali")),
        by_checkpoint=Recorder("a proof"),
        reference=Recorder("a reference"),
    )
    monkeypatch.setattr(options, "resolved", stand_ins.resolved)
    monkeypatch.setattr(variants, "export", stand_ins.export)
    monkeypatch.setattr(proof, "by_checkpoint", stand_ins.by_checkpoint)
    monkeypatch.setattr(proof, "reference", stand_ins.reference)
    monkeypatch.setattr("colport.cli.convert.bytes_below", lambda folder: 1_234_567_890)
    return stand_ins


def test_export_hands_its_options_on(exporting, tmp_path):
    more = ("--family", "colqwen2", "--base", "me/base", "--layout", "shard", "--quiet")
    sizes = ("--max-shard-bytes", "2MB", "--reference-memory", "3GB")
    done = run("export", "me/it", "-o", tmp_path / "out", "--variant", "int8", *more, *sizes)
    assert done.stdout == f"{tmp_path}/out: colpali, int8, 1,234.6 MB\n"
    assert exporting.resolved.arguments[:2] == ("me/it", "me/base")
    assert exporting.resolved.arguments[3] is True
    assert exporting.export.arguments == (tmp_path / "model", tmp_path / "out", "int8")
    named = exporting.export.named
    assert (named["family"], named["layout"]) == ("colqwen2", Layout("shard", 2_000_000))
    assert named["source"] == {key: RECORD[key] for key in ("source", "applied", "weights")}
    assert (named["dataset"], named["prove"]) == (None, "a proof")
    known, settings, _ = exporting.by_checkpoint.arguments
    assert settings is None
    assert known("queries") == "a reference"
    folder, family, memory, queries = exporting.reference.arguments
    assert (folder, family.name, memory) == (tmp_path / "model", "colqwen2", 3000.0)
    assert queries == "queries"


def test_export_without_its_check_proves_nothing(exporting, monkeypatch, tmp_path):
    from colport.families import registry

    detect = Recorder(registry.get("colpali"))
    monkeypatch.setattr(registry, "detect", detect)
    read = Recorder("a dataset")
    monkeypatch.setattr(InputOptions, "read", read)
    given = ("--dataset", tmp_path, "--schema", "beir")
    run("export", "me/it", "-o", tmp_path / "out", "--no-check", *given)
    assert exporting.export.named["prove"] is None
    assert exporting.export.named["family"] is None
    assert detect.arguments == (tmp_path / "model",)
    assert read.arguments == ("pages", 64)
    assert exporting.export.named["dataset"] == "a dataset"
    assert exporting.export.arguments[2] == "fp32"


@pytest.mark.parametrize("checked", [True, False])
def test_quantize_hands_its_options_on(checked, monkeypatch, tmp_path):
    from colport.folder import manifest
    from colport.pipeline import proof
    from colport.quantize import folder as quantizing

    write, by_base, read = Recorder(), Recorder("a proof"), Recorder("a dataset")
    monkeypatch.setattr(quantizing, "quantize", write)
    monkeypatch.setattr(proof, "by_base", by_base)
    monkeypatch.setattr(InputOptions, "read", read)
    monkeypatch.setattr(manifest, "read", Recorder(SimpleNamespace(family="colbert")))
    monkeypatch.setattr("colport.cli.convert.bytes_below", lambda folder: 250_000)
    base, output = tmp_path / "base", tmp_path / "out"
    options_ = ("--exclude", "embed", "--exclude", "head", "--layout", "merge", "--variant", "int8")
    check = "--check" if checked else "--no-check"
    done = run("quantize", base, "-o", output, *options_, check, "--dataset", tmp_path)
    assert done.stdout == f"{output}: 0.2 MB\n"
    folder, written, settings, layout = write.arguments
    assert (folder, written, layout) == (base, output, Layout("merge"))
    assert settings.exclude == ("embed", "head")
    assert write.named["dataset"] == "a dataset"
    assert read.arguments == ("passages", 64)
    assert write.named["prove"] == ("a proof" if checked else None)
    assert [call[0][:2] for call in by_base.calls] == [(base, None)] * checked


def test_a_calibrated_variant_needs_inputs_before_anything_is_read(tmp_path):
    from colport.cli.convert import _check_calibrated

    calibrated, plain = (SimpleNamespace(is_calibrated=one) for one in (True, False))
    with pytest.raises(ConfigError, match="calibrated on real inputs: give --queries and"):
        _check_calibrated(calibrated, None)
    _check_calibrated(calibrated, InputOptions(None, None, tmp_path, "qa"))
    _check_calibrated(plain, None)


@pytest.mark.parametrize(
    ("command", "layout"),
    [
        (("split",), Layout("split")),
        (("merge",), Layout("merge")),
        (("shard",), Layout("shard", 2_000_000_000)),
        (("shard", "--max-shard-bytes", "5MB"), Layout("shard", 5_000_000)),
    ],
)
def test_layouts_are_those_of_the_command(command, layout, monkeypatch, tmp_path):
    from colport.folder import graphs

    convert = Recorder(SimpleNamespace(external_data={"files": ["a", "b"]}))
    monkeypatch.setattr(graphs, "convert", convert)
    monkeypatch.setattr("colport.cli.convert.bytes_below", lambda folder: 12_340_000)
    done = run(command[0], tmp_path / "in", "-o", tmp_path / "out", *command[1:])
    assert convert.arguments == (tmp_path / "in", tmp_path / "out", layout)
    assert done.stdout == f"{tmp_path}/out: 12.3 MB, 2 weight files\n"


@pytest.fixture
def pushing(monkeypatch, tmp_path):
    from colport.folder import manifest
    from colport.hub import upload
    from colport.report import model_card

    stand_ins = SimpleNamespace(
        verify=Recorder(SimpleNamespace(files={}, task="retrieval")),
        login=Recorder(),
        push=Recorder("the address"),
        results=Recorder("measured results"),
        files=Recorder("measured files"),
        write=Recorder("the card"),
    )
    monkeypatch.setattr(manifest, "verify", stand_ins.verify)
    monkeypatch.setattr(upload, "check_login", stand_ins.login)
    monkeypatch.setattr(upload, "push", stand_ins.push)
    monkeypatch.setattr(model_card, "from_results", stand_ins.results)
    monkeypatch.setattr(model_card, "from_files", stand_ins.files)
    monkeypatch.setattr(model_card, "write", stand_ins.write)
    (tmp_path / "m/int8").mkdir(parents=True)
    return stand_ins


@pytest.mark.parametrize(
    ("more", "labels"),
    [
        ((), ("m", "int8")),
        (("--model", "other"), ("other", "int8")),
        (("--variant", "fp16"), ("m", "fp16")),
    ],
)
def test_push_takes_its_labels_from_the_folder_or_the_options(more, labels, pushing, tmp_path):
    folder = tmp_path / "m/int8"
    done = run("push", folder, "me/it", "--results", tmp_path, *more, "--private")
    assert done.stdout == "the address\n"
    found = pushing.verify.result
    assert pushing.results.arguments == (tmp_path, *labels, found)
    assert pushing.write.arguments == (found, "me/it", "measured results")
    assert pushing.push.arguments == (folder, "me/it", "the card")
    place = {"private": True, "revision": None, "quiet": True}
    assert pushing.push.named == {**place, "published": None}
    assert len(pushing.login.calls) == 1


def test_push_takes_single_records(pushing, tmp_path):
    folder, files = tmp_path / "m/int8", [tmp_path / name for name in ("a", "b", "c")]
    records = ("--parity", files[0], "--parity", files[1], "--retrieval", files[2])
    run("push", folder, "me/it", *records, "--revision", "onnx")
    assert pushing.files.arguments == (files[:2], files[2:], pushing.verify.result)
    place = {"private": False, "revision": "onnx", "quiet": True}
    assert pushing.push.named == {**place, "published": None}
    (folder / "colport.json").write_text("12345")
    sent = len(pushing.push.calls)
    done = run("push", folder, "me/it", "--dry-run")
    assert done.stdout == f"{5:>14,} bytes  colport.json\n{8:>14,} bytes  README.md\n\nthe card\n"
    assert pushing.files.arguments[:2] == ([], [])
    assert (len(pushing.push.calls), len(pushing.login.calls)) == (sent, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--model", "m"),
        ("--variant", "v"),
        ("--results", "r", "--parity", "p"),
        ("--results", "r", "--retrieval", "p"),
    ],
    ids=str,
)
def test_push_with_options_that_exclude_each_other(wrong, pushing, tmp_path):
    run("push", tmp_path / "m/int8", "me/it", *wrong, code=2)
    assert not pushing.verify.calls


def test_mteb_hands_its_options_on(monkeypatch, tmp_path):
    import colport.measure

    tasks = [
        SimpleNamespace(metadata=SimpleNamespace(name=name, main_score=f"score_{name}"))
        for name in "ab"
    ]
    encoder, evaluate = Recorder("an encoder"), Recorder({"a": 0.25, "b": 0.5})
    named = Recorder(tasks)
    adapter = SimpleNamespace(ColPortEncoder=encoder, named_tasks=named, evaluate=evaluate)
    monkeypatch.setitem(sys.modules, "colport.measure.mteb_adapter", adapter)  # it imports mteb
    monkeypatch.setattr(colport.measure, "mteb_adapter", adapter, raising=False)
    given = ("--tasks", "a", "--tasks", "b", "--output", tmp_path / "o")
    done = run("mteb", tmp_path, *given, "--name", "mine", "--provider", "cuda", "--batch-size", 3)
    assert done.stdout == "a: score_a 0.25000\nb: score_b 0.50000\n"
    assert encoder.calls == [((tmp_path,), {"name": "mine", "provider": "cuda"})]
    assert named.arguments == (["a", "b"],)
    assert evaluate.arguments == ("an encoder", tasks, tmp_path / "o", 3)
    run("mteb", tmp_path, *given)
    assert encoder.named == {"name": None, "provider": "cpu"}
    assert evaluate.arguments[3] == 8


@pytest.mark.parametrize(
    ("activation", "last"),
    [(None, ""), (1234.56, ", largest activation 1235")],
)
def test_a_line_of_parity(activation, last):
    row = {
        **{"kind": "query", "mean_cosine": 0.75, "min_cosine": 0.5, "max_abs_diff": 0.0123},
        **{"inputs": 3, "tokens": 40, "top10_overlap": 0.9, "largest_activation": activation},
        "reason": "why",
    }
    assert _line(row) == (
        "query: cosine mean 0.750000, min 0.500000, max abs diff 0.0123, 3 inputs, 40 tokens, "
        f"top-10 overlap 0.900{last}"
    )
    assert _line({**row, "min_cosine": None}) == "query: why"


def test_report_names_its_page_title_and_other_run(monkeypatch, tmp_path):
    import colport.report
    from colport.report import inputs
    from colport.report.sections import against

    found = "tables", "explained", {"cpu": "a"}
    files, read, other = Recorder("the files"), Recorder(found), Recorder("compared")
    page = Recorder(SimpleNamespace(html=lambda: "<html>"))
    monkeypatch.setattr(inputs, "files", files)
    monkeypatch.setattr(inputs, "read", read)
    monkeypatch.setattr(against, "read", other)
    monkeypatch.setattr(colport.report, "Report", page)
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    assert run("report", new).stdout == f"{new}/report.html\n"
    tables, about, explained, compared = page.arguments
    assert (tables, explained, compared) == ("tables", "explained", None)
    assert (about["title"], about["environment"]) == ("ColPort report", {"cpu": "a"})
    assert about["colport_version"] == colport.__version__
    assert about["created"].endswith("+00:00")
    assert (files.arguments, read.arguments) == ((new,), ("the files",))
    output = tmp_path / "page.html"
    run("report", new, "-o", output, "--against", old, "--title", "mine")
    assert output.read_text() == "<html>"
    assert other.arguments == (old, new)
    assert (page.arguments[1]["title"], page.arguments[3]) == ("mine", "compared")


def test_compare_counts_and_records_every_finding(monkeypatch, tmp_path):
    import colport.compare
    from colport.compare.findings import Finding

    found = [
        Finding("size", "worse", "a", "x"),
        Finding("size", "worse", "b", "y"),
        Finding("export", "better", "c", "z"),
    ]
    compare = Recorder(found)
    monkeypatch.setattr(colport.compare, "compare", compare)
    monkeypatch.setattr(colport.compare, "repeatability", Recorder())
    file = tmp_path / "out.json"
    done = run("compare", "old", "new", "--threshold", 0.2, "--json", file, code=1)
    assert [str(one) for one in compare.arguments] == ["old", "new", "0.2"]
    assert done.stdout.splitlines()[-1] == "2 worse, 1 better"
    record = json.loads(file.read_text())
    assert {key: record[key] for key in ("old", "new", "threshold", "worse")} == {
        **{"old": "old", "new": "new"},
        **{"threshold": 0.2, "worse": 2},
    }
    assert [item["place"] for item in record["findings"]] == ["a", "b", "c"]
    compare.result = found[2:]
    assert run("compare", "old", "new").stdout.splitlines()[-1] == "nothing worse, 1 better"
    assert str(compare.arguments[2]) == "0.05"


def test_the_first_inputs_of_a_dataset(monkeypatch, tmp_path):
    from colport.data import datasets

    loaded = SimpleNamespace(name="mine", queries=["a", "b", "c"], documents=["d", "e", "f"])
    load = Recorder(loaded)
    monkeypatch.setattr(datasets, "load_retrieval_dataset", load)
    read = InputOptions(None, None, tmp_path / "mine", "beir").read("passages", 2)
    assert (read.name, read.queries, read.documents) == ("mine", ["a", "b"], ["d", "e"])
    settings = {"path": str(tmp_path / "mine"), "schema": "beir", "documents": "passages"}
    assert load.arguments == ("mine", settings)


def test_pages_of_files_in_the_order_of_their_names(tmp_path):
    from colport.base.errors import DatasetError
    from colport.cli.inputs import read_documents

    def shade(level):
        return PIL.Image.new("RGB", (4, 4), (level, 0, 0))

    shade(10).save(tmp_path / "b.tiff", save_all=True, append_images=[shade(20), shade(30)])
    shade(40).save(tmp_path / "a.PNG")
    shade(50).save(tmp_path / ".hidden.png")
    shade(60).save(tmp_path / "c.png")
    (tmp_path / "d.png").mkdir()
    (tmp_path / "notes.txt").write_text("x")

    def levels(count, path=tmp_path):
        return [page.getpixel((0, 0))[0] for page in read_documents(path, "pages", count)]

    assert levels(9) == [40, 10, 20, 30, 60]
    assert levels(3) == [40, 10, 20]
    assert levels(2, tmp_path / "b.tiff") == [10, 20]
    (tmp_path / "e.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DatasetError, match=r"e\.png in .* is a link to a file that is not"):
        levels(9)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty holds no page that can be read; .* \.webp\."):
        levels(9, tmp_path / "empty")
    with pytest.raises(DatasetError, match=r"empty: holds no text file \(\.txt, \.md\)\."):
        read_documents(tmp_path / "empty", "passages", 9)
