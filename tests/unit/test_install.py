"""The wheel and the sdist, and what they install in an environment that has nothing else."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from colport.base import library
from colport.providers.table import PROVIDERS
from tests.conftest import ROOT
from tests.fixtures.make_folders import RELEASE

BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
NAMED = {"CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LIGHT = {"yaml", "rich", "typer", "pydantic", "jsonschema", "huggingface_hub", "onnx", "torch"}


def build(kind: str, source: Path, output: Path) -> Path:
    """What the project's own build backend makes of a source folder, without a network."""
    output.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), str(output)],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (made,) = output.iterdir()
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The project; a build writes into the folder that it builds."""
    place = tmp_path_factory.mktemp("source")
    left = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for item in ROOT.iterdir():
        if item.name == "scripts":
            shutil.copytree(item, place / item.name, ignore=left)
        elif item.is_file():
            shutil.copy(item, place)
        elif not item.name.startswith("."):
            (place / item.name).symlink_to(item)
    return place


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory) -> Path:
    return build("sdist", source, tmp_path_factory.mktemp("built") / "sdist")


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """A wheel made from the sdist alone."""
    place = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    (source,) = place.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("built") / "wheel")


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_sdist_holds_the_library_and_its_papers(sdist):
    with tarfile.open(sdist) as archive:
        files = {
            member.name.partition("/")[2]: member.size for member in archive if member.isfile()
        }
    made = {"PKG-INFO", "setup.cfg"}
    library = {name for name in files if re.match(r"scripts/colport(\.egg-info)?/", name)}
    assert files.keys() - library == NAMED | made | {"MANIFEST.in", "pyproject.toml"}
    kept = [file for file in (ROOT / "scripts/colport").rglob("*") if file.is_file()]
    assert {name for name in library if "egg-info" not in name} == {
        str(file.relative_to(ROOT)) for file in kept if "__pycache__" not in file.parts
    }
    assert sum(files.values()) < 4e6


def test_source_and_sdist_give_the_same_wheel(source, wheel, tmp_path):
    assert contents(build("wheel", source, tmp_path / "wheel")) == contents(wheel)
    assert any(name.endswith("licenses/LICENSE") for name in contents(wheel))


def closure(requirement: str, found: set[str]) -> set[str]:
    """Names of the installed packages that a requirement brings, without its own."""
    asked = Requirement(requirement)
    for text in metadata.requires(asked.name) or ():
        needed = Requirement(text)
        extras = [{"extra": extra} for extra in ("", *asked.extras)]
        if needed.marker and not any(needed.marker.evaluate(extra) for extra in extras):
            continue
        if needed.name not in found:
            found.add(needed.name)
            closure(f"{needed.name}[{','.join(needed.extras)}]", found)
    return found


def site(environment: Path) -> Path:
    (place,) = environment.glob("lib/python*/site-packages")
    return place


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """An environment with ``colport[cpu]``: the packages that this asks for, as they are here."""
    place = tmp_path_factory.mktemp("environment") / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    pip = [sys.executable, "-m", "pip", "--python", place / "bin/python"]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    told = contents(wheel)
    (about,) = (text.decode() for name, text in told.items() if name.endswith("/METADATA"))
    names = set()
    for text in re.findall(r"^Requires-Dist: (.*)$", about, re.M):
        needed = Requirement(text)
        if not needed.marker or needed.marker.evaluate({"extra": "cpu"}):
            try:
                names |= closure(text.partition(";")[0], {needed.name})
            except metadata.PackageNotFoundError:
                pytest.skip(f"{needed.name} is not installed here")
    for name in names:
        package = metadata.distribution(name)
        for part in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
            if not (link := site(place) / part).exists():
                link.symlink_to(package.locate_file(part))
    subprocess.run([*pip, "check"], check=True, stdout=subprocess.DEVNULL)
    return place


@pytest.fixture
def environment(installed, tmp_path) -> Path:
    return shutil.copytree(installed, tmp_path / "environment", symlinks=True)


def run(environment: Path, *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of the environment's Python, which sees nothing else."""
    done = subprocess.run(
        [environment / "bin/python", *map(str, arguments)],
        cwd=environment,
        capture_output=True,
        text=True,
        env={"PATH": os.defpath, "COLUMNS": "200"},
    )
    return done.returncode, done.stdout, done.stderr


