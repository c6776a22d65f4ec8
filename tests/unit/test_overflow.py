"""Activations beyond fp16's range, which ONNX Runtime's CPU does not show."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from colport.base.errors import UnsupportedError
from colport.families.base import Batch
from colport.measure import overflow
from colport.measure.overflow import measure

HEADER = '<ir_version: 10, opset_import: ["": 24]>'
INPUT = np.array([[[0.5, -1.0, 0.25, 2.0]]], np.float16)


def reach(nodes, value=INPUT, **constants):
    """How far the activations of a graph from ``x`` to ``y`` go, for three inputs."""
    text = f"{HEADER} g (float16[b,t,4] x) => (float16[b,t,4] y) {{ {nodes} }}"
    model = ir.from_onnx_text(
        text, initializers=[ir.tensor(v, name=k) for k, v in constants.items()]
    )
    feeds = (value / 2, value, value / 4)
    batches = [Batch("text", {"x": feed.astype(np.float32)}, feed) for feed in feeds]
    return lambda place: measure({"text": model}, {"query": batches}, place)["query"]


def test_the_first_operator_that_overflows_is_named(tmp_path):
    found = reach(
        "[up] a = Mul(x, big) [more] c = Mul(a, big) [down] d = Div(c, big) [end] y = Div(d, big)",
        big=np.float16([60000]),
    )(tmp_path / "scratch")
    assert (found.first.operator, found.first.node, found.first.graph) == ("Mul", "up", "text")
    assert found.first.value == pytest.approx(2 * 60000, rel=1e-3)
    assert found.largest.node == "more"
    assert found.largest.value == pytest.approx(2 * 60000**2, rel=1e-3)
    assert str(found.first) == "Mul 'up' of the text graph gives 1.2e+05"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "provider", "is_run"),
    [
        ("fp16", "cpu", True),
        ("fp32", "cpu", False),
        ("bf16", "cpu", False),
        ("fp16", "cuda", False),
    ],
)
def test_what_computes_in_fp16_itself_is_not_run_again(precision, provider, is_run, monkeypatch):
    runtime = SimpleNamespace(query_batch=lambda texts: texts, document_batch=lambda pages: pages)
    family = SimpleNamespace(runtime=lambda processing, folder: runtime)
    monkeypatch.setattr(overflow.registry, "get", lambda name: family)
    monkeypatch.setattr(
        overflow, "measure", lambda models, batches, place: {k: [*v] for k, v in batches.items()}
    )
    found = SimpleNamespace(precision=precision, family="f", processing={}, graphs={})
    reached = overflow.reaches(Path(), found, provider, ["q", "r"], ["d", "e"], Path())
    each = {"query": [["q"], ["r"]], "document": [["d"], ["e"]]}
    assert reached == (each if is_run else {})


def test_a_job_that_measures_no_reach_does_not_load_what_edits_graphs():
    seen = "import sys, colport.measure.parity; sys.exit('onnx_ir' in sys.modules)"
    subprocess.run([sys.executable, "-c", seen], check=True)


@pytest.mark.parametrize("sign", [1, -1])
def test_large_numbers_that_fit_pass(tmp_path, sign):
    """Both ends count, over all inputs."""
    found = reach("[up] a = Mul(x, big) [end] y = Div(a, big)", big=np.float16([sign * 32000]))
    found = found(tmp_path / "scratch")
    assert found.first is None
    assert found.largest.value == pytest.approx(64000, rel=1e-3)


def test_what_is_computed_in_fp32_may_be_larger(tmp_path):
    found = reach(
        "wide = Cast <to: int = 1> (x) a = Mul(wide, big) c = Div(a, big)"
        "y = Cast <to: int = 10> (c)",
        big=np.float32([1e6]),
    )(tmp_path / "scratch")
    assert found.first is None
    assert found.largest.value == 2.0


def test_values_that_only_mask_scores_may_be_lowest(tmp_path):
    """-65504 and a score below 0 is minus infinity in fp16: no attention either way."""
    found = reach(
        "[mask] a = Add(x, low) b = Cast <to: int = 1> (a) c = Softmax(b)"
        "y = Cast <to: int = 10> (c)",
        low=np.float16([-65504]),
        value=-np.abs(INPUT) * 1000,
    )(tmp_path / "scratch")
    assert found.first is None
    assert found.largest.value <= 1.0


def test_so_may_the_mask_of_an_attention(tmp_path):
    found = reach(
        "[mask] m = Add(few, low) y = Attention <q_num_heads: int = 1, kv_num_heads: int = 1>"
        " (x, x, x, m)",
        few=np.float16([[[[-100]]]]),
        low=np.float16([-65504]),
    )(tmp_path / "scratch")
    assert found.first is None
    assert found.largest.operator == "Attention"


def test_a_residual_of_the_same_size_may_not(tmp_path):
    found = reach(
        "[residual] a = Add(x, low) b = Softmax(a) c = Mul(a, b) [end] y = Div(c, low)",
        low=np.float16([-65504]),
        value=-np.abs(INPUT) * 1000,
    )(tmp_path / "scratch")
    assert found.first.node == "residual"


def test_scores_inside_an_attention_count(tmp_path):
    """Queries and keys fit, their products do not."""
    nodes = "[scores] y = Attention <scale: float = 1.0, q_num_heads: int = 1,"
    found = reach(f"{nodes} kv_num_heads: int = 1> (x, x, x)", value=INPUT * 200)
    found = found(tmp_path / "scratch")
    assert (found.first.operator, found.first.node) == ("Attention", "scores")
    assert found.first.value == pytest.approx(5.3125 * 200**2, rel=1e-3)


@pytest.mark.parametrize("weight", [np.inf, np.nan])
def test_a_weight_that_is_not_finite_overflows(tmp_path, weight):
    """A checkpoint's weight that fp16 has no number for."""
    found = reach("[root] a = Mul(x, big) [end] y = Div(a, big)", big=np.float16([weight]))
    assert found(tmp_path / "scratch").first.node == "root"


def test_a_graph_inside_a_node_is_refused_unless_it_computes_in_fp32(tmp_path):
    branch = "inner () => (float16[b,t,4] z) { z = Identity(x) }"
    found = reach(
        f"flag = Cast <to: int = 9> (one) [choice] y = If (flag) <then_branch: graph = {branch},"
        f" else_branch: graph = {branch.replace('inner', 'other').replace('z', 'w')}>",
        one=np.float16(1),
    )
    with pytest.raises(UnsupportedError, match="text graph: If 'choice' holds a graph of its own"):
        found(tmp_path / "scratch")
    branch = "inner () => (float[b,t,4] z) { z = Identity(wide) }"
    found = reach(
        "flag = Cast <to: int = 9> (one) wide = Cast <to: int = 1> (x)"
        f"[choice] c = If (flag) <then_branch: graph = {branch},"
        f" else_branch: graph = {branch.replace('inner', 'other').replace('z', 'w')}>"
        "[end] y = Cast <to: int = 10> (c)",
        one=np.float16(1),
    )
    assert found(tmp_path / "scratch").largest.value == 2


def test_a_value_of_unknown_type_cannot_be_checked():
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 24, "own": 1]>'
        "g (float16[4] x) => (float16[4] y) { h = own.Wave(x) y = Identity(h) }"
    )
    with pytest.raises(UnsupportedError, match="type of 'h', which Wave gives, is not known"):
        overflow._tap("text", model)
