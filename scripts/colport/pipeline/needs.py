"""Memory and time that a job asks a cluster for, from the size of what it will hold.

Each estimate is a base and what was measured to grow with the model (docs/cluster.md has the
figures). Snakemake multiplies nothing itself: a second attempt asks for twice as much. A forecast,
which has no files yet, gives in their place what they will hold.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colport.base.files import bytes_below
from colport.families import registry
from colport.families.base import BATCH_SIZE
from colport.families.reference.memory import ONCE_MB, activations_mb, needed_mb
from colport.folder.manifest import FILE
from colport.quantize.settings import QuantizeSettings

_MB = 1e6
_EMBEDDING_MB = 1.1
"""Of a document of 1030 tokens: its embeddings, and the copy that is written."""
_SESSION = {"fp16": 3.5, "bf16": 3.5}
"""Sizes of an exported folder in ONNX Runtime, by precision; half precision is widened on CPUs."""
_SESSION_ELSE = 1.5
_PROVED = 2
"""Documents that every export is checked on."""
TOKENS = {"pages": 1030, "passages": 300, "captions": 1030}
"""Of a document; of a caption with its picture."""
_FLOPS_OF_THREAD = 40e9
"""Half of what PyTorch reaches on a core (benchmarks/graphs.md)."""


Need = tuple[float, float]
"""What one attempt asks for: megabytes (10**6), and minutes of wall time."""


@dataclass(frozen=True)
class Folder:
    """An exported folder, there or expected.

    Attributes:
        precision: Of its weights; empty for one that a known limit prevented.
        size_bytes: Of its files.
        parameters: Of its largest graph.
    """

    precision: str
    size_bytes: int
    parameters: int

    @classmethod
    def of(cls, folder: str | Folder) -> Folder:
        """That at a path, or the one expected there."""
        if isinstance(folder, Folder):
            return folder
        Path(folder).stat()  # a sum over nothing would hide that it is not there
        file = Path(folder, FILE)
        manifest = _read(file) if file.is_file() else {"graphs": {}}
        largest = max((graph["parameters"] for graph in manifest["graphs"].values()), default=0)
        return cls(manifest.get("precision", ""), bytes_below(folder), largest)

    def session_mb(self, batch_size: int = 1) -> float:
        """Of both graphs and the activations of a batch of pages."""
        weights = _SESSION.get(self.precision, _SESSION_ELSE) * self.size_bytes / _MB
        return weights + batch_size * activations_mb(self.parameters)


@dataclass(frozen=True)
class Job:
    """A job as Snakemake describes it, beside the config.

    ``input`` has a record's file or its content, an exported folder's path or a :class:`Folder`.
    """

    config: Mapping[str, Any]
    wildcards: Any
    input: Any
    threads: int

    def parameters(self) -> int:
        """Of the checkpoint, by its record."""
        return _recorded(self.input.checkpoint, "parameters")

    def reference_mb(self, most: float = math.inf) -> float:
        """Of its checkpoint in PyTorch, with the memory that the config allows, or less."""
        allowed = self.config["reference"].get("memory_mb", math.inf)
        return needed_mb(self.parameters(), min(allowed, most))

    def documents(self) -> int:
        """Of the dataset, by its record."""
        return _recorded(self.input.dataset, "counts")["documents"]

    def shard(self) -> int:
        """Documents of one shard."""
        return min(self.documents(), self.config["encode"]["shard_documents"])

    def encoding_minutes(self, documents: int, parameters: int) -> float:
        """Of so many documents; two operations a parameter and token."""
        family = registry.get(self.config["models"][self.wildcards.model]["family"])
        flops = 2 * parameters * TOKENS[family.reads] * documents
        return flops / (_FLOPS_OF_THREAD * self.threads) / 60

    def original(self, documents: int, most: float = math.inf) -> Need:
        """Of the checkpoint's own library that encodes so many documents, in so much memory."""
        minutes = self.encoding_minutes(documents, self.parameters())
        return self.reference_mb(most) + _EMBEDDING_MB * documents, 10 + minutes

    def encoder(self, documents: int, batch_size: int | None = None) -> Need:
        """Of an exported folder that encodes so many documents."""
        usual = self.config["encode"].get("batch_size", BATCH_SIZE)
        folder = Folder.of(self.input.model)
        minutes = self.encoding_minutes(documents, folder.parameters)
        session = folder.session_mb(batch_size or usual)
        return 500 + session + _EMBEDDING_MB * documents, 10 + minutes

    def contest(self, pytorch: int, batch_size: int, minutes: float) -> Need:
        """All contenders are in memory at once: PyTorch in so many forms, and every variant."""
        contenders = pytorch + len(self.input.models)
        sessions = sum(Folder.of(item).session_mb(batch_size) for item in self.input.models)
        references = pytorch * self.reference_mb()
        return 300 * contenders + references + sessions, 20 + minutes


