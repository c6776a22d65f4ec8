"""What jobs ask a cluster for: it follows the model's size, and grows with each attempt."""

import json
from types import SimpleNamespace

import pytest

from colport.resources import STAGES, needs

CONFIG = {
    "run": {"embeddings": []},
    "models": {"m": {"family": "colpali"}},
    "variants": {
        "int8": {"precision": "int8", "base": "fp32"},
        "calibrated": {
            "precision": "int8",
            "base": "fp32",
            "quantization": {"method": "static"},
        },
    },
    "encode": {"shard_documents": 1024, "batch_size": 8},
    "parity": {"inputs": 48, "batch_sizes": [1, 8]},
    "latency": {
        **{"batch_sizes": [1, 8], "pytorch": ["bf16"]},
        **{"rounds": 5, "max_seconds": 5, "warmup_max_seconds": 2},
    },
    "scenarios": {
        **{"rounds": 3, "max_seconds": 10, "offline": {"batch_sizes": [1, 8]}},
        "server": {"max_batch": 8, "max_probes": 10, "max_seconds": 10},
    },
}
STAGE_OF_RULE = {"control": "score", "score_reference": "score"}


class Files:
    """Inputs of a job for a model of so many parameters, its folders without their weights."""

    def __init__(self, folder, parameters=10**6, documents=100):
        self.folder, self.names = folder, {}
        self.write("checkpoint", "checkpoint.json", {"parameters": parameters})
        self.write("dataset", "dataset.json", {"counts": {"documents": documents}})
        for name, size in (("base", 4), ("model", 4)):
            graphs = {"text": {"parameters": parameters}}
            self.write(name, f"{name}/colport.json", {"graphs": graphs, "precision": "fp32"})
            self.names[name] = str(folder / name)
            with (folder / name / "weights").open("wb") as weights:
                weights.truncate(size * parameters)  # sparse
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


@pytest.mark.parametrize("stage", STAGES)
def test_every_attempt_asks_for_as_much_again(stage, tmp_path):
    files = Files(tmp_path)
    (memory, minutes), (more, longer) = files.ask(stage), files.ask(stage, attempt=3)
    assert 1000 <= memory < 8000
    assert 10 <= minutes <= 240
    assert more == pytest.approx(3 * memory, abs=3)
    assert longer == pytest.approx(3 * minutes, abs=3)


@pytest.mark.parametrize(
    ("stage", "variant", "bytes_of_parameter"),
    [
        ("reference", "int8", 4),
        ("proof", "int8", 4),
        ("embed", "int8", 4),
        ("parity", "int8", 4),
        ("mteb", "int8", 4),
        ("operators", "int8", 4),
        ("quantize", "calibrated", 4),
        ("latency", "int8", 16),  # PyTorch in two forms and two variants at once
        ("scenarios", "int8", 12),
    ],
)
def test_what_holds_the_model_asks_for_its_weights(stage, variant, bytes_of_parameter, tmp_path):
    small = Files(tmp_path / "small").ask(stage, variant=variant)
    large = Files(tmp_path / "large", parameters=10**9).ask(stage, variant=variant)
    assert large[0] - small[0] >= 1000 * bytes_of_parameter
    assert large[1] >= small[1]


@pytest.mark.parametrize("stage", ["export", "quantize"])
def test_what_streams_the_weights_does_not(stage, tmp_path):
    small = Files(tmp_path / "small").ask(stage)
    large = Files(tmp_path / "large", parameters=10**9).ask(stage)
    assert 0 < large[0] - small[0] <= 400


@pytest.mark.parametrize(("name", "stage"), [("checkpoint", "export"), ("dataset", "score")])
def test_a_record_of_an_older_version_is_not_there_yet(name, stage, tmp_path):
    """Snakemake makes it again before it asks once more."""
    files = Files(tmp_path)
    files.write(name, f"{name}.json", {"schema_version": 1})
    with pytest.raises(FileNotFoundError, match=f"{name}.json"):
        files.ask(stage)


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
