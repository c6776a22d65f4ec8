"""Write an exported folder: graphs, weights, tokenizer and manifest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from colport.base.errors import ConfigError
from colport.base.files import atomic_folder, write_text
from colport.export.bind import attach, compute_vectors, detach, store_transposed, unread
from colport.export.layers import check_stacks, repeat_layers
from colport.export.operators import TRANSFORMER_OPSET, keep_sums_apart, write_operators
from colport.export.optimise import optimise
from colport.export.trace import naming, trace
from colport.families import registry
from colport.families.base import Skeleton
from colport.families.reference.skeletons import PRECISIONS
from colport.folder import graphs
from colport.folder.manifest import KEPT, Manifest, Prove
from colport.hub.checkpoints import license_of, reading
from colport.tensors.external_data import Layout, Progress

OPSET = 24
_SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")
_SETTINGS += ("tokenizer_config.json",)
Report = Callable[[str], None]


def export(
    checkpoint: Path,
    output: Path,
    *,
    family: str | None = None,
    precision: str = "fp32",
    layout: Layout | None = None,
    opset: int = OPSET,
    source: Mapping[str, Any] | None = None,
    report: Report = lambda message: None,
    progress: Progress | None = None,
    prove: Prove | None = None,
) -> Manifest:
    """Export a checkpoint to a folder that :class:`colport.Encoder` runs, or ``Captioner``.

    Args:
        checkpoint: A resolved checkpoint folder.
        output: Folder to write; it appears complete or not at all.
        family: Family name; read from the checkpoint when ``None``.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        layout: Where the weights go, beside the graphs by default.
        opset: ONNX operator set.
        source: What the manifest says of the checkpoint's record: its ``SOURCE_KEYS``.
        report: Called with a line for each step.
        progress: Called after each block of weights, with the bytes written and those of all.
        prove: Runs the folder before it has its name, see :mod:`colport.pipeline.proof`.

    Raises:
        CheckpointError: The checkpoint is damaged, of another family, or does not fit its config.
        ExportError: A graph cannot be traced or written, or leaves out a tensor of the checkpoint
            that its family does not say is not needed.
        ArtifactError: The disk is full.
    """
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision: {precision!r} cannot be exported; allowed are {', '.join(PRECISIONS)}."
        )
    chosen = registry.require(family, checkpoint) if family else registry.detect(checkpoint)
    with reading(checkpoint, f"family {chosen.name}"):
        skeleton = chosen.skeleton(checkpoint, precision)
        processing = chosen.processing(checkpoint)
    models = {}
    for definition in skeleton.graphs:
        start = time.perf_counter()
        models[definition.name] = _graph(skeleton, definition, opset)
        report(f"traced {definition.name} graph in {time.perf_counter() - start:.1f} s")
    check_stacks(models.values(), skeleton.stacks)
    with atomic_folder(output) as folder:
        tokenizer = processing.tokenizer.to_str(pretty=True)
        (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
        if chosen.task == "captioning":
            _keep_settings(checkpoint, folder / KEPT)
        chosen.runtime(processing.settings, folder)  # refuses what no encoder would open
        manifest = Manifest(
            family=chosen.name,
            precision=precision,
            opset=opset,
            dim=skeleton.dim,
            source={**_published(source or {"source": str(checkpoint)}), **license_of(checkpoint)},
            processing=processing.settings,
            task=chosen.task,
            unread=unread(models.values(), skeleton, checkpoint),
        )
        written = graphs.write(models, folder, manifest, layout or Layout(), progress)
        files = written.external_data["files"]
        report(f"wrote {', '.join(files) or 'weights into the graphs'}")
        return written.prove(folder, prove)


def _graph(skeleton: Skeleton, definition: Any, opset: int) -> ir.Model:
    with naming(skeleton, definition):
        model = trace(skeleton, definition, opset)
        detach(model)
        store_transposed(model)
        optimise(model)
        compute_vectors(model)
        write_operators(model, opset)
        repeat_layers(model, skeleton.stacks)
        if opset >= TRANSFORMER_OPSET:
            keep_sums_apart(model.graph)
        attach(model, skeleton)
    return model


def _keep_settings(checkpoint: Path, folder: Path) -> None:
    """Copy what other libraries read beside the graphs, without places on this machine."""
    folder.mkdir()
    for file in (checkpoint / name for name in _SETTINGS):
        if file.is_file():
            settings = json.loads(file.read_text(encoding="utf-8"), object_hook=_without_places)
            write_text(folder / file.name, json.dumps(settings, indent=2) + "\n")


def _without_places(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in settings if key.lstrip("_") != "name_or_path"}


def _published(source: Mapping[str, Any]) -> dict[str, Any]:
    """Where a checkpoint came from, folders of this machine by name alone: others will read it."""
    parts = str(source.get("source", "")).split(" on ")  # an adapter on its base
    named = " on ".join(Path(part).name if Path(part).is_absolute() else part for part in parts)
    return {**source, "source": named}
