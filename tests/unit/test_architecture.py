"""Imports point downward only, and the encoder runs where torch cannot be imported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "scripts/colport"

LAYERS = [  # bottom first; modules of one layer do not import each other
    {"redaction", "foreign"},
    {"errors"},
    {"declared"},
    {"artifacts", "child", "environment", "config", "weights", "streaming", "downloads"},
    {"lora"},
    {"checkpoints"},
    {"families"},
    {"manifest", "providers", "external_data"},
    {"graphs"},
    {"export"},
    {"quantize"},
    {"convert", "overflow", "retrieval"},
    {"encoder", "peers"},
    {"remote"},
    {"embedders"},
    {"embed", "parity", "latency", "variants", "mteb_adapter"},
    {"contenders", "explain", "proof"},
    {"recommendation"},
    {"tables"},
    {"gate", "compare"},
    {"report"},
    {"job", "sources", "resources", "runs", "bench", "model_card", "hub"},
    {"workflow", "cli"},
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "colport":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("colport."):
            rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("colport.")}
    return rooms


FILES = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_downward(file):
    own = room(file)
    assert own in RANK, f"{own} has no layer yet"
    for other in imported_rooms(file) - {own}:
        assert RANK[other] < RANK[own], f"{own} imports {other}, which is not below it"


def test_only_families_know_a_family():
    names = ("colpali", "colqwen2", "colbert")
    for file in FILES:
        if room(file) in {"families", "cli", "bench"}:
            continue
        strings = [
            node.value.lower()
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not set(names) & set(strings), file


def test_no_file_is_long():
    long = [file.name for file in FILES if len(file.read_text().splitlines()) > 400]
    assert long == []


def test_adapters_are_thin():
    for script in PACKAGE.parent.glob("*.py"):
        body = ast.parse(script.read_text())
        main = next(node for node in body.body if isinstance(node, ast.FunctionDef))
        assert main.end_lineno - main.lineno < 36, script.name


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Block())
"""
TORCH = {"torch", "transformers", "sentence_transformers"}


def run_without(blocked: set[str], code: str, *arguments: str) -> str:
    """What Python code prints in a process that cannot import these packages."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + code, *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ENCODES = """
from colport import Encoder
encoder = Encoder(sys.argv[1])
queries = encoder.encode_queries(["a short query", ""])
documents = encoder.encode_documents(["one passage", "another, longer passage"])
print(encoder.score(queries, documents).shape)
"""


def test_encoder_runs_without_torch(exported):
    blocked = {
        "pydantic",
        "onnx",
        "ml_dtypes",
        "datasets",
        "pandas",
        "scipy",
        "huggingface_hub",
    } | TORCH
    assert run_without(blocked, ENCODES, str(exported["colbert"])) == "(2, 2)"


CONVERTS = """
from pathlib import Path
from colport.convert import convert
from colport.external_data import Layout
from colport.quantize.folder import quantize
source, output = map(Path, sys.argv[1:])
print(quantize(source, output).precision, convert(output, output, Layout("merge")).external_data)
"""


def test_only_tracing_needs_torch(exported, tmp_path):
    """Importing it takes five seconds of each job that quantizes or changes a layout."""
    blocked = {"pydantic", "onnxscript"} | TORCH
    printed = run_without(blocked, CONVERTS, str(exported["colbert"]), str(tmp_path / "int8"))
    assert printed == "int8 {'layout': 'merge', 'files': []}"


def test_only_the_making_of_the_schema_needs_pydantic():
    modules = "import colport.workflow, colport.cli, colport.contenders, colport.variants"
    assert run_without({"pydantic"}, modules) == ""
