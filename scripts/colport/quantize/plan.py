"""Decide what becomes of each group: the same for all, or as measured on real inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx_ir as ir

from colport.families.base import Runtime
from colport.quantize.calibration import CalibrationSet, measure
from colport.quantize.recipe import TABLE, Recipe, ladder
from colport.quantize.sensitivity import FLOAT, Outcome, Report, search
from colport.quantize.settings import Calibration, QuantizeSettings, Sensitivity
from colport.quantize.sites import Group

_BATCH_SIZE = 8  # of the search's runs

Recipes = Mapping[str, Recipe]
"""Group name to recipe; groups that stay float are not in it."""


def calibrate(
    models: Mapping[str, ir.Model],
    groups: Sequence[Group],
    settings: QuantizeSettings,
    dataset: Any,
    runtime: Runtime,
    scratch: Path,
    report: Report,
) -> tuple[Recipes, dict[str, Any]]:
    """Recipes from measured activations, and how they were found, for the manifest.

    Args:
        models: Graphs of the base.
        groups: What is quantized in them.
        settings: How.
        dataset: Where inputs are taken from.
        runtime: Makes graph inputs of them.
        scratch: An empty folder, needed until the weights are written.
        report: Called with a line for each step.
    """
    chosen = settings.calibration or Calibration()
    inputs = CalibrationSet.choose(dataset, chosen)
    batches = list(inputs.batches(runtime, 1))
    products = [group for group in groups if not group.is_table]
    with_gram = settings.rounding == "gptq"
    ladders = {group.name: [TABLE] for group in groups if group.is_table}
    for group, found in measure(models, products, batches, scratch, with_gram=with_gram):
        ladders[group.name] = ladder(group, found, settings, scratch / str(len(ladders)))
    report(f"measured {len(products)} activations on {len(batches)} inputs of {inputs.dataset}")
    record: dict[str, Any] = {
        "calibration": {
            "dataset": inputs.dataset,
            "queries": len(inputs.queries),
            "documents": len(inputs.documents),
            "seed": chosen.seed,
        }
    }
    choice: Mapping[str, int] = dict.fromkeys(ladders, 0)
    if settings.sensitivity is not None:
        batches = list(inputs.batches(runtime, _BATCH_SIZE))
        given = [(group, ladders[group.name]) for group in groups]
        outcome = search(models, given, batches, settings, scratch / "search", report)
        choice = outcome.choice
        record["sensitivity"] = _sensitivity(outcome, settings.sensitivity)
    # A place behind the last recipe stands for float.
    recipes = {
        name: ladders[name][place] for name, place in choice.items() if place < len(ladders[name])
    }
    record["groups"] = [_group(group, recipes.get(group.name)) for group in groups]
    return recipes, record


def _group(group: Group, recipe: Recipe | None) -> dict[str, Any]:
    return {
        "weights": list(group.weights),
        "parameters": group.parameters,
        "form": FLOAT if recipe is None else recipe.form,
        "smoothing": None if recipe is None else recipe.strength,
    }


def _sensitivity(outcome: Outcome, target: Sensitivity) -> dict[str, Any]:
    return {
        "target": asdict(target),
        "reached": outcome.quality.reaches(target),
        **asdict(outcome.quality),
        "trials": outcome.trials,
        "alone": {
            name: {
                rung.form: {**asdict(rung.alone), "share": rung.share}
                for rung in rungs.values()
                if rung.form != FLOAT
            }
            for name, rungs in outcome.rungs.items()
        },
    }
