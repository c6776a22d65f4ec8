"""What a run takes, said before it starts: sizes from files, memory by the cluster's rule, time."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from typer.testing import CliRunner

from colport.base import machine
from colport.base.errors import CheckpointError, ConfigError, DatasetError
from colport.cli import app, run
from colport.hub import checkpoints
from colport.pipeline import forecast, needs
from colport.pipeline.forecast import Forecast
from colport.pipeline.plan import Plan

ROOT = Path(__file__).parents[2]
VIDORE = ROOT / "config/vidore.yaml"
RUN = {
    "run": {"models": ["m"], "variants": ["fp32", "int8"]},
    "encode": {"shard_documents": 125},
}
RATE = 200e9
product_rate = forecast.product_rate  # before it is replaced


@pytest.fixture(autouse=True)
def machine_of_two_cores(monkeypatch, tmp_path):
    """24 GB, AVX-512 VNNI, nothing in the Hub's cache, nothing measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr(machine, "available_mb", lambda: 24_000.0)
    monkeypatch.setattr(machine, "processor_class", lambda described: "AVX-512 VNNI")
    monkeypatch.setattr(forecast, "product_rate", lambda: RATE)


@pytest.fixture
def config(tmp_path):
    """Write a config of one page model on a dataset of the Hub, changed by keys of its parts."""

    def write(checkpoint=None, dataset=None, **sections):
        size = {"documents": 1000, "queries": 100}
        hub = {"hub": "a/pages", "revision": "0" * 40, "schema": "beir", "size": size}
        model = {
            "family": "colpali",
            "checkpoint": checkpoint or {"hub": "vidore/colpali-v1.3-hf", "revision": "main"},
            "datasets": ["d"],
        }
        content = {"models": {"m": model}, "datasets": {"d": {**hub, **(dataset or {})}}}
        content["datasets"]["d"] = {k: v for k, v in content["datasets"]["d"].items() if v}
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump({**RUN, **content, **sections}))
        return file

    return write


def of(file, model="m"):
    return Forecast(Plan.load([file]), model)


def planned(*files):
    """Exit code, standard output, and the sentence of an error."""
    done = CliRunner().invoke(app, ["plan", *map(str, files)])
    return done.exit_code, done.stdout, done.exception


def test_the_demo_takes_minutes_and_fits():
    code, said, _ = planned()
    assert code == 0
    assert "minilm-colbert: 22.8 M parameters" in said
    minutes = float(said.split("in all: about ")[1].split(" min")[0])
    assert 3 < minutes < 10  # four to five measured


def test_published_checkpoints_do_not_fit_on_two_cores_and_24_gb():
    code, said, error = planned(VIDORE)
    assert isinstance(error, ConfigError)
    assert code == 1
    assert "colpali-v1.3: 2.92 B parameters" in said
    assert "colqwen2-v1.0: 2.21 B parameters" in said
    days = float(said.split("in all: about ")[1].split(" days")[0])
    assert 2 < days < 10
    assert "24.0 GB memory and " in str(error)
    assert str(error).endswith(
        " disk are free, the run does not fit: latency of colpali-v1.3 takes 34.8 GB memory, "
        "latency of colqwen2-v1.0 takes 28.3 GB memory."
    )


def test_a_full_disk_is_told(config, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("", (), {"free": 10**9}))
    _, _, error = planned(config())
    assert str(error) == (
        "24.0 GB memory and 1.00 GB disk are free, the run does not fit: "
        "latency of m takes 27.0 GB memory, its files take 22.2 GB disk."
    )


def test_the_command_says_one_sentence(config, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["colport", "plan", str(VIDORE)])
    with pytest.raises(SystemExit) as end:
        run(app)
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: 24.0 GB memory and ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            {"checkpoint": {"hub": "some/body", "revision": "main"}},
            CheckpointError,
            "checkpoint some/body@main: .* Its size stands in no table",
        ),
        ({"dataset": {"size": None}}, DatasetError, r"datasets\.d\.size: is missing"),
        ({"dataset": {"size": {"documents": 1}}}, ConfigError, r"d\.size\.queries: is missing"),
    ],
)
def test_what_is_of_unknown_size_is_named(change, kind, message, config):
    code, _, error = planned(config(**change))
    assert code == 1
    assert type(error) is kind
    with pytest.raises(kind, match=message):
        raise error


