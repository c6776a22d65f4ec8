"""Ready-made variants: a name in place of a precision and its quantization settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colport.base.errors import chosen
from colport.base.files import scratch_folder
from colport.base.foreign import table_beside
from colport.pipeline import config

if TYPE_CHECKING:
    from colport.folder.manifest import Manifest, Prove
    from colport.tensors.external_data import Layout, Progress

_FILE = Path(__file__).with_suffix(".yaml")


@cache
def ready_made() -> Mapping[str, Mapping[str, Any]]:
    """Name to settings, with the keys of ``variants`` in a config."""
    return config.load(_FILE)


def meanings() -> Mapping[str, str]:
    """Name of each ready-made variant to what it is and what it is for, in one line."""
    return table_beside(__file__)


def get(name: str) -> Mapping[str, Any]:
    """Settings of a ready-made variant.

    Raises:
        ConfigError: There is none of this name.
    """
    return chosen("variant", name, ready_made())


def tolerance(precision: str) -> Mapping[str, float]:
    """What a folder of this precision may lose, unless a user says otherwise; maybe nothing."""
    settings = (item for item in ready_made().values() if item["precision"] == precision)
    return next(settings, {}).get("tolerance", {})


def export(
    checkpoint: Path,
    output: Path,
    name: str,
    *,
    family: str | None = None,
    layout: Layout | None = None,
    source: Mapping[str, Any] | None = None,
    dataset: Any = None,
    report: Callable[[str], None] = lambda message: None,
    progress: Progress | None = None,
    prove: Prove | None = None,
) -> Manifest:
    """Export a checkpoint as a ready-made variant.

    A quantized variant is made from its float base, which lies beside ``output`` for that time.

    Args:
        checkpoint: A resolved checkpoint folder.
        output: Folder to write; it appears complete or not at all.
        name: Name of the variant.
        family: Family name; read from the checkpoint when ``None``.
        layout: Where the weights go, beside the graphs by default.
        source: Where the checkpoint came from, kept in the manifest.
        dataset: Inputs of a calibrated variant, see :func:`colport.quantize.folder.quantize`.
        report: Called with a line for each step.
        progress: Called after each block of weights, with the bytes written and those of all.
        prove: Runs the folder before it has its name, see :mod:`colport.pipeline.proof`; not the
            float base of a quantized variant.

    Raises:
        ConfigError: There is no variant of this name, or it is calibrated and has no dataset.
        CheckpointError: See :func:`colport.export.folder.export`.
        ExportError: See :func:`colport.export.folder.export`.
        UnsupportedError: See :func:`colport.quantize.folder.quantize`.
    """
    from colport.export import folder
    from colport.quantize.folder import quantize
    from colport.quantize.settings import QuantizeSettings

    variant = get(name)
    common: dict[str, Any] = {"family": family, "source": source}
    watched: dict[str, Any] = {"report": report, "progress": progress}
    if "base" not in variant:
        precision = variant["precision"]
        return folder.export(
            checkpoint, output, precision=precision, layout=layout, prove=prove, **common, **watched
        )
    settings = QuantizeSettings.from_config(variant)
    with scratch_folder(output) as scratch:
        export(checkpoint, scratch / "base", variant["base"], **common, **watched)
        return quantize(
            scratch / "base", output, settings, layout, dataset=dataset, prove=prove, **watched
        )
