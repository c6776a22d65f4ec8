"""What jobs ask a cluster for: it follows the model's size, and grows with each attempt."""

import json
import math
from types import SimpleNamespace

import pytest

from colport.pipeline.needs import STAGES, needs

CONFIG = {
    "run": {"embeddings": ["half", "binary"]},
    "models": {"m": {"family": "colpali"}},
    "variants": {
        "int8": {"precision": "int8", "base": "fp32"},
        "calibrated": {
            "precision": "int8",
            "base": "fp32",
            "quantization": {"method": "static"},
        },
    },
    "reference": {},
    "encode": {"shard_documents": 1024, "batch_size": 4},
    "parity": {"inputs": 48, "batch_sizes": [1, 8]},
    "latency": {
        **{"batch_sizes": [1, 8], "pytorch": ["bf16"]},
        **{"rounds": 5, "max_seconds": 5, "warmup_max_seconds": 2},
    },
    "scenarios": {
        **{"rounds": 3, "max_seconds": 10, "offline": {"batch_sizes": [1, 8]}},
        "server": {"max_batch": 16, "max_probes": 10, "max_seconds": 20},
    },
}
STAGE_OF_RULE = {"control": "score", "score_reference": "score", "standard": "reference"}


class Files:
    """Inputs of a job for a model of so many parameters; its weights are sparse files.

    The text graph has half of the parameters, the graph of pages nine tenths.
    """

    def __init__(self, folder, parameters=10**6, documents=100, folders=None):
        self.folder, self.names = folder, {}
        self.write("checkpoint", "checkpoint.json", {"parameters": parameters})
        self.write("dataset", "dataset.json", {"counts": {"documents": documents}})
        shares = {"text": 0.5, "image": 0.9}
        graphs = {name: {"parameters": share * parameters} for name, share in shares.items()}
        folders = folders or {"base": ("fp32", 0.004), "model": ("fp32", 0.004)}
        for name, (precision, gigabytes) in folders.items():
            self.write(name, f"{name}/colport.json", {"graphs": graphs, "precision": precision})
            self.names[name] = str(folder / name)
            written = (folder / name / "colport.json").stat().st_size
            with (folder / name / "weights").open("wb") as weights:
                weights.truncate(int(gigabytes * 1e9) - written)
        self.names["models"] = [self.names["base"], self.names["model"]]

    def write(self, name, file, content):
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        self.names[name] = str(path)

    def ask(self, stage, attempt=1, threads=1, variant="int8"):
        wildcards = SimpleNamespace(model="m", variant=variant)
        asked = needs(CONFIG, stage)
        given = (wildcards, SimpleNamespace(**self.names), threads, attempt)
        return asked["mem_mb"](*given), asked["runtime"](*given)


# A ColPali of 2 billion parameters whose larger graph has 1.8 billion, on 4 threads: 5000 pages in
# shards of 1024, folders of 8 GB in fp32 and 3 GB in int8. The figures are docs/cluster.md's.
SESSION = {"fp32": 1.5 * 8000, "int8": 1.5 * 3000}
PAGE = 80 + 0.25e-6 * 1.8e9  # MB of a page in a batch
PYTORCH = 1500 + 6 * 2000 + 80 + 0.25e-6 * 2e9  # of the whole checkpoint


def minutes(pages, parameters, threads=4):
    """Two operations a parameter and token, at 40 billion a second and thread."""
    return 2 * parameters * 1030 * pages / (40e9 * threads) / 60


EXPECTED = {
    "checkpoint": (1500, 240),
    "dataset": (2000, 240),
    "peer_environment": (2000, 240),
    "export": (1500 + 0.05 * 8000, 10 + 2 * 8),
    "peer_export": (3000 + 12 * 2000, 60 + 40 * 2),
    "quantize": (1500 + 0.05 * 8000, 10 + 4 * 8),
    "quantize calibrated": (2500 + SESSION["fp32"] + PAGE, 10 + 60 * 8),
    "proof": (6000 + 1.1 * 2, 10 + minutes(2, 2e9)),
    "reference": (PYTORCH + 1.1 * 1024, 10 + minutes(1024, 2e9)),
    # 48 inputs at each of two batch sizes.
    "parity": (500 + SESSION["int8"] + 8 * PAGE + 1.1 * 96, 10 + minutes(96, 1.8e9)),
    "embed": (500 + SESSION["int8"] + 4 * PAGE + 1.1 * 1024, 10 + minutes(1024, 1.8e9)),
    "mteb": (500 + SESSION["int8"] + 4 * PAGE + 1.1 * 5000, 10 + minutes(5000, 1.8e9)),
    "score": (3000, 20 + 0.01 * 5000 * 3),  # whole embeddings and two smaller forms
    "explain": (3000, 20),
    # PyTorch in two forms and two variants; queries and documents at batch sizes 1 and 8, for
    # 5 + 2 seconds each, and as many calls as rounds, the first and the warm-up's.
    "latency": (
        300 * 4 + 2 * PYTORCH + sum(SESSION.values()) + 2 * 8 * PAGE,
        20 + 4 * 4 * 7 / 60 + 4 * (5 + 2) * minutes(9, 2e9),
    ),
    # PyTorch and two variants, of queries and documents: three rounds of single stream and two
    # batch sizes, and ten rates of a server.
    "scenarios": (
        300 * 3 + PYTORCH + sum(SESSION.values()) + 2 * 16 * PAGE,
        20 + 2 * 3 * (3 * 10 * 3 + 10 * 20) / 60,
    ),
    "operators": (1500 + SESSION["fp32"] + PAGE, 20 + 20 * minutes(1, 1.8e9)),
}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    return Files(folder, 2 * 10**9, 5000, {"base": ("fp32", 8), "model": ("int8", 3)})


