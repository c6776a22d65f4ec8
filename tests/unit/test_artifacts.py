"""Files between stages are whole or absent, and code hashes follow imports."""

import json

import pytest

from colport.artifacts import (
    atomic_folder,
    atomic_path,
    check_supported,
    read_json,
    write_json,
    write_unsupported,
)
from colport.errors import ArtifactError, UnsupportedError
from colport.sources import code_hash


def test_json_keeps_values_and_turns_nan_into_null(tmp_path):
    write_json(tmp_path / "a/b.json", {"x": float("nan"), "y": (1, 2.5), "z": "ü"})
    assert read_json(tmp_path / "a/b.json") == {
        "schema_version": 1,
        "x": None,
        "y": [1, 2.5],
        "z": "ü",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{half", "is not valid JSON"),
        (json.dumps({"schema_version": 2}), "schema_version is 2; this ColPort reads 1"),
        ("[]", "schema_version is None"),
    ],
)
def test_a_record_that_is_none(tmp_path, content, message):
    if content is not None:
        (tmp_path / "record.json").write_text(content)
    with pytest.raises(ArtifactError, match=message):
        read_json(tmp_path / "record.json")


def test_a_failed_write_leaves_the_old_content(tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    folder.mkdir()
    (folder / "old").touch()

    def interrupted(writer, path, change):
        with writer(path) as temporary:
            change(temporary)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted(atomic_path, file, lambda temporary: temporary.write_text("new"))
    with pytest.raises(RuntimeError):
        interrupted(atomic_folder, folder, lambda temporary: (temporary / "new").touch())
    assert file.read_text() == "old"
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_known_limit_is_passed_on(tmp_path):
    check_supported(tmp_path)
    write_unsupported(tmp_path / "variant", "no int8 here")
    with pytest.raises(UnsupportedError, match="no int8 here"):
        check_supported(tmp_path / "variant")


def test_the_code_hash_follows_imports(tmp_path, monkeypatch):
    from colport import sources

    package = tmp_path / "colport"
    (package / "inner").mkdir(parents=True)
    (package / "used.py").write_text("from colport.deeper import x")
    (package / "deeper.py").write_text("x = 1")
    (package / "unused.py").write_text("y = 1")
    (package / "inner/__init__.py").write_text("")
    (package / "inner/page.html").write_text("<p>")
    script = tmp_path / "script.py"
    script.write_text("def main():\n    from colport import used, inner")
    monkeypatch.setattr(sources, "_PACKAGE", package)

    def hashed():
        sources._imported.cache_clear()
        return code_hash(script)

    first = hashed()
    (package / "unused.py").write_text("y = 2")
    assert hashed() == first
    (package / "deeper.py").write_text("x = 2")
    second = hashed()
    assert second != first
    (package / "inner/page.html").write_text("<b>")
    assert hashed() != second
