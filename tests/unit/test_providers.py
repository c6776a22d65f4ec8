"""Settings of providers, their detection, bound and padded calls, and another Python's."""

import os
import re
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import yaml
from PIL import Image

from colport import Encoder, tables
from colport.base import machine
from colport.base.columns import TABLES, row
from colport.base.errors import ArtifactError, ConfigError, UnsupportedError
from colport.base.names import CAPTION_KINDS, KINDS
from colport.measure import latency as measure_latency
from colport.measure import placement, scenarios
from colport.measure.entrants import Contest
from colport.providers import PROVIDERS, ProviderSettings
from colport.providers.graph import Graph, pad
from colport.providers.session import _cause, open_session, require
from colport.runtime import remote
from colport.runtime.remote import Interpreter, RemoteEncoder, open_encoder, run_in
from tests.latency_runs import QUICK

ROOT = Path(__file__).parents[2]
QUERIES = ["a short query", "", "a query with a few more words in it"]


def test_every_provider_is_documented_and_its_keys_are_in_the_schema():
    schema = yaml.safe_load((ROOT / "config/schemas/config.schema.yaml").read_text())
    entry = schema["properties"]["providers"]["additionalProperties"]["properties"]
    documented = (ROOT / "config/README.md").read_text()
    for provider in PROVIDERS.values():
        assert set(provider.keys) <= set(entry)
        assert f"| `{provider.name}` |" in documented


@pytest.mark.parametrize(
    ("name", "entry", "options"),
    [
        ("cuda", {}, {"use_tf32": "False"}),
        (
            "fast",
            {"type": "cuda", "tf32": True, "cuda_graph": True, "memory_limit_mb": 2, "device": 1},
            {
                "use_tf32": "True",
                "enable_cuda_graph": "True",
                "gpu_mem_limit": str(2 * 2**20),
                "device_id": "1",
            },
        ),
        (
            "openvino",
            {"precision": "fp16", "engine_cache": "cache", "options": {"num_streams": 1}},
            {
                "device_type": "CPU",
                "precision": "FP16",
                "cache_dir": "cache",
                "num_streams": "1",
                "num_of_threads": "2",
            },
        ),
        (
            "coreml",
            {"device": "cpu-gpu", "options": {"RequireStaticInputShapes": True}},
            {
                "ModelFormat": "MLProgram",
                "MLComputeUnits": "CPUAndGPU",
                "RequireStaticInputShapes": "1",
            },
        ),
    ],
)
def test_keys_become_onnx_runtimes_options(name, entry, options):
    settings = ProviderSettings.from_config(name, entry)
    assert settings.chain(threads=2) == [(settings.provider.execution_provider, options)]


def test_tensorrt_leaves_the_rest_to_cuda_on_the_same_device():
    entry = {"engine_cache": "engines", "precision": "bf16", "device": 3}
    (first, options), second = ProviderSettings.from_config("tensorrt", entry).chain(None)
    assert first == "TensorrtExecutionProvider"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "engines"
    assert (options["trt_fp16_enable"], options["trt_bf16_enable"]) == ("False", "True")
    assert second == ("CUDAExecutionProvider", {"use_tf32": "False", "device_id": "3"})


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("gpu", {}, "providers.gpu.type: 'gpu' is unknown; allowed are cpu, cuda,"),
        ("cpu", {"tf32": True}, "providers.cpu.tf32: type cpu takes arena, fallback,"),
        ("cuda", {"tf32": 1}, r"providers.cuda.tf32: found 1 \(int\), expected true or false"),
        ("cuda", {"precision": "fp16"}, "providers.cuda.precision: type cuda takes"),
        ("cuda", {"device": "0"}, r"device: found '0' \(str\), expected a whole number"),
        (
            "cuda",
            {"options": {"use_tf23": True}},
            "providers.cuda.options.use_tf23: CUDAExecutionProvider has no such option; allowed",
        ),
        (
            "cuda",
            {"options": {"arena_extend_strategy": "kTwice"}},
            "expected one of kNextPowerOfTwo, kSameAsRequested",
        ),
        ("openvino", {"precision": "bf16"}, "expected one of fp32, fp16, accuracy"),
        ("cpu", {"fallback": "never"}, "expected one of allowed, forbidden"),
        ("cuda", {"cuda_graph": True, "io_binding": False}, "cuda_graph needs it"),
        ("cuda", {"fixed_shapes": {"pages": [1]}}, "fixed_shapes.pages: unknown axis"),
        ("cuda", {"fixed_shapes": {"batch": [0, 8]}}, "expected a list of whole numbers"),
    ],
)
def test_a_wrong_setting_names_its_field(name, entry, message):
    with pytest.raises(ConfigError, match=message):
        ProviderSettings.from_config(name, entry)