def test_a_config_that_is_not_there_is_named(tmp_path):
    code, _, error = planned(tmp_path / "none.yaml")
    assert code == 1
    assert "none.yaml" in str(error)


def checkpoint(folder, **shapes):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    tensors = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_parameters_are_those_of_the_files_here(tmp_path):
    folder = checkpoint(tmp_path / "here", a=(30, 20), b=(7,))
    assert checkpoints.parameters({"path": str(folder)}) == 607
    overlay = checkpoint(tmp_path / "over" / "1_Dense", c=(5,)).parent
    assert checkpoints.parameters({"path": str(folder), "overlay": str(overlay)}) == 612
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        checkpoints.parameters({"path": str(folder)})


def in_cache(tmp_path, name, **shapes):
    """A repository as the Hub's cache has it."""
    place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    checkpoint(place / "snapshots" / ("1" * 40), **shapes)
    (place / "refs").mkdir()
    (place / "refs/main").write_text("1" * 40)
    return {"hub": name, "revision": "main"}


def test_those_of_the_hub_are_looked_for_in_its_cache_alone(tmp_path, config, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    declared = in_cache(tmp_path, "vidore/colpali-v1.3-hf", a=(10, 10))
    found = of(config(declared))
    assert (found.parameters, found.fetched) == (100, 0)
    absent = of(config({"hub": "vidore/colqwen2-v1.0-hf", "revision": "main"}))
    assert absent.fetched == 2 * absent.parameters == 2 * 2_209_000_000


def test_an_adapter_without_its_base_is_not_the_model(tmp_path, config):
    place = tmp_path / "adapter"
    place.mkdir()
    save_file({"a": np.zeros(3, np.float32)}, place / "adapter_model.safetensors")
    settings = {"base_model_name_or_path": "not/here", "peft_type": "LORA", "r": 1}
    (place / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"not/here"):
        of(config({"path": str(place)}))


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        ({}, (1000, 100)),
        ({"limit": 30}, (30, 100)),
        ({"limit": 5000}, (1000, 100)),
    ],
)
def test_a_dataset_on_the_hub_has_the_size_that_it_declares(declaration, expected, config):
    plan = Plan.load([config(dataset=declaration)])
    assert forecast.counts(plan, "d") == expected
    assert "size" not in plan.config["datasets"]["d"]


def test_another_source_does_not_inherit_the_size(config):
    own = {"from": "vidore-v1-docvqa", "hub": "my/pages", "revision": "2" * 40, "schema": "beir"}
    plan = Plan.load([config(dataset={**own, "size": None})])
    with pytest.raises(DatasetError, match=r"datasets\.d\.size: is missing"):
        forecast.counts(plan, "d")


def test_a_dataset_here_is_counted():
    plan = Plan.load([])
    assert forecast.counts(plan, "demo-pages-qa") == (112, 112)
    assert forecast.counts(plan, "demo-pages-beir") == (120, 110)


def test_disk_is_that_of_variants_and_embeddings(config):
    found = of(config())
    size, factor = found.parameters, forecast.FACTS["bytes"]
    weights = int(factor["fp32"] * size) + int(factor["int8"] * size)
    assert found.written == weights + 1000 * 1030 * 128 * 4 * 3  # PyTorch and two variants
    calibrated = of(config(run={"models": ["m"], "variants": ["fp32", "int8-calibrated"]}))
    assert calibrated.written == found.written + 7 * size


def test_a_single_vector_is_one(config):
    checkpoint = {"hub": "vidore/colpali-v1.3-hf", "revision": "main"}
    model = {"family": "biqwen2", "checkpoint": checkpoint, "datasets": ["d"]}
    many, one = of(config()), of(config(models={"m": model}))
    assert many.written - one.written == 1000 * (1030 * 128 - 2048) * 4 * 3


