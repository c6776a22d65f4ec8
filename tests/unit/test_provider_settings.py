"""Settings of a provider one by one, and what a call is padded to and cut from."""

from threading import Thread

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from colport.base.errors import UnsupportedError
from colport.providers import PROVIDERS, ProviderSettings
from colport.providers.graph import Graph, pad
from colport.providers.session import _session_options, open_session, require_opset


@pytest.mark.parametrize(
    ("name", "entry", "expected"),
    [
        ("cpu", {}, {"threads": None, "inter_op_threads": None, "arena": True, "fallback": True}),
        ("cpu", {}, {"io_binding": False, "cuda_graph": False, "fixed_shapes": {}, "python": None}),
        ("cpu", {"threads": 3, "inter_op_threads": 2}, {"threads": 3, "inter_op_threads": 2}),
        ("cpu", {"arena": False, "fallback": "forbidden"}, {"arena": False, "fallback": False}),
        ("cpu", {"io_binding": True, "python": "/p"}, {"io_binding": True, "python": "/p"}),
        ("cuda", {}, {"io_binding": True, "fixed_shapes": {}}),
        ("cuda", {"io_binding": False}, {"io_binding": False}),
        (
            "cuda",
            {"cuda_graph": True},
            {
                "cuda_graph": True,
                "fixed_shapes": {
                    "batch": (1, 2, 4, 8, 16, 32),
                    "tokens": (32, 64, 128, 256, 512),
                },
            },
        ),
        ("cuda", {"cuda_graph": True, "fixed_shapes": {}}, {"fixed_shapes": {}}),
        ("cpu", {"fixed_shapes": {"batch": [8, 1, 4]}}, {"fixed_shapes": {"batch": (1, 4, 8)}}),
    ],
)
def test_an_entry_of_the_config(name, entry, expected):
    settings = ProviderSettings.from_config(name, entry)
    assert {field: getattr(settings, field) for field in expected} == expected


def options(name, entry, threads=None):
    return ProviderSettings.from_config(name, entry).chain(threads)[0][1]


def test_options_of_the_library_go_before_ours():
    assert options("cuda", {"tf32": True, "options": {"use_tf32": False}})["use_tf32"] == "False"
    assert options("cuda", {"device": 1, "options": {"device_id": 2}})["device_id"] == "2"
    assert options("openvino", {"options": {"num_of_threads": 5}}, 2)["num_of_threads"] == "5"
    assert options("openvino", {}, 2)["num_of_threads"] == "2"
    assert "num_of_threads" not in options("openvino", {})
    assert "num_of_threads" not in options("cpu", {}, 2)


def test_the_provider_behind_has_its_own_options_and_the_same_device():
    (_, first), (name, behind) = ProviderSettings.from_config("tensorrt", {"device": 1}).chain(None)
    assert name == "CUDAExecutionProvider"
    assert behind == {"use_tf32": "False", "device_id": first["device_id"]}
    (_, behind) = ProviderSettings.from_config("tensorrt", {}).chain(None)[1]
    assert "device_id" not in behind


@pytest.mark.parametrize(
    ("entry", "threads", "expected"),
    [
        ({}, None, {"intra": 0, "inter": 0, "parallel": False, "arena": True}),
        ({"threads": 3}, None, {"intra": 3}),
        ({"threads": 3}, 5, {"intra": 5}),  # of the call
        ({"inter_op_threads": 1}, None, {"inter": 1, "parallel": False}),
        ({"inter_op_threads": 2}, None, {"inter": 2, "parallel": True}),
        ({"arena": False}, None, {"arena": False}),
    ],
)
def test_a_session_has_the_threads_and_memory_that_are_asked_for(entry, threads, expected):
    settings = ProviderSettings.of({"type": "cpu", **entry})
    made = _session_options(settings, threads or settings.threads, False)
    found = {
        "intra": made.intra_op_num_threads,
        "inter": made.inter_op_num_threads,
        "parallel": made.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL,
        "arena": made.enable_cpu_mem_arena,
    }
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("fallback", ["allowed", "forbidden"])
def test_what_a_session_is_told(shared, fallback):
    settings = ProviderSettings.of({"type": "cpu", "fallback": fallback})
    made = _session_options(settings, None, shared)

    def told(name):
        try:
            return made.get_session_config_entry(f"session.{name}")
        except RuntimeError:
            return None

    assert told("force_spinning_stop") == "1"
    assert told("disable_prepacking") == ("1" if shared else None)
    assert told("disable_cpu_ep_fallback") == ("1" if fallback == "forbidden" else None)


def test_the_newest_operator_set_that_is_read_is_read():
    provider = PROVIDERS["openvino"]
    require_opset(provider, provider.opset)
    with pytest.raises(UnsupportedError, match=f"up to {provider.opset}, this graph has"):
        require_opset(provider, provider.opset + 1)
    require_opset(PROVIDERS["cpu"], 99)


