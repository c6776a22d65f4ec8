"""A planted token is in nothing that a person may read: logs, messages, records, tables, pages."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from colport import tables
from colport.base import machine
from colport.base.errors import CheckpointError, ColPortError, UnsupportedError
from colport.base.files import write_json
from colport.base.redaction import HIDDEN, plain, redacted
from colport.folder.manifest import Manifest
from colport.pipeline.job import job
from colport.report import formatting, model_card
from colport.tables.summary import build
from tests.unit.test_report import RUN, joined, make, render, variant

SCRIPTS = Path(__file__).parents[2] / "scripts"
TOKEN = "hf_PlantedTokenThatNobodyMaySee123"
ODD = "zQ7-no-known-form-of-a-token"
TOKEN_KINDS = ("hf", "ghp", "gho", "glpat", "sk")
LEAKS = (
    f"401 for token {TOKEN}",
    f"Authorization: Bearer {ODD}",
    f"https://user:{ODD}@hub.example/api/models",
    f"the variable held {ODD}",
)


@pytest.fixture(autouse=True)
def _planted(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("REGISTRY_PASSWORD", ODD)


def clean(text: str) -> bool:
    return TOKEN not in text and ODD not in text


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("kind", [ColPortError, CheckpointError, UnsupportedError])
def test_no_error_of_ours_holds_a_token(kind, leak):
    error = kind(f"org/name: {leak}.")
    assert clean(f"{error} {error!r} {error.args}")
    assert HIDDEN in str(error)


def test_a_message_without_a_secret_stays_as_it_is():
    sentence = "models.a.checkpoint: hf_hub is no key; task sk-1, hf_short, https://host/path?a=b"
    assert redacted(sentence) == sentence


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        *((f"with {kind}_{'a1' * 8} here", "with ••• here") for kind in TOKEN_KINDS),
        ("with sk-proj-0123456789abcdef", "with •••"),
        ("hf_0123456789abcde is short", "hf_0123456789abcde is short"),
        ("Authorization: Bearer 01234567, then", "Authorization: Bearer ••• then"),
        ("'Bearer 01234567'", "'Bearer •••'"),
        ("the Bearer of it", "the Bearer of it"),
        ("https://user:pass@host/path", "https://•••host/path"),
        ("s3://key:secret@bucket and a:b@c", "s3://•••bucket and a:b@c"),
    ],
)
def test_each_form_of_a_secret_is_known_without_its_variable(monkeypatch, text, shown):
    for name in ("HF_TOKEN", "REGISTRY_PASSWORD"):
        monkeypatch.delenv(name)
    assert redacted(text) == shown


def test_values_in_records_and_cells_are_read_at_any_depth():
    record = {"a": [f"x {LEAKS[1]}", ("hub", {"api_key": "short"})], "n": 3, "token": ["t", ""]}
    hidden = {"a": ["x Authorization: Bearer •••", ["hub", {"api_key": "•••"}]], "n": 3}
    assert redacted(record) == hidden | {"token": ["•••", ""]}
    assert all(clean(formatting.text(leak)) for leak in LEAKS)


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        *((name, True) for name in ("HF_TOKEN", "token", "DB_PASSWORD", "MY-PASSWD")),
        *((name, True) for name in ("AWS_SECRET", "OPENAI_API_KEY", "api-key", "X_APIKEY")),
        *((name, True) for name in ("credential", "GCP_CREDENTIALS")),
        *((name, False) for name in ("TOKENIZERS", "TOKEN_FILE", "MONKEYTOKEN", "PATH")),
    ],
)
def test_which_variables_hold_a_secret(monkeypatch, name, is_secret):
    monkeypatch.setenv(name, "valuable")  # eight characters
    assert redacted("it is valuable.") == ("it is •••." if is_secret else "it is valuable.")
    monkeypatch.setenv(name, "usually")
    assert redacted("usually") == "usually"


def test_another_library_s_message_becomes_one_plain_line():
    text = f"\nfailed for https://host/lfs?X-Amz-Signature=abc with {TOKEN}.\nsecond line"
    assert plain(OSError(text)) == f"failed for … with {HIDDEN}"
    assert plain(ValueError()) == "ValueError"


@pytest.mark.parametrize("leak", LEAKS)
def test_a_job_s_log_and_output(leak, tmp_path, capsys):
    log = tmp_path / "job.log"

    def work(log, error):
        with job(log, "demo") as logger:
            logger.info("asking with %s", leak)
            raise error

    for file, error in ((log, CheckpointError(leak)), (tmp_path / "other.log", TimeoutError(leak))):
        with pytest.raises((SystemExit, TimeoutError)):
            work(file, error)
    shown = log.read_text() + (tmp_path / "other.log").read_text()
    assert "Traceback" in shown
    assert "asking with" in shown
    assert clean(shown)
    assert clean("".join(capsys.readouterr()))
    for handler in logging.getLogger("colport").handlers:
        handler.close()


CRASH = """
import sys
from colport import cli
from colport.hub import checkpoints
def refuse(*_):
    raise {kind}({leak!r})