def test_a_provider_without_its_library(exported):
    for name in ("migraphx", "directml"):
        provider = PROVIDERS[name]
        with pytest.raises(UnsupportedError, match=f"it comes with {provider.requirement[:12]}"):
            Encoder(exported["colbert"], name)
    with pytest.raises(UnsupportedError, match="is not in this onnxruntime"):
        require("migraphx")


def test_a_library_without_its_device_is_no_silent_cpu_run(exported, monkeypatch):
    """ONNX Runtime takes the CPU and only writes to its log."""
    graph = exported["colbert"] / "text.onnx"
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    real = onnxruntime.InferenceSession

    def session(model, options, providers, enable_fallback):
        assert enable_fallback == 0
        name = b"libonnxruntime_providers_cuda.so with error: libcuda.so.1: cannot open"
        sys.stderr.flush()
        os.write(2, b"\x1b[1;31m[E:onnxruntime] Get() Failed to load library /a/" + name + b"\n")
        return real(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(UnsupportedError, match=r"does not start on this machine \(libonn.*libcuda"):
        open_session(graph, ProviderSettings.of("cuda"))


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (
            "Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library /x/libp.so with error: "
            "libcublasLt.so.13: cannot open shared object file: No such file or directory\n"
            "Failed to create CUDAExecutionProvider. Require cuDNN 9",
            "libp.so: libcublasLt.so.13: cannot open shared object file: No such file or directory",
        ),
        ("x CUDA failure 100: no CUDA-capable device is detected ; GPU=-1", "CUDA failure 100: no"),
        ("OpenVINO does not support the following ONNX operations: Attention", "OpenVINO does not"),
        ("", "no cause was given"),
    ],
)
def test_the_cause_is_onnx_runtimes_own(log, cause):
    assert _cause(log).startswith(cause)


def test_an_operator_of_a_newer_onnxruntime_is_a_limit_of_this_one():
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 24, "com.microsoft": 1]>'
        "g (float[4] x) => (float[4] y) { y = com.microsoft.OfTomorrow(x) }"
    )
    with pytest.raises(UnsupportedError, match=r"\(.*com\.microsoft:OfTomorrow.* `opset: 21`"):
        open_session(model.SerializeToString(), ProviderSettings.of("cpu"))


def test_a_damaged_graph_is_no_limit_of_a_provider(tmp_path):
    (tmp_path / "text.onnx").write_bytes(b"\xff\xff not a graph")
    with pytest.raises(ArtifactError, match="cannot load it"):
        open_session(tmp_path / "text.onnx", ProviderSettings.of("cpu"))


def test_an_operator_set_that_a_provider_does_not_read(exported, monkeypatch):
    available = ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    with pytest.raises(UnsupportedError, match="up to 22, this graph has 24; declare a variant"):
        Encoder(exported["colbert"], "openvino")


@pytest.mark.parametrize("family", ["colbert", "colpali"])
def test_bound_and_padded_calls_give_the_same(exported, family):
    folder, pages = exported[family], [Image.new("RGB", (90, 120), "red")] * 3
    documents = ["a passage", "another, longer passage of words"] if family == "colbert" else pages
    plain = Encoder(folder)
    expected = plain.encode_queries(QUERIES) + plain.encode_documents(documents)
    for entry in (
        {"io_binding": True},
        {"fixed_shapes": {"batch": [4], "tokens": [48, 64]}},
        {"fixed_shapes": {"batch": [2, 8]}, "io_binding": True},
        {"fixed_shapes": {"batch": [1], "tokens": [8]}},  # longer than each: as they are
    ):
        encoder = Encoder(folder, {"type": "cpu", **entry})
        found = encoder.encode_queries(QUERIES) + encoder.encode_documents(documents)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-6)


