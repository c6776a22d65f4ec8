"""The graphs that the library carries as files; ``python -m tests.stored_graphs`` writes them anew.

Running them needs no ``onnx``, which building them does.
"""

from pathlib import Path

from onnx import TensorProto, helper, parser

from colport.providers import integers
from colport.scoring.maxsim import products

_TEXTS = {
    "multiply": """multiply (float[m, k] rows, float[k, n] columns) => (float[m, n] products) {
        products = MatMul (rows, columns)
    }""",
    "widen": """widen (float16[m, k] halves) => (float[m, k] singles) {
        singles = Cast <to: int = 1> (halves)
    }""",
}
"""Those of :mod:`colport.scoring.maxsim.products`, in ONNX's text format."""


def built() -> dict[Path, bytes]:
    """Content of each file."""
    graphs = {products.graph_file(name): parser.parse_graph(text) for name, text in _TEXTS.items()}
    kinds = {"a": TensorProto.UINT8, "b": TensorProto.INT8, "sums": TensorProto.INT32}
    values = [helper.make_tensor_value_info(name, kinds[name], None) for name in kinds]
    node = helper.make_node("MatMulInteger", ["a", "b"], ["sums"])
    graphs[integers.GRAPH] = helper.make_graph([node], "sums", values[:2], values[2:])
    settings = {"opset_imports": [helper.make_opsetid("", 20)], "ir_version": 9}
    return {
        file: helper.make_model(graph, **settings).SerializeToString()
        for file, graph in graphs.items()
    }


if __name__ == "__main__":
    for file, content in built().items():
        file.write_bytes(content)