checkpoints.record = refuse
sys.argv = ["colport", "export", "org/name", "-o", sys.argv[1]]
cli.main()
"""


@pytest.mark.parametrize("kind", ["RuntimeError", "checkpoints.CheckpointError"])
def test_the_command_s_output_even_if_it_crashes(kind, tmp_path):
    code = CRASH.format(kind=kind, leak="; ".join(LEAKS))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": str(SCRIPTS), "HF_TOKEN": TOKEN, "A_PASSWORD": ODD},
        check=False,
    )
    assert done.returncode == 1
    assert HIDDEN in done.stderr
    assert clean(done.stdout + done.stderr)


def test_the_description_of_the_machine_holds_no_variable(monkeypatch):
    monkeypatch.setenv("SOME_VARIABLE", "its value")
    described = json.dumps(machine.describe())
    assert clean(described)
    assert "its value" not in described
    assert str(Path.home()) not in described


def test_records_tables_report_and_card(tmp_path):
    """What a stage records of a failure, all the way to the pages that people read."""
    reason = str(UnsupportedError("; ".join(LEAKS)))
    row = dict.fromkeys(tables.COLUMNS["parity"])
    row |= {"model": "m", "variant": "fp32", "provider": "cpu", "kind": "query"}
    row |= {"status": "unsupported", "reason": reason, "tolerance": ""}
    described = machine.describe()
    write_json(tmp_path / "parity.json", {"rows": [row], "environment": described})
    record = json.loads((tmp_path / "parity.json").read_text())
    made = build({stage: [record] * (stage == "parity") for stage in tables.STAGES})
    tables.write_tables(made, tmp_path)
    page = render(made, {"settings": {"token": ODD, "header": LEAKS[1], "url": LEAKS[2]}})
    (tmp_path / "report.html").write_text(page)
    empty = {"opset": 23, "dim": 8, "processing": {}, "graphs": {}, "external_data": {}}
    found = Manifest("colbert", "fp32", source={"source": f"a@{'0' * 40}"}, **empty)
    card = model_card.write(found, "me/it", model_card.Measured(parity=[record]))
    (tmp_path / "README.md").write_text(card)
    written = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) >= 8
    assert all(clean(text) for text in written)
    assert any(HIDDEN in text for text in written)


@pytest.mark.parametrize("leak", LEAKS)
def test_no_name_of_a_run_carries_a_token_onto_its_page(leak):
    """Headings, navigation, cells, drawings and the data behind the buttons."""
    rows = joined(variant(model=leak, name=leak, provider=leak), variant(model=leak, name="b"))
    explained = [{"model": leak, "dataset": leak, "figures": [], "left_out": [], "reason": leak}]
    page = render(make(rows), {**RUN, "title": leak}, explained)
    assert page.count(HIDDEN) > 20
    assert clean(page)