def test_captured_buffers_are_filled_anew_for_each_batch(exported):
    """The path of CUDA graphs; on the CPU nothing is captured."""
    entry = ProviderSettings.of({"type": "cpu", "io_binding": True})
    graphs = ProviderSettings(
        entry.provider,
        io_binding=True,
        cuda_graph=True,
        fixed_shapes={"batch": (2,), "tokens": (64,)},
    )
    session = open_session(exported["colpali"] / "text.onnx", graphs)
    replayed, plain = Graph(session, graphs), Graph(session, entry)
    rng = np.random.default_rng(0)
    outputs = []
    for tokens in (20, 33):
        feeds = {
            "input_ids": rng.integers(3, 50, (2, tokens)),
            "attention_mask": np.ones((2, tokens), np.int64),
        }
        outputs.append((replayed.run(feeds), plain.run(feeds)))
    assert len(replayed._captured) == 1
    for found, expected in outputs:
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_embeddings_can_stay_where_they_are(exported):
    encoder = Encoder(exported["colbert"])
    batch = encoder.prepare_queries(QUERIES)
    found = encoder.run_on_device(batch)
    assert found.device_name() == "cpu"
    assert found.numpy().ctypes.data == found.data_ptr()
    np.testing.assert_array_equal(found.numpy(), encoder.run(batch))


def test_padding_knows_only_batches_and_tokens():
    feeds = {"x": np.ones((2, 5)), "pixels": np.ones((2, 3, 4))}
    axes = {"x": ["batch", "tokens"], "pixels": ["batch", 3, 4]}
    padded, (batch, tokens), fixed = pad(feeds, axes, {"batch": (4,), "tokens": (8,)})
    assert padded["x"].shape == (4, 8)
    assert padded["pixels"].shape == (4, 3, 4)
    assert padded["x"][:, 5:].sum() == 0
    assert padded["x"][2:, :5].all()
    assert (batch, tokens, fixed) == (slice(2), slice(5), True)
    assert not pad(feeds, axes, {"batch": (4,)})[2]
    patches = {"x": ["batch", "tokens"], "pixels": ["patches", 3, 4]}
    assert pad(feeds, patches, {"batch": (4,), "tokens": (8,)})[0] is feeds


def test_another_python_gives_the_same_and_keeps_error_classes(exported, tmp_path):
    folder = exported["colbert"]
    entry = {"type": "cpu", "python": sys.executable}
    encoder = open_encoder(folder, entry)
    assert isinstance(encoder, RemoteEncoder)
    assert (encoder.dim, encoder.document_type) == (128, "passages")
    for one, other in zip(
        encoder.encode_queries(QUERIES), Encoder(folder).encode_queries(QUERIES), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="batch_size: found 0"):
        encoder.encode_queries(QUERIES, batch_size=0)
    with pytest.raises(RuntimeError, match="ValueError"):
        run_in(sys.executable, "math:sqrt", -1)
    with pytest.raises(UnsupportedError, match="it comes with"):
        run_in(sys.executable, "colport.providers.session:require", "migraphx")
    with pytest.raises(ConfigError, match="python"):
        Encoder(folder, entry)
    with pytest.raises(UnsupportedError, match="is not there"):
        Interpreter(str(tmp_path / "absent"))
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(broken.stat().st_mode | stat.S_IEXEC)
    with pytest.raises(UnsupportedError, match="cannot load this library"):
        Interpreter(str(broken))


def test_a_latency_record_names_the_versions_of_another_python(exported, checkpoint_folders):
    contest = Contest(
        *("m", "elsewhere", {"folder": str(checkpoint_folders["colbert"]), "family": "colbert"}),
        {"fp32": str(exported["colbert"])},
        lambda: SimpleNamespace(queries=QUERIES, documents=["a passage"]),
        "",
        {"type": "cpu", "python": sys.executable},
    )
    settings = {**QUICK, "batch_sizes": [1]}
    record = measure_latency.compare(contest, settings, 1, lambda message: None)
    assert {row["status"] for row in record["rows"]} == {"ok"}
    found = record["environment"]["provider_packages"]
    assert found == {"elsewhere": machine.packages()}
    assert found["elsewhere"]["onnxruntime"] == onnxruntime.__version__


def test_an_encoder_of_another_python_gets_what_was_asked_for(monkeypatch):
    monkeypatch.setattr(remote, "RemoteEncoder", lambda *given: given)
    entry = {"type": "cpu", "python": "/other/python", "arena": False}
    given = remote.open_encoder("folder", entry, threads=3)
    assert given == ("folder", {"type": "cpu", "arena": False}, "/other/python", 3)


