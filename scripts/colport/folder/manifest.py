"""``colport.json``: what an exported folder is, and whether its files are still whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import colport
from colport.base.errors import ArtifactError, read_of
from colport.base.files import UNSUPPORTED, check_supported, read_json, sha256_file, write_json
from colport.base.foreign import is_inside, misfit, shape_beside

FILE = "colport.json"
KEPT = "checkpoint"
"""Folder of a captioner's folder: settings files of the checkpoint that other libraries read."""

_SHAPE = shape_beside(__file__)
"""What another machine's ``colport.json`` has to be, so that its readers can rely on it."""


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
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8`` or ``int4``.
        opset: ONNX operator set of the graphs.
        dim: Size of a vector; of a captioner, of its decoder's hidden states.
        source: The checkpoint: where it came from and the digests of its weights.
        processing: Prompts, expansion, skiplist, image settings; read by the family's runtime.
        graphs: Graph name to its description.
        external_data: Layout of the weights and their files.
        quantization: Settings and the number of quantized operators, empty for float variants.
        check: What :mod:`colport.pipeline.proof` found when the folder was written, ``status``
            first: ``passed``, ``failed`` or ``left out``; empty in folders of an older ColPort.
        made_with: Versions of the packages that wrote the folder.
        unread: Tensors of the checkpoint that no graph reads: ``file``, ``tensor`` and ``reason``.
        files: File name to SHA-256 and size, for every other file of the folder.
        task: ``retrieval``, as in folders that do not say, or ``captioning``.
    """

    family: str
    precision: str
    opset: int
    dim: int
    source: Mapping[str, Any]
    processing: Mapping[str, Any]
    graphs: Mapping[str, GraphInfo] = field(default_factory=dict)
    external_data: Mapping[str, Any] = field(default_factory=dict)
    quantization: Mapping[str, Any] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)
    unread: Sequence[Mapping[str, str]] = ()
    files: Mapping[str, Any] = field(default_factory=dict)
    task: str = "retrieval"

    def write(self, folder: Path) -> Manifest:
        """Digest the folder's files and write ``colport.json``; returns what it says."""
        listed = {}
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.name != FILE:
                facts = {"sha256": sha256_file(file), "size_bytes": file.stat().st_size}
                listed[file.relative_to(folder).as_posix()] = facts
        from colport.base import machine  # here: it asks for what not every encoder's machine has

        made_with = {"colport": colport.__version__, **machine.describe()["packages"]}
        return replace(self, made_with=made_with, files=listed)._save(folder)

    def prove(self, folder: Path, prove: Prove | None) -> Manifest:
        """Run a written folder, before it has its name, and add to ``colport.json`` what was found.

        Args:
            folder: Where :meth:`write` wrote.
            prove: Gives :attr:`check`; ``None`` leaves the check out, and says so.
        """
        found = {"status": "left out"} if prove is None else prove(folder, self)
        return replace(self, check=found)._save(folder)

    def _save(self, folder: Path) -> Manifest:
        write_json(folder / FILE, asdict(self))
        return self

    @property
    def is_single_vector(self) -> bool:
        """Whether a query or a document has one vector in place of one a token."""
        return bool(self.processing.get("pooling"))

    @property
    def score(self) -> str:
        """What a query and a document are compared by; MaxSim of two single vectors is this."""
        return "cosine" if self.is_single_vector else "MaxSim"

    @property
    def vectors(self) -> str:
        """What becomes of a query or a document, in words; a captioner's are texts."""
        if self.task == "captioning":
            return "texts about pictures"
        return f"{self.dim} dimensions {'in one vector' if self.is_single_vector else 'a token'}"

    @property
    def integer_range(self) -> str | None:
        """``exact`` or ``full``, see :mod:`colport.providers.integers`; what does not say is full.

        ``None`` where no integer activations meet integer weights.
        """
        settings = self.quantization.get("settings", {})
        if self.precision != "int8" or settings.get("method") == "weight_only":
            return None
        return "exact" if settings.get("range") == "exact" else "full"

    @property
    def size_mb(self) -> float:
        """Size of the folder's files, in MB (10**6 bytes)."""
        return sum(facts["size_bytes"] for facts in self.files.values()) / 1e6

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the files' names and digests: what was exported, whatever its place."""
        lines = sorted(f"{facts['sha256']}  {name}" for name, facts in self.files.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


Prove = Callable[[Path, Manifest], Mapping[str, Any]]
"""Runs a written folder and says what was found; raises where it is not what it should be."""


def read(folder: Path | str) -> Manifest:
    """The manifest of an exported folder, its files checked by presence and size.

    Raises:
        ArtifactError: ``colport.json`` is missing or damaged, or a listed file is missing, lies
            outside the folder or has another size.
        UnsupportedError: A known limit prevented the export.
    """
    manifest = parsed(folder)
    _check_files(Path(folder), manifest)
    return manifest


def parsed(folder: Path | str) -> Manifest:
    """What ``colport.json`` says alone, none of its files looked at; see :func:`read`."""
    folder = Path(folder)
    check_supported(folder)
    if not (folder / FILE).is_file():
        raise ArtifactError(f"{folder}: is not an exported folder; {_what_it_is(folder)}.")
    record = read_json(folder / FILE)
    record.pop("schema_version")
    if wrong := misfit(record, _SHAPE):
        raise ArtifactError(f"{folder / FILE}: is not a ColPort manifest ({wrong}).")
    with read_of(ArtifactError, folder / FILE, "is not a ColPort manifest ({})", TypeError):
        graphs = {name: GraphInfo(**graph) for name, graph in record.pop("graphs").items()}
        return Manifest(graphs=graphs, **record)


def verify(folder: Path | str, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """The manifest of an exported folder, every file's bytes checked against it.

    Args:
        folder: An exported folder.
        progress: Called after each file with the bytes read so far, and those of all.

    Raises:
        ArtifactError: See :func:`read`; or a file has another SHA-256.
        UnsupportedError: A known limit prevented the export.
    """
    manifest = read(folder)
    total = sum(facts["size_bytes"] for facts in manifest.files.values())
    done = 0
    for name, facts in manifest.files.items():
        if (found := sha256_file(Path(folder) / name)) != facts["sha256"]:
            raise ArtifactError(
                f"{Path(folder) / name}: sha256 is {found}, {FILE} says {facts['sha256']}; the "
                "file was changed after the export."
            )
        done += facts["size_bytes"]
        if progress:
            progress(done, total)
    return manifest


def check_replaceable(folder: Path | str) -> None:
    """Refuse to write over what was not exported, before any work.

    Raises:
        ArtifactError: The folder holds something else.
    """
    folder = Path(folder)
    known = (folder / FILE).is_file() or (folder / UNSUPPORTED).is_file()
    if folder.exists() and not known and (folder.is_file() or any(folder.iterdir())):
        raise ArtifactError(
            f"{folder}: exists and is not an exported folder; choose another output, or remove it."
        )


def _check_files(folder: Path, manifest: Manifest) -> None:
    for name, facts in manifest.files.items():
        file = folder / name
        if not is_inside(folder, name):
            raise ArtifactError(f"{folder / FILE}: lists {name!r}, which leaves the folder.")
        if not file.is_file():
            raise ArtifactError(f"{file}: is missing; {FILE} lists it.")
        if file.stat().st_size != facts["size_bytes"]:
            raise ArtifactError(
                f"{file}: has {file.stat().st_size} bytes, {FILE} says {facts['size_bytes']}."
            )
    used = [graph.file for graph in manifest.graphs.values()] + manifest.external_data["files"]
    if unlisted := [name for name in used if name not in manifest.files]:
        raise ArtifactError(f"{folder / FILE}: uses {unlisted[0]!r}, which its files do not list.")


def _what_it_is(folder: Path) -> str:
    """A guess at what a user took for an exported folder."""
    if not folder.is_dir():
        return "it is a file" if folder.exists() else "there is no such folder"
    if inner := sorted(item.parent.name for item in folder.glob(f"*/{FILE}")):
        return f"it has no {FILE}, but holds exported folders: {', '.join(inner)}"
    if any(folder.glob("*.safetensors")):
        return f"it is a checkpoint, export it first: colport export {folder} --output DIR"
    return f"it has no {FILE}"
