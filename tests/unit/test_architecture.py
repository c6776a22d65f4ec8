"""Imports point downward only, and the encoder runs where torch cannot be imported."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "scripts/colport"

FLOORS = [  # bottom first; rooms of one floor do not import each other
    {"base"},
    {"processes"},
    {"tensors", "timing"},
    {"folder", "providers"},
    {"hub"},
    {"families"},
    {"data", "export"},
    {"quantize", "scoring"},
    {"runtime"},
    {"peers"},
    {"explain", "measure"},
    {"tables"},
    {"compare"},
    {"report"},
    {"pipeline"},
    {"cli"},
]
RANK = {room: rank for rank, floor in enumerate(FLOORS) for room in floor}


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
    assert own in RANK, f"{own} has no floor yet"
    for other in imported_rooms(file) - {own}:
        assert RANK[other] < RANK[own], f"{own} imports {other}, which is not below it"


def test_the_library_knows_no_benchmark():
    for file in [PACKAGE / "__init__.py", *FILES]:
        assert not re.search(r"^\s*(import|from) benchmarks\b", file.read_text(), re.M), file
        assert '"benchmarks.' not in file.read_text(), file


def test_only_families_know_a_family():
    names = ("colpali", "colqwen2", "colbert")
    for file in FILES:
        if room(file) in {"families", "cli"}:
            continue
        strings = [
            node.value.lower()
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not set(names) & set(strings), file


MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in FILES
}


def imported_modules(file: Path) -> set[str]:
    """Modules of the library that a file imports, for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


def test_no_files_import_each_other_in_a_circle():
    left = {name: imported_modules(file) for name, file in MODULES.items()}
    while free := {name for name, imported in left.items() if not imported & left.keys()}:
        left = {name: imported for name, imported in left.items() if name not in free}
    assert not left, "files in a circle, or above one: " + ", ".join(sorted(left))


def test_what_times_a_contender_knows_nothing_of_encoders():
    measuring = {"profile.py", "operations.py", "placement.py"}
    below = {"timing", "base", "processes"}
    for file in (PACKAGE / "timing").rglob("*.py"):
        if file.name not in measuring:
            assert imported_rooms(file) <= below, file.name


def test_adapters_are_thin():
    for script in PACKAGE.parent.glob("*.py"):
        body = ast.parse(script.read_text())
        main = next(node for node in body.body if isinstance(node, ast.FunctionDef))
        assert main.end_lineno - main.lineno < 40, script.name


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


def test_what_is_no_code_is_installed_as_well():
    settings = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["colport"]
    installed = {file for pattern in patterns for file in PACKAGE.glob(pattern)}
    kept = {file for file in PACKAGE.rglob("*") if file.is_file() and file.suffix != ".py"}
    assert {file for file in kept if "__pycache__" not in file.parts} == installed


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
from colport.folder.graphs import convert
from colport.tensors.external_data import Layout
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
    modules = "import colport.cli, colport.measure.entrants, colport.pipeline.plan"
    assert run_without({"pydantic"}, modules) == ""


def test_the_page_on_the_house_tells_this_one():
    """Every room is on its floor there, and every file that it names is there."""
    page = (ROOT / "docs/architecture.md").read_text()
    told = {room: int(floor) for floor, room in re.findall(r"^\| (\d+) \| `(\w+)/`", page, re.M)}
    assert told == RANK
    files = re.findall(r"`([\w/]+/\w+\.py)\b", page)
    missing = [name for name in files if not any((r / name).exists() for r in (PACKAGE, ROOT))]
    assert len(files) > 40
    assert not missing


def test_no_room_is_crowded():
    """Families apart: each is a module of its own."""
    named = re.compile(r'^    name = "\w+"$', re.MULTILINE)
    shared = [f for f in FILES if f.parent.name != "families" or not named.search(f.read_text())]
    for folder, count in Counter(file.parent for file in shared).items():
        assert count <= 15, folder