@pytest.fixture(scope="module")
def sums():
    """A graph whose output is the sum of each token's id and mask, ``[batch, tokens, 1]``."""
    shape = ["batch", "tokens"]
    nodes = [
        helper.make_node("Add", ["ids", "mask"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["float"], to=1),
        helper.make_node("Unsqueeze", ["float", "last"], ["y"]),
    ]
    made = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info(name, 7, shape) for name in ("ids", "mask")],
        [helper.make_tensor_value_info("y", 1, [*shape, 1])],
        [numpy_helper.from_array(np.array([2]), "last")],
    )
    opset = [helper.make_opsetid("", 21)]
    return helper.make_model(made, opset_imports=opset, ir_version=10).SerializeToString()


@pytest.mark.parametrize("asked", ["", "5"])
@pytest.mark.parametrize(
    ("own", "of_the_call", "threads"), [(3, None, 3), (3, 1, 1), (None, 2, 2), (None, None, 0)]
)
def test_the_threads_of_a_call_go_before_the_provider_s_and_these_before_the_job_s(
    sums, own, of_the_call, threads, asked, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    threads = threads or int(asked or 0)
    entry = {"type": "cpu", **({"threads": own} if own else {})}
    session = open_session(sums, ProviderSettings.of(entry), of_the_call)
    assert session.get_session_options().intra_op_num_threads == threads


@pytest.mark.parametrize("captured", [False, True])
def test_every_shape_has_buffers_of_its_own(sums, captured):
    """As captured graphs need them; results stay what they were when a later call is made."""
    settings = ProviderSettings(
        PROVIDERS["cpu"],
        io_binding=True,
        cuda_graph=captured,
        fixed_shapes={"batch": (2, 4), "tokens": (4, 8)},
    )
    graph = Graph(open_session(sums, settings), settings)
    shapes = ((1, 3), (3, 8), (2, 4), (2, 7), (4, 5), (1, 9), (4, 4))
    calls = [feeds(batch, tokens) for batch, tokens in shapes]
    for call in calls:
        call.pop("pixels")
    found = [graph.run(call) for call in calls]
    for call, output in zip(calls, found, strict=True):
        np.testing.assert_array_equal(output[..., 0], call["ids"] + call["mask"])
    assert len(graph._captured) == (4 if captured else 0)
    options = [options for *_, options in graph._captured.values()]
    numbers = [one.get_run_config_entry("gpu_graph_id") for one in options]
    assert numbers == ["1", "2", "3", "4"][: len(numbers)]


@pytest.mark.parametrize("call", ["run", "call"])
def test_calls_that_share_buffers_take_turns(sums, call):
    settings = ProviderSettings(PROVIDERS["cpu"], io_binding=True, cuda_graph=True)
    graph, given = Graph(open_session(sums, settings), settings), feeds(2, 4)
    given.pop("pixels")
    one = Thread(target=getattr(graph, call), args=(given,))
    with graph._turn:
        one.start()
        one.join(0.1)
        assert one.is_alive()
    one.join()


AXES = {"ids": ["batch", "tokens"], "mask": ["batch", "tokens"], "pixels": ["batch", 3]}
SHAPES = {"batch": (2, 4), "tokens": (4, 8)}


def feeds(batch, tokens):
    ids = np.arange(1, 1 + batch * tokens).reshape(batch, tokens)
    return {"ids": ids, "mask": np.ones_like(ids), "pixels": np.arange(3.0 * batch).reshape(-1, 3)}


@pytest.mark.parametrize(
    ("batch", "tokens", "shape"),
    [(1, 1, (2, 4)), (2, 4, (2, 4)), (3, 5, (4, 8)), (4, 8, (4, 8)), (2, 8, (2, 8))],
)
def test_a_batch_is_padded_to_the_next_size(batch, tokens, shape):
    given = feeds(batch, tokens)
    padded, cut, is_fixed = pad(given, AXES, SHAPES)
    assert padded["ids"].shape == padded["mask"].shape == shape
    assert padded["pixels"].shape == (shape[0], 3)
    assert (cut, is_fixed) == ((slice(batch), slice(tokens)), True)
    for name, array in given.items():
        found = padded[name][cut] if array.shape[1] == tokens and name != "pixels" else padded[name]
        np.testing.assert_array_equal(found[:batch], array)
    assert (padded["mask"][:, tokens:] == 0).all()
    # Further rows repeat the first one: an empty one would have no token to attend to.
    for row in padded["ids"][batch:]:
        np.testing.assert_array_equal(row, padded["ids"][0])


@pytest.mark.parametrize(("batch", "tokens"), [(5, 1), (1, 9)])
def test_what_is_longer_than_every_size_stays_as_it_is(batch, tokens):
    given = feeds(batch, tokens)
    padded, cut, is_fixed = pad(given, AXES, SHAPES)
    assert padded is given
    assert (cut, is_fixed) == ((slice(None), slice(None)), False)


def test_an_axis_without_sizes_is_not_padded():
    padded, cut, is_fixed = pad(feeds(3, 5), AXES, {"batch": (4,)})
    assert padded["ids"].shape == (4, 5)
    assert (cut, is_fixed) == ((slice(3), slice(5)), False)