def test_every_stage_has_its_figures():
    assert {name.partition(" ")[0] for name in EXPECTED} == set(STAGES)


@pytest.mark.parametrize("stage", EXPECTED)
def test_what_a_job_asks_for(stage, large):
    stage, _, variant = stage.partition(" ")
    wanted = EXPECTED[f"{stage} {variant}".strip()]
    for attempt in (1, 3):
        asked = large.ask(stage, attempt=attempt, threads=4, variant=variant or "int8")
        assert asked == tuple(math.ceil(round(attempt * figure, 6)) for figure in wanted)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_widened_on_the_cpu(precision, tmp_path):
    found = Files(tmp_path, 10**9, 100, {"base": ("fp32", 4), "model": (precision, 2)})
    graph = 4 * (80 + 0.25e-6 * 0.9e9)
    assert found.ask("embed")[0] == math.ceil(500 + 3.5 * 2000 + graph + 1.1 * 100)


def test_a_passage_takes_less_time_than_a_page(large, monkeypatch):
    monkeypatch.setitem(CONFIG["models"]["m"], "family", "colbert")
    passages = 10 + minutes(1024, 2e9) * 300 / 1030
    assert large.ask("reference", threads=4)[1] == math.ceil(passages)


@pytest.mark.parametrize(("name", "stage"), [("checkpoint", "export"), ("dataset", "score")])
def test_a_record_of_an_older_version_is_not_there_yet(name, stage, tmp_path):
    """Snakemake makes it again before it asks once more."""
    files = Files(tmp_path)
    files.write(name, f"{name}.json", {"schema_version": 1})
    with pytest.raises(FileNotFoundError, match=f"{name}.json"):
        files.ask(stage)


def test_a_reference_asks_for_what_the_config_allows(tmp_path, monkeypatch):
    """A model of 2.9 billion parameters takes 20 GB whole, or what it is given."""
    files = Files(tmp_path, parameters=2_925_000_000)
    whole, timed = files.ask("reference"), files.ask("latency")
    monkeypatch.setitem(CONFIG, "reference", {"memory_mb": 6000})
    streamed = files.ask("reference")
    assert whole[0] == 1500 + 17_550 + 812 + 110
    assert streamed[0] == 6000 + 110
    assert timed[0] - files.ask("latency")[0] == pytest.approx(2 * (whole[0] - streamed[0]), abs=2)
    assert files.ask("embed") == Files(tmp_path, parameters=2_925_000_000).ask("embed")


def test_more_threads_need_less_time(tmp_path):
    files = Files(tmp_path, parameters=10**9, documents=500)
    assert files.ask("reference", threads=8)[1] < files.ask("reference")[1] / 4


def test_a_shard_is_the_most_that_is_held(tmp_path):
    thousand = Files(tmp_path / "1", documents=1024).ask("embed")
    million = Files(tmp_path / "2", documents=10**6).ask("embed")
    assert thousand == million


@pytest.mark.parametrize(("stage", "missing"), [("export", "checkpoint"), ("embed", "model")])
def test_before_an_input_is_there_it_is_named(stage, missing, tmp_path):
    files = Files(tmp_path)
    files.names[missing] = str(tmp_path / "gone")
    with pytest.raises(FileNotFoundError) as caught:  # from which Snakemake knows to ask later
        files.ask(stage)
    assert caught.value.filename == files.names[missing]


def test_a_record_without_the_number_of_parameters_counts_as_missing(tmp_path):
    files = Files(tmp_path)
    files.write("checkpoint", "checkpoint.json", {"weights": {}})
    with pytest.raises(FileNotFoundError):
        files.ask("export")


def test_a_variant_that_a_known_limit_prevented_needs_little(tmp_path):
    files = Files(tmp_path)
    (tmp_path / "empty").mkdir()
    files.names["model"] = str(tmp_path / "empty")
    assert files.ask("embed")[0] < 2000