def needs(config: Mapping[str, Any], stage: str) -> dict[str, Callable[..., int]]:
    """Snakemake's ``mem_mb`` and ``runtime`` of a stage, as functions of the job and its attempt.

    They raise ``FileNotFoundError`` while an input is not there; Snakemake then asks again.

    Args:
        config: The validated config.
        stage: A key of :data:`STAGES`.
    """

    def asked(part: int) -> Callable[..., int]:
        def ask(wildcards: Any, input: Any, threads: int, attempt: int) -> int:
            need = STAGES[stage](Job(config, wildcards, input, threads))
            return math.ceil(need[part] * attempt)

        return ask

    return {"mem_mb": asked(0), "runtime": asked(1)}


def _export(job: Job) -> Need:
    gigabytes = 4e-9 * job.parameters()
    return 1500 + 50 * gigabytes, 10 + 2 * gigabytes


def _quantize(job: Job) -> Need:
    base = Folder.of(job.input.base)
    if QuantizeSettings.from_config(job.config["variants"][job.wildcards.variant]).is_calibrated:
        return 2500 + base.session_mb(), 10 + 60e-9 * base.size_bytes
    return 1500 + 0.05 * base.size_bytes / _MB, 10 + 4e-9 * base.size_bytes


def _parity(job: Job) -> Need:
    settings = job.config["parity"]
    sizes = settings["batch_sizes"]
    return job.encoder(settings["inputs"] * len(sizes), max(sizes))


def _score(job: Job) -> Need:
    return 3000, 20 + 0.01 * job.documents() * (1 + len(job.config["run"]["embeddings"]))


def _latency(job: Job) -> Need:
    settings = job.config["latency"]
    sizes, pytorch = settings["batch_sizes"], 1 + len(settings["pytorch"])
    contenders = pytorch + len(job.input.models)
    seconds = settings["max_seconds"] + settings["warmup_max_seconds"]
    timed = contenders * 2 * len(sizes) * seconds / 60
    calls = contenders * (settings["rounds"] + 2)
    slow = calls * job.encoding_minutes(sum(sizes), job.parameters())
    return job.contest(pytorch, max(sizes), timed + slow)


def _scenarios(job: Job) -> Need:
    settings = job.config["scenarios"]
    server, sizes = settings["server"], settings["offline"]["batch_sizes"]
    calls = settings["rounds"] * settings["max_seconds"] * (1 + len(sizes))
    probes = server["max_probes"] * server["max_seconds"]
    timed = 2 * (1 + len(job.input.models)) * (calls + probes) / 60
    return job.contest(1, max(*sizes, server["max_batch"]), timed)


def _operators(job: Job) -> Need:
    largest = max(map(Folder.of, job.input.models), key=lambda folder: folder.size_bytes)
    minutes = job.encoding_minutes(1, largest.parameters)
    return 1500 + largest.session_mb(), 20 + 10 * len(job.input.models) * minutes


STAGES: Mapping[str, Callable[[Job], Need]] = {
    "checkpoint": lambda job: (1500, 240),  # a download of some GB, whose size nobody knows before
    "dataset": lambda job: (2000, 240),
    "peer_environment": lambda job: (2000, 240),
    "export": _export,
    # 24 GB were not enough for optimum-onnx on a text graph of 2.9 billion parameters.
    "peer_export": lambda job: (3000 + 12 * job.parameters() / _MB, 60 + 40e-9 * job.parameters()),
    "quantize": _quantize,
    "proof": lambda job: job.original(_PROVED, ONCE_MB),
    "reference": lambda job: job.original(job.shard()),
    "parity": _parity,
    "embed": lambda job: job.encoder(job.shard()),
    "score": _score,
    "mteb": lambda job: job.encoder(job.documents()),
    "explain": lambda job: (3000, 20),
    "latency": _latency,
    "scenarios": _scenarios,
    "operators": _operators,
}
"""How each stage's need is estimated."""


def _read(file: Path | str) -> dict[str, Any]:
    return json.loads(Path(file).read_text(encoding="utf-8"))


def _recorded(file: Path | str | Mapping[str, Any], name: str) -> Any:
    """A field of a record; one that an older ColPort has written counts as not there yet."""
    record = file if isinstance(file, Mapping) else _read(file)
    if name not in record:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    return record[name]