@pytest.mark.parametrize(("kinds", "tokens"), [(KINDS, None), (CAPTION_KINDS, 16)])
def test_as_many_inputs_are_read_as_the_largest_batch_has(kinds, tokens):
    asked = {}
    run = lambda time, table, cases, **named: asked.update(named)  # noqa: E731
    contest = SimpleNamespace(run=run, kinds=kinds)
    settings = {"batch_sizes": [4, 16, 1], "threads": 3, "pytorch": ["bf16"]}
    measure_latency.compare(contest, settings, 1, lambda message: None)
    assert asked == {"count": 16, "threads": 3, "pytorch": ["bf16"], "tokens": tokens}


ABSENT = [
    (measure_latency, {"batch_sizes": [1, 8]}, "latency", ("batch_size",), [(1,), (8,)]),
    (
        *(scenarios, {"run": ["offline", "server"], "server": {"max_batch": 4}}, "scenarios"),
        *(("scenario", "batch_size", "best"), [("offline", 32, False), ("server", 4, False)]),
    ),
]


@pytest.mark.parametrize(("stage", "settings", "table", "names", "cases"), ABSENT)
def test_a_provider_that_is_absent_reads_no_dataset(stage, settings, table, names, cases):
    contest = Contest(
        *("m", "coreml", {"folder": "unread", "family": "colbert"}, {"fp32": "unread"}),
        lambda: pytest.fail("the dataset was read"),
        "",
        {"type": "coreml"},
    )
    rows = stage.compare(contest, settings, 1, lambda message: None)["rows"]
    assert {row["status"] for row in rows} == {"unsupported"}
    assert all("CoreMLExecutionProvider" in row["reason"] for row in rows)
    found = [(row["kind"], *(row[name] for name in names)) for row in rows]
    assert found == [(kind, *case) for kind in ("query", "document") for case in cases]
    assert {tuple(row) for row in rows} == {TABLES[table].all}
    assert {row["p50_ms"] for row in rows} == {None}


def test_latency_rows_say_what_ran_elsewhere():
    labels = {"model": "m", "variant": "v", "provider": "cuda", "kind": "document"}

    def event(name, microseconds):
        return {"args": {"provider": name, "op_name": "X"}, "dur": microseconds}

    calls = [[event("CUDAExecutionProvider", 900), event("CPUExecutionProvider", 100)]] * 3
    taken = {"CPUExecutionProvider": 2, "CUDAExecutionProvider": 6}
    limit = row("providers", **labels, status="unsupported", reason="none")
    rows = placement.rows(labels, "CUDAExecutionProvider", calls, taken)
    assert [row["execution_provider"] for row in rows] == list(taken)[::-1]
    assert [row["node_share"] for row in rows] == [0.75, 0.25]
    assert [row["time_share"] for row in rows] == pytest.approx([0.9, 0.1])
    table = tables.flatten("providers", [{"rows": [*rows, limit]}])
    latency = pd.DataFrame(
        [
            {**labels, "status": "ok", "reason": ""},
            {**labels, "status": "ok", "reason": "noisy machine"},
            {**labels, "status": "failed", "reason": "no"},
            {**labels, "kind": "query", "status": "ok", "reason": ""},
        ]
    )
    placement.mark_fallback(latency, table)
    told = "10% of the graph's time is on CPUExecutionProvider"
    assert latency["reason"].tolist() == [told, f"noisy machine; {told}", "no", ""]


def test_the_requirement_sets_that_are_named_are_there():
    root = Path(__file__).parents[2]
    named = [re.search(r"envs/\w+\.txt", provider.requirement) for provider in PROVIDERS.values()]
    sets = {match[0] for match in named if match}
    assert len(sets) >= 4
    assert [name for name in sorted(sets) if not (root / name).is_file()] == []


def test_paths_of_a_provider_begin_at_home_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    for name in ("tensorrt", "openvino", "coreml", "migraphx"):
        settings = ProviderSettings.of(
            {"type": name, "engine_cache": "~/cache", "python": "~/env/bin/python"}
        )
        assert settings.python == "/home/someone/env/bin/python"
        folders = [value for value in settings.options.values() if "cache" in str(value)]
        assert folders
        assert set(folders) == {"/home/someone/cache"}
