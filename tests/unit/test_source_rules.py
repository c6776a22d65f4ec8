"""What no line of the code may do, and how dependencies are pinned."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("scripts", "benchmarks", "config", "resources")
FILES = sorted(file for folder in FOLDERS for file in ROOT.glob(f"{folder}/**/*.py"))
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "input", "os.system", "os.popen", "torch.load", "torch.save"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "tarfile.open"),
    *("shutil.unpack_archive", "zipfile.ZipFile", "pd.read_pickle", "datasets.load_from_disk"),
}
IMAGES_ARE_OPENED_IN = {"images.py"}
OWN_IMAGES = {
    "worker.py",
    "graphs.py",
    "graph_contenders.py",
    "picture.py",
}  # pages that an earlier stage wrote


def name_of(node: ast.AST) -> str:
    """``a.b.c`` of a chain of attributes."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ""


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def option(call: ast.Call, name: str):
    found = [keyword.value for keyword in call.keywords if keyword.arg == name]
    return found[0].value if found and isinstance(found[0], ast.Constant) else None


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_that_executes_what_it_reads(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    modules = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    assert not modules & FORBIDDEN_MODULES
    for call in calls(tree):
        name = name_of(call.func)
        assert name not in FORBIDDEN_CALLS, f"line {call.lineno}"
        assert option(call, "shell") is not True, f"line {call.lineno}: a shell"
        assert option(call, "allow_pickle") is not True, f"line {call.lineno}"
        assert option(call, "trust_remote_code") is not True, f"line {call.lineno}"
        if name in ("np.load", "numpy.load"):
            assert option(call, "allow_pickle") is False, f"line {call.lineno}: allow_pickle=False"


def test_processes_speak_without_pickles():
    """Queues, pools, and ``send`` and ``recv`` of a pipe pickle; its bytes do not."""
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        if file.name == "child.py":
            assert not re.search(r"pipe\.(send|recv)\(|import multiprocessing", text)
        else:
            assert not re.search("multiprocessing|ProcessPoolExecutor", text), file.name


def library_files() -> list[Path]:
    return [file for file in FILES if "resources" not in file.parts]


def test_libraries_are_told_not_to_execute_code_of_checkpoints():
    """Where nothing is said, transformers asks at the keyboard."""
    loaders = 0
    for file in library_files():
        for call in calls(ast.parse(file.read_text(encoding="utf-8"))):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else name_of(call.func)
            if name in ("from_pretrained", "MultiVectorEncoder"):
                loaders += 1
                where = f"{file.name}, line {call.lineno}"
                assert option(call, "trust_remote_code") is False, where
    assert loaders >= 4


def test_images_of_others_are_opened_in_one_place():
    """Pillow hands some kinds to other programs, unless it is told which ones are allowed."""
    for file in library_files():
        if file.name in IMAGES_ARE_OPENED_IN | OWN_IMAGES:
            continue
        for call in calls(ast.parse(file.read_text(encoding="utf-8"))):
            assert not name_of(call.func).endswith("Image.open"), f"{file.name}, {call.lineno}"


def test_every_requirement_is_pinned_with_hashes():
    for file in sorted((ROOT / "envs").glob("*.txt")):
        text = file.read_text(encoding="utf-8")
        assert "://" not in text, f"{file.name}: names an index or an address"
        assert not re.search(r"^\s*-", text.replace("    --hash", ""), re.MULTILINE), file.name
        requirements = re.split(r"\n(?=\S)", text.replace("\\\n", "").strip())
        assert len(requirements) > 20
        for requirement in requirements:
            assert re.match(r"[\w.-]+(\[[\w,-]+\])?===?[^\s;]+", requirement), requirement[:80]
            assert "--hash=sha256:" in requirement, requirement[:80]


def test_templates_escape_what_they_print():
    for file in library_files():
        for call in calls(ast.parse(file.read_text(encoding="utf-8"))):
            if name_of(call.func) in ("jinja2.Environment", "Environment"):
                guards = {keyword.arg for keyword in call.keywords} & {"autoescape", "finalize"}
                assert guards, f"{file.name}, line {call.lineno}"
                assert option(call, "autoescape") is not False


FAKE_AUDIT = """
import json, sys
options = dict(zip(sys.argv[1:], sys.argv[2:]))
assert "===" not in open(options["--requirement"]).read()
{before}
with open(options["--output"], "w") as stream:
    json.dump({{"dependencies": {found}}}, stream)
"""
LOOKED_UP = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "not found"}
ADVISED = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1"}]}


@pytest.mark.parametrize(
    ("found", "before", "code", "says"),
    [
        ([LOOKED_UP], "", 0, "cpu: 1 of 1 packages looked up"),
        ([LOOKED_UP, ADVISED], "", 1, "cpu: c 2: CVE-1"),
        ([LOOKED_UP, SKIPPED], "", 2, "1 of 2 packages looked up; NOT AUDITED: b"),
        ([SKIPPED], "", 2, "0 of 1 packages looked up; NOT AUDITED: b"),
        ([], "sys.exit('no network')", 2, "NOT AUDITED, advisories cannot be looked up here"),
    ],
)
def test_an_audit_says_what_it_could_not_look_up(found, before, code, says, tmp_path):
    (tmp_path / "pip_audit.py").write_text(FAKE_AUDIT.format(before=before, found=found))
    done = subprocess.run(
        [sys.executable, str(ROOT / "envs/audit.py"), "cpu"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert says in done.stdout
