"""What is known of checkpoints on the Hub, and published scores to set beside a run's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colport.base.foreign import table_beside
from colport.pipeline import config as configuration
from colport.pipeline import defaults

PUBLISHED = table_beside(__file__)
"""Checkpoints of the Hub by their ids, those that families of ours ``read`` and those ``refused``;
``benchmarks``, and ``scores`` on them."""

_APART = ("size", "languages")
"""Keys of a dataset that decide nothing about its scores."""


def known(checkpoint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Scores of a checkpoint on the Hub, by benchmark, in the form in which a config states some.

    Args:
        checkpoint: Its entry in a config; with an ``overlay`` it is another than the published one.

    Returns:
        ``metric``, ``source`` and ``scores``, from 0 to 1 by names of ``config/datasets.yaml``.
    """
    found, scores = {}, PUBLISHED["scores"]
    hub = None if "overlay" in checkpoint else checkpoint.get("hub")
    values = scores.get(PUBLISHED["read"].get(hub, {}).get("scores"), {})
    for key, benchmark in PUBLISHED["benchmarks"].items():
        if key in values:
            named = zip(benchmark["datasets"], values[key], strict=True)
            found[benchmark["title"]] = {
                "metric": benchmark["metric"],
                "source": scores["source"],
                "scores": {name: score / 100 for name, score in named},
            }
    return found


def beside(
    stated: Mapping[str, Any] | None,
    model: Mapping[str, Any],
    datasets: Mapping[str, Mapping[str, Any]],
    base: Path,
) -> dict[str, dict[str, Any]]:
    """Published scores on what a model is scored on.

    Args:
        stated: What the config says of the model; ``None`` for what is known of its checkpoint.
        model: Its entry in the config.
        datasets: All that the config defines. A score that is known counts for an entry which says
            what ``config/datasets.yaml`` does, whatever its name.
        base: Folder of the Snakefile.

    Returns:
        By benchmark its ``metric``, its ``source``, ``scores`` by names of the model's datasets,
        and ``of``: on how many datasets there are scores, and their mean is known. Benchmarks
        without any of the model's datasets are left out.
    """
    found = known(model.get("checkpoint", {})) if stated is None else stated
    names = {name: name for name in model["datasets"]}
    if found and stated is None:
        ours = configuration.load(base / defaults.DATASETS)["datasets"]
        same = {str(_scored(configuration.extended(name, ours))): name for name in ours}
        names = {same.get(str(_scored(datasets[name]))): name for name in names}
    told = {}
    for title, benchmark in found.items():
        scores = {
            names[name]: score for name, score in benchmark["scores"].items() if name in names
        }
        if scores:
            told[title] = {**benchmark, "scores": scores, "of": len(benchmark["scores"])}
    return told


def _scored(entry: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted((key, value) for key, value in entry.items() if key not in _APART)
