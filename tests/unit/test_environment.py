"""What a result says of the machine that it was measured on."""

import subprocess

import pytest

from colport.base import machine as environment

FLAGS = {
    "avx2": "flags\t\t: fpu sse4_2 avx avx2 fma",
    "vnni": "flags\t\t: avx2 avx512f avx512bw avx512_vnni",
    "alder": "flags\t\t: avx2 avx_vnni",
    "amx": "flags\t\t: avx2 avx512f avx_vnni avx512_vnni amx_int8",
    "arm": "Features\t: fp asimd asimddp i8mm",
    "old": "flags\t\t: sse2",
    "silent": "processor\t: 0",
}


@pytest.mark.parametrize(
    ("machine", "found", "strongest"),
    [
        ("avx2", ["AVX2"], "AVX2"),
        ("vnni", ["AVX2", "AVX-512", "AVX-512 VNNI"], "AVX-512 VNNI"),
        ("alder", ["AVX2", "AVX-VNNI"], "AVX-VNNI"),
        ("amx", ["AVX2", "AVX-512", "AVX-VNNI", "AVX-512 VNNI", "AMX"], "AMX"),
        ("arm", ["NEON", "NEON dot product", "NEON i8mm"], "NEON i8mm"),
        ("old", [], ""),
        ("silent", [], ""),
    ],
)
def test_instructions_of_the_processor(machine, found, strongest, monkeypatch):
    lines = dict(line.split("\t", 1) for line in [FLAGS[machine]])
    monkeypatch.setattr(
        environment, "_told", lambda _, field: lines.get(field, "").partition(":")[2]
    )
    assert environment.instructions() == found
    assert environment.processor_class({"instructions": found}) == strongest


def test_fields_are_read_from_the_first_processor(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: A CPU\nflags\t: a b\n\nmodel name : B\n")
    told = [environment._told(file, name) for name in ("model name", "flags", "Features")]
    assert told == ["A CPU", "a b", ""]
    assert environment._told(tmp_path / "none", "flags") == ""


def test_a_machine_in_words_names_the_class_of_its_processor():
    described = {"cpu": "A CPU", "cores": 2, "gpu": None, "instructions": ["AVX2", "AVX-512"]}
    assert environment.in_words(described) == "A CPU with AVX-512, 2 cores"
    described |= {"cores": 1, "gpu": "A GPU", "instructions": []}
    assert environment.in_words(described) == "A CPU, 1 core, A GPU"
    assert environment.in_words({}) == ""


@pytest.mark.parametrize("inside", [True, False])
def test_the_commit_is_that_of_the_checkout_alone(tmp_path, monkeypatch, inside):
    """An installed package may lie in the checkout of another project."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    package = tmp_path if inside else tmp_path / "venv/lib"
    file = package / "scripts/colport/base/machine.py"
    file.parent.mkdir(parents=True)
    file.write_text("1")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(environment, "__file__", str(file))
    known = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    expected = known[:12] if inside else None
    assert environment.commit.__wrapped__() == expected
    file.write_text("2")
    assert environment.commit.__wrapped__() == (f"{expected}-dirty" if inside else None)
    monkeypatch.setenv("PATH", "")
    assert environment.commit.__wrapped__() is None


def test_every_result_has_the_class_and_the_caches():
    described = environment.describe()
    assert set(described["instructions"]) <= set(environment.INSTRUCTIONS.values())
    assert all(isinstance(size, str) and size for size in described["caches"].values())
