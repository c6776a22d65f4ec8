"""The layout of transformers.js: ``encoder_model.onnx`` and ``decoder_model_merged.onnx``.

Names, axes and files are those that transformers.js 4 reads (``models/modeling_utils.js``,
``configs.js``, ``utils/model-loader.js``) and that optimum writes. Keys and values of
cross-attention, which our image graph makes, are made by the decoder there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from colport.base.errors import ArtifactError, ExportError, UnsupportedError, read_of
from colport.base.files import write_text
from colport.base.foreign import load_json, table_beside
from colport.folder import graphs
from colport.folder.manifest import KEPT, Manifest
from colport.tensors import external_data
from colport.tensors.editing import constant
from colport.tensors.external_data import Layout, Progress

_NAMES = table_beside(__file__)
"""What transformers.js calls what we have."""


def write(base: Path, found: Manifest, folder: Path, progress: Progress | None) -> str:
    """See :data:`colport.folder.layouts.LAYOUTS`."""
    config = _kept(base, "config.json") if found.task == "captioning" else {}
    with read_of(ArtifactError, base, "its settings lack {}", (KeyError, TypeError, ValueError)):
        kind = config["decoder"]["model_type"] if "decoder" in config else None
        generation = _generation(found) if config else {}
    given = {"models": config.get("model_type", found.family), "decoders": kind}
    for part, value in {**given, "precisions": found.precision}.items():
        if value not in _NAMES[part]:
            raise UnsupportedError(
                f"{base}: transformers.js has no such graphs of {value!r}; of {part}, allowed are "
                f"{', '.join(_NAMES[part])}."
            )
    images = _kept(base, "preprocessor_config.json", "processor_config.json")
    settings = {
        "config.json": config,
        "generation_config.json": generation,
        "preprocessor_config.json": images.get("image_processor", images),
        "tokenizer_config.json": _kept(base, "tokenizer_config.json"),
    }
    models, target, weights = graphs.read(base, found), folder / "onnx", {}
    _move_cross_attention(models["image"], models["decoder"], is_kept=_NAMES["decoders"][kind])
    precision = _NAMES["precisions"][found.precision]
    target.mkdir()
    for graph, name in _NAMES["files"].items():
        name += precision["suffix"]
        _rename_axes(models[graph])
        one = {name: models[graph]}
        weights[f"{name}.onnx"] = len(external_data.write(one, target, Layout(), progress, name))
        graphs.check(target / f"{name}.onnx")
    config["is_encoder_decoder"] = True
    dtype = precision["dtype"]
    config["transformers.js_config"] = {"dtype": dtype, "use_external_data_format": weights}
    for name, content in settings.items():
        write_text(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    licence = found.source.get("license", {}).items()
    metadata = "\n".join(f"{key}: {json.dumps(value)}" for key, value in licence)
    text = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    known = {"source": found.source.get("source"), "check": found.check.get("status")}
    return text.format(found=found, metadata=metadata, **known)


def _move_cross_attention(image: ir.Model, decoder: ir.Model, *, is_kept: bool) -> None:
    """Let the decoder make its cross-attention's keys and values of the hidden states.

    Args:
        image: Gives the hidden states alone afterwards.
        decoder: Takes them.
        is_kept: Whether calls get and give the keys and values as well, and make them only where
            what they get is empty.
    """
    graph = decoder.graph
    (pixels,), (hidden, *made) = image.graph.inputs, image.graph.outputs
    part = ir.convenience.extract(image.graph, [pixels, hidden], made)
    for node, _ in part.inputs[0].uses():
        if node.op_type != "Shape" or node.attributes.get_int("end", 0) != 1:  # the batch's size
            raise ExportError(f"image.onnx: {made[0].name} is not made of {hidden.name} alone.")
    image.graph.outputs[:] = [hidden]
    RemoveUnusedNodesPass()(image)
    states = ir.Value(name=hidden.name, shape=hidden.shape.copy(), type=hidden.type)
    hidden.name = "last_hidden_state"
    ir.convenience.replace_all_uses_with(list(part.inputs), [states, states])
    part.inputs.clear()
    stored = list(part.initializers.values())
    part.initializers.clear()
    for named in (*stored, *part, *(value for node in part for value in node.outputs)):
        named.name = f"cross.{named.name}"  # the decoder has others of the same names
    for value in stored:
        graph.initializers.add(value)
    inputs = {value.name: value for value in graph.inputs}
    taken = [inputs[value.name] for value in made]
    results, nodes = list(part.outputs), list(part)
    if is_kept:
        nodes = _unless_given(graph, part, taken)
        results = nodes[-1].outputs
    else:
        part.outputs.clear()
        part.remove(nodes)
    graph.insert_before(graph[0], nodes)
    for old, new in zip(taken, results, strict=True):
        new.shape, new.type = old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new)
        graph.inputs.remove(old)
    graph.inputs.insert(1, states)


def _unless_given(graph: ir.Graph, part: ir.Graph, taken: Sequence[ir.Value]) -> list[ir.Node]:
    """Nodes that run ``part`` in the first call, and give on what they get in further ones.

    The decoder's own past and present take the names that stand beside those of the encoder.
    """
    for value in (*graph.inputs, *graph.outputs):
        value.name = re.sub(r"^(past_\w+|present)(\.\d+)\.", r"\1\2.decoder.", value.name)
    given = []
    for value in taken:
        shape, name = value.shape.copy(), value.name.replace("cross_", "past_")
        shape[2] = f"{_NAMES['axes']['source']}_out"
        name = re.sub(r"\.(\w+)$", r".encoder.\1", name)
        given.append(ir.Value(name=name, shape=shape, type=value.type))
    length = ir.node("Shape", given[:1], {"start": 2, "end": 3})
    is_first = ir.node("Equal", [length.outputs[0], constant(graph, [0])])
    kept = [ir.node("Identity", [value]) for value in given]
    other = ir.Graph([], [node.outputs[0] for node in kept], nodes=kept, name="given")
    branches = {"then_branch": part, "else_branch": other}
    choice = ir.node("If", is_first.outputs, branches, num_outputs=len(taken))
    for value, node, new in zip(given, kept, choice.outputs, strict=True):
        node.outputs[0].name = f"given.{value.name}"
        new.name = value.name.replace("past_key_values", "present")
    graph.inputs.extend(given)
    graph.outputs.extend(choice.outputs)
    return [length, is_first, choice]


def _rename_axes(model: ir.Model) -> None:
    """Name axes as transformers.js does, which looks for that of the batch."""
    known = re.compile(rf"\b({'|'.join(_NAMES['axes'])})\b")
    for graph in model.graphs():
        for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
            dims = list(value.shape or ())
            for axis, dim in enumerate(dims):
                if isinstance(dim, ir.SymbolicDim) and dim.value:
                    dims[axis] = known.sub(lambda match: _NAMES["axes"][match[0]], dim.value)
            value.shape = value.shape and ir.Shape(dims)


def _generation(found: Manifest) -> dict[str, Any]:
    """``generation_config.json``: of greedy search, as transformers.js has no other one."""
    stated, (start,) = dict(found.processing["generation"]), found.processing["begin"]
    del stated["positions"]
    if stated.get("max_length") is None:
        stated.setdefault("max_new_tokens", 20)
    ids = {"decoder_start_token_id": start, "pad_token_id": found.processing["pad_id"]}
    return {**dict.fromkeys(_NAMES["unstated"]), **stated, **ids, "num_beams": 1}


def _kept(base: Path, *names: str) -> dict[str, Any]:
    """A settings file of the checkpoint that its export kept, the first one that is there.

    Raises:
        ArtifactError: All are missing, or it is damaged.
    """
    places = [base / KEPT / name for name in names]
    file = next((place for place in places if place.is_file()), places[0])
    with read_of(ArtifactError, file, "is not valid JSON ({})"):
        return load_json(file)
