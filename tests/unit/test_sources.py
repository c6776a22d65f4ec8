"""Which files of the library a rule's results depend on."""

import importlib
import sys

import pytest

from colport.pipeline import sources
from colport.pipeline.sources import code_hash, loaded
from tests.conftest import ROOT

SCRIPTS = sorted({*(ROOT / "scripts").glob("*.py")} - {ROOT / "scripts/run.py"})
PACKAGE = ROOT / "scripts" / "colport"
FILES = {
    "__init__.py": "from colport import unused\n",
    "used.py": "from colport.room import picked\nfrom colport.other import name\n",
    "unused.py": "y = 1\n",
    "room/__init__.py": "",
    "room/picked.py": "import colport.deep.er\nif TYPE_CHECKING:\n    from colport import typed\n",
    "room/statistics.py": "p = 0.05\n",
    "room/picked.onnx": "graph",
    "room/statistics.onnx": "graph",
    "other/__init__.py": "name = 1\n",
    "other/beside.py": "",
    "deep/__init__.py": "",
    "deep/er.py": "WORKER = 'colport.named:make'\nTHING = 'colport.nothing'\n",
    "named.py": "def make():\n    from colport.chosen import get\n    from colport import reader\n",
    "typed.py": "",
    "chosen/__init__.py": "def get(name):\n    return import_module(f'{__name__}.{name}')\n",
    "chosen/first.py": "from colport import below\n",
    "below.py": "",
    "reader/__init__.py": "HERE = Path(__file__).parent / 'assets'\n",
    "reader/assets/style.css": "p {}",
    "reader/packed/__init__.py": "",
    "reader/packed/style.css": "p {}",
}
IGNORED = {
    *("__init__.py", "unused.py", "room/statistics.py", "room/statistics.onnx"),
    *("other/beside.py", "typed.py", "reader/packed/__init__.py", "reader/packed/style.css"),
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "colport"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (tmp_path / "script.py").write_text("def main():\n    from colport import used\n")
    monkeypatch.setattr(sources, "_PACKAGE", folder)
    return folder


def hashed(package):
    sources._read.cache_clear()
    return code_hash(package.parent / "script.py")


def test_every_way_to_name_a_file_is_followed_and_no_other(package):
    found = {str(file.relative_to(package)) for file in loaded(package.parent / "script.py")}
    assert found == set(FILES) - IGNORED


@pytest.mark.parametrize("name", FILES)
def test_an_edit_changes_the_hash_of_what_can_load_the_file(package, name):
    before = hashed(package)
    (package / name).write_text(FILES[name] + "\nx = 2\n")
    assert (hashed(package) == before) == (name in IGNORED)


PLACES = (
    "def main():\n    {}",
    "if False:\n    pass\nelse:\n    {}",
    "try:\n    pass\nexcept OSError:\n    {}",
    "try:\n    pass\nfinally:\n    {}",
    "with open('x'):\n    {}",
    "match 1:\n    case 1:\n        {}",
    "class A:\n    def b(self):\n        {}",
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("line", ["from colport import used", "import colport.used"])
def test_the_code_hash_sees_every_import(place, line, tmp_path, monkeypatch):
    (tmp_path / "colport").mkdir()
    used, script = tmp_path / "colport/used.py", tmp_path / "script.py"
    script.write_text(place.format(line))
    monkeypatch.setattr(sources, "_PACKAGE", tmp_path / "colport")
    seen = set()
    for text in ("x = 1", "x = 2"):
        used.write_text(text)
        sources._read.cache_clear()
        seen.add(code_hash(script))
    assert len(seen) == 2


def test_a_file_that_moves_changes_the_hash(package):
    before = hashed(package)
    (package / "below.py").rename(package / "chosen/below.py")
    (package / "chosen/first.py").write_text("from colport.chosen import below\n")
    assert hashed(package) != before


def test_text_for_readers_changes_nothing(package):
    (package / "deep/er.py").write_text(
        "import sys\n\n\nclass A:\n    def f(self):\n        return 1\n"
    )
    before = hashed(package)
    (package / "deep/er.py").write_text(
        '"""What it is."""\nimport sys  # why\nclass A:\n    """A."""\n\n'
        '    def f(self):\n        """One."""\n        return 1\n\n    """Behind a field."""\n'
    )
    assert hashed(package) == before
    (package / "deep/er.py").write_text(
        "import sys\n\n\nclass A:\n    def f(self):\n        return 2\n"
    )
    assert hashed(package) != before


def test_a_script_counts_by_what_it_does(package):
    before, script = hashed(package), package.parent / "script.py"
    script.write_text('"""Words."""\n' + script.read_text())
    assert hashed(package) == before
    script.write_text(script.read_text() + "x = 1\n")
    assert hashed(package) != before


@pytest.mark.parametrize(
    ("file", "rules"),
    [
        (
            "scoring/statistics.py",
            {"score", "score_captions", "control", "aggregate", "report"},
        ),
        ("report/assets/tables.css", {"report"}),
        ("base/columns.yaml", {"aggregate", "gate", "report"}),
        ("timing/server/serving.py", {"scenarios"}),
        ("timing/server/scenarios.py", {"scenarios"}),
        ("measure/scenarios.py", {"scenarios"}),
        ("measure/latency.py", {"latency"}),
        ("peers/torch_onnx.py", {"peer_export"}),
    ],
)
def test_what_an_edit_reruns(file, rules):
    assert {s.stem for s in SCRIPTS if PACKAGE / file in loaded(s)} == rules


def test_latency_knows_nothing_of_servers():
    """What only the scenarios load reruns no latency job: arrivals, early stopping, the search."""
    latency, scenarios = (
        {*loaded(ROOT / f"scripts/{name}.py")} for name in ("latency", "scenarios")
    )
    own = {file.stem for file in scenarios - latency}
    assert {"arrivals", "search", "scenarios", "serving"} < own
    assert {file.stem for file in latency - scenarios} == {"latency"}
    assert not any("scenario" in file.name for file in latency)


def test_nothing_that_a_module_holds_is_overlooked():
    """What is in a module once Python has run it comes from files that the hash knows."""
    overlooked = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        if name.endswith(("__init__", "__main__")):
            continue
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as missing:  # a contender's library, which is optional
            if (missing.name or "").startswith(PACKAGE.name):
                raise
            continue
        known = {file, *loaded(file)}
        for value in vars(module).values():
            origin = sys.modules.get(
                getattr(value, "__module__", None) or getattr(value, "__name__", "")
            )
            place = getattr(origin, "__file__", None) or ""
            if place.startswith(str(PACKAGE)) and not any(str(k) == place for k in known):
                overlooked.append(f"{name}: {place}")
    assert not overlooked
