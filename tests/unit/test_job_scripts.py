"""The adapters of ``scripts/``: which input, parameter and wildcard reaches which argument."""

import runpy
from types import SimpleNamespace

import numpy as np
import pytest

from colport import tables
from colport.base.errors import UnsupportedError
from colport.base.files import read_json, write_json
from colport.data.base import RetrievalDataset
from colport.measure import embedders
from colport.scoring.embed import read_documents, read_queries
from colport.tables.summary import build
from tests.conftest import ROOT

NAMES = [f"d{index}" for index in range(5)]
TEXTS = [f"{index}" for index in range(5)]
QRELS = {"q0": {"d0": 1}, "q1": {"d3": 1}}
DATASET = RetrievalDataset("pages", ["q0", "q1"], ["0", "3"], NAMES, TEXTS, QRELS)


class Namespace(SimpleNamespace):
    """Names and places of a job's files, as Snakemake gives them."""

    def __getitem__(self, key):
        return list(vars(self).values())[key] if isinstance(key, int) else getattr(self, key)

    def items(self):
        return vars(self).items()

    def get(self, name, default=None):
        return getattr(self, name, default)


class Encoder:
    """A text is the unit vector of its number; ``lost`` documents point elsewhere."""

    manifest = SimpleNamespace(digest="d1ge5t", precision="int8")

    def __init__(self, lost=()):
        self.lost, self.sizes = lost, []

    def encode_queries(self, texts, batch_size):
        self.sizes.append(batch_size)
        return [np.eye(6, dtype=np.float32)[[int(text)]] for text in texts]

    def encode_documents(self, texts, batch_size):
        return self.encode_queries(
            ["5" if text in self.lost else text for text in texts], batch_size
        )


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Run a script with a made-up job; the dataset and the encoder are ours."""
    asked = {}

    def load(folder, provider, threads=None):
        asked.update(folder=str(folder), provider=provider, threads=threads)
        if isinstance(asked["encoder"], Exception):
            raise asked["encoder"]
        return asked["encoder"]

    def dataset(name, declared, record):
        asked.update(dataset=(name, declared, record))
        return DATASET

    monkeypatch.setattr(embedders, "load", load)
    monkeypatch.setattr("colport.data.datasets.load_retrieval_dataset", dataset)

    def run(name, encoder=None, **given):
        asked["encoder"] = encoder or Encoder()
        parts = {key: Namespace(**given.pop(key, {})) for key in ("wildcards", "input", "params")}
        output = {key: str(tmp_path / value) for key, value in given.pop("output").items()}
        fake = Namespace(
            **parts,
            output=Namespace(**output),
            log=[str(tmp_path / "job.log")],
            threads=3,
            resources={},
            **given,
        )
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), {"snakemake": fake})
        return asked

    run.folder = tmp_path
    return run


PLACE = {"model": "m", "variant": "int8", "provider": "fast", "dataset": "pages"}


def embedded(job, name, encoder=None, **labels):
    """Folder of the first shard, of three with two documents each."""
    for shard in ("0", "1", "2"):
        asked = job(
            "embed",
            encoder,
            wildcards={**PLACE, "shard": shard, **labels},
            input={"model": "folder", "dataset": "pages.json"},
            output={"folder": f"{name}/{shard}"},
            params={
                **{"provider": {"type": "cpu"}, "dataset": {"path": "p"}},
                "settings": {"batch_size": 2, "shard_documents": 2},
            },
        )
    return job.folder / name / "0", asked


def test_embed_writes_the_shard_that_is_asked_for(job):
    first, asked = embedded(job, "embeddings")
    assert asked["folder"] == "folder"
    assert (asked["provider"], asked["threads"]) == ({"type": "cpu"}, 3)
    assert asked["dataset"] == ("pages", {"path": "p"}, "pages.json")
    assert set(asked["encoder"].sizes) == {2}
    assert [shard.ids for shard in read_documents(first)] == [("d0", "d1"), ("d2", "d3"), ("d4",)]
    found = read_queries(first).metadata
    assert {key: found[key] for key in PLACE} == PLACE
    assert "note" not in found


def test_a_limit_of_the_embedder_is_passed_on(job):
    first, _ = embedded(job, "embeddings", UnsupportedError("no such provider"))
    for read in (read_queries, read_documents):
        with pytest.raises(UnsupportedError, match="no such provider"):
            read(first)


def scored(job, first, name, variant=True, reference=None):
    write_json(job.folder / "dataset.json", {"qrels": QRELS})
    given = {"first": str(first), "dataset": str(job.folder / "dataset.json")}
    names = PLACE if variant else {"model": "m", "dataset": "pages"}
    job(
        "score",
        wildcards={"quality": "retrieval", **names},
        input={**given, **({"reference": str(reference)} if reference else {})},
        output={"record": f"{name}.json"},
        params={
            "forms": {"half": {"storage": "float16"}},
            "settings": {"resamples": 50, "seed": 4},
        },
    )
    return read_json(job.folder / f"{name}.json")


def test_score_compares_with_the_reference(job):
    whole, _ = embedded(job, "reference")
    lossy, _ = embedded(job, "int8", Encoder(lost=("3",)))
    record = scored(job, whole, "reference", variant=False)
    row = record["rows"][0]
    assert (row["variant"], row["provider"]) == ("pytorch", "fast")  # as it was embedded
    assert (row["ndcg_at_5"], row["ndcg_at_5_delta"], row["documents"]) == (1, 0, 5)
    assert record["settings"]["seed"] == 4
    found = scored(job, lossy, "int8", reference=job.folder / "reference.json")
    full, half = found["rows"]
    assert [row["embeddings"] for row in (full, half)] == ["full", "half"]
    assert full["ndcg_at_5_delta"] == full["ndcg_at_5"] - 1 < 0
    assert half["bytes_per_document"] == full["bytes_per_document"] / 2
    assert {row["reason"] for row in found["rows"]} == {""}


def test_score_of_what_could_not_be_embedded(job):
    first, _ = embedded(job, "embeddings", UnsupportedError("no such provider"))
    row = scored(job, first, "int8")["rows"][0]
    assert (row["status"], row["reason"]) == ("unsupported", "no such provider")
    assert {key: row[key] for key in PLACE} == PLACE


def compared(job, encoder, tolerance):
    first, _ = embedded(job, "reference", weights="streamed")
    asked = job(
        "parity",
        encoder,
        wildcards={key: PLACE[key] for key in ("model", "variant", "provider")},
        input={"model": "folder", "dataset": "pages.json", "standard": str(first)},
        output={"record": "parity.json"},
        params={
            **{"provider": {"type": "cpu"}, "dataset": {"path": "p"}, "tolerance": tolerance},
            "settings": {"inputs": 4, "batch_sizes": [1, 3]},
        },
    )
    return asked, read_json(job.folder / "parity.json")


@pytest.mark.parametrize("tolerance", [{}, {"min_cosine": 0.5}, {"max_abs_diff": 0.1}])
def test_parity_compares_the_first_inputs(job, tolerance):
    """The fourth document of four is another one; the fifth would be, too."""
    asked, record = compared(job, Encoder(lost=("3", "4")), tolerance)
    query, document = record["rows"]
    assert (query["inputs"], document["inputs"]) == (2, 4)
    assert document["mean_cosine"] == pytest.approx(3 / 4)
    assert document["status"] == ("failed" if tolerance else "ok")
    assert record["export"] == "d1ge5t"
    assert record["settings"]["reference"] == "streamed"
    assert set(asked["encoder"].sizes) == {1, 3}
    assert asked["provider"] == {"type": "cpu"}


def test_parity_of_what_cannot_run(job):
    _, record = compared(job, UnsupportedError("no such provider"), {})
    assert {row["status"] for row in record["rows"]} == {"unsupported"}
    assert "export" not in record


PICTURES = RetrievalDataset(
    *("pages", NAMES, ["", "", "what?", "", ""], NAMES, TEXTS, {name: {name: 1} for name in NAMES}),
    references={name: [f"a {number}"] for number, name in enumerate(NAMES)},
)


class Captioner:
    """Says the number of a picture, and what it was asked; ``lost`` ones are others."""

    manifest = SimpleNamespace(digest="d1ge5t")

    def __init__(self, lost=()):
        self.lost = lost

    def generate(self, pictures, prompts, batch_size):
        assert batch_size == 8
        return [
            f"a {'?' if picture in self.lost else picture}{prompt or ''}"
            for picture, prompt in zip(pictures, prompts, strict=True)
        ]


def captioned(job, monkeypatch, name, captioner, reference=None):
    """The record of captions that were generated in three shards."""
    monkeypatch.setattr("colport.data.datasets.load_retrieval_dataset", lambda *_: PICTURES)

    def load(folder, provider, threads):
        if isinstance(captioner, Exception):
            raise captioner
        return captioner

    monkeypatch.setattr("colport.measure.captions.load", load)
    for shard in ("0", "1", "2"):
        job(
            "caption",
            wildcards={**PLACE, "shard": shard},
            input={"model": "folder", "dataset": "pages.json"},
            output={"folder": f"{name}/{shard}"},
            params={
                **{"provider": {"type": "cpu"}, "dataset": {"path": "p"}},
                "settings": {"shard_documents": 2},
            },
        )
    dataset = {"references": PICTURES.references, "are_answers": False}
    write_json(job.folder / "dataset.json", dataset)
    given = {"first": str(job.folder / name / "0"), "dataset": str(job.folder / "dataset.json")}
    names = PLACE if reference else {"model": "m", "dataset": "pages"}
    job(
        "score_captions",
        wildcards={"quality": "captions", **names},
        input={**given, **({"reference": str(reference)} if reference else {})},
        output={"record": f"{name}.json"},
        params={"settings": {"resamples": 100, "seed": 4}},
    )
    return read_json(job.folder / f"{name}.json")


def test_captions_of_all_shards_are_compared_with_the_reference(job, monkeypatch):
    reference = captioned(job, monkeypatch, "pytorch", Captioner())
    assert reference["captions"]["d2"] == "a 2what?"
    row = reference["rows"][0]
    assert (row["variant"], row["captions"], row["equal"]) == ("pytorch", 5, 1)
    found = captioned(
        job, monkeypatch, "int8", Captioner(lost=("1", "3")), job.folder / "pytorch.json"
    )
    row = found["rows"][0]
    assert {key: row[key] for key in PLACE} == PLACE
    assert (row["equal"], row["metric"], row["delta"] > 0) == (0.6, "cer", True)
    limit = UnsupportedError("no such provider")
    found = captioned(job, monkeypatch, "none", limit, job.folder / "pytorch.json")
    row = found["rows"][0]
    assert (row["status"], row["reason"]) == ("unsupported", "no such provider")


LABELS = {"model": "m", "variant": "v", "provider": "cpu", "kind": "query"}


@pytest.mark.parametrize(
    ("stage", "allowed", "code"),
    [(None, False, 0), ("parity", True, 0), ("parity", False, 1), ("export", True, 1)],
)
def test_the_gate_reads_every_table(job, stage, allowed, code):
    rows = {
        name: {**dict.fromkeys(tables.COLUMNS[name]), **LABELS, "status": "ok"}
        for name in tables.STAGES
    }
    if stage:
        rows[stage] |= {"status": "failed", "reason": "it broke"}
    made = build(
        {name: [{"rows": [row | {"reason": row["reason"] or ""}]}] for name, row in rows.items()}
    )
    tables.write_tables(made, job.folder / "tables")

    def gate():
        job(
            "gate",
            input={"parity": str(job.folder / "tables/parity.csv")},
            output={"file": "gate.json"},
            params={"allow_failed_parity": allowed},
        )

    if code:
        with pytest.raises(SystemExit, match="1"):
            gate()
        assert not (job.folder / "gate.json").exists()
        assert "it broke" in (job.folder / "job.log").read_text()
        return
    gate()
    failed = ["m v cpu query (it broke)"] if stage else []
    record = read_json(job.folder / "gate.json")
    assert (record["failed_parity"], record["allowed"]) == (failed, allowed)
