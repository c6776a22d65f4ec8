"""``colport.json``: what an exported folder is, and whether its files are still whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from colport.artifacts import check_supported, read_json, sha256_file, write_json
from colport.errors import ArtifactError

FILE = "colport.json"


@dataclass(frozen=True)
class GraphInfo:
    """One graph of the folder.

    Attributes:
        file: Name of the ONNX file.
        inputs: Name to ``{"dtype": …, "shape": […]}``; dynamic axes by name.
        outputs: The same for outputs.
        nodes: Number of nodes.
        parameters: Number of weight elements the graph reads.
    """

    file: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    nodes: int
    parameters: int


@dataclass(frozen=True)
class Manifest:
    """The content of ``colport.json``.

    Attributes:
        family: Family name.
        precision: ``fp32``, ``fp16`` or ``int8``.
        opset: ONNX operator set of the graphs.
        dim: Size of a token embedding.
        source: The checkpoint: where it came from and the digests of its weights.
        processing: Prompts, expansion, skiplist, image settings; read by the family's runtime.
        graphs: Graph name to its description.
        external_data: Layout of the weights and their files.
        quantization: Settings and the number of quantized operators, empty for float variants.
        files: File name to SHA-256 and size, for every other file of the folder.
    """

    family: str
    precision: str
    opset: int
    dim: int
    source: Mapping[str, Any]
    processing: Mapping[str, Any]
    graphs: Mapping[str, GraphInfo]
    external_data: Mapping[str, Any]
    quantization: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Digest the folder's files and write ``colport.json``."""
        listed = {
            str(file.relative_to(folder)): {
                "sha256": sha256_file(file),
                "size_bytes": file.stat().st_size,
            }
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != FILE
        }
        write_json(folder / FILE, {**asdict(self), "files": listed})


def read(folder: Path | str) -> Manifest:
    """The manifest of an exported folder.

    Raises:
        ArtifactError: ``colport.json`` is missing or damaged, or a listed file is missing, lies
            outside the folder or has another size.
        UnsupportedError: A known limit prevented the export.
    """
    folder = Path(folder)
    check_supported(folder)
    if not (folder / FILE).is_file():
        raise ArtifactError(f"{folder}: is not an exported folder; it has no {FILE}.")
    record = read_json(folder / FILE)
    try:
        graphs = {name: GraphInfo(**graph) for name, graph in record.pop("graphs").items()}
        record.pop("schema_version")
        manifest = Manifest(graphs=graphs, **record)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{folder / FILE}: is not a ColPort manifest ({error}).") from error
    _check_files(folder, manifest)
    return manifest


def folder_bytes(folder: Path | str) -> int:
    """Size of all files of a folder, in bytes."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def _check_files(folder: Path, manifest: Manifest) -> None:
    root = folder.resolve()
    for name, facts in manifest.files.items():
        file = folder / name
        if not file.resolve().is_relative_to(root):
            raise ArtifactError(f"{folder / FILE}: lists {name!r}, which leaves the folder.")
        if not file.is_file():
            raise ArtifactError(f"{file}: is missing; {FILE} lists it.")
        if file.stat().st_size != facts["size_bytes"]:
            raise ArtifactError(
                f"{file}: has {file.stat().st_size} bytes, {FILE} says {facts['size_bytes']}."
            )