ENCODES = """
import sys
from pathlib import Path
from PIL import Image
from colport import Encoder
folders = Path(sys.argv[1])
passages, pages = Encoder(folders / "passages"), Encoder(folders / "pages")
queries, documents = ["a query", "another"], ["one passage", "two", "three"]
print(passages.score(passages.encode_queries(queries), passages.encode_documents(documents)).shape)
page = Image.new("RGB", (120, 90), "red")
print(pages.score(pages.encode_queries(queries), pages.encode_documents([page])).shape)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
COMMAND = ("-m", "colport.cli")


def test_an_installation_encodes_and_has_the_command(environment):
    code, out, err = run(environment, "-c", ENCODES, RELEASE)
    assert (code, err) == (0, ""), err
    passages, pages, modules = out.splitlines()
    assert (passages, pages) == ("(2, 3)", "(2, 1)")
    assert not LIGHT & set(modules.split())
    code, out, err = run(environment, *COMMAND, "--help")
    assert (code, err) == (0, ""), err
    assert "inspect" in out
    code, out, err = run(environment, *COMMAND, "inspect", RELEASE / "pages", "--verify")
    assert (code, err) == (0, ""), err
    assert out.splitlines()[-1] == "checked: files by sha256"
    code, out, err = run(environment, *COMMAND, "split", RELEASE / "pages", "-o", "out")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "needs pip install 'colport[pipeline]'" in err


def lay(environment: Path, name: str) -> None:
    """Say that a package is installed that writes the folder ``onnxruntime``."""
    place = site(environment) / f"{name.replace('-', '_')}-1.31.1.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")
    (place / "top_level.txt").write_text("onnxruntime\n")


def remove(environment: Path, pattern: str) -> None:
    for link in site(environment).glob(pattern):
        link.unlink()


def test_without_onnx_runtime_one_sentence_names_the_extras(environment):
    remove(environment, "onnxruntime*")
    code, _, err = run(environment, "-c", "from colport import Encoder")
    assert code == 1
    sentence = err.splitlines()[-1].partition(": ")[2]
    bringing = [name for name, packages in EXTRAS.items() if packages[0].startswith("onnxruntime")]
    python = environment / "bin/python"
    assert sentence.startswith(
        f"{python} cannot import onnxruntime (No module named 'onnxruntime')"
    )
    assert re.findall(r"\[(\w+)\]", sentence) == bringing
    caught = "try:\n from colport import Encoder\nexcept ImportError: print('caught')"
    assert run(environment, "-c", caught)[:2] == (0, "caught\n")
    assert run(environment, *COMMAND, "inspect", RELEASE / "pages")[0] == 0
    code, out, err = run(environment, *COMMAND, "export", "x", "-o", "y")
    assert (code, out, err) == (1, "", f"error: {sentence}\n")


def test_two_packages_of_onnx_runtime_are_named(environment):
    lay(environment, "onnxruntime-gpu")
    code, _, err = run(environment, "-c", ENCODES, RELEASE)
    assert code == 0
    assert (
        "UserWarning: onnxruntime and onnxruntime-gpu are installed and overwrite each other's "
        "files; run pip uninstall -y onnxruntime onnxruntime-gpu, then install the one that this "
        "machine needs." in err
    )
    assert err.count("UserWarning") == 1


@pytest.mark.parametrize("name", ["onnxruntime-openvino", "onnxruntime-someday"])
def test_what_is_left_by_a_removed_package_is_named(environment, name):
    """pip removes the files that two packages share, and leaves the folder if others are in it."""
    remove(environment, "onnxruntime*")
    (site(environment) / "onnxruntime/capi").mkdir(parents=True)
    lay(environment, name)
    code, _, err = run(environment, "-c", "from colport import Encoder")
    assert code == 1
    assert err.splitlines()[-1].endswith(
        "cannot import onnxruntime (module 'onnxruntime' has no attribute "
        f"'InferenceSession'); run pip uninstall -y {name}, then install the one that this machine "
        "needs."
    )


def test_packages_in_different_places_do_not_overwrite_each_other(environment, tmp_path):
    """As in an environment that sees the system's packages: Python takes the first."""
    other = tmp_path / "system"
    (other / "onnxruntime_gpu-1.31.1.dist-info").mkdir(parents=True)
    (other / "onnxruntime_gpu-1.31.1.dist-info/METADATA").write_text("Name: onnxruntime-gpu\n")
    (other / "onnxruntime_gpu-1.31.1.dist-info/top_level.txt").write_text("onnxruntime\n")
    code = f"import sys; sys.path.append({str(other)!r}); import colport; colport.Encoder"
    assert run(environment, "-W", "error", "-c", code) == (0, "", "")


def test_extras_that_a_provider_names_bring_it():
    for provider in PROVIDERS.values():
        for extra in re.findall(r"colport\[(\w+)\]", provider.requirement):
            (package,) = EXTRAS[extra]
            assert Requirement(package).name == provider.requirement.split()[0]


def test_every_module_imports_onnx_runtime_by_way_of_the_check():
    for file in (ROOT / "scripts").rglob("*.py"):
        if file != Path(library.__file__):
            assert not re.search(r"^\s*(import|from) onnxruntime\b", file.read_text(), re.M), file
