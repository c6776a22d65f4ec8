"""Files between stages are whole or absent, and code hashes follow imports."""

import errno
import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from colport.base import files as artifacts
from colport.base.errors import ArtifactError, UnsupportedError
from colport.base.files import (
    atomic_folder,
    atomic_path,
    check_supported,
    content_hash,
    read_json,
    require_space,
    scratch_folder,
    write_json,
    write_unsupported,
)


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


def write_folder(path: Path, content: str) -> None:
    """A folder of two files that belong together."""
    with atomic_folder(path) as temporary:
        (temporary / "one").write_text(content)
        (temporary / "two").write_text(content)


def read_folder(path: Path) -> str:
    one, two = ((path / name).read_text() for name in ("one", "two"))
    assert one == two
    return one


def die_at(step: int) -> None:
    """Kill this process just before its ``step``-th change of the disk."""
    left = [step]

    def counted(function):
        def wrapper(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapper

    for owner, name in ((Path, "mkdir"), (Path, "rename"), (shutil, "rmtree"), (os, "open")):
        setattr(owner, name, counted(getattr(owner, name)))


def test_a_writer_killed_anywhere_leaves_a_whole_folder(tmp_path):
    path, places = tmp_path / "folder", set()
    for step in itertools.count():
        write_folder(path, "old")
        if (child := os.fork()) == 0:
            die_at(step)
            write_folder(path, "new")
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        places.add((path.exists(), len(list(tmp_path.iterdir()))))
        if path.exists():
            assert read_folder(path) in {"old", "new"}
        else:  # between two renames
            assert sorted(read_folder(left) for left in tmp_path.iterdir()) == ["new", "old"]
        with pytest.raises(RuntimeError), atomic_folder(path):
            raise RuntimeError
        assert read_folder(path) in {"old", "new"}
        assert list(tmp_path.iterdir()) == [path]
        if code == 0:
            break
    assert places == {(True, 1), (True, 2), (False, 2)}


def test_nothing_is_left_beside_what_was_written(tmp_path):
    for text in ("old", "new"):
        write_folder(tmp_path / "folder", text)
        with atomic_path(tmp_path / "file") as temporary:
            temporary.write_text(text)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert read_folder(tmp_path / "folder") == (tmp_path / "file").read_text() == "new"


def test_a_failed_swap_puts_the_old_folder_back(tmp_path, monkeypatch):
    write_folder(tmp_path / "folder", "old")
    rename = Path.rename

    def refuse(source, target):
        if source.suffix == ".part":
            raise KeyboardInterrupt
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "folder", "new")
    assert read_folder(tmp_path / "folder") == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_only_abandoned_files_of_the_same_name_are_cleared(tmp_path):
    others = [
        ".folder.backup.part",
        ".folder2.0123abcd.part",
        "folder.0123abcd.part",
        ".folder.old",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".folder.0123abcd.part").mkdir()
    with scratch_folder(tmp_path / "folder") as in_use:
        (in_use / "file").touch()
        write_folder(tmp_path / "folder", "new")
        assert (in_use / "file").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"folder", *others}


def test_modes_follow_the_umask_and_links_stay(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk/folder")
    before = os.umask(0o027)
    try:
        write_folder(tmp_path / "link", "new")
        write_json(tmp_path / "disk/record.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    assert read_folder(tmp_path / "disk/folder") == "new"
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "disk").iterdir()}
    assert modes == {"folder": 0o750, "record.json": 0o640}


@pytest.mark.parametrize("writer", [atomic_path, atomic_folder, scratch_folder])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_an_artifact_error(tmp_path, writer, code):
    message = f"out: {os.strerror(code).lower()} after 0 bytes"
    with pytest.raises(ArtifactError, match=message), writer(tmp_path / "out"):
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_are_not_renamed(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "out"):
        (tmp_path / "absent").read_text()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="file: is a file, expected a folder"):
        write_folder(tmp_path / "file", "new")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_json(tmp_path / "file/record.json", {})


def test_a_write_that_cannot_fit_is_refused_before(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    require_space(tmp_path, usage.free // 2)
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ArtifactError, match="1,001 bytes are needed, 1,000 are free"):
        require_space(tmp_path, 1001)


def test_a_known_limit_is_passed_on(tmp_path):
    check_supported(tmp_path)
    write_unsupported(tmp_path / "variant", "no int8 here")
    with pytest.raises(UnsupportedError, match="no int8 here"):
        check_supported(tmp_path / "variant")


def test_a_record_that_says_something_twice_is_refused(tmp_path):
    (tmp_path / "record.json").write_text('{"schema_version": 1, "rows": 1, "rows": 2}')
    with pytest.raises(ArtifactError, match=r"is not valid JSON .*'rows' twice"):
        read_json(tmp_path / "record.json")


def test_the_hash_of_files_is_of_their_names_and_bytes_in_any_order(tmp_path):
    seen = []
    for names in ({"a": "1", "b": "2"}, {"a": "2", "b": "1"}, {"a": "1", "c": "2"}):
        folder = tmp_path / str(len(seen))
        folder.mkdir()
        for name, text in names.items():
            (folder / name).write_text(text)
        files = sorted(folder.iterdir())
        seen.append(content_hash(files))
        assert content_hash(files[::-1]) == seen[-1]
    assert len(set(seen)) == 3


@pytest.mark.parametrize("write", [atomic_path, atomic_folder, scratch_folder])
def test_a_link_that_leads_to_itself_is_named(write, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ArtifactError, match="loop: is a link that leads to itself"):
        write(tmp_path / "loop").__enter__()
