"""Operators of a profile: their time, their number and the operations that they took."""

from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from colport.base.columns import TABLES
from colport.base.errors import UnsupportedError
from colport.base.files import write_unsupported
from colport.folder import manifest
from colport.measure import operations
from colport.measure import profile as module
from colport.measure.profile import graph_profile, profile
from colport.providers import ProviderSettings, integers
from colport.providers.session import open_session
from colport.tables import flatten, write_tables

ROWS, INNER, COLUMNS_OUT = 64, 32, 48
PROVIDERS = {"cpu": {"type": "cpu"}, "migraphx": {"type": "migraphx"}}


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """Two matrix products, with an operator after each."""
    rng = np.random.default_rng(0)
    shapes = {"a": (INNER, COLUMNS_OUT), "b": (COLUMNS_OUT, INNER)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape, np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Sin", ["h"], ["s"]),
        helper.make_node("MatMul", ["s", "b"], ["p"]),
        helper.make_node("Mul", ["p", "x"], ["y"]),
    ]
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", INNER])]
        for name in ("x", "y")
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", *values, weights),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    file = tmp_path_factory.mktemp("graph") / "graph.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def feeds(rows: int = ROWS) -> dict[str, np.ndarray]:
    return {"x": np.ones((rows, INNER), np.float32)}


def test_calls_are_told_apart(graph):
    calls, taken = operations.profiled_calls(graph, feeds(), threads=1, warmup=2, calls=3)
    names = [[event["args"]["op_name"] for event in call] for call in calls]
    assert names == [["MatMul", "Sin", "MatMul", "Mul"]] * 3
    assert taken == {"CPUExecutionProvider": 4}


def test_operations_are_those_of_the_products(graph):
    (call,), _ = operations.profiled_calls(graph, feeds(), threads=1, warmup=0, calls=1)
    expected = 2 * 2 * ROWS * INNER * COLUMNS_OUT
    assert operations.operations(call) == expected
    (call,), _ = operations.profiled_calls(graph, feeds(10), threads=0, warmup=0, calls=1)
    assert operations.operations(call) == expected * 10 / ROWS


def test_operations_of_attention_and_convolutions():
    def event(name, inputs, output):
        shapes = {"input_type_shape": [{"float": shape} for shape in inputs]}
        return {"args": {"op_name": name, **shapes, "output_type_shape": [{"float": output}]}}

    query, key = [1, 4, 6, 8], [1, 4, 10, 8]
    # Scores and the weighted sum: two products of 6 x 8 with 10 keys, in each of 4 heads.
    attention = event("Attention", [query, key, key], query)
    assert operations.operations([attention]) == 2 * (2 * 4 * 6 * 8 * 10)
    convolution = event("Conv", [[1, 3, 8, 8], [5, 3, 2, 2]], [1, 5, 4, 4])
    assert operations.operations([convolution]) == 2 * (5 * 4 * 4) * (3 * 2 * 2)
    assert operations.operations([event("Add", [query, query], query)]) == 0
    assert operations.largest_product([attention, convolution]) is None


def test_a_graph_is_summed_by_operator(graph):
    found = graph_profile(graph, feeds(), threads=1)
    assert {name: item["nodes"] for name, item in found["operators"].items()} == {
        **{"MatMul": 2, "Sin": 1, "Mul": 1}
    }
    assert found["product"] == (ROWS, INNER, COLUMNS_OUT)
    assert found["gflop"] == pytest.approx(4 * ROWS * INNER * COLUMNS_OUT / 1e9)
    assert found["graph_ms"] > 0
    assert found["matmul_share"] > 0


def test_a_graph_without_products_has_no_share(tmp_path):
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Sin", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (tmp_path / "graph.onnx").write_bytes(model.SerializeToString())
    found = graph_profile(tmp_path / "graph.onnx", {"x": np.ones(4, np.float32)}, 1)
    assert (found["product"], found["matmul_share"], found["gflop"]) == (None, None, 0)


def test_a_precision_without_kernels_is_a_known_limit(tmp_path):
    values = [
        [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [4, 4])] for name in ("x", "y")
    ]
    node = helper.make_node("Sin", ["x"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "g", *values),
        opset_imports=[helper.make_opsetid("", 22)],
        ir_version=10,
    )
    (tmp_path / "graph.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedError, match="no kernel"):
        open_session(tmp_path / "graph.onnx", ProviderSettings.of("cpu"))


def test_a_folder_in_the_full_range_is_profiled_by_exact_kernels(monkeypatch):
    exact, batch = [], SimpleNamespace(graph="text", feeds={})
    graphs = {"text": SimpleNamespace(file="graph.onnx")}
    stated = {"family": "m", "processing": {}, "opset": 21, "graphs": graphs}
    found = SimpleNamespace(integer_range="full", **stated)
    runtime = SimpleNamespace(query_batch=lambda _: batch, document_batch=lambda _: batch)
    family = SimpleNamespace(runtime=lambda *_: runtime)
    monkeypatch.setattr(module.manifest, "read", lambda _: found)
    monkeypatch.setattr(module.registry, "get", lambda _: family)
    monkeypatch.setattr(integers, "saturates", lambda: True)

    def stop(file, feeds, threads, entry, exact_sums):
        exact.append(exact_sums)
        raise UnsupportedError("seen")

    monkeypatch.setattr(module, "graph_profile", stop)
    with pytest.warns(UserWarning, match="is run by exact kernels"):
        profile("m", {"cpu": {"type": "cpu"}}, {"int8": "folder"}, "q", "d", 1)
    assert exact == [True]


def test_variants_of_a_model_on_every_provider(exported, tmp_path):
    write_unsupported(tmp_path / "int8", "a known limit")
    folders = {"fp32": exported["colbert"], "int8": tmp_path / "int8"}
    record = profile("model", PROVIDERS, folders, "a query", "a passage of words", 1)
    table = flatten("operators", [record])
    assert tuple(table.columns) == TABLES["operators"].columns
    measured = table[table["status"] == "ok"]
    assert set(zip(measured["variant"], measured["provider"], strict=True)) == {("fp32", "cpu")}
    for kind, rows in measured.groupby("kind"):
        assert kind in ("query", "document")
        assert rows["share"].sum() == pytest.approx(1)
        assert rows["ms"].is_monotonic_decreasing
        assert rows["graph_ms"].nunique() == 1
        # ONNX Runtime fuses nodes, and adds none of those that compute.
        products = rows.set_index("operator")["nodes"]["MatMul"]
        assert 0 < products <= manifest.read(exported["colbert"]).graphs["text"].nodes
    placed = flatten("providers", [{"rows": record["placement"]}])
    whole = placed[placed["status"] == "ok"]
    assert set(whole["execution_provider"]) == {"CPUExecutionProvider"}
    assert set(whole["node_share"]) == set(whole["time_share"]) == {1.0}
    assert len(placed[placed["status"] == "unsupported"]) == 3
    limits = table[table["status"] == "unsupported"]
    assert limits[["variant", "provider"]].to_numpy().tolist() == [
        ["fp32", "migraphx"],
        ["int8", "cpu"],
        ["int8", "migraphx"],
    ]
    assert "a known limit" in set(limits["reason"])
    write_tables({"operators": table}, tmp_path)
    assert (
        (tmp_path / "operators.csv").read_text().startswith(",".join(TABLES["operators"].columns))
    )
