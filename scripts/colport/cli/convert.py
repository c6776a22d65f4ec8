"""From a checkpoint to a folder, and from a folder to another one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from colport.base.errors import ConfigError
from colport.base.files import bytes_below, scratch_folder
from colport.cli import options
from colport.cli.console import say, watch
from colport.cli.inputs import InputOptions
from colport.folder import manifest
from colport.pipeline import variants
from colport.quantize.settings import QuantizeSettings

Layout = Literal["split", "merge", "shard"]
_CALIBRATION_INPUTS = 64  # that are read; the settings choose among them


def export(
    checkpoint: str,
    output: Path,
    variant: str = "fp32",
    family: str | None = None,
    base: str | None = None,
    queries: Path | None = None,
    documents: Path | None = None,
    dataset: Path | None = None,
    schema: str = "qa",
    layout: Layout | None = None,
    max_shard_bytes: int | None = None,
    check: bool = True,
    reference_memory: float | None = None,
    quiet: bool = False,
) -> None:
    """Export a checkpoint to ONNX.

    The folder is compared with the checkpoint's own library before it has its name.

    Calibrated variants need real inputs: --queries and --documents, or --dataset.

    \b
    Example: colport export resources/checkpoints/colpali-demo -o exported/colpali --variant int8
    """
    from colport.families import registry
    from colport.hub.checkpoints import SOURCE_KEYS
    from colport.pipeline import proof

    chosen_variant = variants.get(variant)
    manifest.check_replaceable(output)
    given = InputOptions.optional(queries, documents, dataset, schema)
    if "base" in chosen_variant:
        _check_calibrated(QuantizeSettings.from_config(chosen_variant), given)
    chosen = options.layout(layout, max_shard_bytes)
    with scratch_folder(output) as scratch, watch(f"exporting {variant}", quiet) as watched:
        at = scratch / "checkpoint"
        record = options.resolved(checkpoint, base, at, quiet, watched.step)
        folder = Path(record["folder"])
        chosen_family = registry.get(family) if family else registry.detect(folder)
        known = partial(proof.reference, folder, chosen_family, reference_memory)
        written = variants.export(
            folder,
            output,
            variant,
            family=family,
            layout=chosen,
            source={key: record[key] for key in SOURCE_KEYS},
            dataset=given and given.read(chosen_family.reads, _CALIBRATION_INPUTS),
            report=watched.step,
            progress=watched.progress,
            prove=proof.by_checkpoint(known, None, watched.step) if check else None,
        )
    say(f"{output}: {written.family}, {variant}, {_megabytes(output)}")


def quantize(
    folder: Path,
    output: Path,
    variant: str = "int8",
    queries: Path | None = None,
    documents: Path | None = None,
    dataset: Path | None = None,
    schema: str = "qa",
    exclude: list[str] | None = None,
    layout: Layout | None = None,
    max_shard_bytes: int | None = None,
    check: bool = True,
    quiet: bool = False,
) -> None:
    """Quantize an exported fp32, fp16 or bf16 folder.

    The new folder is compared with that one before it has its name.

    Calibrated variants need real inputs: --queries and --documents, or --dataset.

    \b
    Example: colport quantize exported/colpali -o exported/colpali-int8 --exclude embed_tokens
    """
    from colport.families import registry
    from colport.pipeline import proof
    from colport.quantize.folder import quantize as write

    manifest.check_replaceable(output)
    settings = QuantizeSettings.from_config(variants.get(variant))
    if exclude is not None:
        settings = replace(settings, exclude=tuple(exclude))
    family = registry.get(manifest.read(folder).family)
    given = InputOptions.optional(queries, documents, dataset, schema)
    _check_calibrated(settings, given)
    with watch("quantizing", quiet) as watched:
        write(
            folder,
            output,
            settings,
            options.layout(layout, max_shard_bytes),
            report=watched.step,
            progress=watched.progress,
            dataset=given and given.read(family.reads, _CALIBRATION_INPUTS),
            prove=proof.by_base(folder, None, watched.step) if check else None,
        )
    say(f"{output}: {_megabytes(output)}")


def split(folder: Path, output: Path, quiet: bool = False) -> None:
    """Put all weights into one file beside the graphs.

    \b
    Example: colport split exported/merged -o exported/split
    """
    _lay_out(folder, output, "split", None, quiet)


def merge(folder: Path, output: Path, quiet: bool = False) -> None:
    """Put all weights into the graphs, one file each, up to protobuf's 2 GiB.

    \b
    Example: colport merge exported/colpali -o exported/merged
    """
    _lay_out(folder, output, "merge", None, quiet)


def shard(
    folder: Path, output: Path, max_shard_bytes: int = 2 * 10**9, quiet: bool = False
) -> None:
    """Put the weights into files of at most a given size, 2 GB by default.

    \b
    Example: colport shard exported/colpali -o exported/sharded --max-shard-bytes 500MB
    """
    _lay_out(folder, output, "shard", max_shard_bytes, quiet)


def _check_calibrated(settings: QuantizeSettings, given: InputOptions | None) -> None:
    if settings.is_calibrated and given is None:
        raise ConfigError(
            "this variant is calibrated on real inputs: give --queries and --documents, or "
            "--dataset."
        )


def _lay_out(
    folder: Path, output: Path, name: str, max_shard_bytes: int | None, quiet: bool
) -> None:
    from colport.folder.graphs import convert

    manifest.check_replaceable(output)
    with watch(name, quiet) as watched:
        chosen = options.layout(name, max_shard_bytes)
        written = convert(folder, output, chosen, progress=watched.progress)
    files = written.external_data["files"]
    say(f"{output}: {_megabytes(output)}, {len(files)} weight files")


def _megabytes(folder: Path) -> str:
    return f"{bytes_below(folder) / 1e6:,.1f} MB"
