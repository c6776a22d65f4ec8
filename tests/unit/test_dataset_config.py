"""Datasets in the configuration: the shipped ones, and those that start from another."""

import re
from pathlib import Path

import pytest

from colport.base.errors import ConfigError
from colport.data.datasets import check_declaration
from colport.pipeline import config as configuration
from colport.pipeline import defaults
from colport.pipeline.config import extended
from colport.pipeline.plan import SCHEMA, Plan, local_files

ROOT = Path(__file__).parents[2]
SHIPPED = configuration.load(ROOT / "config/datasets.yaml")["datasets"]

V1 = "arxivqa docvqa infovqa tabfquad tatdqa shiftproject synthetic-artificial-intelligence "
V1 += "synthetic-energy synthetic-government-reports synthetic-healthcare-industry"
V2 = "esg-reports economics-reports biomedical-lectures esg-reports-human"
V3 = "finance-en finance-fr industrial pharmaceuticals computer-science hr energy physics"


def test_every_public_dataset_of_vidore_is_declared():
    parts = {"1": V1, "2": V2, "3": V3, "3.1": V3}
    names = {f"vidore-v{n}-{name}" for n, part in parts.items() for name in part.split()}
    originals = {f"vidore-v1-{name}-qa" for name in V1.split()}
    assert set(SHIPPED) == names | originals
    assert len(names) == 30
    repositories = {entry["hub"] for entry in SHIPPED.values()}
    assert len(repositories) == len({entry["revision"] for entry in SHIPPED.values()}) == 40


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_dataset_is_complete(name):
    entry = extended(name, SHIPPED)
    check_declaration(name, entry)
    assert re.fullmatch(r"[0-9a-f]{40}", entry["revision"])
    assert entry["schema"] == ("qa" if name.endswith("-qa") else "beir")
    assert entry["split"] == "test"
    assert entry["languages"] == sorted(entry["languages"])


def test_commits_are_mteb_s():
    mteb = pytest.importorskip("mteb")
    if tuple(map(int, mteb.__version__.split(".")[:3])) != (2, 26, 24):
        pytest.skip("another mteb may pin other commits")
    pinned = {
        task.metadata.dataset["path"]: task.metadata.dataset["revision"]
        for name in ("ViDoRe(v1)", "ViDoRe(v2)", "ViDoRe(v3)", "ViDoRe(v3.1)")
        for task in mteb.get_benchmark(name).tasks
    }
    for name, entry in SHIPPED.items():
        if not name.endswith("-qa"):
            assert pinned[entry["hub"]] == entry["revision"], name


def plan(**datasets):
    config = defaults.complete({}, ROOT)
    config["datasets"] |= SHIPPED | datasets
    return configuration.validated(config, ROOT / SCHEMA)["datasets"]


def test_a_dataset_starts_from_another():
    found = plan(
        german={"from": "vidore-v3-hr", "language": "german"},
        few={"from": "german", "limit": 9},
        here={"from": "few", "path": "/data/hr"},
    )
    hr = SHIPPED["vidore-v3-hr"]
    assert found["german"] == hr | {"language": "german"}
    assert found["few"] == hr | {"language": "german", "limit": 9}
    assert "hub" not in found["here"]
    assert found["here"]["path"] == "/data/hr"
    assert found["here"]["limit"] == 9
    for name, entry in found.items():
        check_declaration(name, entry)


def test_it_may_not_start_from_itself():
    with pytest.raises(ConfigError, match=r"datasets.b.from: 'a' starts from this one itself"):
        extended("a", {"a": {"from": "b"}, "b": {"from": "a"}})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vidore-v1-docqa", "datasets.mine.from: 'vidore-v1-docqa' is not defined; near names are "
         "vidore-v1-docvqa,"),
        ("docvqa", "'docvqa' is not defined; near names are vidore-v1-docvqa, vidore-v1-docvqa-qa"),
        ("hr", "'hr' is not defined; near names are vidore-v3-hr"),
        ("xyz", "'xyz' is not defined; defined are "),
    ],
)  # fmt: skip
def test_an_unknown_name_is_reported_with_the_near_ones(name, message):
    with pytest.raises(ConfigError, match=message):
        plan(mine={"from": name})


def test_a_language_that_the_dataset_lacks():
    entry = SHIPPED["vidore-v3-hr"] | {"language": "dutch"}
    with pytest.raises(
        ConfigError, match=r"datasets.x.language: found 'dutch'; allowed is one of e"
    ):
        check_declaration("x", entry)


def test_a_dataset_that_contradicts_itself_ends_before_the_first_job(capsys):
    config = defaults.complete({}, ROOT)
    config["datasets"]["mine"] = {"documents_folder": "pages", "schema": "qa", "queries": "q.csv"}
    with pytest.raises(SystemExit):
        Plan.read(config, ROOT)
    assert "datasets.mine.schema: found 'qa'; allowed is with documents_folder" in (
        capsys.readouterr().err
    )


def test_every_file_of_ones_own_reruns_the_dataset(tmp_path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.pdf").touch()
    declaration = {
        "documents_folder": str(tmp_path / "pages"),
        "queries": "queries.csv",
        "judgements": "judgements.tsv",
    }
    files = local_files(declaration)
    assert files == ["queries.csv", "judgements.tsv", str(tmp_path / "pages" / "a.pdf")]
