"""Which files of a machine decide what runs again, and where a relative path is looked for."""

import json
import os
import pwd
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from colport.base.errors import ConfigError
from colport.base.files import visible_files
from colport.hub import checkpoints
from colport.pipeline import plan, runs
from colport.pipeline.plan import Plan, located
from tests.conftest import ROOT

ODD = os.fsdecode(b"odd\xff")


def model(folder, value=0.0):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file({"a": np.full(3, value, np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two", "packages/some_package/inner"):
        model(tmp_path / name)
    (tmp_path / "packages/some_package/__init__.py").write_text("raise ImportError")
    (tmp_path / "link").symlink_to("one")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/inner").symlink_to("../one")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../one"}))
    (tmp_path / "queries.csv").write_text("query\na\n")
    return tmp_path


def of_checkpoint(path):
    """A config that runs a model of this checkpoint alone."""
    model = {"family": "colbert", "checkpoint": {"path": path}, "datasets": ["demo-passages"]}
    return {"run": {"models": ["mine"]}, "models": {"mine": model}}


def older(file):
    os.utime(file, (1.6e9, 1.6e9))


ONE = "one/model.safetensors"
PLACES = {
    "a folder": ({"path": "one"}, ONE),
    "of the user": ({"path": "~/one"}, ONE),
    "a link": ({"path": "link"}, ONE),
    "a folder in it that is a link": ({"path": "linked"}, ONE),
    "an overlay": ({"path": "two", "overlay": "~/one"}, ONE),
    "a base": ({"path": "two", "base": {"path": "~/one"}}, ONE),
    "a base that the adapter names": ({"path": "adapter"}, ONE),
    "an overlay on the Hub's": ({"hub": "a/b", "revision": "main", "overlay": "link"}, ONE),
    "a package": (
        {"package": "some_package", "folder": "inner"},
        "packages/some_package/inner/config.json",
    ),
    "a package in a package": (
        {"package": "some_package.inner"},
        "packages/some_package/inner/model.safetensors",
    ),
    "pages": ({"documents_folder": "~/one", "queries": "queries.csv"}, "one/config.json"),
    "queries": ({"documents_folder": "one", "queries": "~/queries.csv"}, "queries.csv"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_file_of_another_time_or_size_reruns(place, home):
    declaration, file = PLACES[place]
    seen = [plan.fingerprint(declaration)]
    assert plan.fingerprint(declaration) == seen[0]
    older(home / file)
    seen.append(plan.fingerprint(declaration))
    (home / file).write_bytes((home / file).read_bytes() + b" ")
    older(home / file)
    seen.append(plan.fingerprint(declaration))
    (home / file).unlink()
    seen.append(plan.fingerprint(declaration))
    assert len(set(seen)) == 4


@pytest.mark.parametrize("name", ["a{x}b", "a{b", "a}b", "a<results>", "<x_1>"])
def test_a_project_that_snakemake_cannot_run_is_named(name, capsys):
    with pytest.raises(SystemExit):
        Plan.read({}, Path("/there", name))
    assert f"/there/{name}: Snakemake takes braces" in capsys.readouterr().err


def test_a_place_that_snakemake_cannot_take_ends_before_it_looks(home, capsys):
    model(home / "a{x}b")
    config = of_checkpoint("a{x}b")
    with pytest.raises(SystemExit):
        Plan.read(config, ROOT)
    assert "a{x}b/config.json: Snakemake takes braces" in capsys.readouterr().err


def test_a_job_leaves_the_files_that_its_main_process_has_checked(home, monkeypatch):
    looked = []
    monkeypatch.setattr(Plan, "look", lambda *_: looked.append(1))
    config = of_checkpoint("one")
    read = Plan.read(config, ROOT, is_job=True)
    assert not looked
    assert vars(Plan.read(config, ROOT)) == vars(read)
    assert looked


@pytest.mark.parametrize("name", ["a{x}b", "a<results>b"])
def test_a_file_that_snakemake_cannot_take_is_named(name, home):
    model(home / name)
    with pytest.raises(ConfigError, match=rf"{re.escape(name)}/config.json: Snakemake takes brac"):
        plan.local_files({"path": name})


@pytest.mark.parametrize("name", ["a < b > c", "<A>", "->", "[a]*?", "$HOME %s #", "a\\b 'c'"])
def test_other_names_are_taken(name, home):
    model(home / name)
    assert plan.local_files({"path": name})[0] == f"{name}/config.json"


def test_a_place_that_is_not_utf_8_is_named(home):
    model(home / ODD)
    (home / "to it").symlink_to(ODD)
    for declared in ({"path": "to it"}, {"path": "one", "base": {"path": ODD}}):
        with pytest.raises(ConfigError, match=r"/odd\\udcff: is not UTF-8"):
            plan.local_files(declared)


def test_a_project_or_directory_that_is_not_utf_8_is_named(home, capsys, monkeypatch):
    (home / ODD).mkdir()
    for base, directory in ((home / ODD, home), (ROOT, home / ODD)):
        monkeypatch.chdir(directory)
        with pytest.raises(SystemExit):
            Plan.read({}, base)
        assert "odd\\udcff: is not UTF-8" in capsys.readouterr().err


def test_a_file_that_is_not_utf_8_is_left_to_its_job(home):
    seen = plan.fingerprint({"path": "one"})
    (home / "one" / f"{ODD}.txt").touch()
    assert plan.fingerprint({"path": "one"}) != seen
    declared = {"path": "one", "overlay": "one"}
    assert checkpoints.record(declared, "colbert", home / "together")["files"]


@pytest.mark.parametrize("key", ["path", "documents_folder"])
@pytest.mark.parametrize("place", [".", "..", "above"])
def test_a_folder_with_the_results_of_this_run_is_refused(key, place, home):
    (home / "above").symlink_to("..")
    with pytest.raises(ConfigError, match=rf"{re.escape(place)}: holds this run's results/"):
        plan.local_files({key: place})


def test_another_file_of_the_same_size_and_time_reruns(home):
    file = home / "one/model.safetensors"
    before, seen = file.stat(), plan.fingerprint({"path": "one"})
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of a file system is coarse
        file.write_bytes(bytes(before.st_size))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert plan.fingerprint({"path": "one"}) != seen


def test_links_to_nothing_do_not_count(home):
    seen = plan.fingerprint({"path": "one"})
    for name, target in (("circle", "circle"), ("broken", "nowhere")):
        (home / "one" / name).symlink_to(target)
    assert plan.fingerprint({"path": "one"}) == seen


def test_a_link_that_leads_elsewhere_reruns(home):
    for name in ("one", "two"):
        for file in (home / name).iterdir():
            older(file)
    seen = plan.fingerprint({"path": "link"})
    (home / "link").unlink()
    (home / "link").symlink_to("two")
    assert plan.fingerprint({"path": "link"}) != seen


def test_what_programs_put_beside_files_does_not_count(home):
    declared = {"path": "one"}
    before = plan.fingerprint(declared), plan.local_files(declared)
    for name in (".git", ".cache/huggingface", ".ipynb_checkpoints", "__pycache__"):
        (home / "one" / name).mkdir(parents=True)
        (home / "one" / name / "config.json").touch()
    (home / "one/.DS_Store").touch()
    assert (plan.fingerprint(declared), plan.local_files(declared)) == before
    assert before[1] == ["one/config.json", "one/model.safetensors"]


def test_links_that_lead_back_are_not_followed(home):
    for name, target in (("again", ".."), ("there", "../linked"), ("beside", "../two")):
        (home / "one" / name).symlink_to(target)
    (home / "two/up").symlink_to("..")
    found = [str(file.relative_to(home / "one")) for file in visible_files(home / "one")]
    names = ["config.json", "model.safetensors"]
    assert found == [*(f"beside/{name}" for name in names), *names]


def test_what_is_not_there_is_left_to_its_job(home):
    for declared in (
        {"path": "absent", "overlay": "~/absent"},
        {"package": "no_such_package"},
        {"hub": "a/b", "revision": "main"},
        {"documents_folder": "absent", "queries": "absent.csv"},
    ):
        assert plan.fingerprint(declared)


def test_relative_paths_are_looked_for_here_then_beside_the_snakefile(home, tmp_path):
    model(home / "project/three")
    model(home / "project/one")
    entries = {
        "a": {"checkpoint": {"path": "one", "overlay": "three", "base": {"path": "three"}}},
        "path": {"path": "absent", "queries": "~/queries.csv", "limit": 3},
    }
    beside = str(home / "project/three")
    assert located(entries, home / "project") == {
        "a": {"checkpoint": {"path": "one", "overlay": beside, "base": {"path": beside}}},
        "path": {"path": "absent", "queries": str(home / "queries.csv"), "limit": 3},
    }


def test_a_user_without_a_name_runs_too(monkeypatch):
    def unknown(uid):
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    runs.name_user()
    assert runs.getpass.getuser() == str(os.getuid())


@pytest.mark.parametrize("home", [None, "/nonexistent", "{tmp}"])
def test_make_gives_a_home_to_a_user_without_one(home, tmp_path):
    folder = tmp_path / "a clone"
    folder.mkdir()
    (folder / "Makefile").write_text((ROOT / "Makefile").read_text() + "\nshow:\n\t@echo $$HOME\n")
    home = home and home.format(tmp=tmp_path)
    environment = {"PATH": os.environ["PATH"], **({"HOME": home} if home else {})}
    done = subprocess.run(
        ["make", "show"], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    given = str(tmp_path) if home == str(tmp_path) else str(folder / "build/home")
    assert done.stdout.strip() == given