def test_memory_is_what_the_job_would_ask_a_cluster_for(config, tmp_path):
    """The folder that comes to be, and the forecast of it, ask for the same."""
    found = of(config(latency={"batch_sizes": [8, 2]}))
    megabytes, stage = found.largest()
    fp32, int8 = 4 * found.parameters / 1e6, int(1.05 * found.parameters) / 1e6
    page = 80 + 0.25e-6 * found.parameters
    streamed = 1500 + page  # PyTorch's weights stay in their files
    sessions = 1.5 * (fp32 + int8) + 2 * 2 * page
    assert stage == "latency"
    assert megabytes == pytest.approx(300 * 3 + streamed + sessions)
    folder = tmp_path / "exported"
    folder.mkdir()
    graphs = {"text": {"parameters": 10}, "image": {"parameters": 30}}
    (folder / "colport.json").write_text(json.dumps({"precision": "fp16", "graphs": graphs}))
    there = needs.Folder.of(str(folder))
    size = (folder / "colport.json").stat().st_size
    assert there == needs.Folder("fp16", size, 30) == needs.Folder.of(there)


def test_time_follows_size_documents_and_speed(config, monkeypatch):
    one = of(config()).seconds(RATE)
    pages = 2 * 2_925_000_000 * 1030 * 1000 / RATE
    assert one["reference"] == pytest.approx(pages / 0.75, rel=0.05)
    assert one["embed"] == pytest.approx(pages + pages / 3.3, rel=0.05)
    double = {"size": {"documents": 2000, "queries": 200}}
    assert of(config(dataset=double)).seconds(RATE)["embed"] == pytest.approx(2 * one["embed"], 0.1)
    assert of(config()).seconds(RATE / 2)["embed"] == pytest.approx(2 * one["embed"], rel=0.05)
    monkeypatch.setattr(machine, "processor_class", lambda described: "AVX2")
    assert of(config()).seconds(RATE)["embed"] == pytest.approx(pages + pages / 2.1, rel=0.05)


def test_a_job_computes_on_one_core(config, monkeypatch):
    """Eight shards gain nothing from more than eight cores."""
    rate = RATE / 2  # of a core
    two = of(config()).seconds(2 * rate)["reference"]
    monkeypatch.setattr(machine, "usable_cores", lambda: 16)
    assert of(config()).seconds(16 * rate)["reference"] == pytest.approx(two / 4, rel=0.01)
    whole = config(encode={"shard_documents": 1000})
    assert of(whole).seconds(16 * rate)["reference"] == pytest.approx(two * 2, rel=0.05)


def test_latency_takes_no_longer_than_it_may(config):
    short = {"batch_sizes": [1], "max_seconds": 1, "warmup_max_seconds": 1, "min_seconds": 0.1}
    slow = of(config(latency=short)).seconds(RATE / 100)["latency"]
    call = 2 * 2_925_000_000 * (1030 + 32) / (RATE / 100)
    contenders = call / 0.75 + call + call / 3.3  # a call each, however long
    assert slow == pytest.approx(contenders, rel=0.02)


def test_a_calibrated_variant_takes_its_inputs(config):
    def seconds(inputs):
        made = {"precision": "int8", "base": "fp32"}
        made["quantization"] = {"method": "static", "calibration": {"inputs": inputs}}
        chosen = {"models": ["m"], "variants": ["fp32", "c"]}
        return of(config(run=chosen, variants={"c": made})).seconds(RATE)["quantize"]

    assert seconds(32) == pytest.approx(2 * seconds(16), rel=0.05)
    assert seconds(16) > 50 * of(config()).seconds(RATE)["quantize"]


def test_the_rate_is_that_of_the_fastest_product(monkeypatch):
    monkeypatch.setattr("timeit.repeat", lambda call, number, repeat: [0.5, 0.25, 1.0])
    assert product_rate() == 2 * 1024**3 / 0.25
