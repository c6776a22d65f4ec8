"""Write the integer variant of an exported float folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from colport.base.errors import ConfigError, UnsupportedError
from colport.base.files import atomic_folder, scratch_folder
from colport.families import registry
from colport.folder import graphs, manifest
from colport.providers.integers import saturates
from colport.quantize.plan import Recipes, calibrate
from colport.quantize.products import IntegerForm
from colport.quantize.recipe import TABLE, Recipe
from colport.quantize.sensitivity import Report
from colport.quantize.settings import QuantizeSettings
from colport.quantize.sites import Group, find_groups, split_gemm
from colport.quantize.widen import read
from colport.tensors.editing import MICROSOFT, remove_unused_initializers
from colport.tensors.external_data import Layout, Progress

BASES = ("fp32", "fp16", "bf16")
"""Precisions that a folder to quantize may have."""


def quantize(
    base: Path,
    output: Path,
    settings: QuantizeSettings | None = None,
    layout: Layout | None = None,
    report: Report = lambda message: None,
    progress: Progress | None = None,
    dataset: Any = None,
    scratch: Path | str | None = None,
    prove: manifest.Prove | None = None,
) -> manifest.Manifest:
    """Write the integer variant of an exported float folder.

    Args:
        base: An exported folder of a precision in :data:`BASES`.
        output: Folder to write; it appears complete or not at all.
        settings: What is quantized, and how; dynamic int8 by default.
        layout: Where the weights go.
        report: Called with a line for each step.
        progress: Called after each block of weights, with the bytes written and those of all.
        dataset: A :class:`~colport.data.datasets.RetrievalDataset`, for settings that are
            calibrated.
        scratch: Folder for what a calibration needs: the float weights once more, and their integer
            forms twice; by default the one that the output is in.
        prove: Runs the folder before it has its name, see :mod:`colport.pipeline.proof`.

    Raises:
        ConfigError: The settings are calibrated, and there is no dataset.
        UnsupportedError: The base is not a float folder, nothing in it can be quantized, or this
            processor cannot search in the full range.
    """
    settings = settings or QuantizeSettings()
    found = manifest.read(base)
    if found.precision not in BASES:
        raise UnsupportedError(
            f"{base}: has precision {found.precision}; quantized is from {', '.join(BASES)}."
        )
    if settings.is_calibrated and dataset is None:
        raise ConfigError(
            f"quantization: method {settings.method} with these settings is calibrated, and needs "
            "queries and documents."
        )
    if settings.is_calibrated and found.task == "captioning":
        raise UnsupportedError(f"{base}: is a captioner; variants of those are not calibrated.")
    if settings.sensitivity is not None and not settings.is_exact and saturates():
        raise UnsupportedError(
            f"{output}: quantization.range: full with a sensitivity search needs a processor with "
            "VNNI, AVX-VNNI or AMX; on this one the search would measure sums that saturate. "
            "Allowed is exact."
        )
    family = registry.get(found.family)
    settings = replace(settings, exclude=(*settings.exclude, *family.float_weights))
    beside = Path(scratch, output.name) if scratch else output
    with atomic_folder(output) as folder, scratch_folder(beside) as measured:
        models = read(base, found)
        for model in models.values():
            split_gemm(model.graph)
        groups = find_groups(models, settings)
        form, record = Recipe(settings.forms[0]), {}
        recipes = {group.name: TABLE if group.is_table else form for group in groups}
        if settings.is_calibrated:
            runtime = family.runtime(found.processing, base)
            recipes, record = calibrate(
                models, groups, settings, dataset, runtime, measured, report
            )
        counts = _apply(models, groups, recipes, settings)
        _check_counts(base, counts, settings)
        report("quantized " + ", ".join(f"{counts[name]} operators of {name}" for name in counts))
        graphs.copy_companions(base, folder, found)
        result = replace(
            found,
            precision=f"int{settings.bits}",
            quantization={
                "settings": asdict(settings),
                "operators": counts,
                "batch_dependent": any(r.form == "per_tensor" for r in recipes.values()),
                **record,
            },
        )
        written = graphs.write(models, folder, result, layout or Layout(), progress)
        return written.prove(folder, prove)


def _check_counts(base: Path, counts: Mapping[str, int], settings: QuantizeSettings) -> None:
    empty = [name for name, count in counts.items() if count == 0]
    if settings.sensitivity is not None and len(empty) == len(counts):
        raise UnsupportedError(
            f"{base}: quantization.sensitivity: nothing can be quantized within its target."
        )
    if settings.sensitivity is None and empty:
        raise UnsupportedError(
            f"{base}: the {empty[0]} graph has no {' or '.join(settings.operators)} on a "
            "weight that can be quantized."
        )


def _apply(
    models: Mapping[str, ir.Model],
    groups: Sequence[Group],
    recipes: Recipes,
    settings: QuantizeSettings,
) -> dict[str, int]:
    """Rewrite the graphs in place; how many operators of each were quantized."""
    names = {id(model.graph): name for name, model in models.items()}
    counts = dict.fromkeys(models, 0)
    for group in groups:
        if group.name not in recipes:
            continue
        form = IntegerForm(group, recipes[group.name], settings)
        for site in group.sites:
            counts[names[id(site.graph)]] += 1
            form.put(site)
    for model in models.values():
        remove_unused_initializers(model.graph)
        model.graph.sort()
        model.opset_imports[MICROSOFT] = 1
    return counts
